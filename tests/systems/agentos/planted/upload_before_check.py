"""Planted fault: something is sent before the licence is looked at."""

import sys

import httpx

from holdfast.systems.agentos.cli import main
from holdfast.systems.agentos.licensing import Grant
from holdfast.systems.agentos.parts import Parts
from holdfast.systems.agentos.reporting import Reporting
from holdfast.systems.agentos.settings import Settings


class HastyReporting(Reporting):
    def grant(self, settings: Settings) -> Grant:
        way = httpx.HTTPTransport(uds=settings.url.removeprefix("unix:"))  # type: ignore[union-attr]  # the scene gives one
        with httpx.Client(transport=way) as client:
            client.post("http://ccc.invalid/v1/metrics", json={"hello": 1})
        return super().grant(settings)


class HastyParts(Parts):
    def reporting(self) -> Reporting:
        return HastyReporting()


sys.exit(main(with_parts=HastyParts()))
