"""Bring everything a study takes from the hub into one folder:  adg fetch profile=paper to=<mirror>

Models, pools and benchmarks at their pinned revisions; what is there already is verified by its digests and row counts
instead of downloaded. --verify downloads nothing, --repair replaces damaged files, --json says what became of each as
one JSON document. Then, without a network:

    HF_HUB_CACHE=<mirror>/hub adg sweep profile=paper exec.offline=true \\
        suite.data_root=<mirror>/benchmarks
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adg.errors import BadInput
from experiments import mirror
from experiments.app import JSON, as_json, plain_errors
from experiments.cells import cells, distinct


def arguments(argv: list[str] | None = None) -> tuple[list[str], Path, argparse.Namespace]:
    """Overrides, the mirror's folder and the switches."""
    parser = argparse.ArgumentParser(
        prog="adg fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="+", help="as for adg run, and to=<folder of the mirror>")
    parser.add_argument("--verify", action="store_true", help="download nothing, only check what is there")
    parser.add_argument("--repair", action="store_true", help="delete damaged files and fetch them again")
    parser.add_argument("--json", action="store_true", help=JSON["--json"])
    args = parser.parse_intermixed_args(argv)
    to = [word.removeprefix("to=") for word in args.overrides if word.startswith("to=")]
    if len(to) != 1 or not to[0]:
        raise BadInput("to=<folder of the mirror> is missing: adg fetch profile=paper to=mirror")
    if args.verify and args.repair:
        raise BadInput("--verify changes nothing and --repair does; give one of them")
    overrides = [word for word in args.overrides if not word.startswith("to=")]
    return overrides, Path(to[0]).expanduser().absolute(), args


def use(folder: Path, overrides: Sequence[str]) -> str:
    """The command that takes everything from a mirror."""
    return (
        f"HF_HUB_CACHE={folder}/hub adg sweep {' '.join(overrides)} exec.offline=true "
        f"suite.data_root={folder}/benchmarks"
    )


def facts(brought: Sequence[mirror.Brought], folder: Path) -> dict[str, Any]:
    """What became of each repository, for other programs; ``rows`` is null of a model."""
    return {
        "mirror": str(folder),
        "complete": not any(one.problems for one in brought),
        "sources": [
            {
                "kind": one.source.kind,
                "repo": one.source.repo,
                "revision": one.source.revision,
                "state": one.state,
                "rows": one.rows,
                "problems": list(one.problems),
            }
            for one in brought
        ],
    }


def main() -> None:
    with plain_errors():
        overrides, folder, args = arguments()
        chosen = cells(overrides)
        wanted = mirror.sources(distinct(chosen), [cell.config.suite for cell in chosen])
        if not wanted:
            raise BadInput("nothing here comes from the hub: models, pools and benchmarks are embedded or local")
        if args.verify and not folder.is_dir():
            raise BadInput(f"{folder} is not a folder; leave --verify out to fill it")
        said = sys.stderr if args.json else sys.stdout  # the document stands alone
        print(f"{len(wanted)} repositories, mirror {folder}", file=said, flush=True)
        brought = mirror.fill(
            wanted, folder, not args.verify, args.repair, lambda one: print(one.line, file=said, flush=True)
        )
        if args.json:
            print(as_json(facts(brought, folder)))
        problems = [problem for one in brought for problem in one.problems]
        if problems:
            raise BadInput("\n  ".join([f"{len(problems)} problem{'s' * (len(problems) > 1)}", *problems]))
        print(f"complete; to use it without a network: {use(folder, overrides)}", file=said)


if __name__ == "__main__":
    main()
