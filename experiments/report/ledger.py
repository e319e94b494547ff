"""The deviation ledger: every point on which paper, released code and this project differ, printed by the report.

The lines stand in ``ledger.yaml``; each names the config keys that decide the point, so that none is silent.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from adg.errors import BadInput
from experiments.report.table import Deviation

FILE = Path(__file__).with_name("ledger.yaml")
FIELDS = {"question", "paper", "released", "ours", "keys"}


def load(path: Path = FILE) -> list[Deviation]:
    """The lines in the order of the file. Raises ``BadInput`` naming the line whose fields are not as expected."""
    entries = []
    for number, line in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), 1):
        if set(line) != FIELDS or not all(isinstance(line[name], str) for name in FIELDS - {"keys"}):
            raise BadInput(
                f"{path}, line {number} ({line.get('question')}): has {sorted(line)}, expected "
                f"{sorted(FIELDS)}, texts but for the list 'keys'"
            )
        entries.append(Deviation(**{**line, "keys": tuple(line["keys"])}))
    return entries
