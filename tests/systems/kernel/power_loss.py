"""What a disk could hold after the power went: rebuilt from a recording of every write, rename and sync.

    strace log --record--> tuple[Op, ...] --images at any prefix, by chance--> {name: bytes}

The model is the strict one: what was synced is there; of the writes after that any subset of their sectors
may be; a new, renamed or removed name is certain only after its folder was synced, and before that a prefix
of such changes, in their order, may have happened. `-shm` files are memory, not disk, and are left out.
"""

import random
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat"
LINE = re.compile(r"^\d+ +(?P<call>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)")
HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
DESCRIPTOR = re.compile(r"^(?P<fd>\d+)<(?P<path>(?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True, slots=True)
class Op:
    """One call that changes or syncs something; `said` is a line that the workload printed."""

    kind: str  # write, truncate, sync, syncdir, create, rename, unlink, said
    name: str = ""
    other: str = ""
    offset: int = 0
    data: bytes = b""


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def record(folder: Path, synchronous: str, events: int) -> tuple[Op, ...]:
    """Run the workload under strace and read what it did to `folder`."""
    log = folder.parent / f"{folder.name}.strace"
    workload = [
        sys.executable,
        str(Path(__file__).with_name("workload.py")),
        str(folder),
        synchronous,
        str(events),
    ]
    strace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-y",
        "-xx",
        "-s",
        "10000000",
        "-e",
        f"trace={CALLS}",
        "-o",
        str(log),
    ]
    subprocess.run([*strace, *workload], check=True, stdout=subprocess.PIPE, timeout=120)
    return parse(log.read_text(), str(folder))


def parse(log: str, folder: str) -> tuple[Op, ...]:
    ops: list[Op] = []
    appended: dict[str, int] = {}
    for line in log.splitlines():
        found = LINE.match(line)
        if found is None or int(found["result"]) < 0:
            assert "unfinished" not in line, f"two threads wrote at once: {line[:200]}"
            continue
        ops += _read(found["call"], found["rest"], folder, appended)
    return tuple(ops)


def _inside(path: str, folder: str) -> str | None:
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None


def _read(call: str, rest: str, folder: str, appended: dict[str, int]) -> list[Op]:
    texts = [unhex(text) for text in HEX.findall(rest)]
    if call == "openat":
        name = _inside(texts[0].decode(), folder)
        return [Op("create", name)] if name and "O_CREAT" in rest else []
    if call.startswith(("rename", "unlink")):
        names = [_inside(text.decode(), folder) for text in texts]
        if not names[0]:
            return []
        return (
            [Op("rename", names[0], names[1] or "")]
            if call.startswith("rename")
            else [Op("unlink", names[0])]
        )
    target = DESCRIPTOR.match(rest)
    assert target is not None, rest[:100]
    path = unhex(target["path"]).decode()
    if call == "write" and target["fd"] == "1":
        return [Op("said", data=texts[0])]
    if call.endswith("sync") and path == folder:
        return [Op("syncdir")]
    name = _inside(path, folder)
    if not name or name.endswith("-shm"):
        return []
    if call.endswith("sync"):
        return [Op("sync", name)]
    if call == "ftruncate":
        return [Op("truncate", name, offset=int(rest.rpartition(", ")[2]))]
    # Plain writes here only ever go to the end of a file: the key, and the witness.
    offset = int(rest.rpartition(", ")[2]) if call == "pwrite64" else appended.get(name, 0)
    appended[name] = offset + len(texts[0])
    return [Op("write", name, offset=offset, data=texts[0])]


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Op] = field(default_factory=list)


@dataclass(slots=True)
class _Disk:
    """Names as programs see them, names that are certain, and the changes of names between the two."""

    now: dict[str, _File] = field(default_factory=dict)
    certain: dict[str, _File] = field(default_factory=dict)
    changes: list[tuple[Op, _File | None]] = field(default_factory=list)

    def do(self, op: Op) -> None:
        if op.kind in {"create", "rename", "unlink"}:
            self._change(op)
        elif op.kind == "syncdir":
            self.certain, self.changes = dict(self.now), []
        elif op.kind == "sync":
            file = self.now[op.name]
            for waiting in file.pending:
                _apply(file.durable, waiting)
            file.pending = []
        elif op.kind in {"write", "truncate"}:
            self.now[op.name].pending.append(op)

    def _change(self, op: Op) -> None:
        if op.kind == "create":
            if op.name not in self.now and not op.name.endswith("-shm"):
                self.now[op.name] = _File()
                self.changes.append((op, self.now[op.name]))
        elif op.name in self.now:
            file = self.now.pop(op.name)
            if op.kind == "rename":
                self.now[op.other] = file
            self.changes.append((op, None))

    def names_after(self, count: int) -> dict[str, _File]:
        """The names when `count` of the uncertain changes came through."""
        names = dict(self.certain)
        for op, born in self.changes[:count]:
            if born is not None:
                names[op.name] = born
            elif op.name in names:
                file = names.pop(op.name)
                if op.kind == "rename":
                    names[op.other] = file
        return names


def image(ops: tuple[Op, ...], pick: random.Random) -> dict[str, bytes]:
    """One disk that could be left if the power went right after the last of `ops`."""
    disk = _Disk()
    for op in ops:
        disk.do(op)
    names = disk.names_after(pick.randint(0, len(disk.changes)))
    return {name: _torn(file, pick) for name, file in names.items()}


def _apply(content: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))
        return
    content.extend(bytes(max(0, op.offset - len(content))))
    content[op.offset : op.offset + len(op.data)] = op.data


def _torn(file: _File, pick: random.Random) -> bytes:
    """The synced bytes and any subset of the sectors written since, each kept with the same chance."""
    content = bytearray(file.durable)
    kept = pick.choice((0.0, 0.2, 0.5, 0.8, 1.0))
    for op in file.pending:
        if op.kind == "truncate":
            if pick.random() < kept:
                _apply(content, op)
            continue
        at = op.offset
        while at < op.offset + len(op.data):
            end = min((at // SECTOR + 1) * SECTOR, op.offset + len(op.data))
            if pick.random() < kept:
                _apply(
                    content, Op("write", op.name, offset=at, data=op.data[at - op.offset : end - op.offset])
                )
            at = end
    return bytes(content)
