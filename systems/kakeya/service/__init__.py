"""The HTTP service around the four controls: `POST /v1/verify`, `/healthz`, `/readyz`, `/metrics`, `/openapi.json`.

`judge` decides and is pure; `engine` keeps the inbox, the decision log, the first writes and the rollouts;
`app` speaks HTTP behind `identity.GatewayIdentity`; `server` binds sockets and runs until told to stop.
"""

from holdfast.systems.kakeya.service.app import build_app, openapi_document
from holdfast.systems.kakeya.service.engine import Answer, Engine
from holdfast.systems.kakeya.service.policy_file import PolicyFile
from holdfast.systems.kakeya.service.server import serve

__all__ = ["Answer", "Engine", "PolicyFile", "build_app", "openapi_document", "serve"]
