"""The small verifier behind a gateway that cannot check tokens itself (NGINX `auth_request`).

    GET anything, Authorization: Bearer TOKEN  ->  204 and the four stamp headers, or 401

The gateway copies the four into the request that it forwards; the stamp is made here, so the gateway needs
no key. Whoever may speak to this socket may ask whether a token is genuine, and nothing else.
"""

import asyncio
import json
import secrets
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.clock import utc_now
from holdfast.systems.kakeya.identity import IdentityRefusedError, Verifier, base64url, sign_stamp
from holdfast.systems.kakeya.identity.claims import check_claims
from holdfast.systems.kakeya.policy import Policy, PolicyError

__all__ = ["build_authorizer", "serve_authorizer"]


def build_authorizer(verifier: Verifier, stamping_key: bytes) -> Starlette:
    """The application; `stamping_key` is the first of the policy's gateway keys."""

    async def authorize(request: Request) -> Response:
        values = request.headers.getlist("authorization")
        if len(values) != 1 or not values[0].lower().startswith("bearer "):
            return Response(status_code=401, headers={"www-authenticate": "Bearer"})
        now = utc_now().timestamp()
        try:
            claims = verifier.claims(values[0][7:].strip())
            check_claims(claims, verifier.expected, now=now, via="token")
        except IdentityRefusedError:
            return Response(status_code=401, headers={"www-authenticate": 'Bearer error="invalid_token"'})
        payload = base64url.encode(json.dumps(claims).encode())
        time, nonce = str(int(now)), secrets.token_urlsafe(18)
        stamp = {"x-jwt-payload": payload, "x-gateway-time": time, "x-gateway-nonce": nonce}
        signature = sign_stamp(stamping_key, time, nonce, payload)
        return Response(status_code=204, headers={**stamp, "x-gateway-signature": signature})

    return Starlette(routes=[Route("/{rest:path}", authorize, methods=["GET"])])


def serve_authorizer(policy: Policy, unix: Path) -> None:
    """Serve until told to stop."""
    if policy.verifier is None:
        raise PolicyError("gateway.jwksFile", "is missing; without keys no token can be verified")
    if not policy.trust.hmac_keys:
        raise PolicyError("gateway.hmacKeyFiles", "is empty; without a key nothing can be stamped")
    app = build_authorizer(policy.verifier, policy.trust.hmac_keys[0])
    config = uvicorn.Config(
        app, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False, uds=str(unix)
    )
    sys.stderr.write(f"kakeya: listening on {unix}\n")
    asyncio.run(uvicorn.Server(config).serve())
