"""What the pytest plugin's fixtures hand out: the library's own parts, with a test's life."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, final

from holdfast.harness.battery import canary_environment, plant_home, stage_for
from holdfast.harness.campaign import Wanted, findings_of, judge_denials, run_campaign
from holdfast.harness.conclude import Silent
from holdfast.harness.gate import Judgement, Outcome
from holdfast.harness.identity import judge_identity, see
from holdfast.harness.run_id import Canaries, begin_run
from holdfast.harness.service import Running, ServiceSpec, free_port, running
from holdfast.harness.suite import Completed
from holdfast.harness.sweep import owned_prefix
from holdfast.harness.witness import Ledger, Reply, Witness, reply_headers
from holdfast.harness.words import absolute_words, folders_of
from holdfast.sandbox import Command, Isolation, Spawner, confine, load_profile, policy_for, read_host
from holdfast.sandbox.instance import Instance, bring_up, scratch_command
from holdfast.sandbox.probes import all_probes

__all__ = ["Confiner", "Denials", "Service", "Services", "Witnesses", "attack"]


class NotHeldError(AssertionError):
    """A family is not shown to be held; says which and why."""


@final
class Confiner:
    """Runs commands inside, one after the other, over one spawner."""

    def __init__(self, isolation: Isolation) -> None:
        self._isolation = isolation
        self._spawner = Spawner()

    def run(
        self,
        argv: Sequence[str],
        *,
        folder: Path,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        profile: str = "standard",
        seconds: float = 30.0,
    ) -> Completed:
        """One command to its end, in `folder`; raises `TimeoutError` past `seconds`."""
        words = absolute_words(argv)
        command = Command(
            argv=words,
            cwd=str(folder),
            environment=dict(env or {}),
            inherited=dict(os.environ),
            readable=folders_of(words, read_host()),
            writable=(str(folder),),
        )
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(stdin)
            streams[0].seek(0)
            handed = {number: stream.fileno() for number, stream in enumerate(streams)}
            inside = stack.enter_context(
                confine(
                    self._spawner, self._isolation, command, profile=load_profile(profile), descriptors=handed
                )
            )
            status = inside.wait(seconds)
            for stream in streams:
                os.lseek(stream.fileno(), 0, os.SEEK_SET)
            return Completed(status, streams[1].read(), streams[2].read())

    def __enter__(self) -> Self:
        self._spawner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spawner.__exit__(kind, error, trace)


@final
@dataclass(frozen=True, slots=True)
class Service:
    """A server inside, with an agent beside it as its parent."""

    port: int
    _running: Running
    _instance: Instance

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def output(self) -> Mapping[str, bytes]:
        """What it wrote so far, by stream."""
        return self._running.outputs()

    def require_inside(self) -> None:
        """Fail unless the process that owns the socket is really inside, thread by thread."""
        instance = self._instance
        _require(
            "identity",
            judge_identity(see(instance.agent_pid, self.port, instance.plan, instance.skipped)),
        )


@final
class Services:
    """Starts servers inside; all are stopped when the test is over."""

    def __init__(self, isolation: Isolation, folder: Path) -> None:
        self._isolation, self._folder = isolation, folder
        self._stack = contextlib.ExitStack()
        self._spawner: Spawner | None = None

    def __call__(
        self,
        argv: Sequence[str],
        *,
        ready: str | None = None,
        env: Mapping[str, str] | None = None,
        profile: str = "standard-net",
        seconds: float = 15.0,
    ) -> Service:
        """Start one and wait until it is ready; raises `AgentLostError` with its last words when it is not."""
        if self._spawner is None:
            self._spawner = self._stack.enter_context(Spawner())
        port, host, canaries = free_port(), read_host(), Canaries.fresh()
        words = absolute_words([word.replace("{port}", str(port)) for word in argv])
        self._stack.enter_context(plant_home(host, canaries))
        scratch = Path(tempfile.mkdtemp(prefix=owned_prefix()))
        self._stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        command = scratch_command(
            host,
            scratch,
            environment=canary_environment(os.environ, canaries),
            readable=(*folders_of(words, host), str(self._folder)),
        )
        instance = self._stack.enter_context(
            bring_up(
                self._spawner,
                self._isolation,
                policy_for(self._isolation, load_profile(profile)),
                command,
                host,
                stage=stage_for(host, canaries),
            )
        )
        url = f"http://127.0.0.1:{port}{ready}" if ready else None
        spec = ServiceSpec(words, str(scratch), port, dict(env or {}), url, seconds)
        return Service(port, self._stack.enter_context(running(instance, spec)), instance)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@final
class Witnesses:
    """Recording servers outside."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._count = 0

    def __call__(
        self,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes | tuple[bytes, ...] = b"{}",
    ) -> Witness:
        """Start one that answers every request alike."""
        pieces = (body,) if isinstance(body, bytes) else body
        told = reply_headers(headers or {"content-type": "application/json"})
        reply = Reply(status, told, pieces, lockstep=False)
        self._count += 1
        return self._stack.enter_context(Witness(f"witness-{self._count}", lambda *_: reply, Ledger()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@final
@dataclass(frozen=True, slots=True)
class Denials:
    """What the battery showed under one isolation."""

    isolation: str
    families: Mapping[str, str]
    judgement: Judgement

    def __getitem__(self, family: str) -> str:
        """The family's verdict: `held`, `open`, `breached` or `cannot_tell`."""
        return self.families[family]

    def require(self) -> None:
        """Fail the test with the reason unless every family that gates here passes."""
        _require(f"denials under {self.isolation}", self.judgement)


def attack(isolation: Isolation, *, profile: str = "standard") -> Denials:
    """Run the battery and its control."""
    wanted = Wanted(begin_run(), (isolation,), load_profile(profile), all_probes())
    campaign = run_campaign(wanted, read_host(), Silent())
    findings = findings_of(campaign, campaign.stagings[0])
    families = {family: verdict.value for family, verdict in findings.families.items()}
    return Denials(isolation.value, families, judge_denials(findings))


def _require(what: str, judgement: Judgement) -> None:
    if judgement.outcome is not Outcome.PASS:
        raise NotHeldError(
            f"{what}: {judgement.outcome.value.replace('_', ' ')}: {'; '.join(judgement.reasons)}"
        )
