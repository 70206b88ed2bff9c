"""Gates know three words, and nothing at all is never a pass."""

import pytest

from holdfast.harness.gate import Gate, Judgement, Outcome, cannot_tell, failed, judge_all, passed, worst

GOOD, BAD, UNCLEAR = passed("good"), failed("bad"), cannot_tell("unclear")


@pytest.mark.parametrize(
    ("judgements", "expected"),
    [
        ([], Outcome.CANNOT_TELL),
        ([GOOD], Outcome.PASS),
        ([GOOD, UNCLEAR], Outcome.CANNOT_TELL),
        ([UNCLEAR, BAD, GOOD], Outcome.FAIL),
        ([GOOD, GOOD], Outcome.PASS),
    ],
    ids=["nothing", "one-pass", "one-doubt", "one-failure", "all-pass"],
)
def test_a_combination_is_as_good_as_its_worst_part(judgements: list[Judgement], expected: Outcome) -> None:
    assert worst(judgements).outcome is expected


def test_a_combination_keeps_the_reasons_of_what_decided_it() -> None:
    assert worst([GOOD, BAD, failed("worse")]).reasons == ("bad", "worse")


def test_a_judgement_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="without a reason"):
        passed()


def test_a_gate_that_raises_is_our_own_fault_and_not_swallowed() -> None:
    def broken(_: int) -> Judgement:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judge_all([Gate("g", "c", broken)], 1)
