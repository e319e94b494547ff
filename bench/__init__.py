"""Speed and memory, each against the plain way in one run: ``python -m bench``, or one alone: ``python -m bench.X``."""
