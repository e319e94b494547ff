"""Pools of instruction records: read from a file or the hub, validated completely, kept in one order."""
