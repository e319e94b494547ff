"""No secret stands in what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adg.artifacts.artifact import Node, Stage
from adg.artifacts.store import Store
from adg.errors import HarnessError
from adg.redaction import without_secrets


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("SOME_SERVICE_API_KEY", "value/of+my key")
    (tmp_path / "token").write_text("a-token-in-a-file\n")
    (tmp_path / "netrc").write_text(
        "machine api.wandb.ai login user password 0123456789abcdef0123456789abcdef01234567\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "secret",
    [
        "value/of+my key",
        "value%2Fof%2Bmy%20key",
        "a-token-in-a-file",
        "0123456789abcdef0123456789abcdef01234567",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "wandb_v1_abcdefghijklmnopqrstuvwxyz",
    ],
)
def test_secrets_are_replaced_wherever_they_stand(home: Path, secret: str) -> None:
    value = {"reason": f"GET https://x.y/?t={secret}&b=1 failed", "list": [secret, 3, None], "n": 0.5}
    clean = without_secrets(value)
    assert secret not in json.dumps(clean)
    assert clean == {"reason": "GET https://x.y/?t=(secret)&b=1 failed", "list": ["(secret)", 3, None], "n": 0.5}


def test_headers_and_addresses_lose_their_keys(home: Path) -> None:
    assert without_secrets("Authorization: Bearer abcdefgh123") == "Authorization: Bearer (secret)"
    assert without_secrets("proxy http://me:pass@host:80/x failed") == "proxy http://(secret)@host:80/x failed"


def test_ordinary_text_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_TOKEN", "1")
    text = "11 of 100 records, file /a/b@c.json, hf_hub, commit 5e6f7a8b9c0d1e2f3a4b5c6d7e8f901234567890, a:b@c"
    assert without_secrets(text) == text


def test_a_kept_failure_holds_no_secret(home: Path, tmp_path: Path) -> None:
    def leak(*_: object) -> None:
        raise ValueError("401 for key value/of+my key and hf_abcdefghijklmnopqrstuvwxyz")

    store = Store(tmp_path / "runs", runner=leak)
    node = Node(Stage("leak", 1, "x:y"), "one", {})
    with pytest.raises(HarnessError, match=r"401 for key \(secret\)"):
        store.ensure(node)
    kept = (store.partial(node) / "failed.json").read_text()
    assert "value/of+my key" not in kept and "hf_abc" not in kept and "401 for key (secret)" in kept
