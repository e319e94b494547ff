"""The templates of pages (``templates/``): everything that is put into one is text, without markup and without control
or direction characters, unless it is markup of this project's own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from adg.artifacts.files import sha256_text
from adg.printable import printable
from experiments.report import legend
from experiments.report.text import REPORT

FOLDER = Path(__file__).with_name("templates")


@functools.cache
def environment() -> Any:
    """Jinja's environment of the templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    made.filters |= {"address": quote, "reports": reports, "signed": legend.signed}
    made.globals |= {"file": _file, "legend": legend}
    return made


def render(name: str, **values: Any) -> Markup:
    """A template with these values."""
    return Markup(environment().get_template(name).render(**values))


@functools.cache
def digest() -> str:
    """Changes with whatever a page is made by."""
    files = [*sorted(FOLDER.iterdir()), *sorted(Path(__file__).parent.glob("*.py"))]
    return sha256_text("\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file()))


def shown(value: Any) -> Any:
    """A value as a page shows it."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def reports(text: str) -> Markup:
    """A note in which the address of another report is a link."""
    return Markup(REPORT.sub(r'<a href="\g<0>">\g<0></a>', str(escape(printable(text)))))


def _file(name: str) -> Markup:
    """A file of the templates as it is: style and script."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))
