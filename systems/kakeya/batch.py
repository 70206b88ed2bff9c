"""JSON lines in, JSON lines out: the controls for scripts, for other languages, and for the suite that judges.

Each line is an object with `op`; each answer is one line in the same order, with what was asked for or with
`error` and `field`. A line that cannot be read does not stop the others.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from holdfast.systems.kakeya.ecvrf import InvalidProofError, Trace, fast, plain
from holdfast.systems.kakeya.grounding import RagPolicy, overlap
from holdfast.systems.kakeya.pcs import BadFieldError, canonical, parse_body, sign
from holdfast.systems.kakeya.routing.decision import Estimate, RiskPolicy, decide

__all__ = ["OPERATIONS", "run_batch"]

_IMPLEMENTATIONS = {"fast": fast, "plain": plain}


def run_batch(lines: Iterable[bytes]) -> Iterator[str]:
    """One answer a line; empty lines are skipped."""
    for line in lines:
        if line.strip():
            yield json.dumps(_answer(line), separators=(",", ":"))


def _answer(line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        return OPERATIONS[asked["op"]](asked)
    except InvalidProofError as error:
        return {"error": str(error), "field": error.field}
    except BadFieldError as error:
        return {"error": error.why, "field": error.field}
    except KeyError as error:
        return {"error": "is missing, or names no operation", "field": str(error.args[0])[:40]}
    except (ValueError, TypeError, RecursionError) as error:
        return {"error": str(error)[:120], "field": "line"}


def _prove(asked: Mapping[str, Any]) -> dict[str, Any]:
    trace = _IMPLEMENTATIONS[asked.get("with", "fast")].trace_proving(
        _hex(asked, "secret_key"), _hex(asked, "alpha")
    )
    return _words(trace)


def _verify(asked: Mapping[str, Any]) -> dict[str, Any]:
    trace = _IMPLEMENTATIONS[asked.get("with", "fast")].trace_verifying(
        _hex(asked, "public_key"),
        _hex(asked, "alpha"),
        _hex(asked, "proof"),
        validate_key=asked.get("validate_key", True) is not False,
    )
    return _words(trace)


def _overlap(asked: Mapping[str, Any]) -> dict[str, Any]:
    found = overlap(str(asked["answer"]), str(asked["source"]), RagPolicy(**asked.get("policy", {})))
    return {"score": found.score, "shared": found.shared, "total": found.total, "grounded": found.grounded}


def _route(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers here may be NaN and Infinity, which Python's JSON reads: the decision must cope with them."""
    policy = RiskPolicy(**{"enabled": True, **asked.get("policy", {})})
    estimate = Estimate(*(float(asked[name]) for name in ("risk", "low", "high")))
    decision = decide(policy, estimate)
    return {"path": decision.path.value, "reason": decision.reason.value}


def _sign(asked: Mapping[str, Any]) -> dict[str, Any]:
    """`body` is the text of a submission; its own `sig` is not looked at."""
    payload = canonical(parse_body(str(asked["body"]).encode("utf-8", "surrogatepass")).pcs)
    return {"payload": payload.decode(), "signature": sign(_hex(asked, "key"), payload)}


def _hex(asked: Mapping[str, Any], name: str) -> bytes:
    return bytes.fromhex(str(asked[name]))


def _words(trace: Trace) -> dict[str, Any]:
    return {
        name: value.hex() if isinstance(value, bytes) else value
        for name in Trace.__slots__
        if (value := getattr(trace, name)) != b""
    }


OPERATIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "vrf.prove": _prove,
    "vrf.verify": _verify,
    "overlap": _overlap,
    "route": _route,
    "pcs.sign": _sign,
}
