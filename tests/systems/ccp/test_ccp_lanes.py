"""Credentials and headers: what each lane gets to see, and that a secret cannot reach another origin."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.systems.ccp.faults import ConfigError, CredentialLeakError, Refusal
from holdfast.systems.ccp.http1 import Field, Limits, RequestHead, parse_request_head, parse_response_head
from holdfast.systems.ccp.lanes import (
    HOP_BY_HOP,
    REWRITTEN,
    Lane,
    PlannedHead,
    downstream_head,
    plan_upstream_head,
)
from holdfast.systems.ccp.origins import Origin, Secret, parse_base_url
from holdfast.systems.ccp.policy import DEFAULT_POLICY, Auth
from holdfast.systems.ccp.settings import build_lanes, read_settings
from holdfast.systems.ccp.upstream import Pool, UpstreamConnection

ZAI_KEY = "zai-0123456789abcdef"
OAUTH = b"sk-ant-oat01-0123456789"
ANTHROPIC_BASE = parse_base_url("https://api.anthropic.com", what="a")
ZAI_BASE = parse_base_url("https://api.z.ai/api/anthropic", what="z")
KEY = Secret(ZAI_KEY, ZAI_BASE.origin, what="ZAI_API_KEY")
ANTHROPIC = Lane("anthropic", ANTHROPIC_BASE, Auth.PASSTHROUGH)
ZAI = Lane("zai", ZAI_BASE, Auth.X_API_KEY, KEY)


def field(name: str, value: bytes) -> Field:
    return name.lower().encode(), name.encode(), value


def head_of(*fields: Field, query: bytes = b"?beta=true") -> RequestHead:
    lines = [b"%s: %s\r\n" % (name, value) for _, name, value in fields]
    target = b"/v1/messages" + query
    raw = b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (target, b"".join(lines))
    return parse_request_head(raw, Limits())


def sent_to(lane: Lane, *fields: Field, query: bytes = b"?beta=true") -> bytes:
    return plan_upstream_head(lane, head_of(*fields, query=query), 5, (KEY,)).raw


def test_the_anthropic_lane_passes_everything_but_the_hop_in_order_and_case() -> None:
    raw = sent_to(
        ANTHROPIC,
        field("Authorization", b"Bearer " + OAUTH),
        field("X-Odd-CASE", b"v"),
        field("anthropic-beta", b"a,b"),
        field("Connection", b"keep-alive, X-Hop"),
        field("X-Hop", b"1"),
        field("TE", b"trailers"),
        field("Trailer", b"x"),
        field("Content-Length", b"999"),
        field("Accept-Encoding", b"gzip"),
    )
    assert raw == (
        b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: api.anthropic.com\r\n"
        b"Authorization: Bearer "
        + OAUTH
        + b"\r\nX-Odd-CASE: v\r\nanthropic-beta: a,b\r\nAccept-Encoding: gzip\r\n"
        b"Content-Length: 5\r\n\r\n"
    )


CREDENTIAL_FIELDS = {
    "bearer": field("Authorization", b"Bearer " + OAUTH),
    "api-key": field("X-Api-Key", b"sk-ant-api03-aaaa"),
    "lower-case": field("x-api-key", b"sk-ant-api03-aaaa"),
    "custom-header": field("X-Custom-Auth", b"sk-ant-api03-aaaa"),
    "inside-a-value": field("X-Note", b"token=sk-ant-oat01-zzz;"),
    "cookie": field("Cookie", b"sessionKey=sk-ant-sid01-x"),
    "proxy": field("Proxy-Authorization", b"Basic " + OAUTH),
    "opaque-bearer": field("Authorization", b"Bearer opaque-token-1234"),
}


@pytest.mark.parametrize("credential", CREDENTIAL_FIELDS.values(), ids=CREDENTIAL_FIELDS.keys())
def test_the_zai_lane_sees_no_credential_of_the_client(credential: Field) -> None:
    raw = sent_to(ZAI, credential, field("anthropic-version", b"2023-06-01"))
    assert credential[2] not in raw
    assert b"sk-ant-" not in raw
    assert b"opaque-token-1234" not in raw
    assert b"anthropic-version: 2023-06-01\r\n" in raw
    assert raw.count(b"x-api-key: " + ZAI_KEY.encode() + b"\r\n") == 1


def test_a_copy_of_an_opaque_credential_in_another_header_goes_too() -> None:
    raw = sent_to(
        ZAI, field("Authorization", b"Bearer opaque-token-1234"), field("X-Copy", b"opaque-token-1234")
    )
    assert b"opaque-token-1234" not in raw


def test_header_mode_auth_sends_a_bearer_and_no_api_key() -> None:
    raw = sent_to(Lane("zai", ZAI_BASE, Auth.BEARER, KEY), field("X-Api-Key", b"sk-ant-x"))
    assert b"Authorization: Bearer " + ZAI_KEY.encode() in raw
    assert b"x-api-key" not in raw.lower()


def test_the_zai_key_in_a_clients_hand_does_not_reach_anthropic() -> None:
    for carried in (field("Authorization", b"Bearer " + ZAI_KEY.encode()), field("X-Any", ZAI_KEY.encode())):
        with pytest.raises(Refusal) as caught:
            sent_to(ANTHROPIC, carried)
        assert ZAI_KEY not in caught.value.message
    with pytest.raises(Refusal):
        sent_to(ANTHROPIC, query=b"?key=" + ZAI_KEY.encode())


def test_a_credential_in_the_query_does_not_reach_zai() -> None:
    with pytest.raises(Refusal):
        sent_to(ZAI, query=b"?api_key=" + OAUTH)


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,15}", fullmatch=True)
TEXTS = st.binary(max_size=30).map(lambda b: bytes(c for c in b if c >= 32 and c != 127).strip())


@given(st.lists(st.tuples(NAMES, TEXTS | st.just(OAUTH) | st.just(b"Bearer " + OAUTH)), max_size=12))
def test_whatever_the_headers_no_anthropic_credential_reaches_zai(pairs: list[tuple[str, bytes]]) -> None:
    raw = sent_to(ZAI, *(field(name, value) for name, value in pairs))
    assert b"sk-ant-" not in raw
    assert raw.lower().count(b"\r\nx-api-key:") == 1


@given(st.lists(st.tuples(NAMES, TEXTS), max_size=12))
def test_whatever_the_headers_anthropic_gets_each_that_is_not_of_the_hop(
    pairs: list[tuple[str, bytes]],
) -> None:
    dropped = {*HOP_BY_HOP, *REWRITTEN}
    kept = [(n, v) for n, v in pairs if n.lower().encode() not in dropped and n.lower() != "connection"]
    raw = sent_to(ANTHROPIC, *(field(name, value) for name, value in kept))
    lines = raw.split(b"\r\n")[2:-3]
    assert lines == [b"%s: %s" % (name.encode(), value) for name, value in kept]


# -- the bond between a secret and its origin -----------------------------------------------------------


def test_a_secret_is_revealed_to_its_origin_only() -> None:
    assert KEY.reveal(ZAI_BASE.origin) == ZAI_KEY.encode()
    for origin in (ANTHROPIC_BASE.origin, Origin("http", "api.z.ai", 443), Origin("https", "api.z.ai", 8443)):
        with pytest.raises(CredentialLeakError):
            KEY.reveal(origin)


@pytest.mark.planted
def test_planted_a_lane_that_carries_anothers_key_cannot_plan_a_head() -> None:
    """A mixed-up table: lane anthropic with zai's key. There is no way to get the text out."""
    mixed = Lane("anthropic", ANTHROPIC_BASE, Auth.X_API_KEY, KEY)
    with pytest.raises(CredentialLeakError):
        plan_upstream_head(mixed, head_of(), 5, (KEY,))


@pytest.mark.planted
def test_planted_a_head_for_one_origin_is_not_written_to_another() -> None:
    """A mixed-up pool: zai's head on a connection to anthropic. Nothing is written; there is no transport
    that it could have been written to, so a write would fail differently."""
    planned = plan_upstream_head(ZAI, head_of(), 0, (KEY,))
    connection = UpstreamConnection(Pool(ANTHROPIC), ANTHROPIC_BASE.origin)
    with pytest.raises(CredentialLeakError):
        connection.send(planned, b"")
    with pytest.raises(AssertionError):
        connection.send(PlannedHead(ANTHROPIC_BASE.origin, b""), b"")


def test_no_repr_shows_a_secret() -> None:
    for value in (KEY, ZAI, read_settings({"ZAI_API_KEY": ZAI_KEY})):
        assert ZAI_KEY not in repr(value)


# -- the environment ------------------------------------------------------------------------------------

ENV = {"ZAI_API_KEY": ZAI_KEY}
WRONG = {
    "one-origin": {"CCP_ANTHROPIC_URL": "http://127.0.0.1:9/a", "CCP_ZAI_URL": "http://127.0.0.1:9/b"},
    "zai-at-anthropic": {"CCP_ZAI_URL": "https://api.anthropic.com"},
    "zai-at-anthropic-upper": {"CCP_ZAI_URL": "https://API.Anthropic.COM./x"},
    "anthropic-at-zai": {"CCP_ANTHROPIC_URL": "https://api.z.ai:8443"},
    "plain-http": {"CCP_ZAI_URL": "http://example.com"},
    "userinfo": {"CCP_ZAI_URL": "https://user:pw@example.com"},
    "query": {"CCP_ZAI_URL": "https://example.com/?x=1"},
    "scheme": {"CCP_ZAI_URL": "ftp://example.com"},
    "no-host": {"CCP_ZAI_URL": "https:///x"},
    "bad-port": {"CCP_ZAI_URL": "https://example.com:99999"},
    "dots": {"CCP_ZAI_URL": "https://example.com/a/../b"},
    "header-injection": {"CCP_ZAI_URL": "https://example.com/a%0d\r\nx"},
    "no-key": {"ZAI_API_KEY": ""},
    "key-with-newline": {"ZAI_API_KEY": "a\r\nX-Evil: 1"},
    "key-with-blank": {"ZAI_API_KEY": "a b"},
    "header-mode": {"CCP_HEADER_MODE": "both"},
    "sandbox": {"CCP_SANDBOX": "jail"},
    "relative-socket": {"CCP_ZAI_URL": "http+unix://socket"},
    "relative-broker": {"CCP_UPSTREAM_VIA": "broker.sock"},
    "bad-pin": {"CCP_PIN_ZAI": "sha256:xyz"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_environment_is_one_line_that_names_the_variable_or_lane(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_lanes(DEFAULT_POLICY, read_settings({**ENV, **wrong}))
    message = str(caught.value)
    assert "\n" not in message
    assert "`" in message
    assert ZAI_KEY not in message
    assert "pw" not in message


def test_a_denied_lane_needs_no_key() -> None:
    policy = replace(DEFAULT_POLICY, denied={"zai": "because"})
    assert set(build_lanes(policy, read_settings({}))) == {"anthropic"}


# -- answers --------------------------------------------------------------------------------------------


def test_an_answers_head_keeps_all_but_the_hop() -> None:
    head = parse_response_head(
        b"HTTP/1.1 529 Site is overloaded\r\nRetry-After: 7\r\n"
        b"Connection: close, X-Hop\r\nX-Hop: 1\r\nETag: x\r\n\r\n"
    )
    raw = downstream_head(head, close=False, chunks_understood=True)
    assert raw == b"HTTP/1.1 529 Site is overloaded\r\nRetry-After: 7\r\nETag: x\r\n\r\n"


def test_a_client_without_chunks_is_not_told_of_any() -> None:
    head = parse_response_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"chunked" in downstream_head(head, close=False, chunks_understood=True)
    assert b"chunked" not in downstream_head(head, close=True, chunks_understood=False)
