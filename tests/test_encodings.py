"""Text is UTF-8 wherever it is read or written, whatever the locale."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("adg", "baselines", "experiments", "finetune", "evaluate", "bench", "requirements", "docs")
NOT_TEXT = ("os", "zipfile", "tarfile", "webbrowser")  # modules whose open() takes no encoding


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """The lines of calls that read or write text in the encoding of the locale."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or any(word.arg == "encoding" for word in call.keywords):
            continue
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = {word.arg for word in call.keywords}
        modes = [a.value for a in [*call.args, *(w.value for w in call.keywords if w.arg == "mode")] if is_mode(a)]
        if (
            (name == "read_text" and method and not call.args)
            or (name == "write_text" and method and len(call.args) < 2)
            or (name == "open" and not of_a_module(call.func) and not any("b" in mode for mode in modes))
            or (name in ("run", "Popen", "check_output") and words & {"text", "universal_newlines"})
        ):
            yield call.lineno


def is_mode(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str) and len(value.value) < 4


def of_a_module(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and getattr(function.value, "id", "") in NOT_TEXT


def test_every_text_file_names_its_encoding(root: Path) -> None:
    found = []
    for path in (path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))):
        lines = without_encoding(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{path.relative_to(root)}:{line}" for line in lines]
    assert not found, 'add encoding="utf-8"'


def test_the_check_sees_what_it_looks_for() -> None:
    for code in ("p.read_text()", "p.write_text(x)", "open(p)", "open(p, 'w')", "p.open('a')", "run(c, text=True)"):
        assert list(without_encoding(ast.parse(code))) == [1], code
    for code in ("open(p, 'rb')", "p.open(mode='wb')", "os.open(p, 0)", "run(c, encoding='utf-8')", "p.read_bytes()"):
        assert not list(without_encoding(ast.parse(code))), code
