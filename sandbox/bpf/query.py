"""`--can`: a person's question about calls, read into attempts.

    query     := call [ "(" argument { "," argument } ")" ]
    argument  := "_"                                anything
               | value                              in its place: the low 32 bits, as an `int` is read
               | "arg" N "=" value                  the low 32 bits of argument N (0 to 5)
               | "arg" N "==" value                 all 64 bits
               | "arg" N "&" mask ( "=" | "!=" ) value
    value     := number | constant                  TIOCSTI, CLONE_NEWUSER, AF_ALG, ...

    ioctl(TIOCSTI)   clone(CLONE_NEWUSER)   socket(_, 3)   ioctl(arg1==0x5412)   mount

A constant knows its argument, so that `ioctl(TIOCSTI)` is about the request; flags ask for their bit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from holdfast.sandbox.bpf.abi import syscall_table
from holdfast.sandbox.bpf.attempt import Attempt, Bits
from holdfast.sandbox.refusal import BadInputError

__all__ = ["parse_query"]

LOW = 0xFFFF_FFFF
WIDE = 0xFFFF_FFFF_FFFF_FFFF
ARGUMENTS = 6


@final
@dataclass(frozen=True, slots=True)
class _Constant:
    index: int
    """The argument that it belongs to."""
    value: int
    flag: bool = False
    """Whether it is one bit among others."""

    def bits(self) -> Bits:
        return Bits(self.index, self.value if self.flag else LOW, self.value)


_REQUESTS = {
    "TCGETS": 0x5401,
    "TIOCSCTTY": 0x540E,
    "TIOCSTI": 0x5412,
    "TIOCGWINSZ": 0x5413,
    "TIOCLINUX": 0x541C,
}
_NAMESPACES = {
    "CLONE_NEWTIME": 0x80,
    "CLONE_NEWNS": 0x2_0000,
    "CLONE_NEWCGROUP": 0x200_0000,
    "CLONE_NEWUTS": 0x400_0000,
    "CLONE_NEWIPC": 0x800_0000,
    "CLONE_NEWUSER": 0x1000_0000,
    "CLONE_NEWPID": 0x2000_0000,
    "CLONE_NEWNET": 0x4000_0000,
}
_FAMILIES = {
    "AF_UNIX": 1,
    "AF_INET": 2,
    "AF_INET6": 10,
    "AF_NETLINK": 16,
    "AF_PACKET": 17,
    "AF_ALG": 38,
    "AF_VSOCK": 40,
}
_PTRACE = {"PTRACE_TRACEME": 0, "PTRACE_ATTACH": 16, "PTRACE_SEIZE": 0x4206}
_PERSONALITY = {"ADDR_NO_RANDOMIZE": 0x4_0000, "READ_IMPLIES_EXEC": 0x40_0000}

_CONSTANTS: Mapping[str, Mapping[str, _Constant]] = {
    "ioctl": {name: _Constant(1, value) for name, value in _REQUESTS.items()},
    "clone": {name: _Constant(0, value, flag=True) for name, value in _NAMESPACES.items() if value > 0xFF},
    "unshare": {name: _Constant(0, value, flag=True) for name, value in _NAMESPACES.items()},
    "setns": {name: _Constant(1, value, flag=True) for name, value in _NAMESPACES.items()},
    "socket": {name: _Constant(0, value) for name, value in _FAMILIES.items()},
    "socketpair": {name: _Constant(0, value) for name, value in _FAMILIES.items()},
    "ptrace": {name: _Constant(0, value) for name, value in _PTRACE.items()},
    "personality": {name: _Constant(0, value, flag=True) for name, value in _PERSONALITY.items()},
}

_QUERY = re.compile(r"\s*(?P<name>[a-z_][a-z0-9_]*)\s*(?:\((?P<arguments>[^()]*)\))?\s*")
_NAMED = re.compile(r"arg(?P<index>[0-9])\s*(?:&\s*(?P<mask>\w+)\s*)?(?P<operator>==|!=|=)\s*(?P<value>\w+)")


def parse_query(text: str) -> Attempt:
    """One attempt; raises `BadInputError` that shows the part which cannot be read."""
    match = _QUERY.fullmatch(text)
    if match is None:
        raise BadInputError(
            f"cannot read the query `{text}`", hint="write it like `ioctl(TIOCSTI)` or `mount`"
        )
    name = match["name"]
    if name not in syscall_table():
        raise BadInputError(
            f"unknown system call `{name}` in `{text}`", hint="names are as in `man 2 syscalls`"
        )
    words = [word.strip() for word in (match["arguments"] or "").split(",")]
    if words == [""]:
        return Attempt(name)
    if len(words) > ARGUMENTS:
        raise BadInputError(f"`{text}` has {len(words)} arguments", hint=f"a call has at most {ARGUMENTS}")
    return Attempt(
        name, tuple(_bits(text, name, position, word) for position, word in enumerate(words) if word != "_")
    )


def _bits(text: str, name: str, position: int, word: str) -> Bits:
    constant = _CONSTANTS.get(name, {}).get(word)
    if constant:
        return constant.bits()
    if named := _NAMED.fullmatch(word):
        return _named_bits(text, name, named)
    return Bits(position, LOW, _number(text, name, word, LOW))


def _named_bits(text: str, name: str, named: re.Match[str]) -> Bits:
    index = int(named["index"])
    if index >= ARGUMENTS:
        raise BadInputError(f"no argument {index} in `{text}`", hint=f"they are arg0 to arg{ARGUMENTS - 1}")
    wide = named["mask"] or named["operator"] == "=="
    value = _number(text, name, named["value"], WIDE if wide else LOW)
    mask = _number(text, name, named["mask"], WIDE) if named["mask"] else WIDE if wide else LOW
    if value & ~mask:
        raise BadInputError(
            f"`{named[0]}` in `{text}` can never hold", hint="the value has bits outside the mask"
        )
    return Bits(index, mask, value, differ=named["operator"] == "!=")


def _number(text: str, name: str, word: str, most: int) -> int:
    known = _CONSTANTS.get(name, {})
    if word in known:
        return known[word].value
    try:
        value = int(word, 0)
    except ValueError:
        listed = f"a number, or one of {', '.join(known)}" if known else "a number"
        raise BadInputError(f"cannot read `{word}` in `{text}`", hint=listed) from None
    if not 0 <= value <= most:
        raise BadInputError(
            f"`{word}` in `{text}` does not fit", hint=f"from 0 to 0x{most:x}; more with `argN==`"
        )
    return value
