"""Typed artifacts on disk: what identifies them, where they lie, how they are built and found again."""
