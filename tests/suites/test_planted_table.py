"""The table of planted faults is of this suite, and names none that lived."""

from pathlib import Path

from tests.suites.test_planted_proxies import FAULTS


def test_the_table_in_the_docs_names_each_fault_as_killed() -> None:
    """It is rendered from a run (`make planted`); a fault that is added shows here until it was."""
    table = (Path(__file__).parents[2] / "docs" / "PLANTED-FAULTS.md").read_text().replace("\\", "")
    rows = {line.split("|")[2].strip(): line for line in table.splitlines() if line.startswith("| proxy |")}
    assert set(FAULTS) <= set(rows)
    assert [fault for fault, line in rows.items() if not line.endswith("| yes |")] == []
