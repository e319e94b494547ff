"""The table of a sweep from its manifests alone:  adg report profile=mini [experiment=layers]

Writes table.md, table.csv, table.json, index.html and the analyses' figures and tables (CSV, SVG) under
``runs/report/<profile>-<experiment>/`` and prints the table; a part of a study, or a study at other settings, has its
overrides in the folder's name.
"""

from __future__ import annotations

import sys
import webbrowser

from experiments.app import asked, plain_errors
from experiments.cells import asked_for, report_folder
from experiments.parts import shared
from experiments.report.sweep import write

SWITCHES = {
    "--json": "print table.json in place of the table; figures are unrounded",
    "--open": "show the page in a browser",
}


def main() -> None:
    with plain_errors(__doc__, SWITCHES), shared():
        chosen, store = asked_for(SWITCHES)
        printed = write(chosen, store)
        folder, _ = report_folder(chosen, store)
        print((folder / "table.json").read_text(encoding="utf-8").rstrip() if asked("--json") else printed)
        page = (folder / "index.html").absolute()
        if asked("--open") and not webbrowser.open(page.as_uri()):
            print(f"no browser was found here; open {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
