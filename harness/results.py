"""Results: the JSON documents of a run, built from what was judged, checked against their schemas, written whole.

Fields are added, never renamed. Each file goes to a temporary name first and is renamed, so a reader never
sees half a file and a failed run leaves the last good one.
"""

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema

from holdfast.harness.battery import Finding, Findings
from holdfast.harness.campaign import Campaign
from holdfast.harness.gate import Judgement, cannot_tell, failed, passed
from holdfast.harness.other_abis import read_other_abis
from holdfast.harness.run_id import Run
from holdfast.harness.suite import LaneMetrics
from holdfast.harness.toggles import suggest_toggles
from holdfast.sandbox.foreign import Foreign
from holdfast.sandbox.host import Host
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.launchers import foreign_facts
from holdfast.sandbox.launchers.bwrap import render_argv
from holdfast.sandbox.plan import Execute, Plan
from holdfast.sandbox.profile import Profile
from holdfast.sandbox.verdict import Arm, ProbeVerdict, Proof

__all__ = [
    "judge_results",
    "launcher_facts",
    "metrics_document",
    "metrics_of_merged",
    "read_confounders",
    "read_mutation",
    "render_document",
    "sandbox_document",
    "validate_document",
    "write_document",
    "write_text",
    "write_texts",
]

SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"

CONFOUNDERS: Mapping[str, str] = {
    "legacy_tiocsti": "/proc/sys/dev/tty/legacy_tiocsti",
    "perf_event_paranoid": "/proc/sys/kernel/perf_event_paranoid",
    "unprivileged_bpf_disabled": "/proc/sys/kernel/unprivileged_bpf_disabled",
    "unprivileged_userfaultfd": "/proc/sys/vm/unprivileged_userfaultfd",
    "io_uring_disabled": "/proc/sys/kernel/io_uring_disabled",
    "yama_ptrace_scope": "/proc/sys/kernel/yama/ptrace_scope",
    "max_user_namespaces": "/proc/sys/user/max_user_namespaces",
    "apparmor_restrict_unprivileged_userns": "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "lsm": "/sys/kernel/security/lsm",
}
"""What of the host can make a denial that the sandbox gets the praise for; recorded, never judged by."""


def read_confounders(host: Host) -> dict[str, Any]:
    """Their values; one that this kernel does not have is null."""
    found: dict[str, Any] = {name: _read_setting(path) for name, path in CONFOUNDERS.items()}
    return found | {"landlock_abi": host.landlock} | read_other_abis()


def _read_setting(path: str) -> int | str | None:
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.lstrip("-").isdigit() else text


def sandbox_document(
    campaign: Campaign, findings: Findings, gate: Judgement, *, confounders: Mapping[str, Any]
) -> dict[str, Any]:
    """`results/SANDBOX_<isolation>.json`."""
    host, wanted = campaign.host, campaign.wanted
    treatment = findings.treatment
    return {
        "schema": "holdfast.sandbox/1",
        "run": asdict(wanted.run),
        "isolation": findings.isolation.value,
        "profile": _profile(wanted.profile)
        if isinstance(findings.isolation, Isolation) and findings.isolation is not Isolation.NONE
        else None,
        "host": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "uid": host.uid,
            "seccomp_around_harness": campaign.harness_seccomp,
            "confounders": dict(confounders),
        },
        "launcher": launcher_facts(findings.isolation, host, treatment.plan),
        "credentials": {
            "before_sandbox": dict(treatment.credentials),
            "inside": dict(treatment.inside.get("status", {})),
        },
        "claimed": list(findings.claimed),
        "probes": [_probe(campaign, findings.isolation, finding) for finding in findings.probes],
        "acts": {name: verdict.value for name, verdict in findings.acts.items()},
        "families": {name: verdict.value for name, verdict in findings.families.items()},
        "counts": _counts(findings),
        "one_deep": _one_deep(campaign, findings.isolation),
        "notes": list(treatment.notes),
        "gate": _gate(gate),
        "suggested_toggles": [asdict(toggle) for toggle in suggest_toggles(findings)],
    }


def _profile(profile: Profile | None) -> dict[str, str] | None:
    return {"path": profile.path, "sha256": profile.sha256} if profile else None


def launcher_facts(isolation: AnyIsolation, host: Host, plan: Plan | None) -> dict[str, Any] | None:
    """Who confines; its digest says which build was measured."""
    match isolation:
        case Isolation.NONE:
            return None
        case Isolation.SECCOMP:
            own = Path(__file__).resolve().parent.parent / "sandbox" / "spawner.py"
            argv = next((list(op.argv) for op in plan.ops if isinstance(op, Execute)), []) if plan else []
            known: dict[str, Any] = {
                "name": "seccomp",
                "version": version("holdfast"),
                "sha256": _digest(own),
                "argv": argv,
            }
        case Isolation.BWRAP:
            found = host.bubblewrap
            known = {
                "name": "bwrap",
                "version": ".".join(map(str, found.version)) if found else None,
                "sha256": _digest(Path(found.path)) if found else None,
                "argv": render_argv(plan, disable_userns=found.disables_userns) if found and plan else [],
            }
        case Foreign():
            known = foreign_facts(isolation, plan)
    return known | {"plan": list(plan.words()) if plan else []}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _probe(campaign: Campaign, isolation: AnyIsolation, finding: Finding) -> dict[str, Any]:
    probe = finding.probe
    attribution = campaign.attributions.get(isolation)
    denied_by = attribution.denied_by.get(probe.id) if attribution else None
    opened_by = attribution.opened_by.get(probe.id) if attribution else None
    proof = campaign.proofs.get(isolation, {}).get(probe.act, Proof.NOT_RUN)
    return {
        "id": probe.id,
        "family": probe.family,
        "act": probe.act,
        "level": probe.level.value,
        "variant": probe.variant,
        "control": _arm(finding.control),
        "treatment": _arm(finding.treatment),
        "proof": proof.value,
        "denied_by": None if denied_by is None else list(denied_by),
        "opened_by": None if opened_by is None else list(opened_by),
        "verdict": finding.verdict.value,
        "elapsed_us": finding.treatment.elapsed_us,
    }


def _one_deep(campaign: Campaign, isolation: AnyIsolation) -> dict[str, list[str]] | None:
    """Families that some effect of which hangs on one layer alone; null until measured."""
    attribution = campaign.attributions.get(isolation)
    return None if attribution is None else {f: list(x) for f, x in attribution.one_deep.items()}


def _arm(arm: Arm) -> dict[str, Any]:
    told = {"outcome": arm.outcome.value, "errno": arm.errno, "signal": arm.signal}
    return told | ({"evidence": arm.evidence} if arm.evidence else {})


def _counts(findings: Findings) -> dict[str, int]:
    seen = Counter(finding.verdict for finding in findings.probes)
    return {verdict.value: seen[verdict] for verdict in ProbeVerdict}


def _gate(judgement: Judgement) -> dict[str, Any]:
    return {"outcome": judgement.outcome.value, "reasons": list(judgement.reasons)}


def metrics_document(
    run: Run,
    *,
    name: str,
    code: int,
    live: bool,
    lanes: Mapping[str, Mapping[str, LaneMetrics]],
    gates: Mapping[str, Judgement],
) -> dict[str, Any]:
    """`results/METRICS_<name>.json`; `lanes` by isolation, added up over them."""
    return {
        "schema": "holdfast.metrics/1",
        "name": name,
        "run": asdict(run),
        "exit_code": code,
        "live": live,
        "lanes": _add_up(lanes),
        "by_isolation": {i: {lane: asdict(m) for lane, m in own.items()} for i, own in lanes.items()},
        "gates": {gate: _gate(judgement) for gate, judgement in gates.items()},
    }


def _add_up(lanes: Mapping[str, Mapping[str, LaneMetrics]]) -> dict[str, Any]:
    """One figure a lane: sums, and of the times the worst isolation's."""
    total: dict[str, Any] = {}
    for own in lanes.values():
        for lane, metrics in own.items():
            empty: dict[str, Any] = {"requests": 0, "status": {}, "ttfb_ms": {}, "violations": 0}
            sums = total.setdefault(lane, empty | {"latency_ms": {}, "tokens": {}})
            sums["requests"] += metrics.requests
            sums["violations"] += metrics.violations
            for status, count in metrics.status.items():
                sums["status"][status] = sums["status"].get(status, 0) + count
            for kind, number in metrics.tokens.items():
                sums["tokens"][kind] = sums["tokens"].get(kind, 0) + number
            for name, times in (("ttfb_ms", metrics.ttfb_ms), ("latency_ms", metrics.latency_ms)):
                for share, value in times.items():
                    sums[name][share] = max(value, sums[name].get(share, 0.0))
    return total


def metrics_of_merged(
    run: Run, *, name: str, code: int, documents: list[Mapping[str, Any]], gates: Mapping[str, Judgement]
) -> dict[str, Any]:
    """One metrics document of several campaigns of one run; lanes are kept by isolation and added up."""
    lanes: dict[str, dict[str, LaneMetrics]] = {}
    for document in documents:
        for isolation, own in document["by_isolation"].items():
            lanes.setdefault(isolation, {}).update({lane: LaneMetrics(**told) for lane, told in own.items()})
    live = any(document["live"] for document in documents)
    return metrics_document(run, name=name, code=code, live=live, lanes=lanes, gates=gates)


def validate_document(document: Mapping[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` when a document breaks the schema that it names."""
    name = str(document["schema"]).removeprefix("holdfast.").replace("/", "-")
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)


def read_mutation(folder: Path, profile: Profile | None) -> str:
    """What `holdfast mutate` last found out about this very profile, as the report says it; empty when nothing."""
    if profile is None:
        return ""
    try:
        document = json.loads(
            (folder / f"MUTATION_{Path(profile.path).stem}.json").read_text(encoding="utf-8")
        )
        validate_document(document)
    except (OSError, ValueError, KeyError, jsonschema.ValidationError):
        return ""
    if document["profile"]["sha256"] != profile.sha256 or document["score_percent"] is None:
        return ""
    killed, survived = (document["counts"].get(fate, 0) for fate in ("killed", "survived"))
    return (
        f", mutation score {document['score_percent']:g} % ({killed} mutants killed, {survived} survived"
        f"{', a sample' if document.get('sample') else ''}; run {document['run']['id']})"
    )


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Check, then write."""
    write_text(path, render_document(document))


def render_document(document: Mapping[str, Any]) -> str:
    """Its text; raises `jsonschema.ValidationError` when it breaks its schema."""
    validate_document(document)
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def write_text(path: Path, text: str) -> None:
    """Whole or not at all; raises `OSError`."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """All or none: on a full disk the files of the last run stay as they are. Raises `OSError`."""
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporaries[path].open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def judge_results(folder: Path, names: list[str], run: Run) -> Judgement:
    """The results are there, are of this very run, and keep to their schemas; never judged by a file's time."""
    if not names:
        return cannot_tell("no results were asked for")
    for name in names:
        try:
            document = json.loads((folder / name).read_text(encoding="utf-8"))
            validate_document(document)
        except FileNotFoundError:
            return failed(f"{name} is missing")
        except (OSError, ValueError, KeyError) as error:
            return failed(f"{name} cannot be read: {error}")
        except jsonschema.ValidationError as error:
            return failed(f"{name} breaks its schema at {error.json_path}: {error.message[:120]}")
        if document["run"]["id"] != run.id:
            return failed(f"{name} is of run {document['run']['id']}, not of this one")
    return passed(f"{len(names)} files of this run, each valid against its schema")
