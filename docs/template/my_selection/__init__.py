"""Things of our own for studies of instruction data selection."""
