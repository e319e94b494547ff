"""Whether a selector meets the contract of all selectors:

    adg contract NAME [options of pytest]

The exact budget in distinct ids or an error, ties by lowest id, the same answer for the same seed and any order of the
file, no global random numbers, a reason for every record without a score; each is tried on small pools with a tiny
model. NAME is a selector of the project or of an installed package. Needs pytest and hypothesis.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from adg.errors import BadInput, nearest
from adg.plugins import SELECTORS
from baselines import selector_types
from experiments.app import plain_errors
from experiments.arguments import Parser

TESTS = Path(__file__).with_name("selector_contract.py")


def main() -> None:
    with plain_errors():
        parser = Parser(prog="adg contract", description=__doc__)
        parser.add_argument("name", help="of the selector")
        args, options = parser.parse_known_args()
        known = list(selector_types())
        if args.name not in known:
            raise BadInput(
                f"{args.name} is no selector{nearest(args.name, known)}; known: {', '.join(known)} (one of a package "
                f"is found by its entry point, {SELECTORS})"
            )
        missing = [library for library in ("pytest", "hypothesis") if find_spec(library) is None]
        if missing:
            raise BadInput(f"{' and '.join(missing)} cannot be imported; pip install {' '.join(missing)}")
        import pytest

        if status := pytest.main([str(TESTS), "-k", args.name, "-p", "no:cacheprovider", *options]):
            sys.exit(int(status))


if __name__ == "__main__":
    main()
