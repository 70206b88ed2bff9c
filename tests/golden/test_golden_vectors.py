"""The golden vectors: what the project computes, what another language computes, and what would be noticed."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from holdfast.systems.kakeya.pcs import BadFieldError, canonical, fixed9, parse_body, sign

HERE = Path(__file__).parent
FILE: dict[str, Any] = json.loads((HERE / "vectors.json").read_text("ascii"))
VECTORS: list[dict[str, Any]] = FILE["vectors"]
ACCEPTED = [v for v in VECTORS if "payload" in v]
REFUSED = [v for v in VECTORS if "refused" in v]


def node() -> str:
    """The other language; its absence is a failure where everything is promised."""
    found = shutil.which("node")
    if found is None:
        assert os.environ.get("HOLDFAST_PROFILE") != "nightly", "node is missing; run: make setup-peers"
        pytest.skip("node is not installed; `make setup-peers` brings it")
    return found


def check(path: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [node(), str(HERE / "check.mjs"), str(path)], capture_output=True, text=True, timeout=60, check=False
    )


def test_there_are_as_many_as_promised_and_no_two_of_a_name() -> None:
    assert len(VECTORS) >= 50
    assert len({v["name"] for v in VECTORS}) == len(VECTORS)
    assert len(ACCEPTED) >= 50
    assert len(REFUSED) >= 15


def test_the_file_is_what_the_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location("golden_generate", HERE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.document() == (HERE / "vectors.json").read_text("ascii")


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda v: v["name"])
def test_the_bytes_of(vector: dict[str, Any]) -> None:
    payload = canonical(parse_body(vector["body"].encode()).pcs)
    assert payload.decode() == vector["payload"]
    assert sign(bytes.fromhex(FILE["key"]), payload) == vector["signature"]


@pytest.mark.parametrize("vector", REFUSED, ids=lambda v: v["name"])
def test_the_field_refused_in(vector: dict[str, Any]) -> None:
    with pytest.raises(BadFieldError) as refused:
        parse_body(vector["body"].encode())
    assert refused.value.field == vector["refused"]


def test_another_language_computes_the_same() -> None:
    done = check(HERE / "vectors.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(VECTORS)} vectors, 0 wrong\n"


@pytest.mark.planted
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("measure: trailing zero", "1.234567890", "1.23456789"),
        ("measure: tie to even, down", "0.000976562", "0.000976563"),
    ],
    ids=["dropped zero", "tie rounded up"],
)
def test_planted_a_wrong_payload_is_named_by_the_other_language(
    tmp_path: Path, name: str, before: str, after: str
) -> None:
    changed = json.loads(json.dumps(FILE))
    vector = next(v for v in changed["vectors"] if v["name"] == name)
    assert before in vector["payload"]
    vector["payload"] = vector["payload"].replace(before, after)
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps(changed))
    done = check(path)
    assert done.returncode == 1
    assert name in done.stderr


@pytest.mark.planted
def test_planted_no_vectors_are_no_success(tmp_path: Path) -> None:
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps({**FILE, "vectors": []}))
    assert check(path).returncode == 1


@pytest.mark.planted
def test_planted_a_canonicaliser_by_way_of_json_fails_its_own_golden_payload() -> None:
    """The fault in the wild: rounding to nine decimals, then writing floats as JSON does."""
    vector = next(v for v in ACCEPTED if v["name"] == "measure: trailing zero")
    fields = {k: v for k, v in json.loads(vector["body"]).items() if k != "sig"}
    rounded = {k: round(v, 9) if isinstance(v, float) else v for k, v in fields.items()}
    wild = json.dumps(rounded, sort_keys=True, separators=(",", ":"))
    assert wild != vector["payload"]
    assert '"D_hat":1.234567890' in vector["payload"]


def test_where_it_differs_from_rfc_8785() -> None:
    """Numbers only: with measures taken out, both write the same bytes."""
    vector = next(v for v in ACCEPTED if v["name"] == "shard: controls")
    fields = {k: v for k, v in json.loads(vector["body"]).items() if k != "sig"}
    assert rfc8785.dumps(fields).decode() != vector["payload"]
    as_text = {k: fixed9(v) if isinstance(v, int | float) and k != "epoch" else v for k, v in fields.items()}
    unquoted = rfc8785.dumps(as_text).decode()
    for measure in ("D_hat", "budget", "coh_star", "r"):
        unquoted = unquoted.replace(f'"{measure}":"{as_text[measure]}"', f'"{measure}":{as_text[measure]}')
    assert unquoted == vector["payload"]
