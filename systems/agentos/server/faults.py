"""What goes wrong on purpose: a script of words, used up request by request, and then all is well.

    500  429  503:SECONDS     answer that status (503 with Retry-After)
    html                      200 with a web page
    short                     an answer cut in the middle
    slow:SECONDS              wait, then serve
    stall                     read the request and never answer
    reset                     break the connection before anything is stored
    lost                      store, then break the connection: the client sends a replay
    late                      break the connection, and store only after the next request: out of order
    large                     413
    deny                      401
    drop                      answer for one row less than was sent

A word with `*N` behind it stands there N times: `500*3,lost`.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import final

from holdfast.systems.agentos.errors import BadInputError

__all__ = ["Fault", "FaultKind", "FaultScript", "parse_faults"]


@final
class FaultKind(Enum):
    """The words."""

    STATUS_500 = "500"
    STATUS_429 = "429"
    STATUS_503 = "503"
    HTML = "html"
    SHORT = "short"
    SLOW = "slow"
    STALL = "stall"
    RESET = "reset"
    LOST = "lost"
    LATE = "late"
    LARGE = "large"
    DENY = "deny"
    DROP = "drop"


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """One word, with its seconds where it has them."""

    kind: FaultKind
    seconds: float = 0.0


FaultScript = deque[Fault]


def parse_faults(text: str) -> FaultScript:
    """Read a script; an empty text is an empty script."""
    script: FaultScript = deque()
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, times = word.partition("*")
        kind, _, seconds = name.partition(":")
        try:
            script.extend([Fault(FaultKind(kind), float(seconds or 0))] * int(times or 1))
        except ValueError:
            words = ", ".join(one.value for one in FaultKind)
            raise BadInputError(f"there is no fault `{word[:80]}`; there are: {words}") from None
    return script
