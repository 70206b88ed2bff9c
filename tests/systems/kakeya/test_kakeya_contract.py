"""What others build on: the OpenAPI document, the alerts and their runbooks, the schemas of files."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from holdfast.systems.kakeya.quickstart import lay_out
from holdfast.systems.kakeya.routing.rollout import Rollout
from holdfast.systems.kakeya.routing.worm import WormLog
from holdfast.systems.kakeya.service import openapi_document
from holdfast.systems.kakeya.service.metrics import METRICS, Metrics
from holdfast.systems.kakeya.service.rollouts import Rollouts
from tests.systems.kakeya.conftest import Running

ROOT = Path(__file__).parents[3]
NIGHTLY = os.environ.get("HOLDFAST_PROFILE") == "nightly"
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
)


@pytest.mark.parametrize(
    "operation", ["POST /v1/verify", "GET /healthz", "GET /readyz", "GET /metrics", "GET /openapi.json"]
)
def test_the_service_answers_as_its_openapi_document_says(service: Running, operation: str) -> None:
    """Schemathesis generates requests, good and bad, from the document as it is served; each is stamped."""
    method, path = operation.split()
    served = service.ask("GET", "/openapi.json", over="tcp")[1]
    assert served == openapi_document()
    schema = schemathesis.openapi.from_dict(served)
    base, asked = f"http://127.0.0.1:{service.port}", []

    @settings(
        max_examples=300 if NIGHTLY else 40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=schema[path][method].as_strategy())
    def each(case: Any) -> None:
        headers = service.client.stamp() if path.startswith("/v1") else {}
        asked.append(case.call_and_validate(base_url=base, headers=headers, checks=CHECKS).status_code)

    each()
    assert len(asked) >= (10 if path.startswith("/v1") else 1)
    assert not path.startswith("/v1") or 401 in asked, "no generated submission came as far as its signature"


def test_a_genuine_submission_fits_the_document(service: Running) -> None:
    document = openapi_document()
    body = json.loads(
        service.client.submission(
            risk={"risk": 0.1, "low": 0, "high": 0.2}, grounding={"answer": "a", "sources": ["b"]}
        )
    )
    schemas = document["components"]
    jsonschema.validate(body, {**schemas["schemas"]["Submission"], "components": schemas})
    first = service.verify(json.dumps(body).encode())
    assert first[0] == 202
    jsonschema.validate(first[1], {**schemas["schemas"]["Accepted"], "components": schemas})
    again = service.verify(json.dumps(body).encode())
    jsonschema.validate(again[1], {**schemas["schemas"]["Duplicate"], "components": schemas})


# -- alerts -------------------------------------------------------------------------------------------


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((ROOT / "docs" / "alerts" / "kakeya.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_there_is_an_alert_for_latency_share_and_containment() -> None:
    assert {"KakeyaSlow", "KakeyaFastPathShare", "KakeyaContainment"} <= {a["alert"] for a in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda a: a["alert"])
def test_each_alert_reads_real_metrics_and_names_a_runbook_that_names_it(alert: dict[str, Any]) -> None:
    named = set(re.findall(r"kakeya_[a-z_]+", alert["expr"]))
    assert named
    assert {re.sub(r"_(bucket|sum|count)$", "", n) for n in named} <= set(METRICS)
    runbook = ROOT / alert["annotations"]["runbook"]
    assert f"`{alert['alert']}`" in runbook.read_text()


def test_the_exposition_is_well_formed() -> None:
    metrics = Metrics()
    metrics.count("kakeya_responses_total", status="202")
    for milliseconds in (0.4, 0.5, 3.0, 5000.0):
        metrics.observe_ms(milliseconds)
    text = metrics.render()
    assert 'kakeya_responses_total{status="202"} 1' in text
    assert 'kakeya_verify_milliseconds_bucket{le="0.5"} 2' in text
    assert 'kakeya_verify_milliseconds_bucket{le="+Inf"} 4' in text
    for line in text.splitlines():
        assert re.fullmatch(
            r"# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z_]+=\"[^\"]*\"(,[a-z_]+=\"[^\"]*\")*\})? [0-9.]+", line
        ), line


# -- files --------------------------------------------------------------------------------------------


def policy_file(folder: Path) -> Any:
    return json.loads(lay_out(folder / "p").read_text())


def decision_line(folder: Path) -> Any:
    log = WormLog(folder / "d")
    log.append(
        {
            "at": 1.5,
            "tenant": "acme",
            "pcs_id": "0" * 64,
            "vrf": "verified",
            "path": "fast",
            "reason": "low_risk_narrow_ci",
        }
    )
    log.close()
    return json.loads((folder / "d" / "segment-000000.jsonl").read_text())


def rollouts_file(folder: Path) -> Any:
    rollouts = Rollouts(folder / "r.json", lambda *_: None)
    rollouts.percent("acme", 10)
    rollouts._tenants["acme"].rollout = Rollout(0, 1.0, reason="p95_regression")
    rollouts._save()
    return json.loads((folder / "r.json").read_text())


def golden_file(_: Path) -> Any:
    return json.loads((ROOT / "tests" / "golden" / "vectors.json").read_text())


def simulation_file(_: Path) -> Any:
    return json.loads((ROOT / "systems" / "kakeya" / "simulation.json").read_text())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("policy", policy_file),
        ("decision", decision_line),
        ("rollouts", rollouts_file),
        ("golden", golden_file),
        ("simulation", simulation_file),
    ],
)
def test_what_is_written_fits_its_schema_and_a_stranger_does_not(
    tmp_path: Path, name: str, make: Callable[[Path], Any]
) -> None:
    schema = json.loads((ROOT / "docs" / "schemas" / f"kakeya-{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    written = make(tmp_path)
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "stranger": 1}, schema)
    for key in schema["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in written.items() if k != key}, schema)
