"""An extension that does as it is told: for `agent-kernel policy test`, where rules meet one.

    standin.py '[{"rule": ..., "action": ..., "reason": ...}]' | crash | timeout | garbage | flood

Stdlib only, and run as a file, so that it starts in a few milliseconds.
"""

import json
import signal
import sys

TOLD = sys.argv[1] if len(sys.argv) > 1 else "[]"


def answer(line: str) -> str | None:
    """What to write for one request; None to say nothing."""
    asked = json.loads(line)
    match TOLD:
        case "crash":
            raise SystemExit(3)
        case "timeout":
            return None
        case "garbage":
            return "{not json"
        case "flood":
            return '"' + "x" * 200_000 + '"'
        case votes:
            return json.dumps({"id": asked["id"], "votes": json.loads(votes)})


def main() -> None:
    """Be ready, then answer line by line until the input ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
    for line in sys.stdin:
        if (text := answer(line)) is not None:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
