"""One submission from raw bytes to an answer; the module that does what `judge` decides.

bytes -> inbox -> parse -> genuine? -> VRF -> way --logged--> ensemble -> first write? -> 202 | 401 | 409 | 400
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from holdfast.systems.kakeya.dedup import DedupStore, open_store
from holdfast.systems.kakeya.identity import Identity, IdentityRefusedError
from holdfast.systems.kakeya.pcs import BadFieldError, Body, parse_body
from holdfast.systems.kakeya.policy import Mode, Policy, Tenant
from holdfast.systems.kakeya.routing.canary import in_canary
from holdfast.systems.kakeya.routing.decision import Decision
from holdfast.systems.kakeya.routing.decision import Path as Way
from holdfast.systems.kakeya.routing.rollout import Arm, Rollout
from holdfast.systems.kakeya.routing.worm import WormLog
from holdfast.systems.kakeya.service.inbox import Inbox
from holdfast.systems.kakeya.service.judge import (
    Ensemble,
    RefusedError,
    VrfOutcome,
    check_genuine,
    judge_vrf,
    route,
    run_ensemble,
)
from holdfast.systems.kakeya.service.metrics import Metrics
from holdfast.systems.kakeya.service.rollouts import Rollouts

__all__ = ["Answer", "Engine", "Pending"]


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON body."""

    status: int
    body: dict[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Pending:
    """Judged and accepted, unless the store says that it came before."""

    tenant: Tenant
    body: Body
    decision: Decision
    ensemble: Ensemble | None
    key: str
    record: dict[str, Any]


@final
class Engine:
    """Everything with state: inbox, decision log, first writes, rollouts, metrics. One a process.

    `now` is the wall clock in seconds since the epoch. Not for several threads at once, but for `settle`'s store.
    """

    def __init__(self, policy: Callable[[], Policy], data: Path, now: Callable[[], float]) -> None:
        self._policy, self._now = policy, now
        self.metrics = Metrics()
        self._inbox = Inbox(data / "inbox")
        self._log = WormLog(data / "decisions")
        self.store: DedupStore = open_store(policy().dedup, data)
        self._rollouts = Rollouts(data / "rollouts.json", self._on_step)

    def close(self) -> None:
        """Let go of every file."""
        self._inbox.close()
        self._log.close()
        self.store.close()

    def judge(self, raw: bytes, identity: Identity, token: str | None) -> Answer | Pending:
        """Everything up to the store: a refusal, or what is to be settled."""
        self._inbox.append(raw)
        try:
            return self._judge(raw, identity, token)
        except BadFieldError as error:
            return Answer(400, {"error": "bad_request", "field": error.field, "detail": error.why})
        except RefusedError as error:
            return Answer(401, {"error": "unauthorized", "reason": error.reason, "field": error.field})

    def _judge(self, raw: bytes, identity: Identity, token: str | None) -> Pending:
        body = parse_body(raw)
        tenant = self._policy().tenants.get(identity.tenant_id)
        if tenant is None:
            raise RefusedError("unknown_tenant", "tenant_id")
        self._check_token(tenant, body, identity, token)
        payload = check_genuine(tenant, body)
        vrf = self._check_vrf(tenant, body, payload)
        decision = route(tenant, body, self._percent(tenant))
        self.metrics.count("kakeya_paths_total", path=decision.path.value, reason=decision.reason.value)
        self._log.append(self._decision_entry(tenant, body, vrf, decision))
        ensemble = run_ensemble(tenant, body) if decision.path is Way.STANDARD else None
        if ensemble and ensemble.contained:
            self.metrics.count("kakeya_contained_total")
        record = _record(body, vrf, decision, ensemble)
        return Pending(tenant, body, decision, ensemble, f"{tenant.name}/{body.pcs.pcs_id}", record)

    def put_first(self, pending: Pending) -> str | None:
        """Ask the store; may run in another thread when `store.waits`."""
        return self.store.put_first(pending.key, json.dumps(pending.record), now=self._now())

    def settle(self, pending: Pending, earlier: str | None) -> Answer:
        """The answer, now that the store has spoken."""
        if earlier is not None:
            return Answer(409, {"error": "duplicate", "field": "pcs_id", "first": json.loads(earlier)})
        return Answer(202, pending.record)

    def after(self, answer: Answer, pending: Pending | None, milliseconds: float) -> None:
        """Once the answer is made: count it, audit the fast path, let the guards see it."""
        self.metrics.count("kakeya_responses_total", status=str(answer.status))
        self.metrics.observe_ms(milliseconds)
        if pending is not None and answer.status == 202 and pending.tenant.risk.enabled:
            missed = pending.decision.path is Way.FAST and self._audit(pending)
            tenant = pending.tenant
            start = tenant.canary["riskRouting"]
            canary = in_canary(
                self._percent(tenant), control="riskRouting", tenant=tenant.name, key=pending.body.pcs.pcs_id
            )
            self._rollouts.observe(tenant.name, start, Arm(milliseconds, missed), canary=canary)

    def _audit(self, pending: Pending) -> bool:
        missed = run_ensemble(pending.tenant, pending.body).contained
        self.metrics.count("kakeya_audited_total")
        if missed:
            self.metrics.count("kakeya_missed_total")
        return missed

    def _percent(self, tenant: Tenant) -> float:
        return self._rollouts.percent(tenant.name, tenant.canary["riskRouting"])

    def _check_vrf(self, tenant: Tenant, body: Body, payload: bytes) -> VrfOutcome:
        try:
            outcome = judge_vrf(tenant, body, payload, now=self._now())
        except RefusedError as refused:
            self.metrics.count("kakeya_vrf_total", outcome=refused.reason.removeprefix("vrf_"))
            raise
        self.metrics.count("kakeya_vrf_total", outcome=outcome.value)
        return outcome

    def _check_token(self, tenant: Tenant, body: Body, identity: Identity, token: str | None) -> None:
        """The second look of `identity.token`: the token itself, verified here, for the stamp's tenant."""
        if tenant.token is Mode.OFF:
            return
        reason = self._token_fault(identity, token)
        share = tenant.canary["identity"]
        enforced = tenant.token is Mode.ENFORCE and in_canary(
            share, control="identity", tenant=tenant.name, key=body.pcs.pcs_id
        )
        if reason:
            self.metrics.count("kakeya_identity_refused_total", reason=reason)
            if enforced:
                raise RefusedError(reason, "authorization")

    def _token_fault(self, identity: Identity, token: str | None) -> str | None:
        verifier = self._policy().verifier
        if token is None or verifier is None:
            return "no_token"
        with suppress(IdentityRefusedError):
            shown = verifier.identity(token, now=self._now())
            return None if shown.tenant_id == identity.tenant_id else "tenant_mismatch"
        return "bad_token"

    def _decision_entry(
        self, tenant: Tenant, body: Body, vrf: VrfOutcome, decision: Decision
    ) -> dict[str, Any]:
        return {
            "at": round(self._now(), 3),
            "tenant": tenant.name,
            "pcs_id": body.pcs.pcs_id,
            "vrf": vrf.value,
            "path": decision.path.value,
            "reason": decision.reason.value,
        }

    def _on_step(self, tenant: str, rollout: Rollout) -> None:
        self._log.append(
            {
                "at": round(self._now(), 3),
                "tenant": tenant,
                "percent": rollout.percent,
                "reason": rollout.reason,
            }
        )
        if rollout.percent == 0:
            self.metrics.count("kakeya_rollbacks_total", reason=rollout.reason)


def _record(body: Body, vrf: VrfOutcome, decision: Decision, ensemble: Ensemble | None) -> dict[str, Any]:
    return {
        "status": "accepted",
        "pcs_id": body.pcs.pcs_id,
        "vrf": vrf.value,
        "path": decision.path.value,
        "reason": decision.reason.value,
        "overlap": None if ensemble is None else ensemble.best_overlap,
        "contained": None if ensemble is None else ensemble.contained,
    }
