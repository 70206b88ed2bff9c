"""A stage: one isolation brought up for one suite, with the battery run through the very same instance."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdfast.harness.battery import ArmRun, run_arm
from holdfast.harness.identity import Sight, see
from holdfast.harness.run_id import Canaries
from holdfast.harness.service import Running, ServiceSpec, running
from holdfast.harness.suite import Completed
from holdfast.sandbox.confine import confine
from holdfast.sandbox.host import Host
from holdfast.sandbox.instance import Instance
from holdfast.sandbox.plan import Command
from holdfast.sandbox.probes.probe import Probe
from holdfast.sandbox.profile import Profile
from holdfast.sandbox.spawn import Spawner
from holdfast.sandbox.spawn import Stage as Planting

__all__ = ["Ground", "InstanceStage"]


@final
@dataclass(frozen=True, slots=True)
class Ground:
    """What is the same for all stages of one run."""

    spawner: Spawner
    host: Host
    profile: Profile | None
    probes: tuple[Probe, ...]
    canaries: Canaries
    planting: Planting
    home_file: Path | None
    environment: Mapping[str, str]
    command: tuple[str, ...] | None = None


@final
class InstanceStage:
    """The `Stage` of `suite.py` over one instance; remembers what the battery and the look from outside gave."""

    def __init__(self, ground: Ground, instance: Instance, folder: Path) -> None:
        self._ground, self._instance, self._folder = ground, instance, folder
        self.arm: ArmRun | None = None
        self.sight: Sight | None = None

    @property
    def isolation(self) -> str:
        """The isolation's word."""
        return self._instance.isolation.value

    @property
    def folder(self) -> Path:
        """The scratch folder."""
        return self._folder

    @property
    def command(self) -> tuple[str, ...] | None:
        """What the user put in the system's place."""
        return self._ground.command

    @contextlib.contextmanager
    def serve(self, spec: ServiceSpec) -> Iterator[Running]:
        """Up; the suite's traffic; then, with the service still up, the look from outside and the attack."""
        if self.arm is not None:
            raise RuntimeError("a stage serves once")
        with running(self._instance, spec) as service:
            yield service
            self.sight = see(self._instance.agent_pid, spec.port, self._instance.plan, self._instance.skipped)
            self.attack()

    def attack(self) -> None:
        """Run the battery through this instance, once."""
        if self.arm is None:
            ground = self._ground
            private = self._folder / "private"
            private.mkdir(exist_ok=True)
            self.arm = run_arm(
                self._instance,
                ground.probes,
                ground.canaries,
                stage=ground.planting,
                home_file=ground.home_file,
                folder=private,
            )
            private.rmdir()

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        seconds: float = 30.0,
    ) -> Completed:
        """One command in a sandbox of the same isolation and profile, to its end."""
        ground = self._ground
        command = Command(
            argv=tuple(argv),
            cwd=str(self._folder),
            environment=dict(env or {}),
            inherited=ground.environment,
            writable=(str(self._folder),),
        )
        isolation = self._instance.isolation
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(stdin)
            streams[0].seek(0)
            handed = {number: stream.fileno() for number, stream in enumerate(streams)}
            confined = stack.enter_context(
                confine(ground.spawner, isolation, command, profile=ground.profile, descriptors=handed)
            )
            status = confined.wait(seconds)
            for stream in streams:
                os.lseek(stream.fileno(), 0, os.SEEK_SET)
            return Completed(status, streams[1].read(), streams[2].read())
