"""The suite of the verification controls: asked from outside, inside each isolation, and judged on the answers.

    gather(stage)   `kakeya batch` for vectors and decisions, `kakeya serve` for the spoofing matrix -> Evidence
    GATES           pure

Another implementation can take kakeya's place: the command need only know `batch` and `serve`.
"""

import json
import math
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, final

from holdfast.clock import utc_now, wait_until
from holdfast.harness.gate import Gate, Judgement, cannot_tell, failed, passed
from holdfast.harness.service import ServiceSpec, free_port
from holdfast.harness.suite import Stage, Suite
from holdfast.suites.kakeya_samples import OVERLAPS, PAYLOADS, REFUSED, judge_overlaps, judge_payloads
from holdfast.suites.kakeya_spoofing import Cell, Connection, drive, judge_matrix
from holdfast.suites.kakeya_vectors import Question, judge_vectors, questions
from holdfast.systems.kakeya.quickstart import Client, lay_out, open_client
from holdfast.systems.kakeya.simulation import Request, committed, iter_requests

__all__ = ["GATES", "Evidence", "Routed", "ask", "ask_vectors", "ask_ways", "gather", "iter_cells", "suite"]

GAIN_PERCENT = (25.0, 40.0)
CONTAINMENT_POINTS = 0.5
FEWEST_REQUESTS = 10_000
STRANGER = 4_294_900_000
"""A user id that nobody has, and certainly not the harness."""

NAN, INF = math.nan, math.inf
INVALID = (
    (NAN, NAN, NAN), (NAN, 0.0, 0.01), (0.01, NAN, 0.02), (0.01, 0.0, NAN), (-INF, -INF, -INF), (-INF, 0.0, 0.01),
    (0.01, -INF, 0.02), (0.01, 0.0, INF), (-0.01, -0.02, 0.0), (0.01, -0.01, 0.02), (0.01, 0.02, 0.03),
    (0.05, 0.01, 0.04), (0.01, 0.02, 0.0), (0.05, 0.05, 1.5), (-1e-9, -1e-9, -1e-9), (0.0, 0.0, -1e-9),
)  # fmt: skip
"""Estimates that are none; many a comparison with them is false, which opens a path that is written carelessly."""
VALID_FAST = ((0.0, 0.0, 0.0), (0.05, 0.04, 0.06), (0.0999, 0.09, 0.11))


@final
@dataclass(frozen=True, slots=True)
class Routed:
    """One request of the committed traffic, and the way that the system under test sent it."""

    request: Request
    path: str


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What one isolation's system answered."""

    asked: tuple[Question, ...]
    answers: tuple[Mapping[str, Any], ...]
    overlaps: tuple[Mapping[str, Any], ...]
    payloads: tuple[Mapping[str, Any], ...]
    invalid: tuple[str, ...]
    """The path of each of `INVALID`."""
    valid: tuple[str, ...]
    """The path of each of `VALID_FAST`: the control, without which "never fast" shows nothing."""
    traffic: tuple[Routed, ...]
    cells: tuple[Cell, ...]


def gather(stage: Stage) -> Evidence:
    """Everything the gates need."""
    asked, answers = ask_vectors(stage)
    samples = ask(stage, [s.line for s in (*OVERLAPS, *PAYLOADS, *REFUSED)])
    invalid, valid, traffic = ask_ways(stage)
    return Evidence(
        asked=asked,
        answers=answers,
        overlaps=samples[: len(OVERLAPS)],
        payloads=samples[len(OVERLAPS) :],
        invalid=invalid,
        valid=valid,
        traffic=traffic,
        cells=tuple(iter_cells(stage)),
    )


def ask_vectors(stage: Stage) -> tuple[tuple[Question, ...], tuple[Mapping[str, Any], ...]]:
    """The VRF's questions and answers."""
    asked = questions()
    return asked, ask(stage, [q.line for q in asked])


def ask_ways(
    stage: Stage, *, at_most: int | None = None
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Routed, ...]]:
    """The paths of estimates that are none, of estimates that are fast, and of the committed traffic, or its start."""
    requests = tuple(islice(iter_requests(committed()[0]), at_most))
    estimates = [(r.estimate.risk, r.estimate.low, r.estimate.high) for r in requests]
    answers = ask(stage, [_route(e) for e in (*INVALID, *VALID_FAST, *estimates)])
    paths = tuple(str(a.get("path")) for a in answers)
    split = len(INVALID) + len(VALID_FAST)
    routed = tuple(Routed(r, p) for r, p in zip(requests, paths[split:], strict=False))
    return paths[: len(INVALID)], paths[len(INVALID) : split], routed


def _route(estimate: tuple[float, float, float]) -> dict[str, Any]:
    return {"op": "route", **dict(zip(("risk", "low", "high"), estimate, strict=True))}


def ask(stage: Stage, lines: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """`kakeya batch`: the answers, in order; none at all when the command fails, which the gates then cannot tell from."""
    text = "\n".join(json.dumps(line) for line in lines).encode()
    done = stage.run([*_command(stage), "batch"], stdin=text, seconds=120)
    return tuple(json.loads(line) for line in done.stdout.splitlines()) if done.status == 0 else ()


def _command(stage: Stage) -> tuple[str, ...]:
    return stage.command or (str(Path(sys.executable).with_name("kakeya")),)


# -- the spoofing matrix ------------------------------------------------------------------------------


def iter_cells(stage: Stage) -> Iterator[Cell]:
    """A service beside the probes to whom our peer is a stranger; then one to whom it is the gateway."""
    folder = stage.folder / "stranger"
    client = _lay_out(folder, peer=STRANGER)
    spec = _spec(stage, folder)
    with stage.serve(spec):
        yield from drive(folder / "k.sock", client, [Connection.UNIX_STRANGER])
        over_tcp = [c for c in Connection if c not in {Connection.UNIX_STRANGER, Connection.UNIX_GATEWAY}]
        yield from drive(spec.port, client, over_tcp)
    folder = stage.folder / "gateway"
    client = _lay_out(folder, peer=os.getuid())
    with _served_on_the_side(stage, folder):
        yield from drive(folder / "k.sock", client, [Connection.UNIX_GATEWAY])


def _lay_out(folder: Path, *, peer: int) -> Client:
    lay_out(folder, peer_uids=(peer,))
    return open_client(folder, lambda: utc_now().timestamp())


def _arguments(stage: Stage, folder: Path) -> tuple[str, ...]:
    paths = (
        "--policy",
        str(folder / "policy.json"),
        "--data",
        str(folder / "data"),
        "--unix",
        str(folder / "k.sock"),
    )
    return (*_command(stage), "serve", *paths)


def _spec(stage: Stage, folder: Path) -> ServiceSpec:
    port = free_port()
    argv = (*_arguments(stage, folder), "--port", str(port))
    return ServiceSpec(argv, str(folder), port, ready_url=f"http://127.0.0.1:{port}/readyz")


@contextmanager
def _served_on_the_side(stage: Stage, folder: Path) -> Iterator[None]:
    """A one-shot command that is a service, until its lifeline is let go."""
    lifeline = folder / "lifeline.sock"
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(lifeline))
        listener.listen()
        listener.settimeout(30)
        argv = (*_arguments(stage, folder), "--lifeline", str(lifeline))
        running = pool.submit(stage.run, argv, seconds=120)
        held, _ = listener.accept()
        with held:
            wait_until((folder / "k.sock").is_socket, what="kakeya's socket", seconds=15)
            yield
        running.result()


# -- gates --------------------------------------------------------------------------------------------


def judge_invalid(evidence: Evidence) -> Judgement:
    """No estimate that is none goes the fast way, while sane ones do."""
    if fast := [e for e, path in zip(INVALID, evidence.invalid, strict=False) if path == "fast"]:
        return failed(
            *(f"the fast path was taken on {e}" for e in fast[:5]), f"{len(fast)} of {len(INVALID)}"
        )
    if len(evidence.invalid) != len(INVALID) or set(evidence.invalid) - {"standard"}:
        return cannot_tell(
            f"the paths were {Counter(evidence.invalid)}, for {len(INVALID)} invalid estimates"
        )
    if evidence.valid != ("fast",) * len(VALID_FAST):
        return cannot_tell(
            f"sane, low, narrow estimates went {Counter(evidence.valid)}: nothing ever goes fast here"
        )
    return passed(
        f"{len(INVALID)} invalid estimates went the standard way, {len(VALID_FAST)} sane ones the fast"
    )


def judge_containment(evidence: Evidence) -> Judgement:
    """Of all answers, the share that is good or held back: canary within half a point of control."""
    if lacking := _lacking(evidence.traffic):
        return lacking
    total = len(evidence.traffic)
    control = sum(not r.request.bad or r.request.caught for r in evidence.traffic) / total
    canary = (
        sum(not r.request.bad or (r.request.caught and r.path != "fast") for r in evidence.traffic) / total
    )
    delta = 100 * (canary - control)
    words = f"containment {100 * canary:.2f} % against {100 * control:.2f} %, {delta:+.2f} points, over {total} requests"
    return passed(words) if abs(delta) <= CONTAINMENT_POINTS else failed(words)


def judge_gain(evidence: Evidence) -> Judgement:
    """The canary's p95 is 25 to 40 % below the control's, on the committed distributions."""
    if lacking := _lacking(evidence.traffic):
        return lacking
    gain = gain_percent(evidence.traffic)
    low, high = GAIN_PERCENT
    words = f"p95 {gain:.1f} % lower than control over {len(evidence.traffic)} simulated requests (promised: {low:g} to {high:g})"
    return passed(words) if low <= gain <= high else failed(words)


def gain_percent(traffic: Sequence[Routed]) -> float:
    """How much lower the canary's p95 is."""
    control = _p95([r.request.base_ms + r.request.ensemble_ms for r in traffic])
    canary = _p95([r.request.base_ms + (0 if r.path == "fast" else r.request.ensemble_ms) for r in traffic])
    return 100 * (1 - canary / control)


def _lacking(traffic: Sequence[Routed]) -> Judgement | None:
    if len(traffic) < FEWEST_REQUESTS:
        return cannot_tell(f"{len(traffic)} requests were routed; {FEWEST_REQUESTS} are due")
    if odd := {r.path for r in traffic} - {"fast", "standard"}:
        return cannot_tell(f"paths that are none: {sorted(odd)}")
    return None


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


GATES: tuple[Gate[Evidence], ...] = (
    Gate(
        "vectors",
        "the VRF reproduces RFC 9381's vectors and refuses what is near them",
        lambda e: judge_vectors(e.asked, e.answers),
    ),
    Gate(
        "spoofing",
        "no request without an authenticated gateway's stamp is accepted",
        lambda e: judge_matrix(e.cells),
    ),
    Gate(
        "overlap",
        "grounding overlap is Jaccard's index on sets, within 0..1",
        lambda e: judge_overlaps(e.overlaps),
    ),
    Gate("canonical", "the signed bytes are the golden ones", lambda e: judge_payloads(e.payloads)),
    Gate("invalid_numbers", "the fast path is never taken on invalid numbers", judge_invalid),
    Gate("containment", "risk routing keeps containment within half a point", judge_containment),
    Gate("p95_gain", "risk routing lowers p95 by 25 to 40 %", judge_gain),
)


def _details(evidence: Evidence) -> Mapping[str, Any]:
    return {
        "vectors": len(evidence.asked),
        "spoofing_cells": len(evidence.cells),
        "requests": len(evidence.traffic),
        "fast_share": sum(r.path == "fast" for r in evidence.traffic) / max(1, len(evidence.traffic)),
    }


suite: Suite[Evidence] = Suite(
    name="kakeya",
    title="Verification controls",
    gather=gather,
    gates=GATES,
    serves=True,
    details=_details,
)
