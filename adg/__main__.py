"""The console command ``adg``, also ``python -m adg``: it stands in ``experiments/commands.py``."""

from __future__ import annotations

from importlib import import_module

from adg import places


def main() -> None:
    """Run the command line."""
    places.importable()
    import_module("experiments.commands").main()


if __name__ == "__main__":
    main()
