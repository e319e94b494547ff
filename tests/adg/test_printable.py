"""What models and data hold reaches a screen as text only: in errors, warnings and the lines of a run."""

from __future__ import annotations

import logging

import pytest

from adg.command import command
from adg.errors import BadInput
from adg.printable import printable
from experiments import run

BAD = "id \x1b[31mred\u202eder\x07"
SHOWN = "id \\x1b[31mred\\u202eder\\x07"


def test_what_would_act_is_written_out_and_text_stays() -> None:
    assert printable(BAD) == SHOWN
    for text in ("plain\nlines", "Größe 尺寸 👩\u200d💻", ""):
        assert printable(text) == text


def test_errors_warnings_and_lines_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, command():
        logging.getLogger("adg.tests").warning(BAD)
        run.say(BAD)
        raise BadInput(BAD)
    shown = capsys.readouterr()
    assert end.value.code == f"error: {SHOWN}"
    assert shown.out == f"{SHOWN}\n" and SHOWN in shown.err
