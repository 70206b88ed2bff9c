"""Real programs run under each profile, and what the profiles deny is denied to them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.sandbox import Command, Isolation, Spawner, confine, load_profile

CONFINING = pytest.mark.parametrize("isolation", [Isolation.SECCOMP, Isolation.BWRAP], ids=lambda i: i.value)

PYTHON_WITH_THREADS = """
import concurrent.futures, sqlite3, socket, tempfile, threading
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(lambda n: n * n, range(100))) == 328350
with tempfile.NamedTemporaryFile(dir=".") as file:
    base = sqlite3.connect(file.name)
    base.execute("create table t (n integer)")
    base.executemany("insert into t values (?)", [(n,) for n in range(50)])
    base.commit()
    assert base.execute("select sum(n) from t").fetchone() == (1225,)
left, right = socket.socketpair()
left.send(b"x"); assert right.recv(1) == b"x"
listener = socket.socket(socket.AF_UNIX); listener.bind("./broker.sock"); listener.listen()
threading.Thread(target=lambda: listener.accept()[0].sendall(b"hello"), daemon=True).start()
client = socket.socket(socket.AF_UNIX); client.connect("./broker.sock"); assert client.recv(5) == b"hello"
print("ran")
"""

NO_INET = """
import socket
try:
    socket.socket(socket.AF_INET)
except PermissionError:
    print("denied")
"""

UVLOOP = """
import asyncio, uvloop
async def main():
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper()); await writer.drain(); writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"ping\\n"); assert await reader.readline() == b"PING\\n"; writer.close()
    process = await asyncio.create_subprocess_exec("/bin/true"); assert await process.wait() == 0
    print("ran")
uvloop.run(main())
"""


def run(
    spawner: Spawner, isolation: Isolation, profile: str, folder: Path, *argv: str, **environment: str
) -> tuple[int, str]:
    folder.chmod(0o777)
    command = Command(
        argv, cwd=str(folder), environment=environment, inherited=dict(os.environ), writable=(str(folder),)
    )
    with (folder / "output").open("w+") as out:
        handed = {0: 0, 1: out.fileno(), 2: out.fileno()}
        with confine(
            spawner, isolation, command, profile=load_profile(profile), descriptors=handed
        ) as confined:
            status = confined.wait(60)
        out.seek(0)
        return status, out.read()


@CONFINING
def test_python_with_threads_sqlite_and_a_unix_broker_runs_under_strict(
    spawner: Spawner, isolation: Isolation, tmp_path: Path
) -> None:
    assert run(spawner, isolation, "strict", tmp_path, sys.executable, "-c", PYTHON_WITH_THREADS) == (
        0,
        "ran\n",
    )


@CONFINING
@pytest.mark.parametrize("profile", ["strict", "standard"])
def test_inet_sockets_are_denied_without_net(
    spawner: Spawner, isolation: Isolation, profile: str, tmp_path: Path
) -> None:
    assert run(spawner, isolation, profile, tmp_path, sys.executable, "-c", NO_INET) == (0, "denied\n")


@CONFINING
def test_gcc_compiles_and_its_program_runs_under_standard(
    spawner: Spawner, isolation: Isolation, tmp_path: Path
) -> None:
    (tmp_path / "a.c").write_text('#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n')
    assert run(spawner, isolation, "standard", tmp_path, "/bin/sh", "-c", "gcc -O1 -o a a.c && ./a") == (
        0,
        "built\n",
    )


@CONFINING
def test_git_commits_and_clones_under_standard(
    spawner: Spawner, isolation: Isolation, tmp_path: Path
) -> None:
    script = (
        "git init -q -b main one && cd one && echo x > f && git add f && "
        "git -c user.name=n -c user.email=e@invalid commit -q -m m && cd .. && "
        "git clone -q one two && git -C two log --format=%s && git -C two gc -q && git -C two fsck"
    )
    status, text = run(spawner, isolation, "standard", tmp_path, "/bin/sh", "-c", script, HOME=str(tmp_path))
    assert (status, text.splitlines()[0]) == (0, "m"), text


@CONFINING
def test_pytest_runs_a_suite_under_standard(spawner: Spawner, isolation: Isolation, tmp_path: Path) -> None:
    (tmp_path / "test_inside.py").write_text(
        "import subprocess\ndef test_a(tmp_path, capfd):\n    (tmp_path / 'x').write_text('y')\n"
        "    subprocess.run(['echo', 'child'], check=True)\n    assert capfd.readouterr().out == 'child\\n'\n"
    )
    words = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "test_inside.py",
    )
    status, text = run(spawner, isolation, "standard", tmp_path, *words)
    assert status == 0, text
    assert "1 passed" in text


@CONFINING
def test_uvloop_serves_and_connects_under_standard_net(
    spawner: Spawner, isolation: Isolation, tmp_path: Path
) -> None:
    assert run(spawner, isolation, "standard-net", tmp_path, sys.executable, "-c", UVLOOP) == (0, "ran\n")


@CONFINING
@pytest.mark.parametrize("profile", ["strict", "standard", "standard-net"])
def test_clone3_says_enosys_so_that_libc_falls_back(
    spawner: Spawner, isolation: Isolation, profile: str, tmp_path: Path
) -> None:
    ask = "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.syscall(435, 1, 88); print(ctypes.get_errno())"
    assert run(spawner, isolation, profile, tmp_path, sys.executable, "-c", ask) == (0, "38\n")


def i386_getpid(path: Path) -> Path:
    """A static ELF of 32 bits, written here: getpid by int 0x80, then exit by int 0x80."""
    code = bytes.fromhex("b814000000cd80b80100000031dbcd80")
    base, head = 0x08048000, 52 + 32
    header = b"\x7fELF\x01\x01\x01" + bytes(9) + b"".join(
        value.to_bytes(size, "little")
        for value, size in (
            (2, 2), (3, 2), (1, 4), (base + head, 4), (52, 4), (0, 4), (0, 4), (52, 2), (32, 2), (1, 2), (0, 2), (0, 2), (0, 2),
        )
    )  # fmt: skip
    segment = b"".join(
        value.to_bytes(4, "little")
        for value in (1, 0, base, base, head + len(code), head + len(code), 5, 0x1000)
    )
    path.write_bytes(header + segment + code)
    path.chmod(0o755)
    return path


def test_the_i386_program_itself_works_unconfined(tmp_path: Path) -> None:
    """The control: without it, the kill below could as well be a kernel without IA32 emulation."""
    done = subprocess.run([i386_getpid(tmp_path / "i386")], check=False)
    assert done.returncode == 0


@CONFINING
@pytest.mark.parametrize("profile", ["strict", "standard", "standard-net"])
def test_a_call_by_a_foreign_abi_is_killed(
    spawner: Spawner, isolation: Isolation, profile: str, tmp_path: Path
) -> None:
    program = i386_getpid(tmp_path / "i386")
    assert run(spawner, isolation, profile, tmp_path, str(program))[0] == 128 + 31


@CONFINING
def test_an_x32_number_is_killed(spawner: Spawner, isolation: Isolation, tmp_path: Path) -> None:
    ask = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39)"
    assert run(spawner, isolation, "standard", tmp_path, sys.executable, "-c", ask)[0] == 128 + 31


@pytest.mark.parametrize("profile", ["strict", "standard", "standard-net"])
def test_runc_loads_the_same_file(profile: str, tmp_path: Path) -> None:
    """runc compiles the profile itself and runs a program under it; `mount` is then denied inside."""
    if os.getuid() != 0:
        pytest.skip("runc needs root here, or a delegated cgroup")
    assert shutil.which("runc"), "`make setup` installs runc"
    bundle = tmp_path / "bundle"
    root = bundle / "rootfs"
    for name in ("usr", "proc", "tmp", "lib", "lib64", "bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    spec = runc_spec(load_file(profile))
    (bundle / "config.json").write_text(json.dumps(spec))
    words = [
        "runc",
        "--root",
        str(tmp_path / "state"),
        "run",
        "--bundle",
        str(bundle),
        f"holdfast-{os.getpid()}-{profile}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "1 38", done.stderr


def load_file(profile: str) -> object:
    return json.loads((Path(__file__).parents[2] / "profiles" / f"{profile}.json").read_text())


def runc_spec(seccomp: object) -> dict[str, object]:
    """The least that runc takes: new mount and pid namespaces, the host's /usr read-only, the profile."""
    probe = (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.syscall(165, 1, 1, 1, 0, 0); a = ctypes.get_errno(); "
        "l.syscall(435, 1, 88); print(a, ctypes.get_errno())"
    )
    binds = [
        {"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}
        for path in ("/usr", "/bin", "/lib", "/lib64")
        if Path(path).exists()
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/usr/bin/python3", "-I", "-S", "-c", probe],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {
                "bounding": ["CAP_SYS_ADMIN"],
                "effective": ["CAP_SYS_ADMIN"],
                "permitted": ["CAP_SYS_ADMIN"],
            },
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *binds],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}], "seccomp": seccomp},
    }
