"""Arguments of a command line as Hydra's grammar reads them: a value such as a path needs no quotes of that grammar.

Nothing here bears identity: a value is the same with and without quotes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@:-]*")


def quoted(arguments: Sequence[str]) -> list[str]:
    """The same arguments, with quotes around a value that the grammar would not read or would take apart.

    That is a value with letters beyond ASCII or marks such as ~ # & = ( ) [ ], and a value with commas that names an
    existing file or folder. A list of several values, as sweeps have them, stays as it is.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()

    def reads(text: str) -> bool:
        try:
            parser.parse_override(text)
        except HydraException:
            return False
        return True

    result = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and KEY.fullmatch(key) and value and value[0] not in "'\"":
            path = "," in value and os.path.exists(os.path.expanduser(value))
            text = f"{key}={_in_quotes(value)}"
            if (path or ("," not in value and not reads(argument))) and reads(text):
                argument = text
        result.append(argument)
    return result


def _in_quotes(value: str) -> str:
    mark = '"' if "'" in value else "'"
    return mark + re.sub(r"(\\*)" + mark, lambda match: match.group(1) * 2 + "\\" + mark, value) + mark
