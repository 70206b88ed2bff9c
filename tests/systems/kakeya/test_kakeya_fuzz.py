"""Coverage-guided fuzzing in the nightly profile; Hypothesis does its share in every run beside the parsers."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("fuzz_kakeya.py")
SECONDS = 30


def targets() -> list[str]:
    """As the harness lists them; it cannot be imported without atheris."""
    found = re.search(r"for f in \(([a-z0-9_, ]+)\)", HARNESS.read_text())
    assert found
    return found[1].split(", ")


def seeds() -> list[bytes]:
    """Something genuine for each parser to start from."""
    vectors = json.loads((HARNESS.parents[2] / "golden" / "vectors.json").read_text())["vectors"]
    example = files("holdfast.systems.kakeya").joinpath("vectors/ecvrf-tai-rfc9381.json").read_text()
    return [
        *(vector["body"].encode() for vector in vectors[::6]),
        bytes.fromhex(json.loads(example)["examples"][0]["pi"]),
        b'{"alg":"Ed25519","kid":"k"}|{"iss":"i","aud":"a","exp":9,"tenant_id":"t"}|0123456789',
        b"x-jwt-payload:e30\nx-gateway-time:1\nx-gateway-nonce:0123456789abcdef\nx-gateway-signature:"
        + b"0" * 64,
        "stra\u00dfe \u0130 os.path 3.14 \u5206 \u30ab\u30bf_\u30ab a\u0301".encode(),
    ]


@pytest.mark.nightly
@pytest.mark.parametrize("target", targets())
def test_no_input_crashes_the_parser(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        assert os.environ.get("HOLDFAST_PROFILE") != "nightly", "atheris is missing; run: make setup-peers"
        pytest.skip("atheris is not installed; `make setup-peers` brings it")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
    limits = [str(corpus), f"-max_total_time={SECONDS}", "-max_len=4096", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [sys.executable, str(HARNESS), target, *limits],
        capture_output=True,
        text=True,
        timeout=SECONDS * 6,
        check=False,
    )
    ran = re.search(r"Done (\d+) runs", done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ran
    assert int(ran[1]) > 1000


def test_every_parser_has_a_target() -> None:
    assert set(targets()) == {"proof", "token", "json", "headers", "body", "base64url", "words"}
