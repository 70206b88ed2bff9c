"""The observer: right about every recorded stream, however it is cut, and harmless about every other."""

import gzip
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.systems.ccp.observer import EVENT_LIMIT, GRAMMAR, STOPPED, Observation, Observer, SseEvents

FIXTURES = sorted((Path(__file__).parent / "fixtures" / "sse").glob("*.txt"))
STREAM = b"text/event-stream; charset=utf-8"


def observe(*pieces: bytes, kind: bytes = STREAM, coding: bytes = b"") -> Observation:
    observer = Observer(kind, coding)
    for piece in pieces:
        observer.feed(piece)
    return observer.observation()


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> bytes:
    """One stream as the API sent it."""
    path: Path = request.param
    return path.read_bytes()


def test_there_are_recorded_streams() -> None:
    assert len(FIXTURES) == 16


def test_each_recorded_stream_keeps_the_grammar(recorded: bytes) -> None:
    seen = observe(recorded)
    assert seen.grammar == "ok"
    assert seen.events >= 4
    assert seen.input_tokens is not None
    assert seen.stop_reason


def test_a_recorded_stream_reads_the_same_at_every_split_point(recorded: bytes) -> None:
    whole = observe(recorded)
    for cut in range(0, len(recorded), 7):
        assert observe(recorded[:cut], recorded[cut:]) == whole


def test_a_recorded_stream_reads_the_same_byte_by_byte(recorded: bytes) -> None:
    assert observe(*(bytes([byte]) for byte in recorded)) == observe(recorded)


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"], ids=["crlf", "cr"])
def test_other_newlines_read_the_same_wherever_they_are_cut(newline: bytes) -> None:
    stream = (Path(__file__).parent / "fixtures/sse/tool_use_response.txt").read_bytes()
    other = stream.replace(b"\n", newline)
    whole = observe(stream)
    assert observe(other) == whole
    for cut in range(400):
        assert observe(other[:cut], other[cut:]) == whole


def test_tokens_and_the_stop_reason_are_the_streams_own() -> None:
    seen = observe((Path(__file__).parent / "fixtures/sse/incomplete_partial_json_response.txt").read_bytes())
    assert (seen.input_tokens, seen.output_tokens, seen.stop_reason) == (450, 124, "max_tokens")


def test_a_cut_stream_is_truncated_wherever_it_is_cut() -> None:
    stream = (Path(__file__).parent / "fixtures/sse/basic_response.txt").read_bytes()
    last = stream.rindex(b"event: message_stop")
    for cut in range(0, last + len("event: message_stop\ndata: {"), 5):
        assert observe(stream[:cut]).grammar != "ok"


def event(name: str, data: bytes = b"{}") -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


GRAMMAR_CASES = {
    "no-start": ([event("content_block_delta")], "broken: content_block_delta in new"),
    "two-starts": ([event("message_start")] * 2, "broken: message_start in message"),
    "delta-outside-a-block": (
        [event("message_start"), event("content_block_delta")],
        "broken: content_block_delta in message",
    ),
    "after-the-stop": (
        [event("message_start"), event("message_stop"), event("content_block_start")],
        "broken: content_block_start in stopped",
    ),
    "error": ([event("message_start"), event("error")], "error"),
    "error-first": ([event("error")], "error"),
    "only-pings": ([event("ping")] * 3, "truncated"),
    "nothing": ([], "truncated"),
    "unknown-events": ([event("message_start"), event("unheard_of"), event("message_stop")], "ok"),
    "ping-after-the-stop": ([event("message_start"), event("message_stop"), event("ping")], "ok"),
    "data-is-no-json": ([event("message_start", b"{"), event("message_stop")], "broken: an event's data is not JSON of its kind"),
    "comments": ([b": keep-alive\n\n", event("message_start"), b":\n\n", event("message_stop")], "ok"),
    "bom": ([b"\xef\xbb\xbf", event("message_start"), event("message_stop")], "ok"),
}  # fmt: skip


@pytest.mark.parametrize(("pieces", "grammar"), GRAMMAR_CASES.values(), ids=GRAMMAR_CASES.keys())
def test_the_grammar_says(pieces: list[bytes], grammar: str) -> None:
    assert observe(*pieces).grammar == grammar


def test_every_state_of_the_grammar_can_be_reached_and_only_stopped_is_whole() -> None:
    states = set(GRAMMAR.values())
    assert {state for state, _ in GRAMMAR} - {"new"} <= states
    assert not [key for key in GRAMMAR if key[0] == STOPPED]


@pytest.mark.parametrize("coding", [b"gzip", b"", b"identity"], ids=["labelled", "unlabelled", "mislabelled"])
def test_gzip_is_told_by_its_bytes_and_read_at_every_split_point(coding: bytes) -> None:
    stream = (Path(__file__).parent / "fixtures/sse/basic_response.txt").read_bytes()
    packed = gzip.compress(stream)
    whole = observe(stream)
    for cut in range(len(packed)):
        assert observe(packed[:cut], packed[cut:], coding=coding) == whole


def test_flushed_gzip_is_read_event_by_event() -> None:
    packer = zlib.compressobj(wbits=31)
    observer = Observer(STREAM, b"gzip")
    for piece in (event("message_start"), event("message_stop")):
        observer.feed(packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH))
    assert observer.stopped


HARMLESS = {
    "broken-gzip": (b"\x1f\x8b\x08garbage that is no gzip", b"gzip", "unobserved: error"),
    "brotli": (b"\x0b\x02\x80", b"br", "unobserved: content coding that is not decoded here"),
    "binary": (bytes(range(256)) * 10, b"", "truncated"),
}


@pytest.mark.parametrize(("data", "coding", "grammar"), HARMLESS.values(), ids=HARMLESS.keys())
def test_what_cannot_be_read_is_said_to_be_unobserved(data: bytes, coding: bytes, grammar: str) -> None:
    assert observe(data, coding=coding).grammar == grammar


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.systems.ccp.observer.DECODED_LIMIT", 1000)
    assert (
        observe(gzip.compress(b"\0" * 100_000), coding=b"gzip").grammar == "unobserved: more than is observed"
    )


@given(
    st.lists(st.binary(max_size=60), max_size=8), st.sampled_from([STREAM, b"application/json", b"text/html"])
)
def test_no_bytes_whatever_make_it_raise(pieces: list[bytes], kind: bytes) -> None:
    observe(*pieces, kind=kind)


def test_an_enormous_event_is_passed_over_and_the_next_one_is_read() -> None:
    events = SseEvents()
    huge = b"event: content_block_delta\ndata: " + b"x" * (EVENT_LIMIT * 3) + b"\n\n"
    found = [pair for at in range(0, len(huge), 65536) for pair in events.feed(huge[at : at + 65536])]
    assert found == [("content_block_delta", b"")]
    assert events.feed(event("message_stop")) == [("message_stop", b"{}")]


def test_a_json_answers_usage_is_read() -> None:
    body = b'{"type":"message","stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":9,"x":{}}}'
    seen = observe(body[:9], body[9:], kind=b"application/json")
    assert (seen.grammar, seen.stop_reason, seen.input_tokens, seen.output_tokens) == (
        "none",
        "end_turn",
        7,
        9,
    )


def test_count_tokens_answer_is_read() -> None:
    assert observe(b'{"input_tokens":2095}', kind=b"application/json").input_tokens == 2095


def test_an_answer_of_another_kind_is_not_read() -> None:
    assert observe(b"<html>", kind=b"text/html") == Observation("none")
