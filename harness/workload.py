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
    os.fsync(file.fileno()); print(os.pread(file.fileno(), 2, 0)); os.pwrite(file.fileno(), b"yo", 0)
heard = []; signal.signal(signal.SIGUSR1, lambda *_: heard.append(1)); os.kill(os.getpid(), signal.SIGUSR1); print(heard)
poll = select.epoll(); r, w = os.pipe(); poll.register(r, select.EPOLLIN); os.write(w, b"x"); print(len(poll.poll(1)))
print(os.getcwd() != "", os.umask(0o22) >= 0, os.getppid() > 0, len(os.urandom(4)), os.sched_getaffinity(0) != set())
time.sleep(0.001); print(time.clock_gettime(time.CLOCK_MONOTONIC) > 0, tempfile.gettempdir() != "")
"""

_POSIX = """
import ctypes, errno, fcntl, os, resource, select, signal, socket, sys, termios, threading, time
def say(name, call):
    try: call(); print(name)
    except OSError as error: print(name, errno.errorcode.get(error.errno))
here = os.open(".", os.O_RDONLY); f = os.open("f", os.O_RDWR | os.O_CREAT); g = os.open("g", os.O_RDWR | os.O_CREAT)
r, w = os.pipe2(os.O_CLOEXEC)
say("dup", lambda: os.dup(f)); say("dup3", lambda: os.dup2(f, 50, inheritable=False)); say("fchdir", lambda: os.fchdir(here))
say("access", lambda: os.access("f", os.R_OK, dir_fd=here, effective_ids=True)); say("fadvise", lambda: os.posix_fadvise(f, 0, 1, 0))
say("fallocate", lambda: os.posix_fallocate(f, 0, 64)); say("fchmod", lambda: os.fchmod(f, 0o600)); say("fchmodat", lambda: os.chmod("f", 0o600, dir_fd=here))
say("fstat", lambda: os.fstat(f)); say("statvfs", lambda: os.statvfs(".")); say("fstatvfs", lambda: os.fstatvfs(f)); say("lstat", lambda: os.lstat("f"))
print(sorted(os.listdir(here)) == ["f", "g"]); say("linkat", lambda: os.link("f", "l", src_dir_fd=here, dst_dir_fd=here)); say("mkdirat", lambda: os.mkdir("d", dir_fd=here))
say("symlinkat", lambda: os.symlink("f", "s", dir_fd=here)); say("readlinkat", lambda: os.readlink("s", dir_fd=here))
say("renameat", lambda: os.rename("s", "t", src_dir_fd=here, dst_dir_fd=here)); say("unlinkat", lambda: os.unlink("t", dir_fd=here))
say("writev", lambda: os.writev(w, [b"a", b"b"])); print(select.select([r], [], [], 1)[0] == [r]); say("fionread", lambda: fcntl.ioctl(r, termios.FIONREAD, bytes(4)))
say("readv", lambda: os.readv(r, [bytearray(2)])); say("pwritev", lambda: os.pwritev(f, [b"x"], 0)); say("preadv", lambda: os.preadv(f, [bytearray(1)], 0))
say("copy_file_range", lambda: os.copy_file_range(f, g, 1, 0, 0)); say("utime", lambda: os.utime(f)); say("memfd", lambda: os.memfd_create("m"))
say("eventfd", lambda: os.eventfd(1)); say("inheritable", lambda: os.set_inheritable(f, True)); say("not", lambda: os.set_inheritable(f, False))
say("tcgets", lambda: fcntl.ioctl(f, 0x5401, bytes(64)))
for request in (0x5402, 0x5403, 0x540f, 0x5413): say(hex(request), lambda: fcntl.ioctl(f, request, bytes(64)))
for name in "getpgrp getsid getgroups getresuid getresgid getegid geteuid getgid getuid getpgid getppid times uname".split():
    say(name, (lambda n: (lambda: getattr(os, n)(*([0] if n in ("getsid", "getpgid") else []))))(name))
say("getrandom", lambda: os.getrandom(4)); say("yield", os.sched_yield); say("affinity", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
say("rlimit", lambda: resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))); say("rusage", lambda: resource.getrusage(0))
say("itimer", lambda: (signal.setitimer(signal.ITIMER_REAL, 0), signal.getitimer(signal.ITIMER_REAL))); say("alarm", lambda: signal.alarm(0))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
print(signal.sigpending() == {signal.SIGUSR1}); say("sigwait", lambda: signal.sigtimedwait([signal.SIGUSR1], 1))
for name, call in (("setsid", os.setsid), ("setpgid", lambda: os.setpgid(0, 0))):
    pid = os.fork()
    if pid == 0:
        try: call(); os._exit(0)
        except OSError as error: os._exit(error.errno)
    print(name, os.waitid(os.P_PID, pid, os.WEXITED).si_status)
server = socket.socket(socket.AF_UNIX); server.bind("s"); server.listen(); client = socket.socket(socket.AF_UNIX); client.connect("s")
taken, _ = server.accept(); say("names", lambda: (server.getsockname(), client.getpeername())); taken.setblocking(False); taken.setblocking(True)
say("getsockopt", lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)); say("setsockopt", lambda: client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
say("sendmsg", lambda: client.sendmsg([b"hi"])); say("recvmsg", lambda: taken.recvmsg(2)); say("shutdown", lambda: client.shutdown(socket.SHUT_WR))
poll = select.poll(); poll.register(taken); print(len(poll.poll(1))); os.get_inheritable(f); time.sleep(0.001); os.close(here)
say("prctl", lambda: ctypes.CDLL(None, use_errno=True).prctl(3, 0, 0, 0, 0) >= 0 or (_ for _ in ()).throw(OSError(1, "prctl")))
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
    yield Program("posix", (sys.executable, "-I", "-c", _POSIX))
    if profile.allows_inet:
        yield Program("tcp", (sys.executable, "-I", "-c", _NET))
    yield Program("shell", ("/bin/sh", "-c", _SHELL))
    if shutil.which("git"):
        yield Program("git", ("/bin/sh", "-c", _GIT))
    if shutil.which("gcc"):
        yield Program("gcc", ("/bin/sh", "-c", _GCC))
