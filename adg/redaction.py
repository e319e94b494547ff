"""Secrets taken out of whatever is kept or sent: failures, tracebacks, records of cells."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adg.execution import SECRET_NAMES

SHORTEST = 8  # characters of a value that is taken for a secret; shorter ones would hide ordinary words
HIDDEN = "(secret)"
# tokens of Hugging Face and W&B as they are issued, keys in headers, passwords in addresses
TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bwandb_v\d_[A-Za-z0-9_]{16,}|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)


def without_secrets(value: Any) -> Any:
    """``value`` (text, or lists and mappings of it) with every secret replaced: values of environment variables whose
    names look like a credential's, the tokens that ``hf auth login`` and ``wandb login`` keep on disk, and anything
    that has the form of such a token."""
    secrets = sorted(
        {form for secret in _secrets() for form in (secret, quote(secret, safe=""))}, key=len, reverse=True
    )

    def clean(item: Any) -> Any:
        if isinstance(item, str):
            for secret in secrets:
                item = item.replace(secret, HIDDEN)
            return TOKENS.sub(HIDDEN, item)
        if isinstance(item, Mapping):
            return {key: clean(content) for key, content in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(clean(content) for content in item)
        return item

    return clean(value)


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value.strip()) >= SHORTEST:
            yield value.strip()
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        token = ""
    if len(token) >= SHORTEST:
        yield token
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, ValueError, netrc.NetrcParseError):
        return
    for _, _, password in hosts.values():
        if password and len(password) >= SHORTEST:
            yield password
