"""The one top-level `model`: read by a parser, never guessed, never twice; and the splice that keeps the rest."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.systems.ccp.body_model import read_top_level, splice_model
from holdfast.systems.ccp.faults import Refusal


def refusal_of(body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_top_level(body)
    return caught.value


DUPLICATES = {
    "plain": b'{"model":"claude-sonnet-4-5","model":"claude-haiku-4-5"}',
    "equal": b'{"model":"claude-sonnet-4-5","model":"claude-sonnet-4-5"}',
    "escaped-letter": rb'{"model":"claude-sonnet-4-5","mod\u0065l":"claude-haiku-4-5"}',
    "escaped-first": rb'{"\u006dodel":"claude-sonnet-4-5","model":"claude-haiku-4-5"}',
    "all-escaped": rb'{"\u006d\u006f\u0064\u0065\u006c":"a","model":"b"}',
    "upper-hex": rb'{"model":"a","\u006D\u006F\u0064\u0065\u006C":"b"}',
    "far-apart": b'{"model":"a","messages":[' + b'"x",' * 1000 + b'"x"],"model":"b"}',
    "prefix-number": b'{"model":"a","n":1,"n":12,"model":"b"}',
    "after-blanks": b'{ "model" : "a" ,\r\n\t "model" : "b" }',
    "second-is-null": b'{"model":"a","model":null}',
    "first-is-object": b'{"model":{"model":"a"},"model":"b"}',
}


@pytest.mark.parametrize("body", DUPLICATES.values(), ids=DUPLICATES.keys())
def test_a_second_top_level_model_is_refused(body: bytes) -> None:
    refusal = refusal_of(body)
    assert (refusal.status, "second top-level" in refusal.message) == (400, True)


NOT_A_MODEL = {
    "number": b'{"model":4}',
    "null": b'{"model":null}',
    "list": b'{"model":["claude-haiku-4-5"]}',
    "object": b'{"model":{"id":"claude-haiku-4-5"}}',
    "absent": b'{"messages":[]}',
    "only-nested": b'{"metadata":{"model":"claude-haiku-4-5"}}',
    "empty-object": b"{}",
    "empty": b"",
    "list-body": b'[{"model":"a"}]',
    "trailing-comma": b'{"model":"a",}',
    "trailing-junk": b'{"model":"a"} {"model":"b"}',
    "comment": b'{"model":"a"/*,"model":"b"*/}',
    "bom": b'\xef\xbb\xbf{"model":"a"}',
    "utf-16": '{"model":"a"}'.encode("utf-16"),
    "nan": b'{"model":"a","x":NaN}',
    "single-quotes": b"{'model':'a'}",
    "deep": b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "lone-surrogate-key": rb'{"model":"a","\ud800":1}',
}


@pytest.mark.parametrize("body", NOT_A_MODEL.values(), ids=NOT_A_MODEL.keys())
def test_a_body_without_one_string_model_is_refused(body: bytes) -> None:
    assert refusal_of(body).status == 400


def test_a_refusal_shows_nothing_of_the_body() -> None:
    for body in (*DUPLICATES.values(), *NOT_A_MODEL.values()):
        assert "claude" not in refusal_of(body).message


def test_model_keys_below_the_top_are_content() -> None:
    body = json.dumps(
        {
            "metadata": {"model": "claude-haiku-4-5"},
            "tools": [{"input_schema": {"properties": {"model": {"type": "string"}}}}],
            "model": "claude-sonnet-4-5",
            "messages": [{"content": [{"type": "tool_use", "input": {"model": ["claude-haiku-4-5"]}}]}],
        }
    ).encode()
    assert read_top_level(body).model == "claude-sonnet-4-5"


def test_an_escaped_spelling_of_the_only_model_is_read_as_the_upstream_reads_it() -> None:
    top = read_top_level(rb'{"mod\u0065l":"claude-ha\u0069ku-4-5"}')
    assert top.model == "claude-haiku-4-5"


@pytest.mark.parametrize(
    ("text", "stream"), [(b"true", True), (b"false", False), (b'"true"', False), (b"1", False)]
)
def test_stream_is_true_only_when_it_is_true(text: bytes, stream: bool) -> None:
    assert read_top_level(b'{"model":"a","stream":' + text + b"}").stream is stream


KEYS = st.text(max_size=6).filter(lambda key: key != "model")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def dumped(fields: dict[str, object], *, ascii_only: bool, indent: int | None) -> bytes:
    return json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")


@given(
    st.dictionaries(KEYS.filter(str.isprintable), VALUES, max_size=6),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20),
    st.booleans(),
    st.sampled_from([None, 0, 3]),
    st.integers(0, 6),
)
@example({'"': "}", "\\": '","model":"x"'}, "a", True, None, 1)
def test_the_walk_agrees_with_the_parser_on_every_body(
    fields: dict[str, object], model: str, ascii_only: bool, indent: int | None, at: int
) -> None:
    items = list(fields.items())
    items.insert(min(at, len(items)), ("model", model))
    try:
        body = dumped(dict(items), ascii_only=ascii_only, indent=indent)
        body.decode()
        list(map(str.encode, fields))
    except UnicodeError:
        return
    top = read_top_level(body)
    assert top.model == model
    spliced = splice_model(body, "glm-4.5")
    assert json.loads(spliced) == {**json.loads(body), "model": "glm-4.5"}
    literal = json.dumps(model, ensure_ascii=ascii_only).encode()
    assert len(spliced) == len(body) - len(literal) + len(b'"glm-4.5"')
    start = next(at for at in range(len(body)) if spliced[:at] + literal + spliced[at + 9 :] == body)
    assert spliced[start : start + 9] == b'"glm-4.5"'


@given(
    st.lists(st.tuples(st.sampled_from(["model", "m", "", "\u00e9", "n", '"']), VALUES), max_size=5),
    st.sampled_from([(",", ":"), (", ", ": "), (",", ": ")]),
    st.booleans(),
)
@example([("model", "a"), ("m", 1), ("m", 12)], (",", ":"), False)
@example([("model", "a"), ("m", 1), ("m", 1)], (", ", ": "), False)
def test_a_body_is_taken_when_and_only_when_no_key_comes_twice(
    members: list[tuple[str, object]], separators: tuple[str, str], ascii_only: bool
) -> None:
    """Also in the form without blanks, where counting bytes is all that looks for a second key."""
    comma, colon = separators
    text = comma.join(
        json.dumps(key, ensure_ascii=ascii_only) + colon + json.dumps(value, separators=separators)
        for key, value in [*members, ("model", "z")]
    )
    keys = [key for key, _ in members] + ["model"]
    body = ("{" + text + "}").encode()
    if len(keys) == len(set(keys)):
        assert read_top_level(body).model == "z"
    else:
        assert "second top-level" in refusal_of(body).message


def test_a_megabyte_is_read_whole_and_right() -> None:
    body = json.dumps({"messages": ["\\u0022model" * 10] * 9000, "model": "claude-opus-4-1"}).encode()
    assert len(body) > 1_000_000
    assert read_top_level(body).model == "claude-opus-4-1"


def test_the_real_clients_shape_is_read() -> None:
    """115 KB, 24 tools, one of whose schemas has a `model` property: as the client's first request is."""
    body = client_request("claude-haiku-4-5")
    assert 110_000 < len(body) < 120_000
    assert read_top_level(body).model == "claude-haiku-4-5"


def client_request(model: str) -> bytes:
    """A request of the real client's shape."""
    tools = [
        {
            "name": f"Tool{index}",
            "description": 'What it does, at length. \\ "quoted" \u00e9\n' * 60,
            "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}},
        }
        for index in range(23)
    ]
    tools.append(
        {
            "name": "Task",
            "description": "Starts an agent. " * 60,
            "input_schema": {
                "type": "object",
                "properties": {"model": {"type": "string", "enum": ["haiku", "opus"]}},
            },
        }
    )
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc"},
        {"type": "text", "text": "You are. " * 3000},
    ]
    fields = {
        "model": model,
        "messages": [{"role": "user", "content": "hi " * 6300}],
        "system": system,
        "tools": tools,
    }
    return json.dumps({**fields, "metadata": {"user_id": "u"}, "max_tokens": 32000, "stream": True}).encode()
