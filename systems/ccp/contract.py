"""The gateway contract as code: one row a clause, checked on the real command between two witnesses.

Source: the "Gateway protocol reference" of Claude Code's documentation. A clause's check answers what is
wrong, or nothing; it asks for the evidence first, so a clause that saw no request cannot pass.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.systems.ccp.rig import Answer, Canaries, Captured, Witness, ask, json_answer, stage

__all__ = ["CLAUSES", "Clause", "check_contract"]

BODY = (
    b'{"model":"claude-sonnet-4-5","max_tokens":1,  "context_management":{"edits":[]},"unheard_of":{"model":7},'
    b'"system":[{"type":"text","text":"attribution block"},{"type":"text","text":"second"}],'
    b'"messages":[{"role":"user","content":"hi"}],"tools":[{"name":"t","input_schema":{"properties":{"model":{}}}}]}'
)
ODD_ERROR = (
    b'{ "type":"error",\n "error":{"type":"overloaded_error","message":"prompt is too long: 9 tokens"}}'
)


@final
@dataclass(frozen=True, slots=True)
class Clause:
    """One clause, and what was found against it; empty when it holds."""

    name: str
    complaint: str


@final
class _Desk:
    """One clause's surroundings: the proxy's port, both witnesses, this run's credentials."""

    def __init__(self, port: int, anthropic: Witness, zai: Witness, canaries: Canaries) -> None:
        self.port = port
        self.anthropic = anthropic
        self.zai = zai
        self.bearer = ("Authorization", f"Bearer {canaries.oauth}")
        self.api_key = ("X-Api-Key", canaries.api_key)

    def post(
        self, *fields: tuple[str, str], target: str = "/v1/messages?beta=true", body: bytes = BODY
    ) -> Captured:
        """What the anthropic witness got of one POST."""
        before = len(self.anthropic.captured)
        ask(self.port, target, body, [self.bearer, *fields])
        return self.anthropic.wait_captured(before + 1)[before]

    def answer(self, raw: bytes, *, keep: bool = True) -> Answer:
        """What a client gets when the upstream answers `raw`."""

        def play(sock: socket.socket, _: Captured) -> bool:
            sock.sendall(raw)
            return keep

        self.anthropic.script = play
        try:
            return ask(self.port, "/v1/messages", BODY, [self.bearer])
        finally:
            self.anthropic.script = json_answer()


Check = Callable[[_Desk], str]


def _path_not_url(desk: _Desk) -> str:
    got = desk.post(target="/v1/messages?beta=true&x=%20y")
    return (
        ""
        if got.raw.startswith(b"POST /v1/messages?beta=true&x=%20y HTTP/1.1\r\n")
        else "the query was changed"
    )


def _count_tokens(desk: _Desk) -> str:
    got = desk.post(target="/v1/messages/count_tokens?beta=true")
    return "" if got.request.head.path == "/v1/messages/count_tokens" else "it went elsewhere"


def _head_probe(desk: _Desk) -> str:
    status = ask(desk.port, "/", method="HEAD").status
    return "" if status == 200 else f"status {status}"


def _discovery(desk: _Desk) -> str:
    before = len(desk.anthropic.captured)
    answer = ask(desk.port, "/v1/models?limit=1000", None, [desk.bearer], method="GET")
    got = desk.anthropic.wait_captured(before + 1)[before]
    if answer.status != 200 or not got.raw.startswith(b"GET /v1/models?limit=1000 HTTP/1.1\r\n"):
        return "it was not forwarded as it is"
    return "" if got.raw.lower().count(b"sk-ant-") == 1 else "there is more than one credential"


def _carries(*fields: tuple[str, str]) -> Check:
    def check(desk: _Desk) -> str:
        raw = desk.post(*fields).raw
        missing = [name for name, value in fields if f"\r\n{name}: {value}\r\n".encode() not in raw]
        return f"`{missing[0]}` did not arrive as it was sent" if missing else ""

    return check


def _body_untouched(desk: _Desk) -> str:
    return "" if desk.post().request.body == BODY else "the body was changed"


def _no_beta_added(desk: _Desk) -> str:
    return "the proxy adds a beta" if b"anthropic-beta" in desk.post().raw.lower() else ""


def _one_credential(index: int) -> Check:
    def check(desk: _Desk) -> str:
        field = (desk.bearer, desk.api_key)[index]
        other = (b"x-api-key", b"authorization")[index]
        before = len(desk.anthropic.captured)
        ask(desk.port, "/v1/messages", BODY, [field])
        raw = desk.anthropic.wait_captured(before + 1)[before].raw
        if f"\r\n{field[0]}: {field[1]}\r\n".encode() not in raw:
            return "it did not arrive as it was sent"
        return "the proxy adds another credential" if b"\r\n" + other in raw.lower() else ""

    return check


def _error_verbatim(desk: _Desk) -> str:
    raw = b"HTTP/1.1 529 Site Overloaded\r\nContent-Length: %d\r\n\r\n%s" % (len(ODD_ERROR), ODD_ERROR)
    answer = desk.answer(raw)
    if (answer.status, answer.head.reason) != (529, b"Site Overloaded"):
        return "the status was changed"
    return "" if answer.body == ODD_ERROR else "the body was changed"


def _retry_hints(desk: _Desk) -> str:
    hints = {b"retry-after": b"7", b"retry-after-ms": b"7001", b"x-should-retry": b"true"}
    lines = b"".join(b"%s: %s\r\n" % hint for hint in hints.items())
    answer = desk.answer(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n%s\r\n" % lines)
    lost = [name for name, value in hints.items() if answer.values(name) != [value]]
    return f"`{lost[0].decode()}` was lost" if lost else ""


def _redirect_not_followed(desk: _Desk) -> str:
    before = len(desk.zai.captured)
    raw = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: %s/v1/messages\r\nContent-Length: 0\r\n\r\n"
    answer = desk.answer(raw % desk.zai.url.encode())
    if len(desk.zai.captured) != before:
        return "it was followed"
    return "" if answer.status == 307 else f"the client got {answer.status}"


def _streams(desk: _Desk) -> str:
    events = (b"event: ping\ndata: {}\n\n", b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw += b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"
    return "" if desk.answer(raw).payload == b"".join(events) else "the stream was changed"


def _cut_is_a_cut(desk: _Desk) -> str:
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n"
    try:
        desk.answer(raw, keep=False)
    except ConnectionError:
        return ""
    return "a stream that was cut off ended as if it were whole"


CLAUSES: dict[str, Check] = {
    "POST /v1/messages is matched on its path": _path_not_url,
    "count_tokens is forwarded": _count_tokens,
    "HEAD / is answered": _head_probe,
    "GET /v1/models is forwarded, no redirect": _discovery,
    "anthropic-version is forwarded": _carries(("anthropic-version", "2023-06-01")),
    "anthropic-beta is forwarded, any value": _carries(("anthropic-beta", "oauth-2025-04-20,unheard-of-2031-01-01")),
    "no beta is added": _no_beta_added,
    "unknown anthropic-* headers pass": _carries(("anthropic-unheard-of", "1"), ("anthropic-workspace-id", "w")),
    "session and agent headers pass": _carries(
        ("x-claude-code-session-id", "s"), ("x-claude-code-agent-id", "a"), ("x-claude-code-parent-agent-id", "p")
    ),
    "client identity headers pass": _carries(
        ("User-Agent", "claude-cli/2.1"), ("X-App", "cli"), ("X-Stainless-Lang", "js"),
        ("Anthropic-Dangerous-Direct-Browser-Access", "true"),
    ),
    "bodies pass byte for byte, system first": _body_untouched,
    "an OAuth bearer passes, and nothing beside": _one_credential(0),
    "an API key passes, and nothing beside": _one_credential(1),
    "error statuses and bodies pass unmodified": _error_verbatim,
    "retry hints pass": _retry_hints,
    "redirects are not followed": _redirect_not_followed,
    "event streams pass byte for byte": _streams,
    "a stream that breaks is seen to break": _cut_is_a_cut,
}  # fmt: skip


def check_contract(folder: Path) -> Iterator[Clause]:
    """Every clause against a proxy of its own run."""
    canaries = Canaries()
    with (
        closing(Witness()) as anthropic,
        closing(Witness()) as zai,
        stage(folder, anthropic, zai, canaries=canaries) as proxy,
    ):
        desk = _Desk(proxy.port, anthropic, zai, canaries)
        for name, check in CLAUSES.items():
            yield Clause(name, check(desk))
