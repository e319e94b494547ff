"""TODO"""

from __future__ import annotations

from experiments.cells import asked_for
from experiments.config import plain_errors
from experiments.report.sweep import write


def main() -> None:
    with plain_errors():
        print(write(*asked_for()))


if __name__ == "__main__":
    main()
