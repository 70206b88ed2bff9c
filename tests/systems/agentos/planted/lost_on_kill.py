"""Planted fault: a row leaves the queue when it is read, not when it is acknowledged."""

import sys
from collections.abc import Sequence

from holdfast.systems.agentos.cli import main
from holdfast.systems.agentos.parts import Parts
from holdfast.systems.agentos.reporting import Reporting
from holdfast.systems.agentos.upload.outbox import Kind, Outbox, Row


class ForgetfulOutbox(Outbox):
    def head(self, kinds: Sequence[Kind], limit: int) -> tuple[Row, ...]:
        rows = super().head(kinds, limit)
        self.settle(rows, duplicates=0)
        return rows


class ForgetfulReporting(Reporting):
    outbox_class = ForgetfulOutbox


class ForgetfulParts(Parts):
    def reporting(self) -> Reporting:
        return ForgetfulReporting()


sys.exit(main(with_parts=ForgetfulParts()))
