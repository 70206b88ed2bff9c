"""Grounding overlap and canonical bytes, as a few questions whose answers were worked out by hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from holdfast.harness.gate import Judgement, cannot_tell, failed, passed

__all__ = ["OVERLAPS", "PAYLOADS", "REFUSED", "Sample", "judge_overlaps", "judge_payloads"]


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """One line for `kakeya batch`, and what its answer must hold."""

    line: Mapping[str, Any]
    expected: Mapping[str, Any]


def _overlap(answer: str, source: str, score: float, **policy: Any) -> Sample:
    return Sample({"op": "overlap", "answer": answer, "source": source, "policy": policy}, {"score": score})


OVERLAPS = (
    _overlap("", "", 1.0),
    _overlap("", "pump", 0.0),
    _overlap("pump", "Pump!", 1.0),
    _overlap("x y x y x y", "x y", 0.5),
    _overlap("x y", "x y x y x y", 0.5),
    _overlap("x x x x x", "x x", 1.0),
    _overlap("red green blue", "red green black", 1 / 3),
    _overlap("Stra\u00dfe \u0130stanbul", "STRASSE istanbul", 1.0),
    _overlap("caf\u00e9 ol\u00e9", "cafe\u0301, ole\u0301", 1.0),
    _overlap("the of and", "is it a", 0.0),
    _overlap("valve is not safe", "valve is safe", 0.0),
    _overlap("one two three", "one two four", 0.5, shingle_size=1),
)


def _payload(field: str, text: str, written: str) -> Sample:
    fields = {"D_hat": "1.25", "coh_star": "0.5", "r": "0.125", "budget": "1", field: text}
    body = (
        f'{{"pcs_id":"{"0" * 64}","merkle_root":"{"ab" * 32}","epoch":9007199254740993,"shard_id":"\u00e9",'
        + ",".join(f'"{name}":{value}' for name, value in fields.items())
        + f',"sig":"{"A" * 43}="}}'
    )
    nine = {
        "D_hat": "1.250000000",
        "coh_star": "0.500000000",
        "r": "0.125000000",
        "budget": "1.000000000",
        field: written,
    }
    payload = (
        f'{{"D_hat":{nine["D_hat"]},"budget":{nine["budget"]},"coh_star":{nine["coh_star"]},"epoch":9007199254740993,'
        f'"merkle_root":"{"ab" * 32}","pcs_id":"{"0" * 64}","r":{nine["r"]},"shard_id":"\u00e9"}}'
    )
    return Sample({"op": "pcs.sign", "body": body, "key": "00" * 32}, {"payload": payload})


PAYLOADS = (
    _payload("D_hat", "1.23456789", "1.234567890"),
    _payload("D_hat", "-0.0", "0.000000000"),
    _payload("r", "1e-10", "0.000000000"),
    _payload("r", "0.0009765625", "0.000976562"),
    _payload("budget", "1e16", "10000000000000000.000000000"),
    _payload("coh_star", "3", "3.000000000"),
)
REFUSED = (
    Sample({"op": "pcs.sign", "body": json.dumps({"D_hat": float("nan")}), "key": "00" * 32}, {}),
    Sample(
        {"op": "pcs.sign", "body": PAYLOADS[0].line["body"].replace("1.23456789", "1e999"), "key": "00" * 32},
        {},
    ),
)


def judge_overlaps(answers: Sequence[Mapping[str, Any]]) -> Judgement:
    """Every index as worked out by hand, and within 0..1."""
    return _judge("overlaps", OVERLAPS, answers)


def judge_payloads(answers: Sequence[Mapping[str, Any]]) -> Judgement:
    """Every payload to the byte, and nothing signed that has no canonical form."""
    taken = [str(a) for a in answers[len(PAYLOADS) :] if "error" not in a]
    if taken:
        return failed(f"signed although it has no canonical form: {taken[0][:120]}")
    if len(answers) != len(PAYLOADS) + len(REFUSED):
        return cannot_tell(f"{len(answers)} payloads of {len(PAYLOADS) + len(REFUSED)} came back")
    return _judge("payloads", PAYLOADS, answers[: len(PAYLOADS)])


def _judge(what: str, samples: Sequence[Sample], answers: Sequence[Mapping[str, Any]]) -> Judgement:
    if len(answers) != len(samples):
        return cannot_tell(f"{len(answers)} {what} of {len(samples)} came back")
    wrong = [
        f"{a} where {s.expected} is right"
        for s, a in zip(samples, answers, strict=True)
        if not s.expected.items() <= a.items()
    ]
    return (
        failed(*wrong[:3], f"{len(wrong)} of {len(samples)} {what}")
        if wrong
        else passed(f"{len(samples)} {what} as worked out by hand")
    )
