"""What foreign launchers are known to do differently, with the reason. Strict: one that no longer shows fails."""

from collections.abc import Mapping

__all__ = ["DEVIATIONS"]

FIRST = "the command is process 1 of its namespace, where a signal from inside that has no handler is not delivered"

DEVIATIONS: Mapping[str, Mapping[str, str]] = {
    "firejail": {"forwarded-signal": "a SIGTERM ends firejail, which kills what runs inside"},
    "docker": {"death-by-signal": FIRST},
    "podman": {"death-by-signal": FIRST},
    "runc": {"death-by-signal": FIRST},
    "crun": {"death-by-signal": FIRST},
    "systemd-nspawn": {
        "death-by-signal": FIRST,
        "forwarded-signal": "a SIGTERM ends the container; nothing is passed on to what runs inside",
    },
    "srt": {"forwarded-signal": "a SIGTERM ends srt, with status 0, and nothing is passed on"},
    "codex": {"forwarded-signal": "a SIGTERM ends codex, and what runs inside dies with it"},
}
