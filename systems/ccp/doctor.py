"""`ccp doctor`: is this machine, this environment and this policy fit to serve? And `--contract`.

Rows are facts that were looked at now; nothing is sent with a credential. A failed row makes the exit 1.
"""

import asyncio
import email.utils
import os
import resource
import shutil
import ssl
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import final

from holdfast.clock import utc_now
from holdfast.systems.ccp.contract import check_contract
from holdfast.systems.ccp.distribution import Loaded
from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.http1 import ResponseReader
from holdfast.systems.ccp.lanes import Lane, PlannedHead
from holdfast.systems.ccp.server import policy_store
from holdfast.systems.ccp.settings import Settings, build_lanes, read_settings
from holdfast.systems.ccp.upstream import Pool

__all__ = ["Row", "Verdict", "run_doctor"]

DESCRIPTORS = 4096
CLOCK_SECONDS = 300.0
DISK_BYTES = 256 * 1024 * 1024


class Verdict(Enum):
    """What a row says."""

    GOOD = "ok"
    WARN = "warning"
    BAD = "failed"


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str


def run_doctor(environ: Mapping[str, str], log_dir: Path, *, contract: bool) -> int:
    """Print the rows; 0 when none failed, else 1."""
    rows = list(_contract_rows() if contract else _rows(environ, log_dir))
    for row in rows:
        sys.stdout.write(f"{row.verdict.value:<9}{row.name:<44}{row.detail}\n")
    if not contract:
        sys.stdout.write(
            "note     routing Claude Code to models that are not Claude is not supported by Anthropic, "
            "through any gateway; what breaks there is yours to mend\n"
        )
    return 1 if any(row.verdict is Verdict.BAD for row in rows) else 0


def _contract_rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="ccp-contract-") as folder:
        for clause in check_contract(Path(folder)):
            yield Row(clause.name, Verdict.BAD if clause.complaint else Verdict.GOOD, clause.complaint)


def _rows(environ: Mapping[str, str], log_dir: Path) -> Iterator[Row]:
    try:
        settings = read_settings(environ)
        loaded = policy_store(settings, log_dir).load(utc_now())
    except ConfigError as error:
        yield Row("environment and policy", Verdict.BAD, str(error))
        return
    yield _policy_row(loaded, settings)
    yield from _key_rows(loaded, settings)
    try:
        lanes = build_lanes(loaded.pack.policy, settings)
    except ConfigError as error:
        yield Row("lanes", Verdict.BAD, str(error))
        lanes = {}
    for name, why in loaded.pack.policy.denied.items():
        yield Row(f"lane {name}", Verdict.WARN, f"denied: {why}")
    for lane in lanes.values():
        yield from _upstream_rows(lane, settings)
    yield _log_row(log_dir)
    yield _descriptor_row()
    yield from _sandbox_rows()


def _policy_row(loaded: Loaded, settings: Settings) -> Row:
    policy = loaded.pack.policy
    detail = f"{loaded.source}, version {policy.version}, digest {loaded.pack.digest[:16]}"
    if settings.policy and loaded.source in {"embedded", "stale cache"}:
        return Row("policy", Verdict.BAD, f"`CCP_POLICY_URL` gave none that may be used; in force: {detail}")
    if settings.policy and not loaded.signed:
        return Row("policy", Verdict.WARN, f"{detail}; not signed: set `CCP_POLICY_KEYS` to require it")
    return Row("policy", Verdict.GOOD, detail)


def _key_rows(loaded: Loaded, settings: Settings) -> Iterator[Row]:
    for name, lane in loaded.pack.policy.lanes.items():
        if not lane.env:
            yield Row(f"key of lane {name}", Verdict.GOOD, "the client's own; none is held here")
        elif name in loaded.pack.policy.denied:
            continue
        elif settings.environ.get(lane.env):
            yield Row(f"key of lane {name}", Verdict.GOOD, f"`{lane.env}` is set")
        else:
            yield Row(f"key of lane {name}", Verdict.BAD, f"`{lane.env}` is not set")


def _upstream_rows(lane: Lane, settings: Settings) -> Iterator[Row]:
    """Connects and asks for `/` without any credential: whether it answers, and what time it has."""
    name = f"upstream of lane {lane.name}"
    try:
        date = asyncio.run(_ask_date(lane, settings))
    except ssl.SSLError:
        yield Row(name, Verdict.BAD, f"{lane.base} has a certificate that is not accepted")
        return
    except (OSError, ValueError) as error:
        yield Row(name, Verdict.BAD, f"{lane.base} does not answer ({type(error).__name__})")
        return
    yield Row(name, Verdict.GOOD, f"{lane.base} answers")
    if date is not None:
        off = abs((utc_now() - date).total_seconds())
        verdict = Verdict.GOOD if off < CLOCK_SECONDS else Verdict.BAD
        yield Row("clock", verdict, f"{off:.0f} s from that of lane {lane.name}'s upstream")


@final
class _Once:
    """Collects one answer of an upstream connection."""

    def __init__(self) -> None:
        self.reader = ResponseReader("HEAD", 65536)
        self.over = asyncio.Event()

    def on_upstream_data(self, data: bytes) -> None:
        try:
            self.reader.feed(data)
        except ValueError:
            self.over.set()
        if self.reader.done:
            self.over.set()

    def on_upstream_lost(self) -> None:
        self.over.set()


async def _ask_date(lane: Lane, settings: Settings) -> datetime | None:
    connection = await Pool(lane, settings.via, settings.pins.get(lane.name, "")).open(5.0)
    once = _Once()
    connection.user = once
    host = lane.base.origin.authority.encode()
    connection.send(PlannedHead(lane.base.origin, b"HEAD / HTTP/1.1\r\nHost: %s\r\n\r\n" % host), b"")
    async with asyncio.timeout(5.0):
        await once.over.wait()
    connection.abort()
    if once.reader.head is None:
        raise ConnectionError("no answer")
    dates = [value for lower, _, value in once.reader.head.fields if lower == b"date"]
    return email.utils.parsedate_to_datetime(dates[0].decode("latin-1")) if dates else None


def _log_row(log_dir: Path) -> Row:
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=log_dir):
            free = shutil.disk_usage(log_dir).free
    except OSError as error:
        return Row("log folder", Verdict.BAD, f"`{log_dir}` cannot be written ({error.strerror})")
    verdict = Verdict.GOOD if free > DISK_BYTES else Verdict.WARN
    return Row("log folder", verdict, f"`{log_dir}` can be written; {free // (1024 * 1024)} MiB are free")


def _descriptor_row() -> Row:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    verdict = Verdict.GOOD if soft >= DESCRIPTORS else Verdict.WARN
    return Row("limits", verdict, f"{soft} open files: two for each request under way")


def _sandbox_rows() -> Iterator[Row]:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    seccomp = actions.exists() and "errno" in actions.read_text()
    yield Row(
        "sandbox seccomp",
        Verdict.GOOD if seccomp else Verdict.WARN,
        "the kernel has it" if seccomp else "missing",
    )
    bwrap = shutil.which("bwrap")
    works = bwrap is not None and _starts(bwrap)
    detail = (
        f"{bwrap} starts" if works else f"{bwrap} cannot start here" if bwrap else "bwrap is not installed"
    )
    yield Row("sandbox bwrap", Verdict.GOOD if works else Verdict.WARN, detail)


def _starts(bwrap: str) -> bool:
    """Tried, not guessed from sysctls."""
    argv = [bwrap, "--ro-bind", "/", "/", "--unshare-all", "--", "/bin/true"]
    pid = os.posix_spawn(
        bwrap, argv, {}, file_actions=[(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)]
    )
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
