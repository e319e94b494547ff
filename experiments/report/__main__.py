"""The table of a sweep from its manifests alone:  adg report profile=mini [experiment=layers]

Writes table.md, table.csv, index.html and the analyses' figures and tables (CSV, SVG) under
``runs/report/<profile>-<experiment>/`` and prints the table; a part of a study, or a study at other settings, has its
overrides in the folder's name.
"""

from __future__ import annotations

from experiments.app import plain_errors
from experiments.cells import asked_for
from experiments.report.sweep import write


def main() -> None:
    with plain_errors(__doc__):
        print(write(*asked_for()))


if __name__ == "__main__":
    main()
