"""The gate `identity` looks at the filters' bytes too: equal counts of filters do not make equal filters."""

import os
import sys
from pathlib import Path

import pytest

from holdfast.harness.gate import Gate, Outcome, passed
from holdfast.harness.identity import COMPARED, NAMESPACES, Observed, Sight, judge_identity
from holdfast.harness.service import ServiceSpec, free_port
from holdfast.harness.suite import Stage, Suite
from holdfast.sandbox import Isolation, Plan
from holdfast.sandbox.plan import Filter
from tests.running import run

OURS, OTHER = b"ours....", b"other..."
FACTS = dict.fromkeys(COMPARED, "1") | {"Seccomp": "2"} | dict.fromkeys(NAMESPACES.values(), "own")
HOST = dict.fromkeys(COMPARED, "0") | dict.fromkeys(NAMESPACES.values(), "own")


def sight(
    agent: tuple[tuple[bytes, ...], ...], service: tuple[tuple[bytes, ...], ...], unread: str = ""
) -> Sight:
    filters = {} if unread else {7: agent, 8: service}
    plan = Plan(Isolation.SECCOMP, (Filter("p", OURS),))
    inside = (FACTS,)
    return Sight(
        Observed(1, "harness", (HOST,)),
        Observed(7, "agent", inside),
        (Observed(8, "service", inside),),
        plan,
        (),
        filters,
        unread,
    )


def test_the_same_bytes_pass_and_are_said_to_be_the_same() -> None:
    judgement = judge_identity(sight(((OURS,),), ((OURS,),)))
    assert judgement.outcome is Outcome.PASS
    assert "byte for byte" in judgement.reasons[0]


@pytest.mark.planted
@pytest.mark.parametrize(
    ("agent", "service", "said"),
    [
        (((OURS,),), ((OTHER,),), "the service process service is under other filters"),
        (((OURS,),), ((OURS,), (OTHER,)), "the service process service is under other filters"),
        (((OURS,),), ((OURS, OTHER),), "the service process service is under other filters"),
        (((OURS,),), (), "the service process service is under other filters"),
        (((OTHER,),), ((OTHER,),), "another filter than the one that was handed over"),
        ((), (), "another filter than the one that was handed over"),
    ],
    ids=["other", "one-thread", "one-more", "none", "not-the-plans", "no-stack"],
)
def test_other_bytes_fail_though_every_count_agrees(
    agent: tuple[tuple[bytes, ...], ...], service: tuple[tuple[bytes, ...], ...], said: str
) -> None:
    judgement = judge_identity(sight(agent, service))
    assert judgement.outcome is Outcome.FAIL
    assert said in judgement.reasons[0]


def test_filters_that_stay_hidden_are_said_to_be_uncompared() -> None:
    judgement = judge_identity(sight((), (), unread="may not trace"))
    assert judgement.outcome is Outcome.PASS
    assert "could not be compared: may not trace" in judgement.reasons[0]


LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True: server.accept()[0].close()
"""


def listening_suite() -> Suite[None]:
    def gather(stage: Stage) -> None:
        port = free_port()
        with stage.serve(ServiceSpec((sys.executable, "-I", "-S", "-c", LISTEN, str(port)), "/", port)):
            return

    return Suite("listens", "listens", gather, (Gate("up", "up", lambda _: passed("yes")),), serves=True)


@pytest.mark.skipif(os.getuid() != 0, reason="the kernel hands filters out to CAP_SYS_ADMIN only")
def test_a_real_service_under_both_isolations_has_the_agents_filter(tmp_path: Path) -> None:
    concluded = run(tmp_path, Isolation.SECCOMP, Isolation.BWRAP, suites=(listening_suite(),))
    assert concluded.overall["identity"].outcome is Outcome.PASS
    assert "seccomp, bwrap" in concluded.overall["identity"].reasons[0]
    assert "byte for byte" in concluded.overall["identity"].reasons[0]
