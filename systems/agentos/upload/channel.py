"""The one door to the network: an HTTP client made from a tier that reports.

There is no way to make a `Channel` from `LocalOnly`: the type says so to the checker, and the constructor
to everybody else. Nothing else in the adapter imports the HTTP client.

No proxy from the environment, no redirect, certificates checked, every wait bounded, and an answer is read
to 1 MiB at most.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, final

import httpx

from holdfast.clock import utc_now
from holdfast.systems.agentos.errors import BadInputError, RefusedError
from holdfast.systems.agentos.privacy.tier import Full, Minimized
from holdfast.systems.agentos.upload.endpoint import Endpoint
from holdfast.systems.agentos.upload.outbox import Kind, Row
from holdfast.systems.agentos.upload.retry import Halt, TryLater, Verdict, classify_answer

__all__ = ["Channel"]

ANSWER_LIMIT = 1 << 20
TIMEOUT = httpx.Timeout(connect=5.0, read=10.0, write=10.0, pool=5.0)


class Channel:
    """Calls to one CCC under one tier. Not final: the tests' planted faults are subclasses of it."""

    def __init__(
        self,
        tier: Minimized | Full,
        endpoint: Endpoint,
        key: str,
        *,
        authority: Path | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> None:
        """`authority`: a CA file to trust in place of the system's."""
        if not isinstance(tier, Minimized | Full):
            raise RefusedError("this tier keeps everything on the machine; there is no channel for it")
        self.kinds = (Kind.EVENT, Kind.METRICS) if isinstance(tier, Full) else (Kind.METRICS,)
        uds = str(endpoint.socket) if endpoint.socket else None
        self._client = httpx.Client(
            base_url=endpoint.base_url,
            headers={
                "authorization": f"Bearer {key}",
                "user-agent": "agentos/1",
                "accept": "application/json",
            },
            timeout=timeout,
            transport=httpx.HTTPTransport(verify=_trust(authority), uds=uds, trust_env=False),
            trust_env=False,
            follow_redirects=False,
        )

    def send(self, rows: tuple[Row, ...]) -> Verdict:
        """One request for rows of one kind that this tier lets out; whatever happens is a verdict."""
        assert {row.kind for row in rows} <= set(self.kinds)
        match rows[0].kind:
            case Kind.EVENT:
                return self._post("/v1/events", _batch(rows), rows)
            case Kind.METRICS:
                return self._post("/v1/metrics", rows[0].body, rows[:1])

    def usage(self) -> bytes:
        """The answer of `GET /v1/usage`; raises `BadInputError` saying why there is none."""
        try:
            status, headers, body = self._exchange(self._client.build_request("GET", "/v1/usage"))
        except httpx.HTTPError as problem:
            raise BadInputError(f"the CCC gave no usage snapshot: {_words(problem)}") from None
        if status != 200 or "json" not in headers.get("content-type", ""):
            raise BadInputError(f"the CCC gave no usage snapshot: it answered {status}")
        return body

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def idempotency_key(self, rows: tuple[Row, ...]) -> str:
        """What the CCC knows a replay by; of the rows alone, so a new process makes the same."""
        return rows[0].key if len(rows) == 1 else f"{rows[0].key}+{len(rows)}"

    def _post(self, path: str, body: bytes, rows: tuple[Row, ...]) -> Verdict:
        headers = {"content-type": "application/json", "idempotency-key": self.idempotency_key(rows)}
        request = self._client.build_request("POST", path, content=body, headers=headers)
        try:
            status, answered, answer = self._exchange(request)
        except (httpx.TransportError, _LongAnswerError) as problem:
            if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(problem)):
                return Halt("the CCC's certificate is not trusted; check the address, or give its CA")
            return TryLater(_words(problem))
        return classify_answer(status, answered, answer, keys=tuple(row.key for row in rows), now=utc_now())

    def _exchange(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        response = self._client.send(request, stream=True)
        try:
            parts, size = [], 0
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > ANSWER_LIMIT:
                    raise _LongAnswerError
        finally:
            response.close()
        return response.status_code, response.headers, b"".join(parts)


@final
class _LongAnswerError(httpx.HTTPError):
    def __init__(self) -> None:
        super().__init__(f"its answer is longer than {ANSWER_LIMIT} bytes")


def _batch(rows: tuple[Row, ...]) -> bytes:
    return b'{"schema":"ccc.events/1","batch":[' + b",".join(row.body for row in rows) + b"]}"


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__


def _words(problem: httpx.HTTPError) -> str:
    # The library's text may quote what was sent; its class name does not.
    match problem:
        case _LongAnswerError():
            return str(problem)
        case httpx.ConnectTimeout():
            return "no connection to the CCC in time"
        case httpx.ConnectError():
            return "no connection to the CCC; is it running, and is the address right?"
        case httpx.TimeoutException():
            return "the CCC did not answer in time"
        case _:
            return "the connection to the CCC broke"


def _trust(authority: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authority is not None:
        try:
            context = ssl.create_default_context(cafile=str(authority))
        except (OSError, ssl.SSLError):
            raise BadInputError(f"`{authority}` is no readable CA file in PEM") from None
    return context
