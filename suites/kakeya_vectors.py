"""The VRF vectors as questions to `kakeya batch`, and the verdict on its answers.

    questions() -> tuple[Question, ...]  --batch-->  answers  -> judge_vectors

Each question carries what a right implementation says; half of them must be refused, so that one which
accepts everything, or one which refuses everything, is seen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, final

from holdfast.harness.gate import Judgement, cannot_tell, failed, passed

__all__ = ["Question", "judge_vectors", "questions"]

Q = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19
IMPLEMENTATIONS = ("fast", "plain")
PROVED = {
    "H": "h",
    "k_string": "k_string",
    "k_mod_q_le": "k",
    "U": "u",
    "V": "v",
    "beta": "beta",
    "pi": "pi",
    "try_and_increment_ctr": "counter",
}
VERIFIED = {"H": "h", "U": "u", "V": "v", "beta": "beta", "try_and_increment_ctr": "counter"}
FEWEST = 60
"""Questions below which the set itself is suspect: 3 examples, 2 edges, 5 keys and the near misses, twice."""


@final
@dataclass(frozen=True, slots=True)
class Question:
    """One line for `kakeya batch`, and the values that its answer must hold; None: it must be refused."""

    name: str
    line: Mapping[str, Any]
    expected: Mapping[str, Any] | None


def questions() -> tuple[Question, ...]:
    """All of them, each to both implementations."""
    text = files("holdfast.systems.kakeya").joinpath("vectors/ecvrf-tai-rfc9381.json").read_text("utf-8")
    vectors: dict[str, Any] = json.loads(text)
    bare = [*_examples(vectors), *_edges(vectors), *_near_misses(vectors["examples"][0])]
    return tuple(
        Question(f"{q.name} ({w})", {**q.line, "with": w}, q.expected) for q in bare for w in IMPLEMENTATIONS
    )


def judge_vectors(asked: Sequence[Question], answers: Sequence[Mapping[str, Any]]) -> Judgement:
    """Every intermediate right and every near miss refused; fewer answers than questions cannot tell."""
    refusals = sum(q.expected is None for q in asked)
    if len(asked) < FEWEST or not 0 < refusals < len(asked):
        return cannot_tell(
            f"{len(asked)} vectors were asked, {refusals} of them to be refused; at least {FEWEST} are due"
        )
    if len(answers) != len(asked):
        return cannot_tell(f"{len(asked)} vectors were asked, {len(answers)} answered")
    wrong = [f"{q.name}: {why}" for q, a in zip(asked, answers, strict=True) if (why := _fault(q, a))]
    if wrong:
        return failed(*wrong[:5], f"{len(wrong)} of {len(asked)} vectors in all")
    return passed(f"{len(asked)} vectors, {len(asked) - refusals} with every value right, {refusals} refused")


def _fault(question: Question, answer: Mapping[str, Any]) -> str:
    if question.expected is None:
        return "" if "error" in answer else "was accepted"
    if "error" in answer:
        return f"was refused: {answer['error']}"
    return ", ".join(
        f"`{name}` differs" for name, value in question.expected.items() if answer.get(name) != value
    )


def _examples(vectors: Mapping[str, Any]) -> list[Question]:
    found = []
    for row in vectors["examples"]:
        name = f"example {row['example']}"
        prove = {"op": "vrf.prove", "secret_key": row["SK"], "alpha": row["alpha"]}
        found.append(Question(f"{name}, prove", prove, {PROVED[k]: row[k] for k in PROVED}))
        verify = _verify(row["PK"], row["alpha"], row["pi"])
        found.append(Question(f"{name}, verify", verify, {VERIFIED[k]: row[k] for k in VERIFIED}))
    return found


def _edges(vectors: Mapping[str, Any]) -> list[Question]:
    small, torsion = vectors["edge"]
    alpha = small["alpha_ascii"].encode().hex()
    keys = vectors["small_order_public_keys_to_reject"]
    return [
        Question(
            "torsion in Gamma",
            _verify(torsion["PK"], torsion["alpha"], torsion["pi"]),
            {"beta": torsion["beta"]},
        ),
        Question(
            "small order, unchecked", {**_verify(small["PK"], alpha, small["pi"]), "validate_key": False}, {}
        ),
        *(Question(f"small-order key {k[:8]}", _verify(k, alpha, small["pi"]), None) for k in keys),
    ]


def _near_misses(row: Mapping[str, str]) -> list[Question]:
    """One step from a valid proof, in each part."""
    key, alpha, pi = row["PK"], row["alpha"], row["pi"]
    raw = bytes.fromhex(pi)
    plus_q = (int.from_bytes(raw[48:], "little") + Q).to_bytes(32, "little")
    big_y = P.to_bytes(32, "little").hex()
    proofs = {
        "s + q": (raw[:48] + plus_q).hex(),
        "79 bytes": pi[:-2],
        "81 bytes": pi + "00",
        "Gamma with y = p": big_y + pi[64:],
        **{f"bit {bit} flipped": _flipped(raw, bit) for bit in range(3, 640, 49)},
    }
    return [
        *(Question(name, _verify(key, alpha, proof), None) for name, proof in proofs.items()),
        Question("another input", _verify(key, "00", pi), None),
        Question(
            "another key",
            _verify("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", alpha, pi),
            None,
        ),
        Question("key with y = p", _verify(big_y, alpha, pi), None),
    ]


def _flipped(raw: bytes, bit: int) -> str:
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return changed.hex()


def _verify(key: str, alpha: str, proof: str) -> dict[str, Any]:
    return {"op": "vrf.verify", "public_key": key, "alpha": alpha, "proof": proof}
