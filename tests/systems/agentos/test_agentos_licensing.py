"""Every reason against a licence, and the near miss beside each; keys rotate, devices bind."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.systems.agentos.errors import AdapterError, BadInputError, RefusedError
from holdfast.systems.agentos.licensing import LicenceClient
from holdfast.systems.agentos.licensing.client import verify_ed25519
from holdfast.systems.agentos.licensing.issue import device_id, issue_pack, keyring_entry
from holdfast.systems.agentos.licensing.pack import TrustedKey, parse_keyring, parse_pack
from holdfast.systems.agentos.privacy import Full, Minimized

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
DEVICE = "d" * 64


def ring(*entries: dict[str, str]) -> bytes:
    return json.dumps({"schema": "ccc.keyring/1", "keys": entries}).encode()


def pack(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "key_id": "k1",
        "issuer": "us",
        "license_id": "lic",
        "plan": "pro",
        "entitlements": ("telemetry_minimized", "telemetry_full"),
        "not_before": NOW - timedelta(days=1),
        "expires": NOW + timedelta(days=1),
    }
    return issue_pack(changes.pop("key", KEY), **{**fields, **changes})


def check(value: dict[str, Any] | bytes, keys: bytes | None = None, **more: Any) -> Any:
    client = LicenceClient(parse_keyring(keys or ring(keyring_entry("k1", KEY))))
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return client.check(parse_pack(raw), **{"now": NOW, "device": DEVICE, **more})


def test_a_good_licence_grants_what_it_says() -> None:
    grant = check(pack())
    assert (grant.license_id, grant.plan) == ("lic", "pro")
    assert grant.entitlements == {"telemetry_minimized", "telemetry_full"}
    assert Full(grant).grant is grant


def changed(**payload: Any) -> dict[str, Any]:
    """A pack whose payload was changed after it was signed."""
    value = pack()
    return {**value, "payload": {**value["payload"], **payload}}


def signed_otherwise(text: str) -> dict[str, Any]:
    value = pack()
    return {**value, "signature": {**value["signature"], "value": text}}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "expired": (lambda: check(pack(), now=NOW + timedelta(days=1)), "expired on"),
    "not yet valid": (lambda: check(pack(), now=NOW - timedelta(days=1, seconds=1)), "is valid from"),
    "an unknown key": (lambda: check(pack(key_id="k2")), "unknown key `k2`; known: k1"),
    "another key of that name": (lambda: check(pack(key=OTHER)), "signature is not by the key"),
    "a payload changed": (lambda: check(changed(plan="enterprise")), "signature is not by the key"),
    "an entitlement added": (
        lambda: check(changed(entitlements=["telemetry_full", "all"])),
        "signature is not",
    ),
    "a device taken away": (
        lambda: check({**pack(device=DEVICE), "payload": {**pack()["payload"]}}),
        "signature is not by the key",
    ),
    "a signature of zeros": (lambda: check(signed_otherwise("A" * 86 + "==")), "signature is not by the key"),
    "another device": (lambda: check(pack(device="e" * 64)), "is for another device"),
    "no device to compare": (lambda: check(pack(device=DEVICE), device=None), "no /etc/machine-id"),
    "a key that has retired": (
        lambda: check(pack(), ring({**keyring_entry("k1", KEY), "not_after": "2026-06-01T00:00:00Z"})),
        "was retired on",
    ),
    "a key that is not used yet": (
        lambda: check(pack(), ring({**keyring_entry("k1", KEY), "not_before": "2026-06-01T00:00:01Z"})),
        "is valid from",
    ),
    "a clock set back": (
        lambda: check(pack(), latest_seen=NOW + timedelta(minutes=6)),
        "set the clock right",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_reason_against_a_licence_refuses_it(case: str) -> None:
    act, reason = REFUSED[case]
    with pytest.raises(RefusedError, match=reason):
        act()


NEAR: dict[str, Callable[[], Any]] = {
    "the last moment": lambda: check(pack(), now=NOW + timedelta(days=1) - timedelta(microseconds=1)),
    "the first moment": lambda: check(pack(), now=NOW - timedelta(days=1)),
    "this device": lambda: check(pack(device=DEVICE)),
    "a key about to retire": lambda: check(
        pack(), ring({**keyring_entry("k1", KEY), "not_after": "2026-06-01T00:00:01Z"})
    ),
    "a clock a little back": lambda: check(pack(), latest_seen=NOW + timedelta(minutes=5)),
    "the new key of two": lambda: check(
        pack(key=OTHER, key_id="k2"), ring(keyring_entry("k1", KEY), keyring_entry("k2", OTHER))
    ),
    "the old key of two": lambda: check(pack(), ring(keyring_entry("k1", KEY), keyring_entry("k2", OTHER))),
}


@pytest.mark.parametrize("case", NEAR)
def test_the_near_miss_beside_it_is_taken(case: str) -> None:
    assert NEAR[case]().license_id == "lic"


def test_keys_rotate_with_an_overlap_and_then_the_old_one_ends() -> None:
    """One keyring through three moments: old only, both, new only."""
    keys = ring(
        {**keyring_entry("k1", KEY), "not_after": "2026-06-10T00:00:00Z"},
        {**keyring_entry("k2", OTHER), "not_before": "2026-06-05T00:00:00Z"},
    )
    long = {"expires": NOW + timedelta(days=365)}
    old, new = pack(**long), pack(key=OTHER, key_id="k2", **long)

    def taken(value: dict[str, Any], day: int) -> bool:
        try:
            return bool(check(value, keys, now=datetime(2026, 6, day, 12, tzinfo=UTC)))
        except RefusedError:
            return False

    assert [(taken(old, day), taken(new, day)) for day in (2, 7, 12)] == [
        (True, False),
        (True, True),
        (False, True),
    ]


def test_flipping_any_one_byte_of_a_pack_never_grants_more() -> None:
    raw = json.dumps(pack()).encode()
    granted = check(raw)
    for place in range(len(raw)):
        for bit in (0, 3, 6):
            bad = raw[:place] + bytes([raw[place] ^ (1 << bit)]) + raw[place + 1 :]
            try:
                grant = check(bad)
            except AdapterError:
                continue
            # The value of base64's last, unused bits and a letter's case in a hex escape are no content.
            assert (grant.entitlements, grant.expires) == (granted.entitlements, granted.expires)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "duplicate keys": (
        json.dumps(pack()).replace('"plan":', '"plan": "x", "plan":').encode(),
        "`plan` stands there twice",
    ),
    "duplicate keys at the top": (
        b'{"schema": "ccc.licence/1", "schema": "ccc.licence/1"}',
        "stands there twice",
    ),
    "not JSON": (b"{", "is not JSON"),
    "NaN": (b'{"payload": NaN}', "`NaN` is not JSON"),
    "a list": (b"[]", "is not a JSON object"),
    "binary": (b"\xff\xfe", "is not JSON"),
    "a BOM": (b"\xef\xbb\xbf{}", "is not JSON"),
    "too long": (b" " * 70_000, "at most 65536"),
    "deep": (b'{"a":' * 60_000, "is not JSON|at most"),
    "an unknown field": (json.dumps({**pack(), "extra": 1}).encode(), "additionalProperties"),
    "another algorithm": (
        json.dumps(pack()).replace("Ed25519", "none").encode(),
        r"`\$\.signature\.alg`, rule `const`",
    ),
    "no signature": (json.dumps({k: v for k, v in pack().items() if k != "signature"}).encode(), "required"),
    "a time without a zone": (json.dumps(pack()).replace("+00:00", "").encode(), "payload"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_pack_is_refused_before_anything_is_verified(case: str) -> None:
    raw, reason = MALFORMED[case]
    with pytest.raises(BadInputError, match=reason):
        parse_pack(raw)


def test_the_signature_is_over_the_canonical_form_and_not_over_the_files_bytes() -> None:
    value = pack()
    shuffled = {
        "payload": dict(reversed(value["payload"].items())),
        **{k: value[k] for k in ("signature", "schema")},
    }
    assert check(json.dumps(shuffled, indent=3).encode()).license_id == "lic"


@pytest.mark.parametrize(("tier", "other"), [(Minimized, "telemetry_full"), (Full, "telemetry_minimized")])
def test_one_entitlement_is_not_the_other(tier: type[Minimized] | type[Full], other: str) -> None:
    with pytest.raises(RefusedError, match="lacks the entitlement"):
        tier(check(pack(entitlements=(other,))))


def test_an_injected_verifier_is_used_only_where_it_was_asked_for() -> None:
    """The explicit constructor; the ordinary one goes on to verify."""
    forged = changed(plan="forged")
    keys = parse_keyring(ring(keyring_entry("k1", KEY)))
    lenient = LicenceClient.with_verifier_for_tests(keys, lambda _key, _signature, _signed: True)
    assert lenient.check(parse_pack(json.dumps(forged).encode()), now=NOW, device=None).plan == "forged"
    with pytest.raises(RefusedError):
        check(forged)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (ring(keyring_entry("k1", KEY), keyring_entry("k1", OTHER)), "two keys named `k1`"),
        (ring({"key_id": "k1", "public": "AAAA"}), "pattern"),
        (b"{}", "required"),
    ],
)
def test_a_bad_keyring_is_refused(keys: bytes, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        parse_keyring(keys)


@pytest.mark.parametrize("place", range(32))
@pytest.mark.parametrize(
    "low", ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f"]
)
def test_a_public_key_of_low_order_is_refused(low: str, place: int) -> None:
    """Under such a key the verifier takes a signature of zeros for any payload: shown first, then refused.
    The near miss, one bit away, is an ordinary key."""
    raw = bytes.fromhex(low)
    with pytest.raises(BadInputError, match="of low order"):
        parse_keyring(ring({"key_id": "k1", "public": base64.b64encode(raw).decode()}))
    near = raw[:place] + bytes([raw[place] ^ 2]) + raw[place + 1 :]
    if near[1:31] not in {b"\0" * 30, b"\xff" * 30}:
        parse_keyring(ring({"key_id": "k1", "public": base64.b64encode(near).decode()}))


def test_the_verifier_itself_would_take_zeros_under_a_low_order_key() -> None:
    """Why the keyring refuses them: about one payload in four. When a later `cryptography` refuses such keys
    itself, this says so."""
    weak = TrustedKey(bytes(32), None, None)
    assert any(verify_ed25519(weak, bytes(64), bytes([payload])) for payload in range(64))


def test_a_devices_id_is_a_digest_and_machines_without_one_have_none(tmp_path: Path) -> None:
    machine = tmp_path / "machine-id"
    assert device_id(machine) is None
    machine.write_text("\n")
    assert device_id(machine) is None
    machine.write_text("abc\n")
    found = device_id(machine)
    assert found is not None
    assert len(found) == 64
    assert "abc" not in found
