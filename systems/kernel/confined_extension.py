"""Extensions in a sandbox: what other people wrote decides about an agent, so it runs under `strict`.

The extension gets two pipes and nothing else: no network, no file of the host but the system's and those
named as readable, no new program's privileges. It is ended with everything that it started.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final, final

from holdfast.sandbox import (
    Command,
    Confined,
    Isolation,
    Profile,
    SandboxError,
    Spawner,
    confine,
    load_profile,
)
from holdfast.systems.kernel.extension import Evaluator, Spawn

__all__ = ["spawn_confined"]

STRICT: Final = "strict"
"""The profile that is shipped for extensions."""


def spawn_confined(
    spawner: Spawner,
    *,
    isolation: Isolation = Isolation.BWRAP,
    profile: Profile | None = None,
    readable: Sequence[str] = (),
) -> Spawn:
    """For `Extension(spawn=...)`; `readable` are folders that the extension's own files lie in.

    A sandbox that cannot be set up raises `OSError` on spawning, so the extension is down and denies.
    """
    used = load_profile(STRICT) if profile is None else profile

    def spawn(argv: Sequence[str]) -> Evaluator:
        command = Command(argv=tuple(argv), environment={"PATH": "/usr/bin:/bin"}, readable=tuple(readable))

        def start(ends: dict[int, int]) -> Confined:
            return confine(spawner, isolation, command, profile=used, descriptors=ends)

        return _InSandbox(start)

    return spawn


@final
class _InSandbox:
    """A confined extension and our ends of its pipes."""

    def __init__(self, start: Callable[[dict[int, int]], Confined]) -> None:
        theirs_in, self.questions = os.pipe2(os.O_CLOEXEC)
        self.answers, theirs_out = os.pipe2(os.O_CLOEXEC)
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._confined = start({0: theirs_in, 1: theirs_out, 2: nowhere})
        except SandboxError as error:
            os.close(self.questions)
            os.close(self.answers)
            raise OSError(str(error)) from error
        finally:
            for fd in (theirs_in, theirs_out, nowhere):
                os.close(fd)

    def end(self) -> None:
        """Ended with everything inside."""
        self._confined.close()
        os.close(self.questions)
        os.close(self.answers)
