"""The `anthropic` Python SDK as a real client on both lanes: streams, tools, thinking, errors, retries."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic as sdk
import pytest

from holdfast.systems.ccp.rig import Canaries, Captured, Proxy, Script, Witness, json_answer, stage

FIXTURES = Path(__file__).parent / "fixtures" / "sse"
LANES = {"zai": "claude-haiku-9", "anthropic": "claude-sonnet-9"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nrequest-id: req_up\r\nTransfer-Encoding: chunked\r\n\r\n"
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 5},
}
ASK: list[Any] = [{"role": "user", "content": "hi"}]


def stream(raw: bytes, step: int) -> Script:
    """The recorded bytes in chunks of `step`, which cut lines, events and characters."""

    def script(sock: socket.socket, _: Captured) -> bool:
        pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
        sock.sendall(
            HEAD + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        )
        return True

    return script


@dataclass(frozen=True)
class Rig:
    """One proxy between two witnesses for the whole module: starting one a test costs more than the test."""

    proxy: Proxy
    anthropic: Witness
    zai: Witness


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, canaries: Canaries) -> Iterator[Rig]:
    """Made once; each test finds the witnesses empty."""
    folder = tmp_path_factory.mktemp("sdk")
    with (
        closing(Witness()) as anthropic,
        closing(Witness()) as zai,
        stage(folder, anthropic, zai, canaries=canaries) as proxy,
    ):
        yield Rig(proxy, anthropic, zai)
        assert "internal error" not in proxy.errors


@pytest.fixture
def proxy(rig: Rig) -> Proxy:
    """The module's proxy."""
    for witness in (rig.anthropic, rig.zai):
        witness.captured.clear()
    return rig.proxy


@pytest.fixture
def anthropic(rig: Rig, proxy: Proxy) -> Witness:
    """The upstream of lane anthropic."""
    assert proxy is rig.proxy
    return rig.anthropic


@pytest.fixture
def zai(rig: Rig, proxy: Proxy) -> Witness:
    """The upstream of lane zai."""
    assert proxy is rig.proxy
    return rig.zai


@pytest.fixture
def client(proxy: Proxy, canaries: Canaries) -> Iterator[sdk.Anthropic]:
    """The SDK with an API key, pointed at the proxy."""
    with sdk.Anthropic(
        base_url=f"http://127.0.0.1:{proxy.port}", api_key=canaries.api_key, max_retries=2
    ) as made:
        yield made


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest, anthropic: Witness, zai: Witness) -> tuple[str, Witness]:
    """A model, and the witness of its lane."""
    return LANES[request.param], {"zai": zai, "anthropic": anthropic}[request.param]


def test_a_message_comes_back(client: sdk.Anthropic, lane: tuple[str, Witness]) -> None:
    model, witness = lane
    witness.script = json_answer(json.dumps(MESSAGE).encode())
    message = client.messages.create(model=model, max_tokens=9, messages=ASK)
    assert message.content[0].text == "hello"  # type: ignore[union-attr]
    assert message.usage.output_tokens == 5


def text_of(events: list[Any]) -> str:
    return "".join(
        e.delta.text for e in events if e.type == "content_block_delta" and e.delta.type == "text_delta"
    )


def decoded_by_the_sdk(raw: bytes) -> list[dict[str, Any]]:
    """What the SDK's own decoder makes of the recorded bytes, with no proxy between."""
    decoder = sdk._streaming.SSEDecoder()
    found = [json.loads(e.data) for e in decoder.iter_bytes(iter([raw])) if e.data]
    return [entry for entry in found if entry["type"] != "ping"]


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.glob("*.txt")))
def test_every_recorded_stream_is_replayed_and_read_by_the_sdk(
    client: sdk.Anthropic, lane: tuple[str, Witness], name: str
) -> None:
    """Byte for byte off the wire, and then event for event as the SDK reads the recording itself."""
    model, witness = lane
    raw = (FIXTURES / f"{name}.txt").read_bytes()
    witness.script = stream(raw, step=37)
    with client.messages.with_streaming_response.create(
        model=model, max_tokens=9, messages=ASK, stream=True
    ) as response:
        assert b"".join(response.iter_bytes()) == raw
        assert response.headers["request-id"] == "req_up"
    events = list(client.messages.create(model=model, max_tokens=9, messages=ASK, stream=True))
    expected = [e["type"] for e in decoded_by_the_sdk(raw) if e["type"] in {"message_start", "message_stop"}]
    assert [e.type for e in events if e.type in {"message_start", "message_stop"}] == expected
    assert "message_start" in expected


def test_tools_and_their_inputs_come_through(client: sdk.Anthropic, lane: tuple[str, Witness]) -> None:
    model, witness = lane
    witness.script = stream((FIXTURES / "tool_use_response.txt").read_bytes(), step=11)
    tools: list[Any] = [
        {"name": "get_weather", "input_schema": {"type": "object", "properties": {"model": {}}}}
    ]
    with client.messages.stream(model=model, max_tokens=9, messages=ASK, tools=tools) as running:
        message = running.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]
    assert calls
    assert isinstance(calls[0].input, dict)
    assert json.loads(witness.captured[0].request.body)["tools"] == tools


def test_thinking_and_its_signature_come_through(client: sdk.Anthropic, lane: tuple[str, Witness]) -> None:
    model, witness = lane
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": {**MESSAGE, "content": [], "stop_reason": None}}),
        (
            "content_block_start",
            {"index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        ),
        (
            "content_block_delta",
            {"index": 0, "delta": {"type": "thinking_delta", "thinking": "hm \u00e9\u20ac"}},
        ),
        ("content_block_delta", {"index": 0, "delta": {"type": "signature_delta", "signature": "EqoB+/=="}}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}),
        ("message_stop", {}),
    ]
    raw = "".join(
        f"event: {n}\ndata: {json.dumps({'type': n, **d}, ensure_ascii=False)}\n\n" for n, d in events
    ).encode()
    witness.script = stream(raw, step=1)
    with client.messages.stream(model=model, max_tokens=9, messages=ASK) as running:
        (block,) = running.get_final_message().content
    assert (block.type, block.thinking, block.signature) == ("thinking", "hm \u00e9\u20ac", "EqoB+/==")  # type: ignore[union-attr]


ERRORS = {
    400: (sdk.BadRequestError, "invalid_request_error"),
    401: (sdk.AuthenticationError, "authentication_error"),
    403: (sdk.PermissionDeniedError, "permission_error"),
    404: (sdk.NotFoundError, "not_found_error"),
    413: (sdk.RequestTooLargeError, "request_too_large"),
}


@pytest.mark.parametrize("status", ERRORS)
def test_an_upstreams_error_is_the_sdks_own_exception_with_its_own_words(
    client: sdk.Anthropic, lane: tuple[str, Witness], status: int
) -> None:
    model, witness = lane
    kind, name = ERRORS[status]
    body = {"type": "error", "error": {"type": name, "message": "prompt is too long: 1 > 0"}}
    witness.script = json_answer(json.dumps(body).encode(), status=b"%d X" % status)
    with pytest.raises(kind) as caught:
        client.messages.create(model=model, max_tokens=9, messages=ASK)
    assert caught.value.body == body
    assert len(witness.captured) == 1


def test_an_own_error_is_the_sdks_exception_too(client: sdk.Anthropic) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        client.post("/v1/messages", body={"model": 4}, cast_to=object)
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_ccp_")


def test_the_sdk_retries_on_the_upstreams_word_and_each_try_is_one_request(
    client: sdk.Anthropic, lane: tuple[str, Witness]
) -> None:
    model, witness = lane
    busy = json_answer(
        b"{}", status=b"529 Overloaded", extra=b"retry-after-ms: 1\r\nx-should-retry: true\r\n"
    )
    good = json_answer(json.dumps(MESSAGE).encode())

    def script(sock: socket.socket, captured: Captured) -> bool:
        return (busy if len(witness.captured) < 3 else good)(sock, captured)

    witness.script = script
    assert client.messages.create(model=model, max_tokens=9, messages=ASK).stop_reason == "end_turn"
    tries = [
        {n: v for n, _, v in c.request.head.fields}[b"x-stainless-retry-count"] for c in witness.captured
    ]
    assert tries == [b"0", b"1", b"2"]


def test_the_sdk_does_not_retry_when_the_upstream_says_not_to(
    client: sdk.Anthropic, lane: tuple[str, Witness]
) -> None:
    model, witness = lane
    witness.script = json_answer(b"{}", status=b"529 Overloaded", extra=b"x-should-retry: false\r\n")
    with pytest.raises(sdk.APIStatusError):
        client.messages.create(model=model, max_tokens=9, messages=ASK)
    assert len(witness.captured) == 1


def test_an_error_inside_a_stream_is_raised(client: sdk.Anthropic, lane: tuple[str, Witness]) -> None:
    model, witness = lane
    witness.script = stream(
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"o"}}\n\n', step=9
    )
    with pytest.raises(sdk.APIStatusError):
        list(client.messages.create(model=model, max_tokens=9, messages=ASK, stream=True))


def test_tokens_are_counted_and_models_listed(
    client: sdk.Anthropic, lane: tuple[str, Witness], anthropic: Witness
) -> None:
    model, witness = lane
    witness.script = json_answer(b'{"input_tokens":14}')
    assert client.messages.count_tokens(model=model, messages=ASK).input_tokens == 14
    anthropic.script = json_answer(
        b'{"data":[{"id":"claude-x","type":"model","display_name":"x","created_at":"2026-01-01T00:00:00Z"}],'
        b'"has_more":false,"first_id":null,"last_id":null}'
    )
    assert [entry.id for entry in client.models.list(limit=1000)] == ["claude-x"]


def test_an_auth_token_goes_through_as_a_bearer(proxy: Proxy, anthropic: Witness, canaries: Canaries) -> None:
    anthropic.script = json_answer(json.dumps(MESSAGE).encode())
    with sdk.Anthropic(base_url=f"http://127.0.0.1:{proxy.port}", auth_token=canaries.oauth) as client:
        client.messages.create(model="claude-opus-9", max_tokens=9, messages=ASK)
    assert f"Bearer {canaries.oauth}".encode() in anthropic.captured[0].raw


@pytest.mark.anyio
async def test_the_async_client_streams_too(proxy: Proxy, zai: Witness, canaries: Canaries) -> None:
    raw = (FIXTURES / "basic_response.txt").read_bytes()
    zai.script = stream(raw, step=5)
    async with (
        sdk.AsyncAnthropic(base_url=f"http://127.0.0.1:{proxy.port}", api_key=canaries.api_key) as client,
        client.messages.stream(model="claude-haiku-9", max_tokens=9, messages=ASK) as running,
    ):
        assert await running.get_final_text() == "Hello there!"


@pytest.fixture
def anyio_backend() -> str:
    """asyncio; trio is not needed here."""
    return "asyncio"
