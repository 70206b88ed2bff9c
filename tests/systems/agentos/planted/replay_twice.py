"""Planted fault: every delivery gets new keys, so the CCC cannot know a replay."""

import json
import sys
import uuid
from dataclasses import replace

from holdfast.systems.agentos.cli import main
from holdfast.systems.agentos.parts import Parts
from holdfast.systems.agentos.reporting import Reporting
from holdfast.systems.agentos.upload.channel import Channel
from holdfast.systems.agentos.upload.outbox import Kind, Row
from holdfast.systems.agentos.upload.retry import Verdict


class RekeyingChannel(Channel):
    def send(self, rows: tuple[Row, ...]) -> Verdict:
        return super().send(tuple(map(rekeyed, rows)))


def rekeyed(row: Row) -> Row:
    key = uuid.uuid4().hex
    if row.kind is Kind.METRICS:
        return replace(row, key=key)
    return replace(row, key=key, body=json.dumps({**json.loads(row.body), "key": key}).encode())


class RekeyingReporting(Reporting):
    channel_class = RekeyingChannel


class RekeyingParts(Parts):
    def reporting(self) -> Reporting:
        return RekeyingReporting()


sys.exit(main(with_parts=RekeyingParts()))
