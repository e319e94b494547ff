"""Text of models and of data on its way to a screen or a page: shown as it was written, without what it would do.

Nothing here bears identity.
"""

from __future__ import annotations

import unicodedata

KEPT = "\n\u200c\u200d"  # line feed, and the joiners that some scripts and emoji are spelt with
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode categories: control, format (direction), surrogate, separators


def hidden(character: str) -> bool:
    """Whether a terminal or a page would act on the character instead of showing it."""
    return character not in KEPT and unicodedata.category(character) in HIDDEN


def printable(text: str) -> str:
    """``text`` with control and direction characters, but the line feed, written out as ``\\x1b`` or ``\\u202e``."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(_escaped(c) if hidden(c) else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
