"""Faults planted in the sandbox and the harness's own parts: each turns the right gate red, and the report names it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.harness.gate import Gate, Outcome, passed, worst
from holdfast.harness.service import ServiceSpec, free_port
from holdfast.harness.suite import Stage, Suite
from holdfast.sandbox import Isolation, Plan
from holdfast.sandbox.plan import Execute, Filter, NewSession
from tests.running import edited_profile, record, report_of, run

pytestmark = pytest.mark.planted

BWRAP, SECCOMP = Isolation.BWRAP, Isolation.SECCOMP

ROWS = {
    "test_a_filter_that_is_not_loaded_is_a_breach": (
        "the filter is not loaded",
        "denials",
        "ptrace_keyctl is breached by ptrace/",
    ),
    "test_two_ne_rules_on_ioctl_let_every_request_through": (
        "two NE rules on ioctl",
        "denials",
        "tiocsti is breached by tty.sti/reach/low-bits",
    ),
    "test_no_new_session_and_any_ioctl_types_into_the_terminal_outside": (
        "no new session, and any ioctl allowed",
        "denials",
        "tiocsti is breached by",
    ),
    "test_any_ioctl_alone_is_found_by_reach_while_the_effect_stays_held": (
        "any ioctl allowed",
        "denials",
        "tty.sti/reach/low-bits/x86_64 is breached",
    ),
    "test_a_filter_that_allows_mount_is_a_breach": (
        "the filter allows mount",
        "denials",
        "mount is breached by mount.classic/reach/mount",
    ),
    "test_an_agent_that_ends_at_once_leaves_nothing_held": (
        "the agent ends at once",
        "denials",
        "the agent is lost",
    ),
    "test_a_missing_agent_file_leaves_nothing_held": (
        "the agent's file is missing",
        "denials",
        "can't open file",
    ),
    "test_an_agent_that_reports_denial_for_everything_is_seen_through_by_the_control": (
        "the agent reports denial for everything",
        "denials",
        "is vacuous (denied EPERM / denied EPERM)",
    ),
    "test_an_agent_that_reports_success_for_everything_is_a_breach_never_a_pass": (
        "the agent reports success for everything",
        "denials",
        "is breached by",
    ),
    "test_an_empty_probe_list_cannot_tell": (
        "an empty probe list",
        "denials",
        "no probe was run for mount, unshare, perf_bpf, ptrace_keyctl, tiocsti",
    ),
    "test_a_family_without_probes_cannot_tell": (
        "a family without probes",
        "denials",
        "no probe was run for mount",
    ),
    "test_a_service_outside_the_sandbox_fails_identity_though_every_probe_is_held": (
        "the service is not confined though the probes are",
        "identity",
        "the agent beside it",
    ),
}
"""By test: the fault, the gate and the sentence, as docs/PLANTED-FAULTS.md shows them."""


@pytest.fixture(autouse=True)
def row_of_the_table(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    if row := ROWS.get(request.node.originalname):
        ids = getattr(request.node, "callspec", None)
        fault = f"{row[0]} ({ids.id})" if ids else row[0]
        record(record_property, subject="sandbox", fault=fault, gate=row[1], says=row[2])


def without(*kinds: type[Any]) -> Callable[[Plan], Plan]:
    return lambda plan: plan.without(*kinds)


def any_ioctl(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [rule for rule in rules if "ioctl" not in rule["names"]]
    return [*kept, {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"}]


def two_ne_rules(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [rule for rule in rules if "ioctl" not in rule["names"]]
    return kept + [
        {
            "names": ["ioctl"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 1, "value": request, "op": "SCMP_CMP_NE"}],
        }
        for request in (0x5412, 0x541C)
    ]


def with_mount(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rules, {"names": ["mount"], "action": "SCMP_ACT_ALLOW"}]


def test_the_sound_sandbox_passes_so_that_the_faults_below_mean_something(tmp_path: Path) -> None:
    concluded = run(tmp_path, Isolation.NONE, SECCOMP, BWRAP)
    assert concluded.code == 0, concluded.overall
    assert all(j.outcome is Outcome.PASS for j in concluded.overall.values())


@pytest.mark.parametrize("isolation", [SECCOMP, BWRAP], ids=lambda i: i.value)
def test_a_filter_that_is_not_loaded_is_a_breach(isolation: Isolation, tmp_path: Path) -> None:
    concluded = run(tmp_path, isolation, alter={isolation: without(Filter)})
    assert concluded.code == 1
    assert concluded.overall["denials"].outcome is Outcome.FAIL
    assert f"{isolation.value}: ptrace_keyctl is breached by ptrace/" in report_of(concluded)
    assert "suggested toggles" in report_of(concluded).lower()


def test_two_ne_rules_on_ioctl_let_every_request_through(tmp_path: Path) -> None:
    concluded = run(tmp_path, SECCOMP, profile=edited_profile("standard", two_ne_rules))
    assert concluded.code == 1
    assert "tiocsti is breached by tty.sti/reach/low-bits" in report_of(concluded)


def test_no_new_session_and_any_ioctl_types_into_the_terminal_outside(tmp_path: Path) -> None:
    concluded = run(
        tmp_path, BWRAP, profile=edited_profile("standard", any_ioctl), alter={BWRAP: without(NewSession)}
    )
    assert concluded.code == 1
    report = report_of(concluded)
    assert "tiocsti is breached by" in report
    assert "bwrap: tty.sti/effect/fd-0-low/x86_64 is breached (reached / reached)" in report


def test_any_ioctl_alone_is_found_by_reach_while_the_effect_stays_held(tmp_path: Path) -> None:
    """The new session still stops the effect; the filter's hole shows all the same."""
    concluded = run(tmp_path, BWRAP, profile=edited_profile("standard", any_ioctl))
    report = report_of(concluded)
    assert "tty.sti/reach/low-bits/x86_64 is breached" in report
    assert "tty.sti/effect/fd-0-low/x86_64 is breached" not in report


def test_a_filter_that_allows_mount_is_a_breach(tmp_path: Path) -> None:
    concluded = run(tmp_path, SECCOMP, profile=edited_profile("standard", with_mount))
    assert concluded.code == 1
    assert "mount is breached by mount.classic/reach/mount" in report_of(concluded)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('the agent gave up')", "the agent gave up"),
        ("print('{}')", "it ended"),
        ("", "it ended"),
    ],
    ids=["crashes", "prints-on-stdout", "does-nothing"],
)
def test_an_agent_that_ends_at_once_leaves_nothing_held(script: str, said: str, tmp_path: Path) -> None:
    agent = tmp_path / "agent.py"
    agent.write_text(script)
    concluded = run(tmp_path, BWRAP, agent=agent)
    assert concluded.code == 2
    report = report_of(concluded)
    assert "the agent is lost" in report
    assert said in report
    assert "cannot tell 0/13" in report
    assert "| held 1" not in report


def test_a_missing_agent_file_leaves_nothing_held(tmp_path: Path) -> None:
    concluded = run(tmp_path, SECCOMP, BWRAP, agent=tmp_path / "no-agent.py")
    assert concluded.code == 2
    assert concluded.overall["denials"].outcome is Outcome.CANNOT_TELL
    assert "can't open file" in report_of(concluded)


LIAR = """
import json, os, socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
control.send(json.dumps({"hello": {"status": {}, "namespaces": {}}}).encode())
while message := control.recv(65536):
    wish = json.loads(message)
    answer = {"ended": "errno", "errno": 1} if wish["do"] == "probe" else {"ended": "reached"}
    control.send(json.dumps({"id": "x", "elapsed_us": 1, **answer, "id": wish.get("id", "x")}).encode())
"""


def test_an_agent_that_reports_denial_for_everything_is_seen_through_by_the_control(tmp_path: Path) -> None:
    """It says EPERM without a sandbox too, so nothing it says inside counts."""
    agent = tmp_path / "liar.py"
    agent.write_text(LIAR)
    concluded = run(tmp_path, SECCOMP, agent=agent)
    assert concluded.code == 2
    assert "is vacuous (denied EPERM / denied EPERM)" in report_of(concluded)


def test_an_agent_that_reports_success_for_everything_is_a_breach_never_a_pass(tmp_path: Path) -> None:
    agent = tmp_path / "boaster.py"
    agent.write_text(LIAR.replace('"errno", "errno": 1}', '"reached", "evidence": "done"}'))
    concluded = run(tmp_path, SECCOMP, agent=agent)
    assert concluded.code == 1
    assert "is breached by" in report_of(concluded)


def test_an_empty_probe_list_cannot_tell(tmp_path: Path) -> None:
    concluded = run(tmp_path, Isolation.NONE, SECCOMP, BWRAP, probes=())
    assert concluded.code == 2
    assert "no probe was run for mount, unshare, perf_bpf, ptrace_keyctl, tiocsti" in report_of(concluded)


def test_a_family_without_probes_cannot_tell(tmp_path: Path) -> None:
    from holdfast.sandbox.probes import all_probes

    kept = tuple(probe for probe in all_probes() if probe.family != "mount")
    concluded = run(tmp_path, BWRAP, probes=kept)
    assert concluded.code == 2
    assert "no probe was run for mount" in report_of(concluded)


@contextmanager
def listening_outside(port: int) -> Iterator[None]:
    """A service on the port, in this very process: outside of any sandbox."""
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(0.1)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def impostor_suite() -> Suite[None]:
    """The command inside only sleeps; what listens on its port was started outside."""

    def gather(stage: Stage) -> None:
        port = free_port()
        spec = ServiceSpec(("/bin/sleep", "60"), "/", port)
        with listening_outside(port), stage.serve(spec):
            return

    return Suite(
        "impostor",
        "impostor",
        gather,
        (Gate("reached", "it was reached", lambda _: passed("yes")),),
        serves=True,
    )


@pytest.mark.parametrize("isolation", [SECCOMP, BWRAP], ids=lambda i: i.value)
def test_a_service_outside_the_sandbox_fails_identity_though_every_probe_is_held(
    isolation: Isolation, tmp_path: Path
) -> None:
    concluded = run(tmp_path, isolation, suites=(impostor_suite(),))
    assert concluded.overall["denials"].outcome is Outcome.PASS
    assert concluded.overall["identity"].outcome is Outcome.FAIL
    assert concluded.code == 1
    assert "the agent beside it" in report_of(concluded)


def ignoring_arguments(plan: Plan) -> Plan:
    """A launcher that ignores all that it is told but the command itself."""
    return plan.without(*{type(op) for op in plan.ops if not isinstance(op, Execute)})


def test_a_launcher_that_ignores_its_arguments_confines_nothing_and_that_is_seen(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    says = "mount is breached by"
    record(
        record_property,
        subject="sandbox",
        fault="the launcher ignores its arguments",
        gate="denials",
        says=says,
    )
    concluded = run(tmp_path, SECCOMP, alter={SECCOMP: ignoring_arguments})
    assert concluded.code == 1
    assert says in report_of(concluded)


def test_a_run_of_zero_requests_cannot_tell(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The proxy's own gates over a run in which nobody asked anything."""
    from holdfast.suites.ccp import GATES, Evidence, Secrets

    nothing = Evidence(
        (), {"anthropic": (), "zai": ()}, {"anthropic": (), "zai": ()}, {}, (), 0, (), (), Secrets.fresh()
    )
    outcomes = {gate.name: gate.judge(nothing).outcome for gate in GATES}
    record(
        record_property, subject="evidence", fault="zero requests", gate="all of ccp's", says="cannot tell"
    )
    assert Outcome.PASS not in outcomes.values(), outcomes


def test_a_run_of_zero_gates_cannot_tell(record_property: Callable[[str, object], None]) -> None:
    record(record_property, subject="evidence", fault="zero gates", gate="(none)", says="no gate was judged")
    judgement = worst([])
    assert judgement.outcome is Outcome.CANNOT_TELL
    assert judgement.reasons == ("no gate was judged",)
