"""F1 to F22: the faults that users of other gateways reported, each as a test on the real command.

The numbers are those of the project's list of field reports; each test's first line is the fault.
"""

import gzip
import json
import re
import socket
import threading
from pathlib import Path

import pytest

from holdfast.systems.ccp.rig import (
    Canaries,
    Captured,
    Proxy,
    Script,
    Witness,
    ask,
    json_answer,
    read_answer,
    send_request,
    stage,
)
from holdfast.systems.ccp.verify import ANSWER, EVENTS, spellings

HAIKU = b'{"model":"claude-haiku-4-5","stream":true}'
SONNET = b'{"model":"claude-sonnet-4-5","stream":true}'
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%sTransfer-Encoding: chunked\r\n\r\n"
ROOT = Path(__file__).parents[3]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def play(*pieces: bytes, keep: bool = True) -> Script:
    """A script that answers every request with these bytes."""

    def script(sock: socket.socket, _: Captured) -> bool:
        for piece in pieces:
            sock.sendall(piece)
        return keep

    return script


def sse(*events: bytes, extra: bytes = b"") -> bytes:
    """A whole event stream, one chunk an event."""
    return SSE_HEAD % extra + b"".join(map(chunk, events)) + b"0\r\n\r\n"


def usage_lines(proxy: Proxy) -> list[dict[str, object]]:
    return [json.loads(line) for line in (proxy.log_dir / "usage.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("guard", ["", "1"], ids=["guard-off", "guard-on"])
@pytest.mark.parametrize("form", ["bearer", "api-key", "both"])
def test_f01_an_oauth_token_never_reaches_a_third_party_and_the_configured_key_is_not_dropped(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries, form: str, guard: str
) -> None:
    bearer, key = ("Authorization", f"Bearer {canaries.oauth}"), ("X-Api-Key", canaries.api_key)
    fields = {"bearer": [bearer], "api-key": [key], "both": [bearer, key]}[form]
    with stage(tmp_path, anthropic, zai, canaries=canaries, CCP_REQUIRE_US_ONLY="", CCP_BLOCK_CN="") as proxy:
        assert ask(proxy.port, "/v1/messages", HAIKU, [*fields, ("X-Guard", guard)]).status == 200
    (got,) = zai.captured
    assert not [s for secret in (canaries.oauth, canaries.api_key) for s in spellings(secret) if s in got.raw]
    assert got.raw.count(f"x-api-key: {canaries.zai_key}\r\n".encode()) == 1


def test_f02_a_path_without_a_model_goes_to_the_clients_own_provider(
    proxy: Proxy, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    ask(
        proxy.port,
        "/v1/models?limit=1000",
        None,
        [("Authorization", f"Bearer {canaries.oauth}")],
        method="GET",
    )
    assert len(anthropic.captured) == 1
    assert not zai.captured


def test_f03_no_server_key_is_injected_over_the_clients_credential(
    proxy: Proxy, anthropic: Witness, canaries: Canaries
) -> None:
    ask(proxy.port, "/v1/messages", SONNET, [("Authorization", f"Bearer {canaries.oauth}")])
    raw = anthropic.captured[0].raw
    assert b"x-api-key" not in raw.lower()
    assert canaries.zai_key.encode() not in raw


@pytest.mark.parametrize("target", ["/v1/messages", "/v1/messages?beta=true", "/v1/messages/count_tokens"])
def test_f04_oauth_passes_through_on_every_endpoint(
    proxy: Proxy, anthropic: Witness, canaries: Canaries, target: str
) -> None:
    fields = [("Authorization", f"Bearer {canaries.oauth}"), ("anthropic-beta", "oauth-2025-04-20")]
    assert ask(proxy.port, target, SONNET, fields).status == 200
    for name, value in fields:
        assert f"\r\n{name}: {value}\r\n".encode() in anthropic.captured[0].raw


def test_f05_when_both_credentials_come_both_go_in_the_clients_order(
    proxy: Proxy, anthropic: Witness, canaries: Canaries
) -> None:
    fields = [("X-API-Key", canaries.api_key), ("Authorization", f"Bearer {canaries.oauth}")]
    ask(proxy.port, "/v1/messages", SONNET, fields)
    raw = anthropic.captured[0].raw
    assert 0 < raw.index(b"\r\nX-API-Key: ") < raw.index(b"\r\nAuthorization: ")


def test_f06_event_lines_arrive_and_a_request_is_sent_once(proxy: Proxy, zai: Witness) -> None:
    zai.script = play(sse(*EVENTS))
    answer = ask(proxy.port, "/v1/messages", HAIKU)
    assert answer.payload == b"".join(EVENTS)
    assert answer.payload.count(b"event: ") == len(EVENTS)
    assert len(zai.captured) == 1


def test_f07_nothing_is_put_between_the_lines_of_an_event(proxy: Proxy, zai: Witness) -> None:
    """The upstream pauses inside an event; what comes out is what went in, with nothing in the gap."""
    first, second = EVENTS[0][:20], EVENTS[0][20:] + b"".join(EVENTS[1:])
    got_first = threading.Event()

    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(SSE_HEAD % b"" + chunk(first))
        assert got_first.wait(20)
        sock.sendall(chunk(second) + b"0\r\n\r\n")
        return True

    zai.script = script
    answer = ask(
        proxy.port,
        "/v1/messages",
        HAIKU,
        on_payload=lambda p: got_first.set() if len(p) >= len(first) else None,
    )
    assert answer.body == chunk(first) + chunk(second) + b"0\r\n\r\n"


@pytest.mark.parametrize("label", [b"Content-Encoding: gzip\r\n", b""], ids=["labelled", "unlabelled"])
def test_f08_gzip_streams_pass_as_they_are_and_are_understood(
    proxy: Proxy, zai: Witness, label: bytes
) -> None:
    packed = gzip.compress(b"".join(EVENTS))
    zai.script = play(sse(packed[:11], packed[11:], extra=label))
    answer = ask(proxy.port, "/v1/messages", HAIKU, [("Accept-Encoding", "gzip")])
    assert answer.payload == packed
    assert answer.values(b"content-encoding") == ([b"gzip"] if label else [])
    (line,) = usage_lines(proxy)
    assert (line["grammar"], line["input_tokens"], line["output_tokens"]) == ("ok", 3, 2)


def test_f09_length_and_coding_fit_the_body_that_is_sent(proxy: Proxy, anthropic: Witness) -> None:
    packed = gzip.compress(ANSWER)
    anthropic.script = json_answer(packed, extra=b"Content-Encoding: gzip\r\n")
    answer = ask(proxy.port, "/v1/messages", SONNET)
    assert answer.body == packed
    assert answer.values(b"content-length") == [str(len(packed)).encode()]
    assert answer.values(b"content-encoding") == [b"gzip"]


def test_f10_fields_of_one_hop_stay_on_it_both_ways(proxy: Proxy, anthropic: Witness) -> None:
    extra = b"Connection: X-Up, keep-alive\r\nX-Up: 1\r\nKeep-Alive: timeout=5\r\nTrailer: x\r\nX-Kept: 2\r\n"
    anthropic.script = json_answer(extra=extra)
    fields = [
        ("Connection", "X-Down, te"),
        ("X-Down", "1"),
        ("TE", "trailers"),
        ("Trailers", "kept"),
        ("Upgrade", "h2c"),
    ]
    answer = ask(proxy.port, "/v1/messages", SONNET, fields)
    names = {name for name, _, _ in answer.head.fields}
    assert not names & {b"x-up", b"keep-alive"}
    assert b"x-kept" in names
    raw = anthropic.captured[0].raw.lower()
    assert not [name for name in (b"x-down", b"\r\nte:", b"upgrade", b"connection") if name in raw]
    assert b"\r\ntrailers: kept\r\n" in raw, "`Trailers` is no hop-by-hop field; `Trailer` is"


def test_f11_a_stream_that_is_never_ended_does_not_hang_after_message_stop(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    """Everything arrives, nothing is made up, and the connections end though the upstream never does."""
    release = threading.Event()

    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(SSE_HEAD % b"" + b"".join(map(chunk, EVENTS)))
        return not release.wait(20)

    zai.script = script
    policy = tmp_path / "policy.json"
    policy.write_text('{"routes":[{"matchModel":"*haiku*","provider":"zai"}],"timeouts":{"afterStopMs":200}}')
    seen = [b""]
    with stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_POLICY_URL=str(policy)) as proxy:
        with pytest.raises(ConnectionError):
            ask(proxy.port, "/v1/messages", HAIKU, on_payload=seen.append)
        release.set()
        (line,) = usage_lines(proxy)
    assert seen[-1] == b"".join(EVENTS)
    assert (line["outcome"], line["grammar"], line["response_bytes"]) == (
        "aborted",
        "ok",
        len(b"".join(EVENTS)),
    )


def test_f12_no_message_stop_is_made_up_when_the_upstream_breaks_off(proxy: Proxy, zai: Witness) -> None:
    zai.script = play(SSE_HEAD % b"" + b"".join(map(chunk, EVENTS[:3])), keep=False)
    seen = [b""]
    with pytest.raises(ConnectionError):
        ask(proxy.port, "/v1/messages", HAIKU, on_payload=seen.append)
    assert seen[-1] == b"".join(EVENTS[:3])
    (line,) = usage_lines(proxy)
    assert (line["outcome"], line["status"], line["grammar"]) == ("aborted", 200, "truncated")


def test_f13_no_status_is_sent_before_the_upstreams_own(proxy: Proxy, zai: Witness) -> None:
    """The upstream takes its time and then says 529; nothing, not a byte, came before."""
    asked = threading.Event()
    release = threading.Event()

    def script(sock: socket.socket, _: Captured) -> bool:
        asked.set()
        assert release.wait(20)
        sock.sendall(b"HTTP/1.1 529 Overloaded\r\nContent-Length: 2\r\n\r\n{}")
        return True

    zai.script = script
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        send_request(sock, "POST", "/v1/messages", [], HAIKU)
        assert asked.wait(20)
        # Another whole exchange goes through the same loop: whatever was to be said early would be here.
        assert ask(proxy.port, "/healthz", method="GET").status == 200
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(20)
        release.set()
        assert read_answer(sock).status == 529


@pytest.mark.parametrize("when", ["before-the-first-byte", "mid-stream", "without-streaming"])
def test_f14_when_the_client_leaves_the_upstream_is_cancelled(proxy: Proxy, zai: Witness, when: str) -> None:
    closed = threading.Event()

    def script(sock: socket.socket, _: Captured) -> bool:
        if when == "mid-stream":
            sock.sendall(SSE_HEAD % b"" + chunk(EVENTS[0]))
        sock.settimeout(20)
        try:
            if sock.recv(1) == b"":
                closed.set()
        except ConnectionError:
            closed.set()
        return False

    zai.script = script
    body = HAIKU.replace(b"true", b"false") if when == "without-streaming" else HAIKU
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
        send_request(sock, "POST", "/v1/messages", [], body)
        zai.wait_captured(1)
        if when == "mid-stream":
            assert sock.recv(1)
    assert closed.wait(20), "the upstream's connection stayed open after the client had left"
    zai.wait_closed()
    assert [line["outcome"] for line in usage_lines(proxy)] == ["client_left"]


def close_after(answers: int) -> Script:
    """Answers so many requests of each connection, then closes it when the next one comes, with no byte."""
    counts: dict[int, int] = {}

    def script(sock: socket.socket, captured: Captured) -> bool:
        counts[captured.connection] = counts.get(captured.connection, 0) + 1
        if counts[captured.connection] > answers:
            return False
        return json_answer()(sock, captured)

    return script


def test_f15_a_request_is_sent_again_only_on_a_kept_socket_that_gave_nothing(
    proxy: Proxy, zai: Witness
) -> None:
    zai.script = close_after(1)
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 200
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 200
    assert [c.connection for c in zai.captured] == [1, 1, 2]
    assert [line["retried"] for line in usage_lines(proxy)] == [False, True]


def test_f15_a_request_on_a_fresh_socket_is_never_sent_again(proxy: Proxy, zai: Witness) -> None:
    zai.script = close_after(0)
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 502
    assert len(zai.captured) == 1


def test_f15_a_request_that_got_a_first_byte_is_never_sent_again(proxy: Proxy, zai: Witness) -> None:
    answered: list[int] = []

    def script(sock: socket.socket, captured: Captured) -> bool:
        answered.append(captured.connection)
        if len(answered) == 1:
            return json_answer()(sock, captured)
        sock.sendall(b"H")
        return False

    zai.script = script
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 200
    assert ask(proxy.port, "/v1/messages", HAIKU).status == 502
    assert answered == [1, 1]


def test_f16_thinking_signatures_and_odd_spelling_pass_byte_for_byte(
    proxy: Proxy, anthropic: Witness
) -> None:
    body = (
        b'{ "messages" : [ {"role":"assistant","content":[{"type":"thinking","thinking":"a\\u00e9\\/",'
        b'"signature":"EqoBCkgIARABGAIiQL2+/=="}]} ],"n":1.0e+2,"model":"claude-sonnet-4-5" ,"z":"\xc3\xa9" }'
    )
    ask(proxy.port, "/v1/messages", body)
    assert anthropic.captured[0].request.body == body


def test_f16_a_renamed_model_changes_that_string_and_no_other_byte(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"routes":[{"matchModel":"*haiku*","provider":"zai","rename":"glm-4.5-air"}]}')
    body = b'{"x":{"model":"claude-haiku-4-5"}, "model" : "claude-haiku-4-5","s":"EqoB\\/+=="}'
    with stage(tmp_path / "logs", anthropic, zai, canaries=canaries, CCP_POLICY_URL=str(policy)) as proxy:
        assert ask(proxy.port, "/v1/messages", body).status == 200
    expected = body.replace(b': "claude-haiku-4-5"', b': "glm-4.5-air"')
    assert zai.captured[0].request.body == expected


def test_f17_count_tokens_works_fifty_at_once(proxy: Proxy, zai: Witness) -> None:
    zai.script = json_answer(b'{"input_tokens":2095}')
    answers: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                ask(proxy.port, "/v1/messages/count_tokens?beta=true", HAIKU).payload
            )
        )
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [b'{"input_tokens":2095}'] * 50
    assert sum(line["input_tokens"] == 2095 for line in usage_lines(proxy)) == 50


def test_f18_no_beta_is_added_and_none_is_taken(proxy: Proxy, anthropic: Witness, zai: Witness) -> None:
    beta = "context-1m-2025-08-07,made-up-2031-01-01"
    for body in (SONNET, HAIKU):
        ask(proxy.port, "/v1/messages", body)
        ask(proxy.port, "/v1/messages", body, [("anthropic-beta", beta)])
    for witness in (anthropic, zai):
        without, with_beta = witness.captured
        assert b"anthropic-beta" not in without.raw.lower()
        assert with_beta.raw.count(f"\r\nanthropic-beta: {beta}\r\n".encode()) == 1


def test_f19_headers_are_denied_by_name_not_allowed_by_name(
    proxy: Proxy, anthropic: Witness, zai: Witness
) -> None:
    fields = [(f"X-Unheard-Of-{n}", f"value {n}") for n in range(40)]
    fields += [
        ("User-Agent", "claude-cli/2.1 (external, cli)"),
        ("X-App", "cli"),
        ("X-Stainless-Os", "Linux"),
    ]
    for body, witness in ((SONNET, anthropic), (HAIKU, zai)):
        ask(proxy.port, "/v1/messages", body, fields)
        raw = witness.captured[0].raw
        assert not [name for name, value in fields if f"\r\n{name}: {value}\r\n".encode() not in raw]


def test_f20_no_credential_and_no_text_of_a_client_is_written_anywhere(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    """Good requests, refused ones, failing upstreams, a secret in every place that some log would take."""
    secret = canaries.oauth
    bearer = ("Authorization", f"Bearer {secret}")
    body = json.dumps({"model": "claude-haiku-4-5", "messages": canaries.prompt}).encode()
    with stage(tmp_path, anthropic, zai, canaries=canaries) as proxy:
        ask(proxy.port, f"/v1/messages?key={canaries.prompt}", body, [bearer])
        ask(proxy.port, f"/v1/{secret}", body, [bearer])
        ask(
            proxy.port,
            "/v1/messages",
            json.dumps({"model": canaries.prompt + "\n " + secret}).encode(),
            [bearer],
        )
        ask(proxy.port, "/v1/messages", f'{{"model":"a","{secret}":1,"{secret}":2}}'.encode(), [bearer])
        ask(proxy.port, "/v1/messages", secret.encode(), [bearer])
        ask(proxy.port, f"/v1/messages?k={secret}", body, [bearer])
        ask(proxy.port, "/v1/messages", SONNET, [("X-Api-Key", canaries.zai_key)])
        zai.script = play(b"HTTP/1.1 200 OK\r\n" + secret.encode() + b"\r\n\r\n", keep=False)
        ask(proxy.port, "/v1/messages", body, [bearer])
        zai.script = json_answer(secret.encode(), extra=b"request-id: %s x\r\n" % secret.encode())
        ask(
            proxy.port,
            "/v1/messages",
            body,
            [("x-claude-code-session-id", f"{secret} {canaries.prompt}"), bearer],
        )
        for page in ("/readyz", "/metrics", "/v1/usage"):
            assert canaries.zai_key.encode() not in ask(proxy.port, page, method="GET").body
    written = proxy.errors.encode() + b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert written.count(b"\n") >= 9
    for canary in (canaries.zai_key, secret, canaries.api_key, canaries.prompt):
        assert not [s for s in spellings(canary) if s in written]


def test_f21_each_event_leaves_before_the_next_one_comes(proxy: Proxy, zai: Witness) -> None:
    """The upstream sends an event only once the client has the one before: a buffering proxy would hang."""
    have = threading.Semaphore(0)
    sizes = [len(b"".join(EVENTS[: n + 1])) for n in range(len(EVENTS))]

    def script(sock: socket.socket, _: Captured) -> bool:
        sock.sendall(SSE_HEAD % b"")
        for event in EVENTS:
            sock.sendall(chunk(event))
            assert have.acquire(timeout=20), "the event did not come out before the next one went in"
        sock.sendall(b"0\r\n\r\n")
        return True

    zai.script = script
    told: set[int] = set()

    def on_payload(payload: bytes) -> None:
        for size in sizes:
            if len(payload) >= size and size not in told:
                told.add(size)
                have.release()

    assert ask(proxy.port, "/v1/messages", HAIKU, on_payload=on_payload).payload == b"".join(EVENTS)


def test_f22_what_serving_imports_is_the_standard_library_and_a_short_pinned_list() -> None:
    """Every package beside the proxy in its process could read its keys; the lock pins each by hash."""
    import subprocess
    import sys

    code = "import sys, holdfast.systems.ccp.server as s; print(*sorted({n.partition('.')[0] for n, m in sys.modules.items() if getattr(m, '__file__', None)}))"
    out = subprocess.run(
        [sys.executable, "-S", "-c", _WITHOUT_SITE + code], capture_output=True, check=True, text=True
    )
    foreign = set(out.stdout.split()) - set(sys.stdlib_module_names) - {"holdfast", "__main__"}
    allowed = {"httptools", "msgspec", "rfc8785", "uvloop"}
    assert foreign - {"typing_extensions"} == allowed
    lock = (ROOT / "requirements" / "dev.txt").read_text()
    for name in allowed:
        assert re.search(rf"^{name}==\S+ .*\n    --hash=sha256:", lock, re.MULTILINE), name


# `-S` keeps `.pth` files, the way of the known theft, from running before the list is taken.
_WITHOUT_SITE = f"""
import sys
sys.path[:0] = {[str(ROOT / ".types")]!r} + {[p for p in __import__("sys").path if p.endswith("site-packages")]!r}
"""


# -- planted: the checks above can fail -----------------------------------------------------------------


@pytest.mark.planted
def test_planted_a_stream_without_its_event_lines_is_seen() -> None:
    assert re.sub(rb"event: .*\n", b"", b"".join(EVENTS)).count(b"event: ") != len(EVENTS)


@pytest.mark.planted
def test_planted_a_key_in_a_log_is_found_in_every_spelling(canaries: Canaries) -> None:
    import base64

    for shift in range(3):
        hidden = base64.b64encode(b"x" * shift + canaries.zai_key.encode() + b"tail")
        assert any(s in hidden for s in spellings(canaries.zai_key))
    assert any(s in canaries.zai_key.encode().hex().encode() for s in spellings(canaries.zai_key))
