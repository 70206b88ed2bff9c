"""What the host has, read once: the facts that a plan depends on. The plan itself is pure."""

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

from holdfast.sandbox.kernel_calls import landlock_abi

__all__ = ["Bubblewrap", "Host", "read_host"]

PROJECT = Path(__file__).resolve().parent.parent

PROBE_SECONDS = 10.0

SECRET_FOLDERS = ("/etc/ssh", "/etc/ssl/private")


@final
@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """The bwrap on PATH, and whether it can start here; found by starting it, not by reading sysctls."""

    path: str
    version: tuple[int, ...]
    problem: str | None
    """Its own last words when it could not start; None when it did."""

    @property
    def disables_userns(self) -> bool:
        """`--disable-userns` came with 0.8.0."""
        return self.version >= (0, 8)


@final
@dataclass(frozen=True, slots=True)
class Host:
    """Facts about this machine and user."""

    uid: int
    home: str
    root_links: tuple[tuple[str, str], ...]
    """Links of a merged /usr: ("/bin", "usr/bin")."""
    root_folders: tuple[str, ...]
    """Of /usr, /bin, /sbin, /lib*, those that are folders here."""
    secret_files: tuple[str, ...]
    """/etc/shadow and its like that exist."""
    secret_folders: tuple[str, ...]
    """Folders of private keys under /etc that exist."""
    interpreter: tuple[str, ...]
    """The folders that the running Python needs: its prefix and its base prefix."""
    project: str
    landlock: int
    """Landlock's ABI; 0 where the kernel has none."""
    bubblewrap: Bubblewrap | None


@lru_cache(maxsize=1)
def read_host() -> Host:
    """Read the facts; cached, since none of them changes while a harness runs."""
    links, folders = [], []
    for entry in sorted(Path("/").iterdir()):
        if entry.name in {"usr", "bin", "sbin"} or entry.name.startswith("lib"):
            if entry.is_symlink():
                links.append((str(entry), str(entry.readlink())))
            elif entry.is_dir():
                folders.append(str(entry))
    secrets = [p for pattern in ("shadow*", "gshadow*") for p in Path("/etc").glob(pattern) if p.is_file()]
    return Host(
        uid=os.getuid(),
        home=_home(),
        root_links=tuple(links),
        root_folders=tuple(folders),
        secret_files=tuple(str(p) for p in sorted(secrets)),
        secret_folders=tuple(p for p in SECRET_FOLDERS if Path(p).is_dir()),
        interpreter=tuple(dict.fromkeys((sys.base_prefix, sys.prefix))),
        project=str(PROJECT),
        landlock=landlock_abi(),
        bubblewrap=_find_bubblewrap(),
    )


def _home() -> str:
    """The user's home by the password database, else `$HOME`; `/nonexistent` for a user without one."""
    try:
        known = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        known = ""
    for home in (known, os.environ.get("HOME", "")):
        if home.startswith("/") and home != "/" and Path(home).is_dir():
            return home
    return "/nonexistent"


def _find_bubblewrap() -> Bubblewrap | None:
    path = shutil.which("bwrap")
    if path is None:
        return None
    words = _output([path, "--version"])[1].split()
    version = tuple(int(part) for part in words[-1].split(".") if part.isdigit()) if words else ()
    status, said = _output([path, "--unshare-all", "--ro-bind", "/", "/", "true"])
    problem = None if status == 0 else (said.strip().splitlines() or [f"exit status {status}"])[-1]
    return Bubblewrap(path, version, problem)


def _output(argv: list[str]) -> tuple[int, str]:
    """Status, and what was said on both streams."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 70, str(error)
    return done.returncode, done.stdout.decode(errors="replace")
