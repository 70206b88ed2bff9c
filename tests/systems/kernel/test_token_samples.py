"""The published token samples: what this kernel says of each, and that a second reader agrees on the bytes."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.peer import Peer
from holdfast.systems.kernel.request import Request, ResolvedPath
from holdfast.systems.kernel.token_format import TokenKey, decode_token
from holdfast.systems.kernel.tokens import TokenStore, _Lane, _Record
from tests.systems.kernel.token_samples import SECRET, TOKEN, document

PUBLISHED = Path(__file__).parents[3] / "docs" / "TOKEN-SAMPLES.json"
SAMPLES: list[dict[str, Any]] = json.loads(PUBLISHED.read_text())["samples"]


def store() -> TokenStore:
    """A store that issued the sample token: its record is put in, since an id cannot be asked for."""
    made = TokenStore("/w", secret=SECRET)
    made._records[TOKEN.id] = _Record(
        TOKEN, TokenKey(SECRET).seal(TOKEN), PathSet.parse(TOKEN.globs or ()), TOKEN.uses
    )
    made._lanes[TOKEN.container, TOKEN.pid, TOKEN.start] = _Lane()
    return made


def test_the_published_file_is_what_the_code_writes() -> None:
    assert json.loads(PUBLISHED.read_text()) == document()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["name"])
def test_a_sample_stands_as_published(sample: dict[str, Any]) -> None:
    request = Request("fs.read", "me", ResolvedPath.judged("/w/src/a", "/w"))
    peer = Peer(TOKEN.container, TOKEN.pid, TOKEN.start)
    found = store().check(bytes.fromhex(sample["bytes"]), request, peer, 1)
    assert found.standing.value == sample["standing"]


def test_the_good_sample_is_read_alike_by_plain_hmac_and_by_the_decoder() -> None:
    good = bytes.fromhex(SAMPLES[0]["bytes"])
    assert hmac.new(SECRET, good[:-32], hashlib.sha256).digest() == good[-32:]
    assert decode_token(good) == TOKEN


def test_every_field_is_flipped_reordered_and_truncated() -> None:
    names = {sample["name"] for sample in SAMPLES}
    for field in (
        "version",
        "id",
        "nonce",
        "expires",
        "uses",
        "pid",
        "start",
        "container",
        "syscall",
        "globs",
    ):
        assert {f"{field} flipped", f"truncated before {field}"} <= names
        assert field == "version" or f"{field} reordered" in names
    assert len(SAMPLES) == len(names) >= 40
