"""Planted fault: the minimized summary names the models."""

import json
import sys

from holdfast.systems.agentos.cli import main
from holdfast.systems.agentos.metrics import Rollup
from holdfast.systems.agentos.parts import Parts
from holdfast.systems.agentos.reporting import Reporting
from holdfast.systems.agentos.upload.outbox import Outbox


class LeakyOutbox(Outbox):
    def metrics_row(self, session: Rollup) -> bytes:
        row = json.loads(super().metrics_row(session))
        row["metrics"]["models"] = sorted(session.models)
        return json.dumps(row).encode()


class LeakyReporting(Reporting):
    outbox_class = LeakyOutbox


class LeakyParts(Parts):
    def reporting(self) -> Reporting:
        return LeakyReporting()


sys.exit(main(with_parts=LeakyParts()))
