"""The suite judges the real command green, and each planted fault red; no evidence is never a pass."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import wait_until
from holdfast.harness.gate import Judgement, Outcome, judge_all
from holdfast.harness.service import Running, ServiceSpec
from holdfast.harness.suite import Completed
from holdfast.suites import kakeya as under_test
from holdfast.suites.kakeya import GATES, Evidence, ask, ask_vectors, ask_ways, gather, iter_cells, suite
from holdfast.suites.kakeya_samples import OVERLAPS, PAYLOADS, REFUSED, judge_overlaps, judge_payloads
from holdfast.suites.kakeya_spoofing import CELLS, Connection, expected_accepted, judge_matrix, render
from holdfast.suites.kakeya_vectors import judge_vectors

ROOT = Path(__file__).parents[2]
FAULTY = ROOT / "tests" / "systems" / "kakeya" / "planted" / "kakeya_with_fault.py"


@dataclass
class OpenStage:
    """A stage without a sandbox: real processes, nothing around them."""

    folder: Path
    command: tuple[str, ...] | None = None
    isolation: str = "none"

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        seconds: float = 30.0,
    ) -> Completed:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            env=dict(env or {}),
            timeout=seconds,
            check=False,
            cwd=self.folder,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def serve(self, spec: ServiceSpec) -> Iterator[Running]:
        with ExitStack() as stack:
            errors = stack.enter_context((self.folder / "service.stderr").open("w+b"))
            process = subprocess.Popen(spec.argv, stderr=errors, env={}, cwd=spec.cwd)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            said = self.folder / "service.stderr"
            wait_until(
                lambda: f":{spec.port}\n" in said.read_text() or process.poll(),
                what="kakeya listens",
                seconds=30,
            )
            yield Running(spec)


def faulty(folder: Path, fault: str) -> OpenStage:
    return OpenStage(folder, (sys.executable, str(FAULTY), fault))


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The real command, asked everything once."""
    return gather(OpenStage(tmp_path_factory.mktemp("suite")))


def test_every_gate_passes_on_the_real_command(evidence: Evidence) -> None:
    said = judge_all(GATES, evidence)
    assert {name: j.outcome for name, j in said.items()} == dict.fromkeys(said, Outcome.PASS), said
    assert len(said) == 7


def test_the_matrix_is_whole_and_its_rendering_is_the_committed_one(evidence: Evidence) -> None:
    """`HOLDFAST_WRITE_DOCS=1` writes it anew."""
    assert len(evidence.cells) == CELLS == 960
    text, path = render(evidence.cells), ROOT / "docs" / "SPOOFING-MATRIX.md"
    if os.environ.get("HOLDFAST_WRITE_DOCS"):
        path.write_text(text)
    assert path.read_text() == text


def test_no_evidence_is_never_a_pass(evidence: Evidence) -> None:
    nothing = Evidence((), (), (), (), (), (), (), ())
    assert {j.outcome for j in judge_all(GATES, nothing).values()} == {Outcome.CANNOT_TELL}


@pytest.mark.parametrize(
    ("field", "gate"),
    [("answers", "vectors"), ("asked", "vectors"), ("overlaps", "overlap"), ("payloads", "canonical"), ("invalid", "invalid_numbers"),
     ("valid", "invalid_numbers"), ("traffic", "containment"), ("traffic", "p95_gain"), ("cells", "spoofing")],
)  # fmt: skip
def test_evidence_that_is_half_missing_cannot_tell(evidence: Evidence, field: str, gate: str) -> None:
    some: tuple[Any, ...] = getattr(evidence, field)
    lacking = replace(evidence, **{field: some[: len(some) // 5]})
    assert judge_all(GATES, lacking)[gate].outcome is Outcome.CANNOT_TELL


def vectors(stage: OpenStage) -> Judgement:
    return judge_vectors(*ask_vectors(stage))


def overlaps(stage: OpenStage) -> Judgement:
    return judge_overlaps(ask(stage, [s.line for s in OVERLAPS]))


def payloads(stage: OpenStage) -> Judgement:
    return judge_payloads(ask(stage, [s.line for s in (*PAYLOADS, *REFUSED)]))


def ways(name: str) -> Callable[[OpenStage], Judgement]:
    def judged(stage: OpenStage) -> Judgement:
        invalid, valid, traffic = ask_ways(stage, at_most=10_000)
        return judge_all(GATES, Evidence((), (), (), (), invalid, valid, traffic, ()))[name]

    return judged


def cells(stage: OpenStage) -> Judgement:
    return judge_matrix(tuple(iter_cells(stage)))


@pytest.mark.planted
@pytest.mark.parametrize(
    ("fault", "judge", "outcome", "words"),
    [
        ("hash_placeholder", vectors, Outcome.FAIL, "`beta` differs"),
        ("returns_true", vectors, Outcome.FAIL, "was accepted"),
        ("accepts_s_plus_q", vectors, Outcome.FAIL, "s + q (fast): was accepted"),
        ("says_nothing", vectors, Outcome.CANNOT_TELL, "0 answered"),
        ("jaccard_over_lists", overlaps, Outcome.FAIL, "'score': 1.5"),
        ("last_digit_lost", payloads, Outcome.FAIL, "1.234567890"),
        ("says_nothing", payloads, Outcome.CANNOT_TELL, "came back"),
        ("nan_goes_fast", ways("invalid_numbers"), Outcome.FAIL, "nan"),
        ("never_fast", ways("invalid_numbers"), Outcome.CANNOT_TELL, "nothing ever goes fast"),
        ("never_fast", ways("p95_gain"), Outcome.FAIL, "0.0 % lower"),
        ("fast_up_to_a_half", ways("containment"), Outcome.FAIL, "points"),
        ("trusts_x_auth_verified", cells, Outcome.FAIL, "accepted: only x-auth-verified"),
        ("forgets_the_nonces", cells, Outcome.FAIL, "stamp used before"),
        ("trusts_every_peer", cells, Outcome.FAIL, "unknown peer"),
        ("refuses_everybody", cells, Outcome.CANNOT_TELL, "refusals show nothing"),
    ],
)
def test_planted_a_fault_turns_its_gate_red(
    tmp_path: Path, fault: str, judge: Callable[[OpenStage], Judgement], outcome: Outcome, words: str
) -> None:
    said = judge(faulty(tmp_path, fault))
    assert said.outcome is outcome, said
    assert words in " ".join(said.reasons), said


@pytest.mark.planted
def test_planted_skipped_vectors_are_no_pass(evidence: Evidence) -> None:
    """The report that says "complete, 6 of 6" over a skipped test: no questions, no verdict."""
    assert judge_vectors((), ()).outcome is Outcome.CANNOT_TELL
    accepted = tuple(q for q in evidence.asked if q.expected is not None)
    answers = tuple(
        a for q, a in zip(evidence.asked, evidence.answers, strict=True) if q.expected is not None
    )
    assert judge_vectors(accepted, answers).outcome is Outcome.CANNOT_TELL
    assert judge_vectors(evidence.asked, ({},) * len(evidence.asked)).outcome is Outcome.FAIL


def test_a_spoof_let_through_is_named_whatever_else_is_missing(evidence: Evidence) -> None:
    spoof = next(c for c in evidence.cells if not expected_accepted(c.connection, c.form, c.token))
    said = judge_matrix([replace(spoof, status=202)])
    assert said.outcome is Outcome.FAIL
    assert spoof.connection.value in said.reasons[0]


def test_a_server_error_is_neither_refused_nor_accepted(evidence: Evidence) -> None:
    spoof = next(c for c in evidence.cells if c.connection is Connection.TCP)
    broken = tuple(replace(c, status=500) if c is spoof else c for c in evidence.cells)
    assert judge_matrix(broken).outcome is Outcome.CANNOT_TELL


def test_the_suite_is_found_by_its_entry_point() -> None:
    from importlib.metadata import entry_points

    assert entry_points(group="holdfast.suites")["kakeya"].load() is suite
    assert suite.serves
    assert os.getuid() != under_test.STRANGER
