"""Bring everything a study takes from the hub into one folder:  adg fetch profile=paper to=<mirror>

Models, pools and benchmarks at their pinned revisions; what is there already is verified by its digests and row counts
instead of downloaded. --verify downloads nothing, --repair replaces damaged files. Then, without a network:

    HF_HUB_CACHE=<mirror>/hub adg sweep profile=paper exec.offline=true \\
        suite.data_root=<mirror>/benchmarks
"""

from __future__ import annotations

import argparse
from pathlib import Path

from adg.errors import BadInput
from experiments import mirror
from experiments.app import plain_errors
from experiments.cells import cells, distinct


def arguments(argv: list[str] | None = None) -> tuple[list[str], Path, argparse.Namespace]:
    """Overrides, the mirror's folder and the switches."""
    parser = argparse.ArgumentParser(
        prog="adg fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="+", help="as for adg run, and to=<folder of the mirror>")
    parser.add_argument("--verify", action="store_true", help="download nothing, only check what is there")
    parser.add_argument("--repair", action="store_true", help="delete damaged files and fetch them again")
    args = parser.parse_intermixed_args(argv)
    to = [word.removeprefix("to=") for word in args.overrides if word.startswith("to=")]
    if len(to) != 1 or not to[0]:
        raise BadInput("to=<folder of the mirror> is missing: adg fetch profile=paper to=mirror")
    if args.verify and args.repair:
        raise BadInput("--verify changes nothing and --repair does; give one of them")
    overrides = [word for word in args.overrides if not word.startswith("to=")]
    return overrides, Path(to[0]).expanduser().absolute(), args


def main() -> None:
    with plain_errors():
        overrides, folder, args = arguments()
        chosen = cells(overrides)
        wanted = mirror.sources(distinct(chosen), [cell.config.suite for cell in chosen])
        if not wanted:
            raise BadInput("nothing here comes from the hub: models, pools and benchmarks are embedded or local")
        if args.verify and not folder.is_dir():
            raise BadInput(f"{folder} is not a folder; leave --verify out to fill it")
        print(f"{len(wanted)} repositories, mirror {folder}", flush=True)
        problems = mirror.fill(wanted, folder, not args.verify, args.repair, lambda text: print(text, flush=True))
        if problems:
            raise BadInput("\n  ".join([f"{len(problems)} problem{'s' * (len(problems) > 1)}", *problems]))
        print(
            f"complete; to use it without a network: HF_HUB_CACHE={folder}/hub adg sweep "
            f"{' '.join(overrides)} exec.offline=true suite.data_root={folder}/benchmarks"
        )


if __name__ == "__main__":
    main()
