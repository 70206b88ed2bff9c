"""Family `perf_bpf`: reading the kernel's performance events, and loading programs into it."""

import ctypes
import errno
import os
import resource
import struct
import time
from functools import partial

from holdfast.sandbox.kernel_calls import syscall
from holdfast.sandbox.probes.probe import DENIALS, Field, Probe, and_then, effect, number, reach

__all__ = ["FAMILY", "PROBES", "alive"]

FAMILY = "perf_bpf"

PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK, PERF_ATTR_SIZE_VER0 = 1, 1, 64
EXCLUDE_KERNEL, EXCLUDE_HV = 1 << 5, 1 << 6
BPF_MAP_CREATE, BPF_MAP_TYPE_ARRAY, BPF_ATTR_BYTES = 0, 2, 128

COMMANDS = {"pointer": -1, "map-create": 0, "prog-load": 5, "obj-get": 7, "btf-load": 18}
"""A filter may look at the command; -1 stands for those that it does not list."""

DENIED = DENIALS | {errno.ENODEV, errno.EOPNOTSUPP}
"""gVisor answers so for what its own kernel does not have."""


def alive() -> None:
    """Counting one's own time by ordinary means still works."""
    resource.getrusage(resource.RUSAGE_SELF)
    time.clock_gettime(time.CLOCK_MONOTONIC)


def _task_clock(_: Field) -> str:
    """A software counter on this very process: what an unprivileged user gets at perf_event_paranoid <= 2."""
    head = struct.pack("IIQ", PERF_TYPE_SOFTWARE, PERF_ATTR_SIZE_VER0, PERF_COUNT_SW_TASK_CLOCK)
    flags = struct.pack("QQQQ", 0, 0, 0, EXCLUDE_KERNEL | EXCLUDE_HV)
    attributes = ctypes.create_string_buffer((head + flags).ljust(PERF_ATTR_SIZE_VER0, b"\0"))
    descriptor = syscall(number("perf_event_open"), attributes, 0, -1, -1, 0)
    return and_then("a task clock was opened", lambda: os.read(descriptor, 8))


def _array_map(_: Field) -> str:
    kind_key_value_entries = struct.pack("IIII", BPF_MAP_TYPE_ARRAY, 4, 4, 1)
    attributes = ctypes.create_string_buffer(kind_key_value_entries.ljust(BPF_ATTR_BYTES, b"\0"))
    descriptor = syscall(number("bpf"), BPF_MAP_CREATE, attributes, BPF_ATTR_BYTES)
    return f"bpf gave map {descriptor}"


PROBES: tuple[Probe, ...] = (
    reach(
        FAMILY,
        "perf.open",
        "pointer",
        lambda: syscall(number("perf_event_open"), None, 0, -1, -1, 0),
        errno.EFAULT,
        denied_by=DENIED,
    ),
    effect(FAMILY, "perf.open", "task-clock", _task_clock, denied_by=DENIED),
    *(
        reach(
            FAMILY,
            "bpf.cmd",
            name,
            partial(syscall, number("bpf"), command, 1, 8),
            errno.EFAULT,
            denied_by=DENIED,
        )
        for name, command in COMMANDS.items()
    ),
    effect(FAMILY, "bpf.cmd", "map-create", _array_map, denied_by=DENIED),
)
