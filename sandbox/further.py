"""Further arguments of bwrap from a person: a string -> words, with those that loosen told apart.

    --hostname quiet --tmpfs /srv      taken: nothing inside gets more by it
    --share-net, --bind / /            taken only by who says that a weaker sandbox is meant
    --seccomp 5, --, somecommand       never: they would put something in place of what the plan says

The grammar is bwrap's own (bwrap(1)): an option, then as many values as it takes. Options that are not in
the table are refused, since nobody can say what they do.
"""

import shlex
from dataclasses import dataclass
from typing import final

from holdfast.sandbox.refusal import BadInputError

__all__ = ["Further", "parse_further"]

_HARMLESS = {
    "unshare-all": 0, "unshare-user": 0, "unshare-user-try": 0, "unshare-ipc": 0, "unshare-pid": 0,
    "unshare-net": 0, "unshare-uts": 0, "unshare-cgroup": 0, "unshare-cgroup-try": 0, "disable-userns": 0,
    "assert-userns-disabled": 0, "new-session": 0, "die-with-parent": 0, "as-pid-1": 0, "hostname": 1,
    "cap-drop": 1, "unsetenv": 1, "tmpfs": 1, "remount-ro": 1, "size": 1,
}  # fmt: skip
"""Option, without its dashes -> how many values it takes."""
_LOOSENING = {
    "share-net": 0, "cap-add": 1, "bind": 2, "bind-try": 2, "dev-bind": 2, "dev-bind-try": 2, "ro-bind": 2,
    "ro-bind-try": 2, "dev": 1, "proc": 1, "mqueue": 1, "symlink": 2, "dir": 1, "setenv": 2, "uid": 1,
    "gid": 1, "perms": 1, "chmod": 2, "chdir": 1,
}  # fmt: skip
"""More of the host, more rights, or other words for the program: each may be meant, and none goes unseen."""


@final
@dataclass(frozen=True, slots=True)
class Further:
    """Checked arguments."""

    words: tuple[str, ...] = ()
    weaker: tuple[str, ...] = ()
    """The loosening ones among them, each option with its values as one text; for every record of the run."""


def parse_further(text: str, *, source: str, allow_weaker: bool) -> Further:
    """Split as a shell would; raises `BadInputError` naming `source` for what is not taken."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadInputError(f"`{source}` cannot be split as a shell would: {str(error).lower()}") from None
    weaker = []
    at = 0
    while at < len(words):
        name = words[at].removeprefix("--")
        known = words[at].startswith("--") and (name in _HARMLESS or name in _LOOSENING)
        if not known:
            raise BadInputError(
                f"`{source}`: `{words[at]}` is no option of bwrap that can be added to a sandbox",
                hint="bwrap(1) lists them; descriptors, filters and commands are not taken",
            )
        end = at + 1 + _HARMLESS.get(name, _LOOSENING.get(name, 0))
        if end > len(words):
            raise BadInputError(f"`{source}`: `{words[at]}` lacks a value")
        if name in _LOOSENING:
            weaker.append(" ".join(words[at:end]))
        at = end
    if weaker and not allow_weaker:
        raise BadInputError(
            f"`{source}`: `{weaker[0]}` loosens the sandbox", hint="leave it out, or give --allow-weaker"
        )
    return Further(tuple(words), tuple(weaker))
