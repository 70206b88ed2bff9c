"""The service under test: started by the agent inside, waited for, stopped, its words collected."""

import contextlib
import http.client
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final
from urllib.parse import urlsplit

from holdfast import clock
from holdfast.sandbox.instance import AgentLostError, Instance, Service
from holdfast.sandbox.probes.reachable import ENVIRONMENT_NAME

__all__ = ["Running", "ServiceSpec", "free_port", "running"]

READY_SECONDS = 15.0
STOP_SECONDS = 10.0
MAX_OUTPUT = 16 << 20
"""More than this of a service's output is not kept; that it was cut is kept."""


@final
@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """How a service is started, and when it is ready."""

    argv: tuple[str, ...]
    cwd: str
    port: int
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    ready_url: str | None = None
    """Ready when this answers 200; else when the port accepts a connection."""
    ready_seconds: float = READY_SECONDS


@final
class Running:
    """A service that is up; its output so far, and in the end all of it."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self.status: int | None = None
        """Exit status once it was stopped; negative for a signal."""
        self._streams: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._readers: list[threading.Thread] = []

    def outputs(self) -> Mapping[str, bytes]:
        """What it wrote, by stream."""
        return {name: bytes(text) for name, text in self._streams.items()}

    def listen(self, name: str) -> int:
        """A pipe that ends in `name`; returns the end that the service gets."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        thread = threading.Thread(target=self._collect, args=(name, reader), daemon=True)
        thread.start()
        self._readers.append(thread)
        return writer

    def _collect(self, name: str, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as file:
            while more := file.read(1 << 16):
                room = MAX_OUTPUT - len(self._streams[name])
                self._streams[name] += more[:room]

    def join(self, seconds: float) -> None:
        """Wait until both streams have ended."""
        for thread in self._readers:
            thread.join(timeout=seconds)


@contextlib.contextmanager
def running(instance: Instance, spec: ServiceSpec) -> Iterator[Running]:
    """Start, wait until ready, and stop again whatever happens.

    Raises `AgentLostError` when it cannot start, does not become ready, or ends before it is.
    """
    service = Running(spec)
    stdout, stderr = service.listen("stdout"), service.listen("stderr")
    try:
        instance.serve(
            Service(spec.argv, spec.cwd, spec.environment),
            withheld=(ENVIRONMENT_NAME,),
            stdout=stdout,
            stderr=stderr,
        )
    finally:
        os.close(stdout)
        os.close(stderr)
    try:
        _wait_ready(instance, service)
        yield service
    finally:
        with contextlib.suppress(AgentLostError):
            service.status = instance.stop_service(STOP_SECONDS)
        service.join(STOP_SECONDS)


def _wait_ready(instance: Instance, service: Running) -> None:
    spec = service.spec

    def ready() -> bool:
        ended = instance.poll_service()
        if ended is not None:
            service.join(1.0)
            said = b" ".join(service.outputs().values()).decode(errors="replace").strip()[-300:]
            raise AgentLostError(f"`{spec.argv[0]}` ended with {ended} before it was ready: {said}")
        return _answers_200(spec.ready_url) if spec.ready_url else _accepts(spec.port)

    try:
        clock.wait_until(
            ready, what=f"`{spec.argv[0]}` being ready on port {spec.port}", seconds=spec.ready_seconds
        )
    except clock.DeadlineExceededError as error:
        raise AgentLostError(str(error)) from None


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _answers_200(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A loopback port that is free now; who takes it in between shows as `port taken` at the service."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
