"""The broker: owns the network for a proxy that has none.

    clients --TCP--> broker --in.sock--> confined proxy --out.sock, CONNECT--> broker --TCP--> upstreams

No TCP socket enters the sandbox: `connect(AF_UNSPEC)` would turn one into a way into the host's network.
Outward the broker carries CONNECT to exactly the policy's hosts, and for TLS only when the ClientHello
names that very host. It looks at no other byte. Each decision is one line in `broker.jsonl`, and counted.
"""

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Mapping, Sequence
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import final

import msgspec

from holdfast.clock import utc_now
from holdfast.systems.ccp.origins import Origin
from holdfast.systems.ccp.surroundings import COUNTS

__all__ = ["Broker", "Decision", "decide_connect", "server_name"]

_HEAD_LIMIT = 4096
_HELLO_LIMIT = 16 * 1024 + 5
_BLOCK = 256 * 1024
_SECONDS = 10.0
LOG_BYTES = 8 * 1024 * 1024


class Decision(Enum):
    """What becomes of a CONNECT; the order is the order of the questions."""

    MISSING_SNI = "missing_sni"
    SNI_MISMATCH = "sni_mismatch"
    IP_LITERAL = "ip_literal"
    NOT_ALLOWED = "not_allowed"
    ALLOWED = "allowed"


def decide_connect(target: str, allowed: Mapping[str, Origin], *, sni: str | None, greeted: bool) -> Decision:
    """Whether `target` (`host:port`) may be connected to; pure.

    Asked twice: before the tunnel opens (`greeted` False: there is no ClientHello yet), and again with the
    name in it. Plain-HTTP upstreams (loopback only) have no ClientHello and are asked once.
    """
    origin = allowed.get(target)
    host = target.rpartition(":")[0].strip("[]")
    if greeted and (origin is None or origin.scheme == "https"):
        if sni is None and not _is_literal(host):
            return Decision.MISSING_SNI
        if sni is not None and sni.lower() != host.lower():
            return Decision.SNI_MISMATCH
    if origin is None:
        return Decision.IP_LITERAL if _is_literal(host) else Decision.NOT_ALLOWED
    return Decision.ALLOWED


def _is_literal(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ip_address(host)
        return True
    return False


def server_name(hello: bytes) -> str | None:
    """The server name in a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), or None when there is none.

    Raises `ValueError` for bytes that are no ClientHello in one record.
    """
    if hello[:1] != b"\x16" or hello[5:6] != b"\x01" or len(hello) < 5 + int.from_bytes(hello[3:5]):
        raise ValueError("not a ClientHello")
    at = 5 + 4 + 2 + 32
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        at += width + int.from_bytes(hello[at : at + width])
    end = at + 2 + int.from_bytes(hello[at : at + 2])
    at += 2
    while at + 4 <= min(end, len(hello)):
        kind, size = int.from_bytes(hello[at : at + 2]), int.from_bytes(hello[at + 2 : at + 4])
        if kind == 0:
            name = hello[at + 9 : at + 4 + size]
            return name.decode("ascii")
        at += 4 + size
    return None


class _Line(msgspec.Struct, frozen=True):
    ts: str
    target: str
    decision: str
    schema: str = "ccp.broker/1"


class _Weaker(msgspec.Struct, frozen=True):
    ts: str
    weaker: str
    schema: str = "ccp.broker/1"


@final
class _BoundedLog:
    """JSON lines in one file, and the file before it as `NAME.1`: never more than twice `max_bytes`."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, line: msgspec.Struct) -> None:
        """Never raises: what cannot be logged is still counted."""
        data = msgspec.json.encode(line) + b"\n"
        with contextlib.suppress(OSError):
            if os.fstat(self._fd).st_size + len(data) > self._max_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                fresh = self._open()
                os.close(self._fd)
                self._fd = fresh
            os.write(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)


@final
class Broker:
    """Both directions, for one confined proxy."""

    def __init__(
        self, folder: Path, allowed: Mapping[str, Origin], log: Path, *, log_bytes: int = LOG_BYTES
    ) -> None:
        self.inner = folder / "in.sock"
        """Where the confined proxy listens."""
        self.outer = folder / "out.sock"
        """Where it asks for upstreams."""
        self._allowed = allowed
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts = dict.fromkeys((decision.value for decision in Decision), 0)
        self._counts_file = folder / COUNTS
        self._log = _BoundedLog(log, log_bytes)

    async def start_outward(self) -> asyncio.AbstractServer:
        """Listen for the proxy's CONNECTs; before the proxy starts."""
        return await asyncio.start_unix_server(self._outward, self.outer, limit=_HELLO_LIMIT)

    async def close(self) -> None:
        """End every connection that is still carried."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)  # a transport closes its socket in a later turn of the loop
        self._log.close()

    def note_weaker(self, options: Sequence[str]) -> None:
        """Write down what loosens the sandbox, before anything runs in it."""
        for option in options:
            self._log.write(_Weaker(utc_now().isoformat(timespec="milliseconds"), option))

    def inward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one client's connection to the proxy inside."""
        self._keep(self._carry_inward(reader, writer))

    def _outward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(self._carry_outward(reader, writer))

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_inward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inside = await asyncio.open_unix_connection(self.inner)
        except OSError:
            writer.close()
            return
        await _join((reader, writer), inside)

    async def _carry_outward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                outside = await self._granted(reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            outside = None
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        if outside is None:
            writer.close()
        else:
            await _join((reader, writer), outside)

    async def _granted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> "_Ends | None":
        words = (await reader.readuntil(b"\r\n\r\n"))[:_HEAD_LIMIT].split(b" ", 2)
        target = words[1].decode("ascii") if len(words) == 3 and words[0] == b"CONNECT" else ""
        decision = decide_connect(target, self._allowed, sni=None, greeted=False)
        hello = b""
        if decision is Decision.ALLOWED:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            if self._allowed[target].scheme == "https":
                hello = await reader.readexactly(5)
                hello += await reader.readexactly(min(int.from_bytes(hello[3:5]), _HELLO_LIMIT))
                decision = decide_connect(target, self._allowed, sni=server_name(hello), greeted=True)
        self._note(target, decision)
        if decision is not Decision.ALLOWED:
            if not hello:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return None
        origin = self._allowed[target]
        outside = await asyncio.open_connection(origin.host, origin.port)
        outside[1].write(hello)
        return outside

    def _note(self, target: str, decision: Decision) -> None:
        shown = target if target in self._allowed else "(another host)"
        self._log.write(_Line(utc_now().isoformat(timespec="milliseconds"), shown, decision.value))
        self._counts[decision.value] += 1
        temporary = self._counts_file.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            temporary.write_bytes(msgspec.json.encode(self._counts))
            temporary.replace(self._counts_file)


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(one: _Ends, other: _Ends) -> None:
    """Carry bytes both ways until both ways have ended; an error on either side ends both at once."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_carry(one[0], other[1]))
            group.create_task(_carry(other[0], one[1]))
    except* (OSError, RuntimeError):
        for _, writer in (one, other):
            writer.transport.abort()
    finally:
        for _, writer in (one, other):
            writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
