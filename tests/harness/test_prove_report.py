"""A report over several stacks: the worst word wins, and each stack is shown."""

import json

from rich.console import Console

from holdfast.harness.prove_report import Report, exit_code, render_json, render_table
from holdfast.sandbox.bpf.abi import Abi
from holdfast.sandbox.bpf.action import ALLOW
from holdfast.sandbox.bpf.call import Call
from holdfast.sandbox.bpf.proof import Counterexample, Proof, Verdict
from holdfast.sandbox.bpf.source import Subject

ABIS = (Abi.X86_64,)
PROVEN = Proof(Verdict.PROVEN, "no input passes", 1, (), ((Abi.X86_64, Verdict.PROVEN),))
FOUND = Counterexample(Abi.X86_64, Call(Abi.X86_64.arch, 165, (1, 2, 3, 4, 5, 6)), ALLOW)
REFUTED = Proof(Verdict.COUNTEREXAMPLE, "mount", 2, (FOUND, FOUND), ((Abi.X86_64, Verdict.COUNTEREXAMPLE),))
UNSURE = Proof(Verdict.CANNOT_TELL, "gave up [bold]here", 1, (), ((Abi.X86_64, Verdict.CANNOT_TELL),))

REPORT = Report(
    Subject("pid:7", ((bytes(8),), (bytes(8), bytes(16)))),
    ABIS,
    ({"mount.classic": PROVEN, "bpf.cmd": PROVEN}, {"mount.classic": REFUTED, "bpf.cmd": UNSURE}),
)


def test_one_thread_that_may_is_a_process_that_may() -> None:
    assert REPORT.verdicts == {"mount.classic": Verdict.COUNTEREXAMPLE, "bpf.cmd": Verdict.CANNOT_TELL}
    assert exit_code(tuple(REPORT.verdicts.values())) == 1


def test_the_json_keeps_stacks_apart() -> None:
    document = json.loads(render_json(REPORT))
    first, second = document["stacks"]
    assert [f["instructions"] for f in second["filters"]] == [1, 2]
    assert first["acts"]["mount.classic"]["verdict"] == "proven"
    assert second["acts"]["mount.classic"]["counterexamples"][0]["args"] == [
        "0x1",
        "0x2",
        "0x3",
        "0x4",
        "0x5",
        "0x6",
    ]
    assert document["acts"]["mount.classic"] == "counterexample"


def test_the_table_shows_registers_and_reasons_as_they_are() -> None:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(render_table(REPORT))
    shown = captured.get()
    assert "pid:7: 1; 1 + 2 instructions" in shown
    assert "x86_64 mount(0x1, 0x2, 0x3, 0x4, 0x5, 0x6) -> ALLOW, replay not_run (and 1 more)" in shown
    assert "gave up [bold]here" in shown
    assert "stack 2" in shown
