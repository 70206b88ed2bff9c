"""The HTTP face, on Starlette: routes, limits and the shape of errors."""

import asyncio
import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from holdfast.clock import monotonic
from holdfast.systems.kakeya.dedup import StoreUnavailableError
from holdfast.systems.kakeya.identity import GatewayIdentity, ReplayWindow
from holdfast.systems.kakeya.pcs import BODY_LIMIT
from holdfast.systems.kakeya.policy import PolicyError
from holdfast.systems.kakeya.service.engine import Answer, Engine, Pending
from holdfast.systems.kakeya.service.policy_file import PolicyFile

__all__ = ["OPEN_PATHS", "build_app", "openapi_document"]

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
"""What needs no identity: nothing there depends on, or tells of, a tenant."""


def openapi_document() -> dict[str, Any]:
    """The contract, as it is served."""
    text = files("holdfast.systems.kakeya").joinpath("openapi.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def build_app(policy: PolicyFile, engine: Engine, *, now: Callable[[], float]) -> GatewayIdentity:
    """The application, behind the identity check."""
    document = openapi_document()

    async def verify(request: Request) -> Response:
        started = monotonic()
        raw = await _read_body(request)
        if raw is None:
            return _error(413, "too_large", "body", f"is larger than {BODY_LIMIT} bytes")
        pending, answer = await _answer(engine, raw, request)
        milliseconds = (monotonic() - started) * 1000

        async def afterwards() -> None:  # a coroutine, or Starlette would run it in another thread
            engine.after(answer, pending, milliseconds)

        return JSONResponse(answer.body, answer.status, background=BackgroundTask(afterwards))

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        return await _readiness(engine, policy)

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(engine.metrics.render(), media_type="text/plain; version=0.0.4")

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    app = Starlette(
        routes=[
            Route("/v1/verify", verify, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={
            HTTPException: _http_error,
            StoreUnavailableError: _unavailable,
            OSError: _unavailable,
        },
    )
    in_force = policy()
    return GatewayIdentity(
        app,
        trust=in_force.trust,
        expected=in_force.expected,
        window=ReplayWindow(in_force.window_seconds, opened=now()),
        now=now,
        open_paths=OPEN_PATHS,
        on_refusal=lambda reason: engine.metrics.count("kakeya_identity_refused_total", reason=reason.value),
    )


async def _answer(engine: Engine, raw: bytes, request: Request) -> tuple[Pending | None, Answer]:
    judged = engine.judge(raw, request.state.identity, _bearer(request))
    if isinstance(judged, Answer):
        return None, judged
    if engine.store.waits:
        earlier = await asyncio.to_thread(engine.put_first, judged)
    else:
        earlier = engine.put_first(judged)
    return judged, engine.settle(judged, earlier)


async def _read_body(request: Request) -> bytes | None:
    """The body, or None as soon as it passes the limit; never more than that is held."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_LIMIT:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _bearer(request: Request) -> str | None:
    """The one `Authorization: Bearer` token; two of them are none."""
    values = request.headers.getlist("authorization")
    if len(values) != 1 or not values[0].lower().startswith("bearer "):
        return None
    return values[0][7:].strip()


async def _readiness(engine: Engine, policy: PolicyFile) -> Response:
    try:
        if engine.store.waits:
            await asyncio.to_thread(engine.store.ready)
        else:
            engine.store.ready()
    except StoreUnavailableError:
        return JSONResponse({"status": "not_ready", "reason": "store"}, 503)
    policy()
    if isinstance(policy.error, PolicyError):
        return JSONResponse({"status": "ready", "policy": f"refused: {policy.error}"})
    return JSONResponse({"status": "ready", "policy": "in_force"})


def _error(status: int, error: str, field: str, detail: str) -> JSONResponse:
    return JSONResponse({"error": error, "field": field, "detail": detail}, status)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "not_found", 405: "method_not_allowed"}
    body = {"error": words.get(error.status_code, "http_error"), "field": "request", "detail": error.detail}
    return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))


async def _unavailable(_: Request, error: Exception) -> Response:
    """Nothing is accepted that could not be recorded. The cause goes to the operator, not to the client."""
    if isinstance(error, ClientDisconnect):
        raise error
    return _error(503, "unavailable", "store", "cannot record this now; try again")
