"""The guard: one snapshot, one decision, one entry, one use; and policy updates through their one door."""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.systems.kernel.audit.event import EventType
from holdfast.systems.kernel.audit.log import AuditLog
from holdfast.systems.kernel.audit.read import iter_entries
from holdfast.systems.kernel.audit.redecide import redecide
from holdfast.systems.kernel.audit.store import AuditError
from holdfast.systems.kernel.builtin_rules import Protected, builtin_rules
from holdfast.systems.kernel.decision import Outcome, Phase
from holdfast.systems.kernel.engine import Ask
from holdfast.systems.kernel.guard import Call, Guard
from holdfast.systems.kernel.loader import PolicyFileError, load_rules
from holdfast.systems.kernel.meta_policy import (
    Proposal,
    UpdateRefusedError,
    apply_update,
    audited_calls,
    propose_update,
)
from holdfast.systems.kernel.peer import Peer
from holdfast.systems.kernel.policy import compile_policy
from holdfast.systems.kernel.request import Request, RequestError
from holdfast.systems.kernel.resolve import Resolver
from holdfast.systems.kernel.rules import Action, Match, Rule, Source, Vote
from holdfast.systems.kernel.standing import Standing
from holdfast.systems.kernel.tokens import Claim, IssueRefusedError, TokenStore
from tests.systems.kernel.audit_tools import Bench

PEER = Peer("mnt:1", 100, 7)
POLICY = """capabilities:
- {name: sources, match: {syscall: [fs.read, fs.write, fs.rename], path_glob: ["src/**"]}, action: allow, constraints: {max_size: 1MiB}}
- {name: keys, match: {syscall: "*", path_glob: ["**/*.pem"]}, action: deny, reason: keys stay}
- {name: tools, match: {syscall: [tool.execute, net.connect]}, action: allow}
"""


class House:
    """Everything of one kernel in one folder."""

    def __init__(self, root: Path, extensions: Sequence[Ask] = ()) -> None:
        (root / "work" / "src").mkdir(parents=True)
        (root / "own").mkdir()
        for name in ("a.py", "b.py", "k.pem"):
            (root / "work" / "src" / name).write_text(name)
        self.bench = Bench(root / "own")
        self.file = root / "own" / "policy.yaml"
        self.file.write_text(POLICY)
        protected = Protected(self.file, self.bench.path, root / "own" / "state.db")
        self.log: AuditLog = self.bench.open()
        self.guard = Guard(
            policy=compile_policy((*builtin_rules(protected), *load_rules(POLICY, "policy.yaml").rules)),
            resolver=Resolver(root / "work", protected.files()),
            tokens=TokenStore(str(root / "work")),
            log=self.log,
            extensions=extensions,
        )

    def decide(self, syscall: str, *paths: str, token: bytes | None = None) -> tuple[Outcome, Phase, int]:
        with self.guard.check(Call(syscall, "agent", paths, summary=" ".join(paths)), PEER, token) as verdict:
            return verdict.decision.outcome, verdict.decision.phase, len(verdict.opened)

    def entries(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [entry.body for entry in iter_entries(self.bench.path)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.log.close()


def test_an_allowed_call_gets_the_opened_file_and_a_denied_one_nothing(house: House) -> None:
    with house.guard.check(Call("fs.read", "agent", ("src/../src/a.py",)), PEER) as verdict:
        assert verdict.decision.limits == (("max_size", 1 << 20),)
        with open(f"/proc/self/fd/{verdict.opened[0].fd}") as file:  # noqa: PTH123 - by its descriptor
            assert file.read() == "a.py"
        held = verdict.opened[0].fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)
    assert house.decide("fs.read", "src/k.pem") == (Outcome.DENY, Phase.YAML, 0)


def test_each_decision_is_one_entry_with_what_determined_it(house: House) -> None:
    house.decide("fs.read", "src/a.py")
    house.decide("fs.read", "src/k.pem")
    house.decide("fs.write", str(house.file))
    house.decide("fs.format")
    calls = [e for e in house.entries() if e["event"] == "syscall"]
    assert [(c["decision"], c["rules"], c["reasons"]) for c in calls] == [
        ("allow", ["sources"], ["rule `sources` says allow"]),
        ("deny", ["keys"], ["keys stay"]),
        ("deny", ["protect-meta-policy"], ["the policy changes only by policy.update"]),
        ("deny", [], ["`fs.format` is not a known syscall"]),
    ]


def test_a_call_on_two_paths_needs_both(house: House) -> None:
    assert house.decide("fs.rename", "src/a.py", "src/c.py") == (Outcome.ALLOW, Phase.YAML, 2)
    assert house.decide("fs.rename", "src/a.py", str(house.file))[0] is Outcome.DENY
    assert house.decide("fs.rename", str(house.file), "src/c.py")[0] is Outcome.DENY
    with pytest.raises(RequestError, match="names 2 paths"):
        house.decide("fs.rename", "src/a.py")


def test_a_token_is_issued_logged_used_once_and_then_evaluated_in_full(house: House) -> None:
    issued = house.guard.issue(PEER, Claim("fs.read", ("src/a.py",)), "agent")
    assert house.decide("fs.read", "src/a.py", token=issued.sealed)[:2] == (Outcome.ALLOW, Phase.TOKEN)
    assert house.decide("fs.read", "src/a.py", token=issued.sealed)[:2] == (Outcome.ALLOW, Phase.YAML)
    bodies = house.entries()
    assert bodies[1]["event"] == "capability_issued"
    assert bodies[1]["token"] == issued.id.hex()
    assert [b["metadata"]["token"] for b in bodies[2:]] == ["valid", "exhausted"]
    written = b"".join(path.read_bytes() for path in house.bench.folder.glob("audit.db*"))
    assert issued.sealed[-32:] not in written
    assert issued.sealed.hex().encode() not in written


def test_a_review_takes_no_use(house: House) -> None:
    """The policy changes after the token was issued: a built-in asks for a review now, and later not again."""
    issued = house.guard.issue(PEER, Claim("tool.execute", None), "agent")
    before = house.guard.policy
    asks = Rule("asks", Match(), Action.REVIEW, source=Source.BUILTIN)
    house.guard.adopt(compile_policy((asks, *before.rules)))
    for _ in range(3):
        assert house.decide("tool.execute", token=issued.sealed)[:2] == (Outcome.REVIEW, Phase.BUILTIN)
    house.guard.adopt(before)
    assert house.decide("tool.execute", token=issued.sealed)[:2] == (Outcome.ALLOW, Phase.TOKEN)
    assert house.decide("tool.execute", token=issued.sealed)[:2] == (Outcome.ALLOW, Phase.YAML)


def test_no_token_is_issued_for_what_the_policy_refuses(house: House) -> None:
    for globs in (("src/k.pem",), ("src/**",), ("/etc/passwd",)):
        with pytest.raises(IssueRefusedError):
            house.guard.issue(PEER, Claim("fs.read", globs), "agent")
    assert "capability_issued" not in {body["event"] for body in house.entries()}


def test_of_many_threads_with_one_token_one_is_let_through_by_it(house: House) -> None:
    issued = house.guard.issue(PEER, Claim("net.connect", None), "agent")
    gate, phases = threading.Barrier(8), []

    def work() -> None:
        gate.wait()
        phases.append(house.decide("net.connect", token=issued.sealed)[1])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(phase.value for phase in phases) == ["token"] + ["yaml"] * 7


def test_expired_tokens_are_evicted_and_logged(house: House) -> None:
    house.guard.issue(PEER, Claim("net.connect", None, life=1), "agent")
    assert house.guard.expire() == 1
    assert house.entries()[-1]["event"] == "capability_expired"
    assert len(house.guard.tokens) == 0


def test_when_the_log_cannot_take_the_entry_nothing_is_handed_out(house: House) -> None:
    house.log.options = replace(house.log.options, security=frozenset(EventType))
    house.log._connection.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(house.bench.path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditError, match="locked"):
            house.decide("fs.read", "src/a.py")
        with pytest.raises(AuditError):
            house.guard.issue(PEER, Claim("net.connect", None), "agent")


# -- deciding again ---------------------------------------------------------------------------------


def test_every_decision_in_a_log_can_be_made_again(tmp_path: Path) -> None:
    def ask(request: Request, now: int) -> list[Vote]:
        return [
            Vote(
                "ext/v",
                Action.REVIEW if "b.py" in str(request.path) else Action.ALLOW,
                f"at {now}",
                Phase.EXTENSION,
            )
        ]

    house = House(tmp_path, [ask])
    for paths in (("src/a.py",), ("src/b.py",), ("src/k.pem",)):
        house.decide("fs.read", *paths)
    house.decide("fs.rename", "src/a.py", "src/z.py")
    house.decide("tool.execute")
    house.decide("fs.format")
    issued = house.guard.issue(PEER, Claim("tool.execute", None), "agent")
    house.decide("tool.execute", token=issued.sealed)
    house.decide("tool.execute", token=issued.sealed)
    house.log.close()
    tally = redecide(house.bench.path)
    assert (tally.decisions, tally.differences) == (8, ())


def test_a_call_on_two_paths_is_made_again_with_what_was_said_of_each(tmp_path: Path) -> None:
    def ask(request: Request, now: int) -> list[Vote]:
        allows = request.path is not None and request.path.text.endswith("x.py")
        return [Vote("ext/x", Action.ALLOW, "x may move", Phase.EXTENSION)] if allows else []

    house = House(tmp_path, [ask])
    (tmp_path / "work" / "x.py").write_text("x")
    assert house.decide("fs.rename", "x.py", "elsewhere.py")[0] is Outcome.DENY
    assert house.decide("fs.rename", "x.py", "src/y.py")[0] is Outcome.ALLOW
    issued = house.guard.issue(PEER, Claim("fs.rename", (str(tmp_path / "work" / "src" / "a.py"),)), "agent")
    assert house.decide("fs.rename", "src/a.py", "x.py", token=issued.sealed)[0] is Outcome.ALLOW
    assert house.decide("fs.rename", "src/a.py", "elsewhere.py", token=issued.sealed)[0] is Outcome.DENY
    house.log.close()
    tally = redecide(house.bench.path)
    assert (tally.decisions, tally.differences) == (4, ())


@pytest.mark.planted
@pytest.mark.parametrize(
    "change",
    ["UPDATE entries SET body = replace(body, '\"decision\":\"deny\"', '\"decision\":\"allow\"')",
     "UPDATE entries SET body = replace(body, 'keys stay', 'keys go')",
     "UPDATE policies SET text = replace(text, 'deny', 'allow')",
     "DELETE FROM policies",
     "UPDATE entries SET body = replace(body, 'k.pem', 'k.txt')"],
)  # fmt: skip
def test_planted_a_decision_that_is_not_what_the_policy_says_is_reported(house: House, change: str) -> None:
    house.decide("fs.read", "src/k.pem")
    house.log.close()
    assert redecide(house.bench.path).differences == ()
    with house.bench.raw() as db:
        db.execute(change)
    assert len(redecide(house.bench.path).differences) == 1


# -- policy.update ----------------------------------------------------------------------------------

NARROW = POLICY.replace('path_glob: ["src/**"]', 'path_glob: ["src/a.py"]')


def proposed(house: House, text: str, calls: Sequence[str]) -> Proposal:
    for path in calls:
        house.decide("fs.read", path)
    house.log.flush()
    return propose_update(text, house.file, house.guard.policy, audited_calls(house.bench.path))


def test_an_update_shows_only_changed_outcomes_and_marks_what_breaks(house: House) -> None:
    proposal = proposed(
        house, NARROW.replace("action: deny", "action: require_review"), ["src/a.py", "src/b.py", "src/k.pem"]
    )
    assert [str(change) for change in proposal.changes] == [
        "BREAKING entry 3: fs.read allow -> deny",
        "entry 4: fs.read deny -> require_review",
    ]
    assert proposal.phrase is None


def test_an_update_is_reviewed_logged_on_disk_and_replaces_the_file_whole(house: House) -> None:
    proposal = propose_update(NARROW, house.file, house.guard.policy, [])
    with pytest.raises(UpdateRefusedError, match="always reviewed"):
        apply_update(proposal, house.file, house.guard, reviewer="")
    assert house.file.read_text() == POLICY
    entry = apply_update(proposal, house.file, house.guard, reviewer="alice")
    assert house.file.read_text() == NARROW
    (logged,) = [e for e in iter_entries(house.bench.path) if e.id == entry]
    assert (logged.body["event"], logged.body["caller"]) == ("policy_update", "alice")
    assert house.decide("fs.read", "src/b.py")[0] is Outcome.DENY
    assert [p.name for p in house.file.parent.glob(".policy*")] == []
    assert redecide(house.bench.path).differences == ()


def test_more_than_five_breaking_calls_need_the_phrase(house: House) -> None:
    proposal = proposed(house, NARROW, ["src/b.py"] * 6)
    assert proposal.phrase == "break 6 calls"
    for phrase in (None, "", "yes", "break 5 calls"):
        with pytest.raises(UpdateRefusedError, match="type `break 6 calls`"):
            apply_update(proposal, house.file, house.guard, reviewer="alice", phrase=phrase)
    assert apply_update(proposal, house.file, house.guard, reviewer="alice", phrase="break 6 calls")


def test_five_breaking_calls_need_none_and_only_the_last_hundred_are_replayed(house: House) -> None:
    for _ in range(3):
        house.decide("fs.read", "src/b.py")
    proposal = proposed(house, NARROW, ["src/a.py"] * 95 + ["src/b.py"] * 5)
    assert (proposal.replayed, len(proposal.changes), proposal.phrase) == (100, 5, None)


def test_an_update_against_a_file_that_changed_meanwhile_is_refused(house: House) -> None:
    proposal = propose_update(NARROW, house.file, house.guard.policy, [])
    house.file.write_text(POLICY + "\n")
    with pytest.raises(UpdateRefusedError, match="changed since"):
        apply_update(proposal, house.file, house.guard, reviewer="alice")


def test_a_policy_that_does_not_load_changes_nothing_and_builtins_cannot_be_proposed_away(
    house: House,
) -> None:
    with pytest.raises(PolicyFileError):
        propose_update("capabilities: 3", house.file, house.guard.policy, [])
    proposal = propose_update("", house.file, house.guard.policy, [])
    apply_update(proposal, house.file, house.guard, reviewer="alice")
    assert house.decide("fs.write", str(house.file))[1] is Phase.BUILTIN
    assert house.decide("fs.read", "src/a.py")[1] is Phase.DEFAULT


def test_an_update_that_cannot_be_logged_does_not_happen(house: House) -> None:
    before = house.guard.policy.digest
    proposal = propose_update(NARROW, house.file, house.guard.policy, [])
    house.log._connection.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(house.bench.path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditError):
            apply_update(proposal, house.file, house.guard, reviewer="alice")
    assert house.file.read_text() == POLICY
    assert house.guard.policy.digest == before


def test_a_bad_token_is_full_evaluation_not_an_error(house: House) -> None:
    for junk in (b"", b"x" * 500, bytes(32)):
        with house.guard.check(Call("tool.execute", "agent"), PEER, junk) as verdict:
            assert verdict.decision.token is Standing.BAD_SIGNATURE
            assert verdict.decision.outcome is Outcome.ALLOW
