"""The service as its users meet it: a process, its sockets, its files."""

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.systems.kakeya import ecvrf
from holdfast.systems.kakeya.cli import run_command
from holdfast.systems.kakeya.quickstart import TENANT, lay_out
from holdfast.systems.kakeya.routing.worm import WormLog, iter_entries, verify_log
from holdfast.systems.kakeya.service.engine import Engine
from holdfast.systems.kakeya.service.inbox import iter_bodies
from holdfast.systems.kakeya.service.policy_file import PolicyFile
from tests.systems.kakeya.conftest import Running, running

SANE = {"risk": 0.01, "low": 0.0, "high": 0.02}
GROUNDED = {"answer": "the pump ran hot at noon", "sources": ["nothing here", "The pump ran hot, at noon!"]}
UNGROUNDED = {"answer": "the pump ran hot at noon", "sources": ["prices of copper fell"]}
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def vrf(**changes: Any) -> dict[str, Any]:
    return {"required": True, "mode": "enforce", "pubkey": [{"key": PUBLIC}], **changes}


def entries(running: Running) -> list[dict[str, Any]]:
    return list(iter_entries(running.folder / "data" / "decisions"))


def test_a_genuine_submission_is_accepted_once(service: Running) -> None:
    body = service.client.submission(grounding=GROUNDED)
    status, first = service.verify(body)
    assert (status, first["vrf"], first["path"], first["overlap"], first["contained"]) == (
        202,
        "verified",
        "standard",
        1.0,
        False,
    )
    assert service.verify(body) == (409, {"error": "duplicate", "field": "pcs_id", "first": first})


def test_what_differs_under_a_known_id_is_a_duplicate_too(service: Running) -> None:
    body = json.loads(service.client.submission())
    assert service.verify(json.dumps(body).encode())[0] == 202
    again = service.client.submission(
        **{k: body[k] for k in ("merkle_root", "epoch", "shard_id")}, budget=2.0
    )
    assert service.verify(again)[0] == 409


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"sig": "A" * 43 + "E"}, None, "sig"),
        ({"sig": "B" + "A" * 42 + "="}, "bad_signature", "sig"),
        ({"pcs_id": "0" * 64}, "pcs_id_mismatch", "pcs_id"),
        ({"vrf_proof": "0" * 160}, "vrf_invalid", "vrf_proof"),
    ],
)
def test_what_is_not_genuine_is_refused(
    service: Running, changes: dict[str, Any], reason: str | None, field: str
) -> None:
    genuine = json.loads(service.client.submission())
    status, said = service.verify(json.dumps({**genuine, **changes}).encode())
    assert (status, said.get("reason"), said["field"]) == (401 if reason else 400, reason, field)
    assert service.verify(json.dumps(genuine).encode())[0] == 202, "a refused submission must not take the id"


def test_a_changed_measure_breaks_the_signature(service: Running) -> None:
    body = json.loads(service.client.submission())
    assert (
        service.verify(json.dumps({**body, "D_hat": body["D_hat"] + 1e-9}).encode())[1]["reason"]
        == "bad_signature"
    )


@pytest.mark.parametrize(
    ("risk", "path", "reason"),
    [
        (SANE, "fast", "low_risk_narrow_ci"),
        ({**SANE, "risk": 0.5, "high": 0.51, "low": 0.49}, "standard", "high_risk"),
        ({**SANE, "high": 0.09}, "standard", "wide_confidence_interval"),
        ({**SANE, "low": 0.02}, "standard", "invalid_interval"),
        ({"risk": "NaN", "low": 0, "high": 0}, "standard", "invalid_interval"),
        (None, "standard", "invalid_interval"),
    ],
)
def test_the_way_is_logged_before_the_answer(service: Running, risk: object, path: str, reason: str) -> None:
    body = service.client.submission(risk=risk, grounding=UNGROUNDED)
    status, said = service.verify(body)
    assert (status, said["path"], said["reason"]) == (202, path, reason)
    assert said["contained"] is (None if path == "fast" else True)
    logged = entries(service)[-1]
    assert (logged["pcs_id"], logged["path"], logged["reason"]) == (said["pcs_id"], path, reason)
    verify_log(service.folder / "data" / "decisions", open_tail=True)


def test_numbers_that_overflow_in_json_go_the_standard_way(service: Running) -> None:
    body = service.client.submission(risk=SANE).replace(b'"risk": 0.01', b'"risk": 1e999')
    assert service.verify(body)[1]["reason"] == "invalid_interval"


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b"\xff\xfe", b'{"a":1,"a":2}', b"[" * 100_000, b'{"D_hat": NaN}', b"9" * 5000]
)
def test_a_body_that_is_no_object_is_refused_as_one_and_kept_in_the_inbox(
    service: Running, raw: bytes
) -> None:
    status, said = service.verify(raw)
    assert (status, said["error"], said["field"]) == (400, "bad_request", "body")
    assert list(iter_bodies(service.folder / "data" / "inbox"))[-1] == raw


@pytest.mark.parametrize(
    "field", ["pcs_id", "merkle_root", "epoch", "shard_id", "D_hat", "coh_star", "r", "budget", "sig"]
)
@pytest.mark.parametrize("value", ["missing", None, [], {}, True, "\u0000", -1.5])
def test_a_bad_field_is_named(service: Running, field: str, value: object) -> None:
    body = json.loads(service.client.submission())
    if value == "missing":
        del body[field]
    elif field == "shard_id" and value == "\u0000":
        body[field] = ""
    elif field in {"D_hat", "coh_star", "r", "budget"} and value == -1.5:
        body[field] = "1"
    else:
        body[field] = value
    status, said = service.verify(json.dumps(body).encode())
    assert (status, said["field"]) == (400, field)


def test_an_unknown_field_is_named(service: Running) -> None:
    body = json.loads(service.client.submission())
    assert service.verify(json.dumps({**body, "bugdet": 1}).encode())[1]["field"] == "bugdet"


def test_a_body_over_the_limit_is_refused_however_it_is_sent(service: Running) -> None:
    assert service.verify(b" " * ((1 << 20) + 1))[0] == 413
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    chunks = (b" " * 65536 for _ in range(20))
    connection.request("POST", "/v1/verify", chunks, service.client.stamp(), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_nothing_is_answered_to_a_stranger(service: Running) -> None:
    body = service.client.submission()
    forged = {"x-auth-verified": "true", "x-jwt-payload": service.client.payload({})}
    for headers in ({}, forged, {**service.client.stamp(), "X_Tenant_Id": TENANT}):
        assert service.ask("POST", "/v1/verify", body, headers, over="tcp")[0] == 401
    assert service.verify(body)[0] == 202


def test_the_unix_peer_is_the_gateway_and_a_tcp_client_is_not(service: Running) -> None:
    headers = {"x-jwt-payload": service.client.payload({})}
    assert service.ask("POST", "/v1/verify", service.client.submission(), headers, over="unix")[0] == 202
    assert service.ask("POST", "/v1/verify", service.client.submission(), headers, over="tcp")[0] == 401


def test_a_tenant_without_a_policy_is_refused(service: Running) -> None:
    status, said = service.verify(service.client.submission(), service.client.stamp({"tenant_id": "nobody"}))
    assert (status, said["reason"]) == (401, "unknown_tenant")


def test_health_readiness_and_metrics_need_no_identity(service: Running) -> None:
    assert service.ask("GET", "/healthz", over="tcp") == (200, {"status": "alive"})
    assert service.ask("GET", "/readyz", over="tcp") == (200, {"status": "ready", "policy": "in_force"})
    status, text = service.ask("GET", "/metrics", over="tcp")
    assert status == 200
    assert "kakeya_verify_milliseconds_bucket" in text
    assert TENANT not in text


def test_other_paths_and_methods_are_refused_in_json(service: Running) -> None:
    assert service.ask("GET", "/v1/verify", headers=service.client.stamp())[0] == 405
    assert service.ask("GET", "/nope", headers=service.client.stamp())[1]["error"] == "not_found"


# -- VRF policy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "proof", "status", "outcome"),
    [
        ("enforce", "good", 202, "verified"),
        ("enforce", "bad", 401, "vrf_invalid"),
        ("enforce", "none", 401, "vrf_missing"),
        ("shadow", "good", 202, "verified"),
        ("shadow", "bad", 202, "invalid"),
        ("shadow", "none", 202, "missing"),
    ],
)
def test_shadow_records_and_enforce_refuses(
    start: Callable[..., Running], mode: str, proof: str, status: int, outcome: str
) -> None:
    running = start()
    set_vrf(running, mode=mode)
    body = json.loads(running.client.submission())
    if proof == "none":
        del body["vrf_proof"]
    if proof == "bad":
        body["vrf_proof"] = body["vrf_proof"][:64] + "0" * 96
    got, said = running.verify(json.dumps(body).encode())
    assert got == status
    assert outcome == (said["vrf"] if status == 202 else said["reason"])
    assert (
        f'kakeya_vrf_total{{outcome="{outcome.removeprefix("vrf_")}"}} 1' in running.ask("GET", "/metrics")[1]
    )


def set_vrf(running: Running, **changes: Any) -> None:
    """Rewrite the tenant's `vrf`, as an operator would: a new file in place of the old one."""
    path = running.folder / "policy.json"
    document = json.loads(path.read_text())
    document["tenants"][TENANT]["vrf"].update(changes)
    replace(path, json.dumps(document))


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_keys_rotate_with_an_overlap(start: Callable[..., Running]) -> None:
    """Old and new count together; then only the new; a key whose time is past verifies nothing."""
    running = start()
    old = running.client
    new = type(old)(old.gateway_key, old.signing_key, b"\x07" * 32, old.now)
    keys = [ecvrf.public_key_of(c.vrf_key).hex() for c in (old, new)]
    set_vrf(running, pubkey=[{"key": k} for k in keys])
    assert [running.verify(c.submission())[0] for c in (old, new)] == [202, 202]
    set_vrf(running, pubkey=[{"key": keys[0], "notAfter": old.now()}, {"key": keys[1]}])
    assert [running.verify(c.submission())[0] for c in (old, new)] == [401, 202]
    set_vrf(running, pubkey=[{"key": keys[0]}, {"key": keys[1], "notBefore": old.now() + 3600}])
    assert [running.verify(c.submission())[0] for c in (old, new)] == [202, 401]
    set_vrf(running, pubkey=[{"key": keys[1], "notBefore": old.now() + 3600}])
    assert running.verify(new.submission())[1]["reason"] == "vrf_no_key_now"


def test_a_canary_of_nobody_turns_enforce_into_shadow(start: Callable[..., Running]) -> None:
    running = start()
    set_vrf(running, canary=0)
    assert running.verify(running.client.submission(vrf_proof="0" * 160))[1]["vrf"] == "invalid"
    set_vrf(running, canary=100)
    assert running.verify(running.client.submission(vrf_proof="0" * 160))[0] == 401


# -- policies that change -----------------------------------------------------------------------------


def test_a_bad_new_policy_is_reported_and_the_old_one_stays(start: Callable[..., Running]) -> None:
    running = start()
    path = running.folder / "policy.json"
    good = path.read_text()
    replace(path, good.replace('"enforce"', '"enfroce"'))
    assert running.verify(running.client.submission(vrf_proof="0" * 160))[0] == 401
    ready = running.ask("GET", "/readyz")[1]
    assert "vrf.mode" in ready["policy"]
    assert "must be one of shadow, enforce" in ready["policy"]
    assert "kakeya_policy_errors_total 1" in running.ask("GET", "/metrics")[1]
    replace(path, good)
    assert running.ask("GET", "/readyz")[1]["policy"] == "in_force"


def accept_one_and_die(folder: Path, bodies: list[bytes]) -> None:
    with running(folder) as first:
        bodies.append(first.client.submission())
        assert first.verify(bodies[0])[0] == 202
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()


def test_first_writes_inbox_and_log_outlive_a_killed_process(tmp_path: Path) -> None:
    bodies: list[bytes] = []
    with pytest.raises(AssertionError, match="-9"):
        accept_one_and_die(tmp_path, bodies)
    (body,) = bodies
    with running(tmp_path) as second:
        assert second.verify(body)[0] == 409
        assert list(iter_bodies(tmp_path / "data" / "inbox")) == [body, body]
    assert verify_log(tmp_path / "data" / "decisions", open_tail=True).entries == 2


def test_no_secret_is_in_any_output_and_no_file_is_written_elsewhere(start: Callable[..., Running]) -> None:
    running = start()
    before = {p for p in running.folder.rglob("*") if "data" not in p.relative_to(running.folder).parts}
    running.verify(running.client.submission())
    running.verify(b"{")
    outside = {p for p in running.folder.rglob("*") if "data" not in p.relative_to(running.folder).parts}
    assert outside == before
    kept = b"".join(p.read_bytes() for p in (running.folder / "data").rglob("*") if p.is_file())
    kept += (running.folder / "stderr").read_bytes()
    for secret in (running.client.gateway_key, running.client.signing_key, running.client.vrf_key):
        assert secret not in kept
        assert secret.hex().encode() not in kept
    modes = {
        stat.S_IMODE(p.stat().st_mode)
        for d in ("inbox", "decisions")
        for p in (running.folder / "data" / d).iterdir()
    }
    assert modes == {0o600}


def test_a_request_cut_off_in_its_body_leaves_the_service_standing(service: Running) -> None:
    head = "".join(f"{k}: {v}\r\n" for k, v in service.client.stamp().items())
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as cut:
        cut.sendall(f"POST /v1/verify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n{head}\r\n{{".encode())
    assert service.verify(service.client.submission())[0] == 202


def test_a_second_service_on_the_same_data_refuses_to_start(service: Running) -> None:
    done = kakeya(
        "serve",
        "--policy",
        str(service.folder / "policy.json"),
        "--data",
        str(service.folder / "data"),
        "--port",
        "0",
    )
    assert done.returncode == 64
    assert "in use by another kakeya" in done.stderr


def kakeya(*arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    """The command, with an emptied environment."""
    command = [sys.executable, "-m", "holdfast.systems.kakeya", *arguments]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, env={}, timeout=60, check=False
    )


POLICY_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "required without a key": (lambda d: tenant(d)["vrf"].update(pubkey=[]), "tenants.acme.vrf.pubkey"),
    "a misspelt key": (lambda d: tenant(d)["vrf"].update(requierd=True), "tenants.acme.vrf.requierd"),
    "an unknown control": (lambda d: tenant(d).update(vfr={}), "tenants.acme.vfr"),
    "a mode that is none": (lambda d: tenant(d)["vrf"].update(mode="on"), "tenants.acme.vrf.mode"),
    "text for a flag": (lambda d: tenant(d)["rag"].update(enabled="yes"), "tenants.acme.rag.enabled"),
    "a share beyond a hundred": (lambda d: tenant(d)["vrf"].update(canary=101), "tenants.acme.vrf.canary"),
    "an overlap beyond one": (
        lambda d: tenant(d)["rag"].update(minOverlap=1.5),
        "tenants.acme.rag.minOverlap",
    ),
    "a shingle of nothing": (
        lambda d: tenant(d)["rag"].update(shingleSize=0),
        "tenants.acme.rag.shingleSize",
    ),
    "a key of odd length": (
        lambda d: tenant(d)["vrf"].update(pubkey=[{"key": "00"}]),
        "tenants.acme.vrf.pubkey[0].key",
    ),
    "a key file that is not there": (
        lambda d: tenant(d).update(signingKeyFile="nope"),
        "tenants.acme.signingKeyFile",
    ),
    "no tenant": (lambda d: d["tenants"].clear(), "`tenants` names no tenant"),
    "no issuer": (lambda d: d["gateway"].pop("issuer"), "gateway.issuer"),
    "the overflow uid": (lambda d: d["gateway"].update(peerUids=[65534]), "gateway"),
    "tokens without keys": (lambda d: tenant(d).update(identity={"token": "enforce"}), "gateway.jwksFile"),
    "a tenant's name": (lambda d: d["tenants"].update({"a/b": {}}), "is no tenant name"),
    "a store that is none": (lambda d: d.update(dedup="mysql"), "`mysql` is no store"),
    "a key of the policy": (lambda d: d.update(tenant={}), "`tenant` is not a key of the policy"),
}


def tenant(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["tenants"][TENANT]
    return found


@pytest.mark.parametrize("fault", POLICY_FAULTS)
def test_a_policy_with_a_fault_refuses_to_start_and_names_the_key(tmp_path: Path, fault: str) -> None:
    change, named = POLICY_FAULTS[fault]
    path = lay_out(tmp_path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=re.escape(named)):
        Engine(PolicyFile(path), tmp_path, lambda: 0.0)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"gateway": [], "tenants": {}}', '{"a": 1, "a": 2}'])
def test_a_policy_that_is_none_is_exit_64_and_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    done = kakeya("serve", "--policy", str(tmp_path / "p.json"), "--data", str(tmp_path / "d"), "--port", "0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)
    assert done.stderr.startswith("kakeya: `")


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = lay_out(tmp_path)
    (tmp_path / "tenant.hmac").chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        PolicyFile(path)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["serve", "--policy", "x", "--data", "y"], 64, "nothing to listen on"),
        (["serve"], 64, "policy"),
        (["nope"], 64, "no such command"),
        (["verify-log", "/nonexistent"], 64, "is not a folder"),
        (["check-policy", "--policy", "/nonexistent"], 64, "cannot be read"),
        ([], 64, "no command was given"),
        (["simulate"], 0, ""),
        (["--help"], 0, ""),
    ],
)
def test_the_command_answers_bad_usage_with_64_and_no_traceback(
    arguments: list[str], code: int, said: str
) -> None:
    done = kakeya(*arguments)
    assert done.returncode == code
    assert said.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_flags_are_shown_set_and_rolled_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lay_out(tmp_path)

    def flags(*arguments: str) -> int:
        return run_command(["flags", arguments[0], "--policy", str(path), *arguments[1:]])

    def shown() -> Any:
        capsys.readouterr()
        assert flags("show") == 0
        return json.loads(capsys.readouterr().out)[TENANT]

    before = path.read_text()
    for flag, value, place in [
        ("vrf.mode", "shadow", ("vrf", "mode")),
        ("riskRouting.canary", "10", ("canary", "riskRouting")),
        ("rag.enabled", "false", ("rag", "enabled")),
    ]:
        assert flags("set", TENANT, flag, value) == 0
        assert json.dumps(shown()[place[0]][place[1]]).strip('"').removesuffix(".0") == value
        assert flags("rollback") == 0
        assert json.loads(path.read_text()) == json.loads(before)
    assert flags("set", TENANT, "vrf.mode", "loud") == 64
    assert flags("set", "nobody", "vrf.mode", "shadow") == 64
    assert flags("set", TENANT, "vfr.mode", "shadow") == 64
    assert json.loads(path.read_text()) == json.loads(before)
    assert run_command(["flags", "rollback", "--policy", str(lay_out(tmp_path / "fresh"))]) == 64


def test_batch_answers_each_line_and_survives_bad_ones() -> None:
    lines = [
        '{"op":"route","risk":NaN,"low":0,"high":0}',
        "garbage",
        '{"op":"nope"}',
        '{"op":"overlap","answer":"x y","source":"y x"}',
    ]
    done = kakeya("batch", text="\n".join(lines))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0] == {"path": "standard", "reason": "invalid_interval"}
    assert [a.get("field") for a in answers[1:3]] == ["line", "nope"]
    assert answers[3]["score"] == 0.0


def test_verify_log_says_what_broke_and_exits_1(tmp_path: Path) -> None:
    log = WormLog(tmp_path)
    log.append({"n": 1})
    log.seal()
    log.close()
    (tmp_path / "segment-000001.jsonl").unlink()
    good = kakeya("verify-log", str(tmp_path))
    assert (good.returncode, good.stdout[:2]) == (0, "1:")
    segment = tmp_path / "segment-000000.jsonl"
    segment.chmod(0o644)
    assert kakeya("verify-log", str(tmp_path)).returncode == 1
    assert kakeya("verify-log", str(tmp_path), "--in-use", "--head", f"1:{'0' * 64}").returncode == 1
