"""The spoofing matrix: header form x connection x token state, each cell one real request to a real service.

    drive(address, client, kinds) -> tuple[Cell, ...]      judge_matrix(cells) -> Judgement      render(cells) -> Markdown

A cell that must be accepted is the control of all the others: where it is refused too, the service refuses
everything, and its refusals show nothing.
"""

import http.client
import json
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias, final

from holdfast.harness.gate import Judgement, cannot_tell, failed, passed
from holdfast.systems.kakeya.identity import sign_stamp
from holdfast.systems.kakeya.quickstart import TENANT, Client

__all__ = ["CELLS", "Cell", "Connection", "drive", "expected_accepted", "judge_matrix", "render"]

Headers: TypeAlias = list[tuple[str, str]]


@final
class Connection(Enum):
    """How the request arrives."""

    TCP = "TCP, no stamp"
    UNIX_STRANGER = "Unix socket, unknown peer"
    UNIX_GATEWAY = "Unix socket, gateway's peer"
    STAMPED = "TCP, gateway's stamp"
    WRONG_KEY = "TCP, stamp of another key"
    REPLAYED = "TCP, stamp used before"
    STALE = "TCP, stamp out of its window"
    OTHER_PAYLOAD = "TCP, stamp over another payload"


GENUINE = (Connection.UNIX_GATEWAY, Connection.STAMPED)

FORMS: dict[str, Callable[[str], Headers]] = {
    "exact": lambda p: [("x-jwt-payload", p)],
    "mixed case": lambda p: [("X-Jwt-PAYLOAD", p)],
    "exact, right tenant": lambda p: [("x-jwt-payload", p), ("X-Tenant-ID", TENANT)],
    "absent": lambda _: [],
    "only x-auth-verified": lambda _: [("X-Auth-Verified", "true"), ("x-tenant-id", TENANT)],
    "underscores": lambda p: [("x_jwt_payload", p)],
    "underscores beside the exact": lambda p: [("x-jwt-payload", p), ("x_tenant_id", "other")],
    "dots beside the exact": lambda p: [("x-jwt-payload", p), ("x.jwt.payload", p)],
    "said twice": lambda p: [("x-jwt-payload", p), ("X-JWT-Payload", p)],
    "tenant said twice": lambda p: [("x-jwt-payload", p), ("x-tenant-id", TENANT), ("x-tenant-id", TENANT)],
    "other tenant": lambda p: [("x-jwt-payload", p), ("x-tenant-id", "other")],
    "x-auth-verified: false": lambda p: [("x-jwt-payload", p), ("x-auth-verified", "false")],
}
GOOD_FORMS = ("exact", "mixed case", "exact, right tenant")

TOKENS: dict[str, Callable[[Client], str]] = {
    "valid": lambda c: c.payload({}),
    "padded": lambda c: _padded(c.payload({})),
    "expired": lambda c: c.payload({"exp": int(c.now()) - 3600}),
    "without exp": lambda c: c.payload({"exp": None}),
    "not yet valid": lambda c: c.payload({"nbf": int(c.now()) + 3600}),
    "for another audience": lambda c: c.payload({"aud": "other"}),
    "of another issuer": lambda c: c.payload({"iss": "https://evil.example"}),
    "without tenant": lambda c: c.payload({"tenant_id": None}),
    "not base64url": lambda c: c.payload({})[:-1] + "!",
    "wrongly padded": lambda c: _padded(c.payload({})) + "=",
}
GOOD_TOKENS = ("valid", "padded")
CELLS = len(Connection) * len(FORMS) * len(TOKENS)


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """One request, and what came of it."""

    connection: Connection
    form: str
    token: str
    status: int
    reason: str


def expected_accepted(connection: Connection, form: str, token: str) -> bool:
    """Everything has to be right at once."""
    return connection in GENUINE and form in GOOD_FORMS and token in GOOD_TOKENS


def judge_matrix(cells: Sequence[Cell]) -> Judgement:
    """Any spoof that is accepted fails; a matrix with holes or without working controls cannot tell."""
    kinds = {(c.connection, c.form, c.token) for c in cells}
    spoofs = [c for c in cells if not expected_accepted(c.connection, c.form, c.token)]
    if through := [c for c in spoofs if c.status in {202, 409}]:
        return failed(
            *(f"accepted: {c.form} / {c.connection.value} / {c.token}" for c in through[:5]),
            f"{len(through)} in all",
        )
    if len(kinds) != CELLS or len(cells) != CELLS:
        return cannot_tell(f"{len(kinds)} of {CELLS} cells were asked")
    refused = [c for c in cells if expected_accepted(c.connection, c.form, c.token) and c.status != 202]
    if refused:
        first = refused[0]
        what = f"{first.form} / {first.connection.value} / {first.token}: {first.status} {first.reason}"
        return cannot_tell(
            f"{len(refused)} controls that must be accepted were not, so refusals show nothing: {what}"
        )
    if odd := [c for c in spoofs if c.status != 401]:
        return cannot_tell(f"{len(odd)} cells were answered neither 202 nor 401; the first: {odd[0]}")
    return passed(f"{len(spoofs)} spoofs refused with 401, {len(cells) - len(spoofs)} controls accepted")


def drive(address: Path | int, client: Client, connections: Sequence[Connection]) -> Iterator[Cell]:
    """Ask every form and token over each of `connections`, at a Unix socket's path or a loopback port."""
    for connection in connections:
        for form in FORMS:
            for token in TOKENS:
                yield _ask(address, client, connection, form, token)


def _ask(address: Path | int, client: Client, connection: Connection, form: str, token: str) -> Cell:
    payload = TOKENS[token](client)
    headers = [*FORMS[form](payload), *_stamp(connection, client, payload)]
    if connection is Connection.REPLAYED:  # the first use, which is genuine wherever the cell would be
        _post(address, client.submission(), headers)
    status, said = _post(address, client.submission(), headers)
    return Cell(connection, form, token, status, str(said.get("reason", said.get("status", ""))))


def _stamp(connection: Connection, client: Client, payload: str) -> Headers:
    now = int(client.now())
    key, time, signed = client.gateway_key, str(now), payload
    match connection:
        case Connection.TCP | Connection.UNIX_STRANGER | Connection.UNIX_GATEWAY:
            return []
        case Connection.WRONG_KEY:
            key = secrets.token_bytes(32)
        case Connection.STALE:
            time = str(now - 3600)
        case Connection.OTHER_PAYLOAD:
            signed = client.payload({"sub": "somebody else"})
        case Connection.STAMPED | Connection.REPLAYED:
            pass
    nonce = secrets.token_urlsafe(18)
    signature = sign_stamp(key, time, nonce, signed)
    return [("x-gateway-time", time), ("x-gateway-nonce", nonce), ("x-gateway-signature", signature)]


def _post(address: Path | int, body: bytes, headers: Headers) -> tuple[int, Mapping[str, Any]]:
    """Raw header lines, so that duplicates and odd names go out as they are."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", address if isinstance(address, int) else 0, timeout=10
    )
    if isinstance(address, Path):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(address))
    try:
        connection.putrequest("POST", "/v1/verify")
        for name, value in [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            *headers,
        ]:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)


def render(cells: Sequence[Cell]) -> str:
    """The matrix as Markdown: a row per form, a column per connection, and what the token states gave."""
    by = {(c.connection, c.form, c.token): c for c in cells}
    columns = list(Connection)
    lines = [
        "# Spoofing matrix",
        "",
        "Rendered from a run: every cell is one request per token state to a real service over a real socket.",
        f"{CELLS} requests; `accepted` names the token states that were let through, all others were answered 401.",
        "",
        "| headers | " + " | ".join(c.value for c in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for form in FORMS:
        row = [_summary([by[c, form, t] for t in TOKENS if (c, form, t) in by]) for c in columns]
        lines.append(f"| {form} | " + " | ".join(row) + " |")
    lines += ["", f"Token states: {', '.join(TOKENS)}.", ""]
    counts = Counter(c.status for c in cells)
    lines += [
        "Answers by status: " + ", ".join(f"{status}: {n}" for status, n in sorted(counts.items())) + ".",
        "",
    ]
    return "\n".join(lines)


def _summary(cells: Sequence[Cell]) -> str:
    """Accepted token states, or the reasons for which the form was refused."""
    accepted = [c.token for c in cells if c.status == 202]
    if accepted:
        return f"**accepted**: {', '.join(accepted)}"
    reasons = sorted({c.reason for c in cells})
    return (
        "refused: " + (reasons[0] if len(reasons) == 1 else f"{len(reasons)} reasons, by token")
        if cells
        else "not asked"
    )
