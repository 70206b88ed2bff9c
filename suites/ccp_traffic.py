"""What is sent to a routing proxy, and what both witnesses answer: fair weather, foul weather, a crowd, a volley.

    converse(port, canaries, ledger)  -> exchanges, credentials that were sent     one client and then many
    Script(canaries)                  -> Reply                                      the same for both lanes

Each part is there for a fault that the others let pass. *Fair*: every model with every form of credential.
*Foul*: redirects to the other lane, overload, hang-ups before and within an answer, a body that is no JSON.
*Crowd*: requests that are shown to be in flight together. *Volley*: so many on kept connections that what
goes wrong one time in fifty goes wrong here.
"""

import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from typing import final

from holdfast.harness.driver import Exchange, exchange, new_marker
from holdfast.harness.witness import Ending, Ledger, Reply, reply_headers

__all__ = [
    "ANTHROPIC",
    "CROWD_SIZE",
    "HAIKU",
    "LANES",
    "OTHERS",
    "ZAI",
    "Script",
    "Secrets",
    "Sent",
    "converse",
    "quick",
]

ANTHROPIC, ZAI = "anthropic", "zai"
LANES = (ANTHROPIC, ZAI)

HAIKU = ("claude-haiku-4-5-20251001", "claude-3-5-haiku-latest")
OTHERS = ("claude-sonnet-4-5-20250929", "claude-opus-4-1")


@final
@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """Canaries of one run of this suite."""

    zai_key: str
    client_key: str
    client_token: str
    question: str
    """Stands in every request body."""
    answer: str
    """Stands in every answer's body."""

    @classmethod
    def fresh(cls) -> "Secrets":
        """Draw new ones, shaped like the real things."""
        return cls(
            zai_key=f"zai-{secrets.token_hex(16)}",
            client_key=f"sk-ant-api03-{secrets.token_hex(20)}",
            client_token=f"sk-ant-oat01-{secrets.token_hex(20)}",
            question=f"question-{secrets.token_hex(12)}",
            answer=f"answer-{secrets.token_hex(12)}",
        )

    def named(self) -> Mapping[str, str]:
        """By the name that a report may print."""
        return {
            "the zai key": self.zai_key,
            "the client's api key": self.client_key,
            "the client's token": self.client_token,
            "the request's text": self.question,
            "the answer's text": self.answer,
        }


FAIR = "fair"
REDIRECT, OVERLOADED, HANG_UP, CUT = "redirect", "overloaded", "hang-up", "cut"
FOUL = (REDIRECT, OVERLOADED, HANG_UP, CUT)
CROWD, VOLLEY = "crowd", "volley"

CROWD_SIZE = 16
CROWD_SECONDS = 4.0
"""How long the crowd waits for its last member: longer than a connection that was not taken at once needs to
be tried again. A proxy that takes fewer at a time is not in its wrong, but nothing is shown about a crowd."""

VOLLEY_SIZE = 240
"""Requests, half on each lane: a fault in every fiftieth shows on either; one that strikes by chance one time
in fifty escapes a run over three isolations once in about five thousand."""
VOLLEY_CONNECTIONS = 2

Sent = Mapping[bytes, Mapping[str, str]]
"""By marker: the credential headers that the client sent."""


@final
@dataclass(frozen=True, slots=True)
class _Client:
    """Sends requests to one proxy and remembers with which credentials."""

    port: int
    canaries: Secrets
    ledger: Ledger
    sent: dict[bytes, Mapping[str, str]]

    def forms(self) -> tuple[dict[str, str], ...]:
        """The forms in which the real client sends its credential."""
        token = f"Bearer {self.canaries.client_token}"
        return (
            {"x-api-key": self.canaries.client_key},
            {"Authorization": token, "anthropic-beta": "oauth-2025-04-20"},
            {"x-api-key": self.canaries.client_key, "Authorization": token},
        )

    def ask(
        self,
        model: str,
        form: int,
        *,
        weather: str = FAIR,
        target: str = "/v1/messages?beta=true",
        stream: bool = True,
        kept: socket.socket | None = None,
        spoil: Callable[[bytes], bytes] = bytes,
    ) -> Exchange:
        """One exchange."""
        marker, credentials = new_marker(), self.forms()[form]
        self.sent[marker] = credentials
        body = request_body(model, marker, self.canaries.question, stream=stream, weather=weather)
        return exchange(
            self.port,
            marker=marker,
            method="POST",
            target=target,
            headers={**COMMON_HEADERS, **credentials},
            body=spoil(body),
            model=model,
            expected_lane=ZAI if model in HAIKU else ANTHROPIC,
            ledger=self.ledger,
            kept=kept,
        )


def converse(port: int, canaries: Secrets, ledger: Ledger) -> tuple[tuple[Exchange, ...], Sent]:
    """All four parts, one after the other."""
    client = _Client(port, canaries, ledger, {})
    exchanges = [*_fair(client), *_foul(client), *_crowd(client), *_volley(client)]
    return tuple(exchanges), client.sent


def quick(port: int, canaries: Secrets, ledger: Ledger) -> tuple[tuple[Exchange, ...], Sent]:
    """One request a lane, with both of the client's credentials."""
    client = _Client(port, canaries, ledger, {})
    return tuple(client.ask(model, 2) for model in (OTHERS[0], HAIKU[0])), client.sent


def _fair(client: _Client) -> Iterator[Exchange]:
    """Every model with every form of credential, streaming and not, and counting tokens."""
    for model in (*HAIKU, *OTHERS):
        yield client.ask(model, 0)
        yield client.ask(model, 1, stream=False)
        yield client.ask(model, 2, target="/v1/messages/count_tokens")


def _foul(client: _Client) -> Iterator[Exchange]:
    """Each kind of trouble on each lane, and a body that is cut short."""
    for model in (HAIKU[0], OTHERS[0]):
        for weather in FOUL:
            yield client.ask(model, 2, weather=weather)
        yield client.ask(model, 1, weather=OVERLOADED, stream=False)
        yield client.ask(model, 0, stream=False, spoil=lambda body: body[:-2])


def _crowd(client: _Client) -> Sequence[Exchange]:
    """As many at once as there are threads; the script holds each request until all have arrived."""
    models = tuple(islice(cycle((HAIKU[0], OTHERS[0], HAIKU[1], OTHERS[1])), CROWD_SIZE))

    def ask(index: int) -> Exchange:
        return client.ask(models[index], index % 2, weather=CROWD, stream=False)

    with ThreadPoolExecutor(CROWD_SIZE) as pool:
        return tuple(pool.map(ask, range(CROWD_SIZE)))


def _volley(client: _Client) -> Sequence[Exchange]:
    """Many small requests on kept connections, the lane changing from one to the next."""
    share = VOLLEY_SIZE // VOLLEY_CONNECTIONS
    with ThreadPoolExecutor(VOLLEY_CONNECTIONS) as pool:
        shares = pool.map(lambda _: tuple(_one_after_another(client, share)), range(VOLLEY_CONNECTIONS))
        return tuple(seen for share_of_one in shares for seen in share_of_one)


def _one_after_another(client: _Client, count: int) -> Iterator[Exchange]:
    """On one connection, which is opened anew only when the proxy has closed it."""
    kept = None
    for index, model in enumerate(islice(cycle((OTHERS[0], HAIKU[0])), count)):
        kept = kept or _connect(client.port)
        seen = client.ask(model, index // 2 % 2, weather=VOLLEY, stream=False, kept=kept)
        yield seen
        if kept is not None and (seen.problem or not seen.complete or _says_close(seen)):
            kept.close()
            kept = None
    if kept is not None:
        kept.close()


def _connect(port: int) -> socket.socket | None:
    """A connection to be kept; None when it is refused, and the exchange itself will say so."""
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError:
        return None


def _says_close(seen: Exchange) -> bool:
    return any(name.lower() == b"connection" and b"close" in value.lower() for name, value in seen.headers)


COMMON_HEADERS: Mapping[str, str] = {
    "content-type": "application/json",
    "anthropic-version": "2023-06-01",
    "user-agent": "claude-cli/2.1.201 (external, cli)",
    "x-app": "cli",
    "accept": "application/json",
}


def request_body(model: str, marker: bytes, question: str, *, stream: bool, weather: str = FAIR) -> bytes:
    """A request as the real client shapes it, with a tool whose schema has a property `model` of its own.

    The weather is asked for where the real client names its user, so that no proxy has a reason to see it.
    """
    schema = {"type": "object", "properties": {"model": {"type": "string", "enum": ["haiku", "sonnet"]}}}
    document = {
        "model": model,
        "max_tokens": 64,
        "stream": stream,
        "metadata": {"user_id": f"user-of-{weather}"},
        "system": [{"type": "text", "text": "x-anthropic-billing-header: attribution first"}],
        "tools": [{"name": "spawn", "description": "start a helper", "input_schema": schema}],
        "messages": [{"role": "user", "content": f"{marker.decode()} {question} naïve \u2028 \\u0041"}],
    }
    return json.dumps(document, ensure_ascii=False).encode()


@final
class Script:
    """What both witnesses answer, by the weather that the body asks for."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self._together = threading.Barrier(CROWD_SIZE)
        self.gathered = 0
        """How many of the crowd were seen in flight together."""
        self._lock = threading.Lock()
        self._waiting = 0
        self.urls: dict[str, str] = {}
        """By lane, once the witnesses listen; a redirect leads to the other one."""

    def on(self, lane: str) -> Callable[[str, str, bytes], Reply]:
        """The script of one lane."""
        return lambda method, target, body: self._reply(lane, method, target, body)

    def _reply(self, lane: str, method: str, target: str, body: bytes) -> Reply:
        if f"user-of-{CROWD}".encode() in body:
            self._gather()
        if f"user-of-{REDIRECT}".encode() in body:
            other = self.urls[ANTHROPIC if lane == ZAI else ZAI]
            return Reply(307, reply_headers({"location": other + target}), (b"elsewhere",), lockstep=False)
        if f"user-of-{OVERLOADED}".encode() in body:
            headers = reply_headers({"content-type": "application/json", "retry-after": "0"})
            return Reply(529, headers, (OVERLOADED_ERROR[:11], OVERLOADED_ERROR[11:]))
        if f"user-of-{HANG_UP}".encode() in body:
            return Reply(0, (), (), ending=Ending.CUT)
        if f"user-of-{CUT}".encode() in body:
            whole = scripted(method, target, body, self._answer)
            return Reply(whole.status, whole.headers, whole.events[:4], ending=Ending.CUT)
        if any(f"user-of-{many}".encode() in body for many in (CROWD, VOLLEY)):
            whole = scripted(method, target, body, self._answer)
            return Reply(whole.status, whole.headers, (b"".join(whole.events),), lockstep=False)
        return scripted(method, target, body, self._answer)

    def _gather(self) -> None:
        """Wait until the whole crowd is in flight, or it is plain that it will not be."""
        with self._lock:
            self._waiting += 1
            self.gathered = max(self.gathered, self._waiting)
        try:
            self._together.wait(CROWD_SECONDS)
        except threading.BrokenBarrierError:
            pass  # whoever still comes is let through at once
        finally:
            with self._lock:
                self._waiting -= 1


OVERLOADED_ERROR = (
    b'{"type":"error",  "error":{"type":"overloaded_error","message":"Overloaded \\u2013 try later"}}'
)


def scripted(method: str, target: str, body: bytes, answer: str) -> Reply:
    """What both witnesses answer: a stream when it was asked for, else one JSON document."""
    if method != "POST":
        return Reply(200, reply_headers({"content-type": "application/json"}), (b"{}",), lockstep=False)
    if "count_tokens" in target:
        return Reply(200, reply_headers({"content-type": "application/json"}), (b'{"input_tokens":', b"7}"))
    if b'"stream": true' in body:
        headers = {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_witness"}
        return Reply(200, reply_headers(headers), tuple(_stream(answer)))
    document = {
        "type": "message",
        "content": [{"type": "text", "text": answer}],
        "usage": {"output_tokens": 3},
    }
    text = json.dumps(document).encode()
    return Reply(200, reply_headers({"content-type": "application/json"}), (text[:9], text[9:]))


def _stream(answer: str) -> Iterator[bytes]:
    """A stream with all that a careless proxy breaks: comments, pings, blank data, odd line ends."""
    start = {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 7}}}
    yield f"event: message_start\ndata: {json.dumps(start)}\n\n".encode()
    yield b'event: content_block_start\ndata: {"type":"content_block_start","index":0}\n\n'
    yield b": a comment\n\n"
    yield b'event: ping\ndata: {"type": "ping"}\n\n'
    for piece in (answer[:10], answer[10:], " \u00fc\u2028", ""):
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        yield f"event: content_block_delta\r\ndata: {json.dumps(delta, ensure_ascii=False)}\r\n\r\n".encode()
    yield b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    yield b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":3}}\n\n'
    yield b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
