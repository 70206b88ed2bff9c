"""Every gate of every suite under each isolation; ids read as sentences, verdicts are JUnit properties."""

from collections.abc import Callable

import pytest

from holdfast.harness.acceptance import Case, judged, require_pass
from holdfast.harness.run_id import Run


@pytest.mark.acceptance
def test_acceptance(
    acceptance_case: Case,
    run_of_session: Run,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
) -> None:
    case = acceptance_case
    judgement = judged(case, pytestconfig.getoption("acceptance_results") / run_of_session.id, run_of_session)
    for name in ("suite", "isolation", "gate"):
        record_property(name, getattr(case, name))
    record_property("verdict", judgement.outcome.value)
    record_property("reasons", "\n".join(judgement.reasons))
    require_pass(judgement)
