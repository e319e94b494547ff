"""Answers become geometry: hidden states pooled into vectors, kept as Gram matrices."""
