"""Gateway identity: what counts as stamped, what is refused, and tokens verified directly."""

import base64
import json
import os
import socket
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey, import_key
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from holdfast.systems.kakeya.identity import (
    Expected,
    GatewayIdentity,
    GatewayTrust,
    Identity,
    IdentityRefusedError,
    Peer,
    Refusal,
    ReplayWindow,
    Verifier,
    base64url,
    identify,
    load_keys,
    sign_stamp,
    verify_compact,
)
from holdfast.systems.kakeya.identity.headers import PROTECTED
from holdfast.systems.kakeya.identity.peer import peer_of
from holdfast.systems.kakeya.identity.token import DEFAULT_ALGORITHMS

NOW = 1_700_000_000.0
KEY = bytes(range(32))
EXPECTED = Expected("https://issuer.example", "kakeya")
GOOD: dict[str, Any] = {"iss": EXPECTED.issuer, "aud": "kakeya", "exp": NOW + 60, "tenant_id": "acme"}
GATEWAY, STRANGER = Peer(1, 7, 7), Peer(1, 8, 8)
PEERS = GatewayTrust(peer_uids=frozenset({7}))
HMAC = GatewayTrust(hmac_keys=(KEY,))


def payload(**changes: Any) -> str:
    return base64url.encode(
        json.dumps({k: v for k, v in {**GOOD, **changes}.items() if v is not None}).encode()
    )


def stamped(body: str, *, key: bytes = KEY, time: float = NOW, nonce: str = "n" * 24) -> dict[str, str]:
    when = str(int(time))
    return {
        "x-jwt-payload": body,
        "x-gateway-time": when,
        "x-gateway-nonce": nonce,
        "x-gateway-signature": sign_stamp(key, when, nonce, body),
    }


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def ask(
    headers: list[tuple[bytes, bytes]] | dict[str, str],
    peer: Peer | None = GATEWAY,
    *,
    trust: GatewayTrust = PEERS,
    window: ReplayWindow | None = None,
    now: float = NOW,
) -> Identity | Refusal:
    """What `identify` says, as a value."""
    lines = raw(headers) if isinstance(headers, dict) else headers
    try:
        return identify(
            lines, peer, trust=trust, expected=EXPECTED, window=window or ReplayWindow(60, opened=0), now=now
        )
    except IdentityRefusedError as refused:
        return refused.reason


@pytest.mark.parametrize(
    ("trust", "peer", "headers", "expected"),
    [
        (PEERS, GATEWAY, {"x-jwt-payload": payload()}, "unix_peer"),
        (PEERS, STRANGER, {"x-jwt-payload": payload()}, Refusal.NO_GATEWAY),
        (PEERS, None, {"x-jwt-payload": payload()}, Refusal.NO_GATEWAY),
        (PEERS, None, {"x-jwt-payload": payload(), "x-auth-verified": "true"}, Refusal.NO_GATEWAY),
        (PEERS, GATEWAY, {"x-jwt-payload": payload(), "x-auth-verified": "true"}, "unix_peer"),
        (PEERS, GATEWAY, {"x-jwt-payload": payload(), "x-auth-verified": "false"}, Refusal.MALFORMED_HEADER),
        (PEERS, GATEWAY, {"x-auth-verified": "true"}, Refusal.NO_PAYLOAD),
        (PEERS, GATEWAY, stamped(payload()), Refusal.BAD_STAMP),
        (HMAC, None, stamped(payload()), "hmac"),
        (HMAC, None, stamped(payload(), key=bytes(32)), Refusal.BAD_STAMP),
        (HMAC, None, stamped(payload(), time=NOW - 61), Refusal.STALE_STAMP),
        (HMAC, None, stamped(payload(), time=NOW + 61), Refusal.STALE_STAMP),
        (HMAC, None, stamped(payload(), nonce="short"), Refusal.BAD_STAMP),
        (HMAC, None, {**stamped(payload()), "x-jwt-payload": payload(tenant_id="other")}, Refusal.BAD_STAMP),
        (HMAC, GATEWAY, {"x-jwt-payload": payload()}, Refusal.NO_GATEWAY),
        (GatewayTrust(), GATEWAY, {"x-jwt-payload": payload()}, Refusal.NO_GATEWAY),
        (GatewayTrust(hmac_keys=(bytes(32), KEY)), None, stamped(payload()), "hmac"),
    ],
    ids=[
        "known peer", "other peer", "tcp", "tcp that says verified", "known peer says verified", "verified: false",
        "verified without payload", "stamp without keys", "stamp", "stamp of another key", "stale", "from the future",
        "short nonce", "payload swapped", "peer where only stamps count", "no gateway at all", "rotated key",
    ],
)  # fmt: skip
def test_only_an_authenticated_gateway_connection_counts(
    trust: GatewayTrust, peer: Peer | None, headers: dict[str, str], expected: object
) -> None:
    said = ask(headers, peer, trust=trust)
    assert (said.via if isinstance(said, Identity) else said) == expected


def test_a_stamp_is_good_once() -> None:
    window = ReplayWindow(60, opened=0)
    headers = stamped(payload())
    assert isinstance(ask(headers, None, trust=HMAC, window=window), Identity)
    assert ask(headers, None, trust=HMAC, window=window) is Refusal.REPLAYED_STAMP
    assert ask(headers, None, trust=HMAC, window=window, now=NOW + 60) is Refusal.REPLAYED_STAMP
    assert ask(headers, None, trust=HMAC, window=window, now=NOW + 61) is Refusal.STALE_STAMP


def test_a_stamp_of_the_process_before_is_stale() -> None:
    """The window forgets with the process; what it may have seen must not come back in."""
    window = ReplayWindow(60, opened=NOW + 2)
    assert ask(stamped(payload()), None, trust=HMAC, window=window, now=NOW + 3) is Refusal.STALE_STAMP


def test_a_full_window_refuses_rather_than_forgets() -> None:
    window = ReplayWindow(60, opened=0, capacity=2)
    said = [ask(stamped(payload(), nonce=c * 24), None, trust=HMAC, window=window) for c in "abc"]
    assert said[2] is Refusal.WINDOW_FULL
    later = ask(
        stamped(payload(exp=NOW + 999), nonce="d" * 24, time=NOW + 200),
        None,
        trust=HMAC,
        window=window,
        now=NOW + 200,
    )
    assert isinstance(later, Identity)


def test_a_forged_stamp_takes_no_room_in_the_window() -> None:
    window = ReplayWindow(60, opened=0, capacity=1)
    assert ask(stamped(payload(), key=bytes(32)), None, trust=HMAC, window=window) is Refusal.BAD_STAMP
    assert isinstance(ask(stamped(payload()), None, trust=HMAC, window=window), Identity)


@pytest.mark.parametrize("name", sorted(PROTECTED))
@pytest.mark.parametrize("form", ["{0}\t", "_{0}", "{0}.", "X_{1}", "x.{1}", "{0} ", "x-{1}_"], ids=repr)
def test_lookalikes_of_protected_headers_are_refused_even_beside_the_real_ones(name: str, form: str) -> None:
    alike = form.format(name, name[2:].replace("-", "_"))
    headers = [*raw({"x-jwt-payload": payload()}), (alike.encode(), b"true")]
    assert ask(headers) is Refusal.LOOKALIKE_HEADER


@pytest.mark.parametrize("name", sorted(PROTECTED))
def test_a_protected_header_said_twice_is_refused_in_any_case(name: str) -> None:
    headers = [*raw({"x-jwt-payload": payload()}), (name.encode(), b"true"), (name.upper().encode(), b"true")]
    assert ask(headers) is Refusal.DUPLICATE_HEADER


@pytest.mark.parametrize("value", ["a b", "\x7f", "\u00e9", "x" * 8193, "a\x00"])
def test_values_that_are_not_short_visible_ascii_are_refused(value: str) -> None:
    assert ask({"x-jwt-payload": value}) is Refusal.MALFORMED_HEADER


def test_the_tenant_header_must_agree_with_the_stamp() -> None:
    assert isinstance(ask({"x-jwt-payload": payload(), "X-Tenant-Id": "acme"}), Identity)
    for other in ("other", "ACME", "", "acme,other"):
        assert ask({"x-jwt-payload": payload(), "x-tenant-id": other}) is Refusal.TENANT_MISMATCH


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"exp": NOW - 5}, Refusal.EXPIRED),
        ({"exp": None}, Refusal.EXPIRED),
        ({"exp": "9999999999"}, Refusal.EXPIRED),
        ({"exp": True}, Refusal.EXPIRED),
        ({"exp": 10**400}, Refusal.EXPIRED),
        ({"nbf": NOW + 6}, Refusal.NOT_YET_VALID),
        ({"aud": "other"}, Refusal.BAD_AUDIENCE),
        ({"aud": None}, Refusal.BAD_AUDIENCE),
        ({"aud": ["other"]}, Refusal.BAD_AUDIENCE),
        ({"aud": ["kakeya", 1]}, Refusal.BAD_AUDIENCE),
        ({"aud": {"kakeya": 1}}, Refusal.BAD_AUDIENCE),
        ({"iss": "https://issuer.example/"}, Refusal.BAD_ISSUER),
        ({"iss": None}, Refusal.BAD_ISSUER),
        ({"tenant_id": None}, Refusal.NO_TENANT),
        ({"tenant_id": ""}, Refusal.NO_TENANT),
        ({"tenant_id": ["acme"]}, Refusal.NO_TENANT),
        ({"tenant_id": "a/../b"}, Refusal.NO_TENANT),
        ({"tenant_id": "acme\n"}, Refusal.NO_TENANT),
    ],
)
def test_claims_are_checked_again_behind_the_gateway(change: dict[str, Any], expected: Refusal) -> None:
    assert ask({"x-jwt-payload": payload(**change)}) is expected


def test_an_audience_may_be_one_of_several() -> None:
    assert isinstance(ask({"x-jwt-payload": payload(aud=["other", "kakeya"], nbf=NOW)}), Identity)


@pytest.mark.parametrize(
    "text",
    ["", "a", "!!!!", base64url.encode(b"[]"), base64url.encode(b'{"iss":1,"iss":2}'), base64url.encode(b"{"), base64url.encode(b"\xff"),
     base64.b64encode(b'{"a":"~~~???"}').decode(), payload() + "===="],
)  # fmt: skip
def test_a_payload_that_is_not_base64url_of_an_object_is_refused(text: str) -> None:
    assert ask({"x-jwt-payload": text}) in {Refusal.MALFORMED_PAYLOAD, Refusal.NO_PAYLOAD}


def test_a_payload_may_be_padded_and_only_rightly() -> None:
    for filler in ("", "x", "xx"):
        text = payload(sub=filler)
        assert isinstance(ask({"x-jwt-payload": text + "=" * (-len(text) % 4)}), Identity)


@given(st.binary(max_size=40))
def test_base64url_has_one_spelling(value: bytes) -> None:
    text = base64url.encode(value)
    assert base64url.decode(text, base64url.Padding.FORBIDDEN) == value
    for other in {text + "=", text + "A", " " + text, text + "\n"} - {text}:
        assert base64url.decode(other, base64url.Padding.FORBIDDEN) != value


def test_the_overflow_uid_and_short_keys_are_no_trust() -> None:
    with pytest.raises(ValueError, match="unmapped user"):
        GatewayTrust(peer_uids=frozenset({65534}))
    with pytest.raises(ValueError, match="32 bytes"):
        GatewayTrust(hmac_keys=(b"short",))


def test_peer_credentials_are_the_kernels_and_only_of_unix_sockets() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right, socket.socket(socket.AF_INET) as tcp:
        assert peer_of(left) == Peer(os.getpid(), os.getuid(), os.getgid())
        assert peer_of(tcp) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(sorted(n.encode() for n in PROTECTED)), st.binary(max_size=20)),
            st.one_of(st.binary(max_size=40), st.just(payload().encode()), st.just(b"true")),
        ),
        max_size=6,
    ),
    st.sampled_from([None, STRANGER]),
)
@example([(b"x-auth-verified", b"true"), (b"x-jwt-payload", payload().encode())], None)
def test_no_headers_whatever_make_a_stranger_somebody(
    headers: list[tuple[bytes, bytes]], peer: Peer | None
) -> None:
    assert isinstance(ask(headers, peer), Refusal)
    assert isinstance(ask(headers, peer, trust=HMAC), Refusal)
    assert isinstance(ask(headers, peer, trust=GatewayTrust()), Refusal)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(base64url.encode)))
def test_no_payload_crashes_the_reader(text: str) -> None:
    header = [(b"x-jwt-payload", text.encode("utf-8", "surrogatepass"))]
    assert isinstance(ask(header), Refusal)


# -- the middleware -----------------------------------------------------------------------------------


def wrapped(app: Any, trust: GatewayTrust = HMAC) -> TestClient:
    """An application behind the middleware, asked over ASGI."""
    inner = GatewayIdentity(
        app,
        trust=trust,
        expected=EXPECTED,
        window=ReplayWindow(60, opened=0),
        now=lambda: NOW,
        open_paths=frozenset({"/open"}),
    )
    return TestClient(inner)


def starlette_app() -> Starlette:
    async def who(request: Any) -> JSONResponse:
        return JSONResponse(
            {"tenant": request.state.identity.tenant_id, "left": sorted(PROTECTED & set(request.headers))}
        )

    async def free(_: Any) -> JSONResponse:
        return JSONResponse("open")

    return Starlette(routes=[Route("/who", who), Route("/open", free)])


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.get("/who")
    async def who(request: Request) -> dict[str, Any]:
        return {"tenant": request.state.identity.tenant_id, "left": sorted(PROTECTED & set(request.headers))}

    @app.get("/open")
    async def free() -> str:
        return "open"

    return app


@pytest.mark.parametrize("make", [starlette_app, fastapi_app], ids=["starlette", "fastapi"])
def test_the_middleware_binds_the_tenant_and_hides_the_stamp(make: Any) -> None:
    client = wrapped(make())
    answer = client.get("/who", headers=stamped(payload()) | {"x-tenant-id": "acme"})
    assert answer.json() == {"tenant": "acme", "left": []}
    refused = client.get("/who", headers={"x-jwt-payload": payload(), "x-auth-verified": "true"})
    assert (refused.status_code, refused.json()["reason"]) == (401, "no_gateway")
    assert client.get("/open").json() == "open"


def test_a_websocket_without_a_stamp_is_closed_before_it_opens() -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect) as closed, wrapped(starlette_app()).websocket_connect("/who"):
        pass
    assert closed.value.code == 1008


def test_a_state_that_a_client_could_have_written_is_no_peer() -> None:
    """Only `Peer` counts, which no parser of requests ever makes."""
    inner = GatewayIdentity(
        starlette_app(), trust=PEERS, expected=EXPECTED, window=ReplayWindow(60, opened=0), now=lambda: NOW
    )

    async def forged(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "state": {"peer": {"uid": 7}}}, receive, send)

    assert TestClient(forged).get("/who", headers={"x-jwt-payload": payload()}).status_code == 401


# -- tokens -------------------------------------------------------------------------------------------

ED = OKPKey.generate_key("Ed25519", {"kid": "ed"}, private=True)
EC = ECKey.generate_key("P-256", {"kid": "ec"}, private=True)
PUBLIC = tuple(import_key(key.as_dict(private=False)) for key in (ED, EC))
VERIFIER = Verifier(PUBLIC, EXPECTED)


def token(header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None, key: Any = ED) -> str:
    head = header or {"alg": "Ed25519", "kid": "ed"}
    with warnings.catch_warnings():  # of the deprecated name, when signing; verifying must not warn
        warnings.simplefilter("ignore", SecurityWarning)
        return jwt.encode(head, claims or GOOD, key, algorithms=[head["alg"]])


def judge_token(text: str) -> str | Refusal:
    try:
        return VERIFIER.identity(text, now=NOW).tenant_id
    except IdentityRefusedError as refused:
        return refused.reason


@pytest.mark.parametrize(
    "header",
    [{"alg": "Ed25519", "kid": "ed"}, {"alg": "EdDSA", "kid": "ed"}, {"alg": "ES256", "kid": "ec"}],
    ids=lambda h: h["alg"],
)
def test_genuine_tokens_are_somebody(header: dict[str, Any]) -> None:
    assert judge_token(token(header, key=EC if header["kid"] == "ec" else ED)) == "acme"


def respelt(text: str, part: int, spelling: str) -> str:
    parts = text.split(".")
    parts[part] = spelling
    return ".".join(parts)


def head(**header: Any) -> str:
    return base64url.encode(json.dumps({"alg": "Ed25519", "kid": "ed", **header}).encode())


GENUINE = token()
H, B, S = GENUINE.split(".")


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", f"{H}.{B}", f"{H}.{B}.", f".{B}.{S}", f"{H}.{B}.{S}.", f"{GENUINE}\n", f" {GENUINE}",
        f"{H}=.{B}.{S}", f"{H}.{B}=.{S}", f"{H}.{B}.{S}=", f"{H}.{B}.{S}==", f"{H}.{B}.{S}A", f"{H}.{B}.?{S}", f"{H}.{B}.{S[:-1]}",
        f"{H}.{B}.{S.swapcase()}", f"{H}.{base64url.encode(b'{}')}.{S}", f"{H}.{B}.{base64url.encode(bytes(64))}",
        f"{head(alg='none')}.{B}.{S}", f"{head(alg='none')}.{B}.", f"{head(alg='HS256')}.{B}.{S}", f"{head(alg='ES256')}.{B}.{S}",
        f"{head(crit=['b64'], b64=False)}.{B}.{S}", f"{head(jwk={})}.{B}.{S}", f"{head(jku='https://x.example')}.{B}.{S}",
        f"{head(kid='nobody')}.{B}.{S}", f"{head(kid=1)}.{B}.{S}", f"{head(alg=None)}.{B}.{S}", f"{base64url.encode(b'[]')}.{B}.{S}",
        f"{base64url.encode(b'{' + b'%22alg%22' + b'}')}.{B}.{S}", "a" * 9000 + f".{B}.{S}",
    ],
)  # fmt: skip
def test_everything_near_a_genuine_token_is_nobody(text: str) -> None:
    assert isinstance(judge_token(text), Refusal)


def test_the_last_letters_spare_bits_are_part_of_the_spelling() -> None:
    """One signature, four spellings to a lax decoder: an id made of the text would then not be one."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [S[:-1] + letter for letter in alphabet if letter != S[-1]]
    same = [o for o in others if base64.urlsafe_b64decode(o + "==") == base64.urlsafe_b64decode(S + "==")]
    assert len(same) == 15
    assert {judge_token(f"{H}.{B}.{o}") for o in same} == {Refusal.MALFORMED_TOKEN}


def test_a_mac_under_the_public_key_is_no_signature() -> None:
    """RFC 8725, section 2.1: the key that everybody knows must not become a MAC key."""
    public = json.dumps(PUBLIC[0].as_dict()).encode()
    forged = jwt.encode({"alg": "HS256", "kid": "ed"}, GOOD, OctKey.import_key(public), algorithms=["HS256"])
    assert judge_token(forged) is Refusal.ALGORITHM_REFUSED
    everything = DEFAULT_ALGORITHMS | {"HS256"}
    with pytest.raises(IdentityRefusedError):
        verify_compact(forged, PUBLIC, everything)


def test_a_token_without_kid_needs_a_single_key() -> None:
    bare = token({"alg": "Ed25519"})
    assert judge_token(bare) is Refusal.UNKNOWN_KEY
    assert verify_compact(bare, PUBLIC[:1], DEFAULT_ALGORITHMS)


@pytest.mark.parametrize("limits", [{"use": "enc"}, {"alg": "ES256"}, {"key_ops": ["encrypt"]}], ids=str)
def test_a_key_that_is_for_something_else_verifies_nothing(limits: dict[str, Any]) -> None:
    public = {k: v for k, v in ED.as_dict(private=False).items() if k not in limits} | limits
    with pytest.raises(IdentityRefusedError) as refused:
        verify_compact(GENUINE, (import_key(public),), DEFAULT_ALGORITHMS)
    assert refused.value.reason is Refusal.UNKNOWN_KEY


def test_claims_of_a_genuine_token_are_checked_too() -> None:
    assert judge_token(token(claims={**GOOD, "exp": NOW - 10})) is Refusal.EXPIRED
    assert judge_token(token(claims={**GOOD, "aud": "other"})) is Refusal.BAD_AUDIENCE


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, len(GENUINE) - 1), letter=st.characters(max_codepoint=0x17F))
def test_one_changed_letter_makes_a_token_nobodys(position: int, letter: str) -> None:
    if letter != GENUINE[position]:
        assert isinstance(judge_token(GENUINE[:position] + letter + GENUINE[position + 1 :]), Refusal)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(st.binary(max_size=30).map(base64url.encode), min_size=3, max_size=3).map(".".join),
    )
)
def test_no_text_crashes_the_verifier(text: str) -> None:
    assert isinstance(judge_token(text), Refusal)


def test_keys_are_read_from_a_file_or_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(KeySet(list(PUBLIC)).as_dict()))
    assert {key.kid for key in load_keys(path)} == {"ed", "ec"}
    for bad in ("", "[]", "{}", '{"keys":[]}', '{"keys":[{"kty":"?"}]}', '{"keys":{}}'):
        path.write_text(bad)
        with pytest.raises(ValueError, match=r"jwks\.json"):
            load_keys(path)


@pytest.mark.skipif(
    "HOLDFAST_WYCHEPROOF" not in os.environ,
    reason="HOLDFAST_WYCHEPROOF names no json_web_signature_test.json",
)
def test_wycheproofs_invalid_signatures_are_refused() -> None:
    """Every algorithm allowed, all but two: 367 and 370 are one well-formed token with a right MAC.

    With the default list, which knows no shared secrets, nothing invalid is accepted at all.
    """
    document = json.loads(Path(os.environ["HOLDFAST_WYCHEPROOF"]).read_text())
    every = DEFAULT_ALGORITHMS | {a + n for a in ("HS", "RS", "PS", "ES") for n in ("256", "384", "512")}
    rows = [
        (test, import_key(group.get("public") or group["private"]))
        for group in document["testGroups"]
        for test in group["tests"]
    ]

    def accepted(allowed: frozenset[str]) -> set[int]:
        found = set()
        for test, key in rows:
            try:
                verify_compact(test["jws"], (key,), allowed)
            except IdentityRefusedError:
                continue
            found.add(test["tcId"])
        return found

    invalid = {test["tcId"] for test, _ in rows if test["result"] == "invalid"}
    valid = {test["tcId"] for test, _ in rows} - invalid
    assert len(invalid) == 355
    assert accepted(every) & invalid == {367, 370}
    assert accepted(DEFAULT_ALGORITHMS) & invalid == set()
    assert len(accepted(every) & valid) == 40


def test_rsa_is_there_for_who_lists_it() -> None:
    rsa = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)
    text = token({"alg": "RS256", "kid": "rsa"}, key=rsa)
    public = (import_key(rsa.as_dict(private=False)),)
    assert verify_compact(text, public, frozenset({"RS256"}))
    with pytest.raises(IdentityRefusedError):
        verify_compact(text, public, DEFAULT_ALGORITHMS)


@pytest.mark.planted
def test_planted_a_middleware_that_believes_a_header_is_caught_by_the_same_question() -> None:
    """`X-Auth-Verified: true` from anyone: the fault in the wild, asked the way the tests above ask."""

    def believing(headers: dict[str, str]) -> bool:
        return headers.get("x-auth-verified") == "true"

    forged = {"x-jwt-payload": payload(), "x-auth-verified": "true"}
    assert believing(forged)
    assert ask(forged, None) is Refusal.NO_GATEWAY


def test_the_suite_runs_without_a_home() -> None:
    """The package reads nothing from the environment: an emptied one imports and answers."""
    import sys

    done = subprocess.run(
        [sys.executable, "-c", "import holdfast.systems.kakeya.identity as i; print(i.Refusal.NO_GATEWAY.value)"],
        env={}, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"no_gateway\n"
