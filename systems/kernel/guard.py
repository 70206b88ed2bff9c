"""The kernel's door: open, check the token, decide, use the token up, log, and only then hand out the file.

    Guard.check(call, peer, token)  ->  Verdict(decision, opened)

One time snapshot is taken when evaluation starts. Deciding and logging either both happen or the call is
refused: a log that cannot take the entry raises, and nothing is handed out.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, final

from holdfast.clock import monotonic
from holdfast.systems.kernel.audit.event import Event, EventType
from holdfast.systems.kernel.audit.log import AuditLog
from holdfast.systems.kernel.decision import Decision, Outcome
from holdfast.systems.kernel.engine import Ask, decide, strictest
from holdfast.systems.kernel.peer import Peer
from holdfast.systems.kernel.policy import Policy
from holdfast.systems.kernel.request import SYSCALLS, Request, RequestError
from holdfast.systems.kernel.resolve import Opened, Resolver
from holdfast.systems.kernel.rules import Vote
from holdfast.systems.kernel.standing import Standing, TokenCheck
from holdfast.systems.kernel.tokens import Claim, Issued, TokenStore

__all__ = ["Call", "Guard", "Verdict", "snapshot_ns"]

BILLION: Final = 1_000_000_000


def snapshot_ns() -> int:
    """The instant that one evaluation is about."""
    return int(monotonic() * BILLION)


@final
@dataclass(frozen=True, slots=True)
class Call:
    """What a caller asks for, as it asked."""

    syscall: str
    caller: str
    paths: tuple[str, ...] = ()
    caller_tag: str | None = None
    state: str | None = None
    mode: str | None = None
    summary: str = ""
    sandbox: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, and what was opened for it: to be used by whoever carries an allowed call out."""

    decision: Decision
    opened: tuple[Opened, ...]
    entry: int
    """The audit entry's id."""


class _Recorder:
    """Asks the extensions, and keeps what they said and how the token stood for each path of a call: all that
    making the decision again needs from outside."""

    def __init__(self, extensions: Sequence[Ask], requests: Sequence[Request]) -> None:
        self.votes: list[list[Vote]] = [[] for _ in requests]
        self.standings: list[Standing | None] = [None for _ in requests]
        self._requests = requests
        self.asks: tuple[Ask, ...] = tuple(self._recording(ask) for ask in extensions)

    def forget(self) -> None:
        """Before the call is decided anew."""
        for votes in self.votes:
            votes.clear()

    def _recording(self, ask: Ask) -> Ask:
        def recording(request: Request, now: int) -> Sequence[Vote]:
            votes = ask(request, now)
            for asked, kept in zip(self._requests, self.votes, strict=True):
                if asked is request:
                    kept.extend(votes)
            return votes

        return recording


@final
class Guard:
    """One policy, one token store, one log. Every method may be called from any thread."""

    def __init__(
        self,
        *,
        policy: Policy,
        resolver: Resolver,
        tokens: TokenStore,
        log: AuditLog,
        extensions: Sequence[Ask] = (),
    ) -> None:
        self.tokens = tokens
        self.log = log
        self._resolver = resolver
        self._extensions = tuple(extensions)
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Decide by `policy` from now on; its document goes into the log first."""
        self.log.remember_policy(policy.digest, policy.document)
        self.policy = policy

    @contextmanager
    def check(self, call: Call, peer: Peer, token: bytes | None = None) -> Iterator[Verdict]:
        """Decide one call; the opened files are closed at the end.

        Raises `RequestError` for a call that is not well-formed, `AuditError` when it could not be logged.
        """
        policy = self.policy
        now = snapshot_ns()
        with ExitStack() as held:
            opened = tuple(held.enter_context(self._resolver.opened(p, call.syscall)) for p in _paths(call))
            requests = [
                Request(call.syscall, call.caller, file.path, call.caller_tag, call.state) for file in opened
            ] or [Request(call.syscall, call.caller, None, call.caller_tag, call.state)]
            recorder = _Recorder(self._extensions, requests)
            checks = [] if token is None else [self.tokens.check(token, r, peer, now) for r in requests]
            decision = self._decide(requests, checks, policy, now, recorder)
            entry = self._log(call, requests, decision, recorder, now)
            yield Verdict(decision, opened if decision.outcome is Outcome.ALLOW else (), entry)

    def _decide(
        self,
        requests: Sequence[Request],
        checks: Sequence[TokenCheck],
        policy: Policy,
        now: int,
        recorder: _Recorder,
    ) -> Decision:
        """The strictest decision over the call's paths; an allowed call takes one use of its token."""
        recorder.standings = [check.standing for check in checks] or [None for _ in requests]
        decisions = [
            decide(request, policy, now, check, extensions=recorder.asks)
            for request, check in zip_longest(requests, checks)
        ]
        decision = strictest(decisions)
        valid = [check for check in checks if check.standing is Standing.VALID]
        if not valid or decision.outcome is not Outcome.ALLOW or self.tokens.use(valid[0]):
            return decision
        # Another thread took the last use between check and use: this call is one too many.
        lost = [TokenCheck(Standing.EXHAUSTED, request, now, valid[0].token_id) for request in requests]
        recorder.forget()
        return self._decide(requests, lost, policy, now, recorder)

    def issue(self, connection_peer: Peer, claim: Claim, caller: str) -> Issued:
        """A token, logged on disk before it leaves; raises `IssueRefusedError`, `AuditError`."""
        issued = self.tokens.issue(
            connection_peer, claim, self.policy, snapshot_ns(), extensions=self._extensions
        )
        details = {"container": connection_peer.container, "pid": connection_peer.pid, "uses": claim.uses}
        event = Event(
            EventType.CAPABILITY_ISSUED, caller, claim.syscall, token=issued.id.hex(), state=claim.state,
            metadata={**details, "globs": None if claim.globs is None else list(claim.globs)},
        )  # fmt: skip
        try:
            self.log.append(event)
        except BaseException:
            self.tokens.revoke(issued.id)
            raise
        return issued

    def expire(self) -> int:
        """Evict expired tokens and log each; how many."""
        gone = self.tokens.evict(snapshot_ns())
        for token_id in gone:
            self.log.append(Event(EventType.CAPABILITY_EXPIRED, "kernel", token=token_id.hex()))
        return len(gone)

    def _log(
        self, call: Call, requests: Sequence[Request], decision: Decision, recorder: _Recorder, now: int
    ) -> int:
        return self.log.append(
            Event(
                EventType.SYSCALL,
                call.caller,
                call.syscall,
                decision=decision.outcome.value,
                rules=decision.rules,
                reasons=decision.reasons,
                mode=call.mode,
                state=call.state,
                summary=call.summary,
                sandbox=call.sandbox,
                duration_us=(snapshot_ns() - now) // 1000,
                metadata=_inputs(call, requests, decision, recorder),
            )
        )


def _paths(call: Call) -> tuple[str, ...]:
    expected = SYSCALLS.get(call.syscall)
    if expected is not None and len(call.paths) != expected:
        raise RequestError(f"`{call.syscall}` names {expected} paths; {len(call.paths)} were given")
    return () if expected is None else call.paths


def _inputs(
    call: Call, requests: Sequence[Request], decision: Decision, recorder: _Recorder
) -> Mapping[str, Any]:
    """All that `redecide` needs beside the policy's document, which the log keeps under its digest."""
    inputs: dict[str, Any] = {
        "caller_tag": call.caller_tag,
        "now": str(decision.now),
        "phase": decision.phase.value,
        "policy": decision.policy,
        "token": None if decision.token is None else decision.token.value,
    }
    for number, (request, said) in enumerate(zip(requests, recorder.votes, strict=True)):
        standing = recorder.standings[number]
        inputs[f"token{number}"] = None if standing is None else standing.value
        if said:
            inputs[f"votes{number}"] = [[v.rule, v.action.value, v.reason] for v in said]
        if request.path is not None:
            inputs[f"path{number}"] = request.path.text
            inputs[f"workspace{number}"] = request.path.workspace
    if decision.limits:
        inputs["limits"] = dict(decision.limits)
    return inputs
