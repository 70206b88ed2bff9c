"""Real programs, small, by which it is seen whether a profile still lets work be done.

    programs_for(profile) -> Program(name, argv, ...)     those whose tools are on this machine

Each does many different things once and prints what it got, so that a call that is missing shows.
"""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from holdfast.sandbox.profile import Profile

__all__ = ["Program", "programs_for"]


@final
@dataclass(frozen=True, slots=True)
class Program:
    """A command, run in an empty folder of its own."""

    name: str
    argv: tuple[str, ...]


_PYTHON = """
import asyncio, concurrent.futures, fcntl, mmap, os, select, signal, socket, sqlite3, subprocess, tempfile, threading, time
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(lambda n: n * n, range(100))))
base = sqlite3.connect("t.db"); base.execute("create table t (n)"); base.execute("insert into t values (5)")
base.commit(); print(base.execute("select n from t").fetchone()); base.close()
left, right = socket.socketpair(); left.send(b"x"); print(right.recv(1))
async def main():
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper()); await writer.drain(); writer.close()
    server = await asyncio.start_unix_server(serve, "s.sock")
    reader, writer = await asyncio.open_unix_connection("s.sock")
    writer.write(b"ping\\n"); print(await reader.readline()); writer.close(); server.close()
asyncio.run(main())
print(subprocess.run(["/bin/echo", "spawned"], capture_output=True, check=True).stdout)
pid = os.fork()
if pid == 0: os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.mkdir("d"); open("d/a", "w").write("a" * 5000); os.rename("d/a", "d/b"); os.symlink("b", "d/c"); os.link("d/b", "d/e")
os.chmod("d/b", 0o600); os.truncate("d/b", 10); os.utime("d/b", (1, 1)); print(os.stat("d/c").st_size, sorted(os.listdir("d")))
print(os.readlink("d/c"), os.path.realpath("d/c").endswith("d/b")); os.unlink("d/c"); os.remove("d/e"); os.remove("d/b"); os.rmdir("d")
with open("f", "w+b") as file:
    file.truncate(4096); fcntl.flock(file, fcntl.LOCK_EX); view = mmap.mmap(file.fileno(), 4096); view[:2] = b"hi"; view.flush(); view.close()
    os.fsync(file.fileno()); print(os.pread(file.fileno(), 2, 0)); os.pwrite(file.fileno(), b"yo", 0); os.sendfile
heard = []; signal.signal(signal.SIGUSR1, lambda *_: heard.append(1)); os.kill(os.getpid(), signal.SIGUSR1); print(heard)
poll = select.epoll(); r, w = os.pipe(); poll.register(r, select.EPOLLIN); os.write(w, b"x"); print(len(poll.poll(1)))
print(os.getcwd() != "", os.umask(0o22) >= 0, os.getppid() > 0, len(os.urandom(4)), os.sched_getaffinity(0) != set())
time.sleep(0.001); print(time.clock_gettime(time.CLOCK_MONOTONIC) > 0, tempfile.gettempdir() != "")
"""

_SHELL = (
    "set -e; date -u +%Z; mkdir a; echo one > a/x; cp -a a b; mv b/x b/y; ln -s y b/z; chmod 640 b/y; touch -d @1 b/y; "
    "find . -type f | sort; sort -r a/x | head -c 3; tar cf - a | tar tf -; du -s a >/dev/null; stat -c %s b/y; "
    "kill -0 $$; (sleep 0.001 & wait); id -u >/dev/null; nproc >/dev/null; df . >/dev/null; rm -r a b"
)

_GIT = (
    "set -e; export HOME=$PWD GIT_CONFIG_NOSYSTEM=1; git init -q r; cd r; echo x > f; git add f; "
    "git -c user.name=n -c user.email=e@invalid -c commit.gpgsign=false commit -qm m; cd ..; git clone -q r c; cat c/f"
)

_GCC = "printf 'int puts(const char*);int main(){return puts(\"built\")<0;}' > a.c && gcc -w -o a a.c && ./a"

_NET = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0)); server.settimeout(5)
threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"), daemon=True).start()
with socket.create_connection(server.getsockname(), 5) as asking: print(asking.recv(5))
"""


def programs_for(profile: Profile) -> tuple[Program, ...]:
    """The cheapest first; TCP only where the profile is for it."""
    return tuple(_programs(profile))


def _programs(profile: Profile) -> Iterator[Program]:
    yield Program("python", (sys.executable, "-I", "-c", _PYTHON))
    if profile.allows_inet:
        yield Program("tcp", (sys.executable, "-I", "-c", _NET))
    yield Program("shell", ("/bin/sh", "-c", _SHELL))
    if shutil.which("git"):
        yield Program("git", ("/bin/sh", "-c", _GIT))
    if shutil.which("gcc"):
        yield Program("gcc", ("/bin/sh", "-c", _GCC))
