"""`docker run` on an image of links and mount points only, with the engine's default filter and capabilities.

The engine is the one that `DOCKER_HOST` or the usual socket names; else a private one that the harness
started and named there (`docker_engine.py`). The image `holdfast-skeleton` is imported once from a few hundred bytes, no
registry asked, and stays on that engine.
"""

import io
import os
import secrets
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from holdfast.sandbox.launchers.runtime import (
    ASK_SECONDS,
    MOUNT_POINTS,
    Channel,
    Found,
    Parts,
    found_tool,
    own_capabilities,
    required,
)
from holdfast.sandbox.plan import Link, Plan, Through
from holdfast.sandbox.refusal import CannotConfineError
from holdfast.sandbox.spawn import Launch

__all__ = ["CHANNEL", "POLICY", "SWITCHES", "answering_engine", "find", "lower"]

CHANNEL = Channel.PATH
SWITCHES = ("filter", "capabilities")
POLICY = "docker run --network none; the host's /usr and Python bound read-only into an empty image"

IMAGE = "holdfast-skeleton"
SPLIT_OFF = ("CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE")
USUAL_SOCKET = "/var/run/docker.sock"


def find(through: Through | None = None) -> Found | None:
    """The client on PATH, and the version of the engine that answers it."""
    del through
    client = found_tool("docker")
    if client is None:
        return None
    engine = answering_engine(client.path)
    if engine is None:
        return Found(
            client.path, None, "no engine answers; start dockerd, or run as root where it is installed"
        )
    return Found(client.path, engine[1])


def answering_engine(client: str) -> tuple[str, str] | None:
    """The address of an engine that answers, and its version; asked anew each time, for engines come and go."""
    named = os.environ.get("DOCKER_HOST")
    for host in (named,) if named else (f"unix://{USUAL_SOCKET}",):
        if host.startswith("unix://") and not Path(host.removeprefix("unix://")).exists():
            continue
        done = subprocess.run(
            [client, "-H", host, "version", "--format", "{{.Server.Version}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return host, done.stdout.decode().strip()
    return None


def lower(plan: Plan, descriptors: Mapping[int, int]) -> Launch:
    """The client's command line; the container is the engine's child, so the clean-up removes it by name."""
    parts = Parts.of(plan)
    found = required(find(), "docker", "apt-get install docker.io")
    engine = answering_engine(found.path)
    if engine is None:
        raise CannotConfineError("no docker engine answers", hint="start dockerd")
    tool = [found.path, "-H", engine[0]]
    _have_image(tool, parts.links)
    name = f"holdfast-{secrets.token_hex(6)}"
    argv = [
        *tool,
        "run",
        "--rm",
        "--interactive",
        "--name",
        name,
        "--network",
        "none",
        "--workdir",
        parts.cwd,
    ]
    argv += [*_options(parts), IMAGE, *parts.argv]
    clean_up = ((*tool, "rm", "--force", name),)
    return Launch((("execute", argv, dict(parts.environment)),), dict(descriptors), clean_up=clean_up)


def _options(parts: Parts) -> Iterator[str]:
    for bind in parts.binds:
        yield from ("--volume", f"{bind.path}:{bind.path}:{'rw' if bind.writable else 'ro'}")
    for name in parts.through.passed:
        yield from ("--env", name)  # the value comes from the client's own environment, not its command line
    for switch in SWITCHES:
        yield from _off(switch) if parts.off(switch) else ()


def _off(switch: str) -> tuple[str, ...]:
    if switch == "filter":
        return ("--security-opt", "seccomp=unconfined")
    # Engines refuse names that they do not know; what 5.8 split off, SYS_ADMIN still carries.
    return tuple(f"--cap-add={name}" for name in own_capabilities() if name not in SPLIT_OFF)


def _have_image(tool: Sequence[str], links: Sequence[Link]) -> None:
    present = subprocess.run(
        [*tool, "image", "inspect", IMAGE], capture_output=True, timeout=ASK_SECONDS, check=False
    )
    if present.returncode == 0:
        return
    done = subprocess.run(
        [*tool, "import", "-", IMAGE],
        input=skeleton(links),
        capture_output=True,
        timeout=ASK_SECONDS,
        check=False,
    )
    if done.returncode:
        raise CannotConfineError(f"docker import failed: {done.stderr.decode(errors='replace').strip()}")


def skeleton(links: Sequence[Link]) -> bytes:
    """A tar of mount points and the links of a merged /usr."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in MOUNT_POINTS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for link in links:
            entry = tarfile.TarInfo(link.path.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, link.target
            archive.addfile(entry)
    return buffer.getvalue()
