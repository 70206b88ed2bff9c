"""Counts of one process: `/metrics` as Prometheus text, `/v1/usage` as JSON. Sums of usage lines, nothing else."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from holdfast.systems.ccp.usage import UsageLine

__all__ = ["Gauges", "Tally", "render_metrics"]

BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds, in seconds, of the time to the upstream's first byte."""
MODELS_KEPT = 256
"""Models are the clients' words; past this many new ones are summed as `(others)`."""


@final
@dataclass(frozen=True, slots=True)
class Gauges:
    """What is true now."""

    in_flight: int
    connections: int
    lines_lost: int
    log_failing: bool
    policy_version: int
    denied_hosts: int
    decisions: Mapping[str, int]
    """What the broker decided, by its word; empty without a broker."""


@final
@dataclass(slots=True)
class ModelTotals:
    """One model's sums."""

    lane: str
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    errors: int = 0
    gaps: int = 0
    """Answers whose stream did not keep the grammar to its end."""


@final
@dataclass(slots=True)
class Tally:
    """Running sums."""

    requests: dict[tuple[str, int, str], int] = field(default_factory=dict)
    """By lane, status and outcome."""
    tokens: dict[tuple[str, str], int] = field(default_factory=dict)
    """By lane and kind."""
    grammar: Counter[tuple[str, str]] = field(default_factory=Counter)
    waits: dict[str, list[int]] = field(default_factory=dict)
    wait_sums: dict[str, float] = field(default_factory=dict)
    models: dict[str, ModelTotals] = field(default_factory=dict)
    response_bytes: dict[str, int] = field(default_factory=dict)
    differing: int = 0
    """Answers whose two digests differ; anything but zero is a fault of ccp."""

    def add(self, line: UsageLine) -> None:
        """Count one request."""
        lane = line.lane or ""
        key = (lane, line.status or 0, line.outcome)
        self.requests[key] = self.requests.get(key, 0) + 1
        if line.lane is None:
            return
        self.response_bytes[lane] = self.response_bytes.get(lane, 0) + line.response_bytes
        if line.sha256_upstream != line.sha256_downstream:
            self.differing += 1
        if line.grammar is not None and line.grammar != "none":
            self.grammar[lane, line.grammar.partition(":")[0]] += 1
        if line.first_byte_ms is not None:
            seconds = line.first_byte_ms / 1000
            buckets = self.waits.get(lane) or self.waits.setdefault(lane, [0] * (len(BUCKETS) + 1))
            buckets[bisect_left(BUCKETS, seconds)] += 1
            self.wait_sums[lane] = self.wait_sums.get(lane, 0.0) + seconds
        if line.input_tokens:
            self.tokens[lane, "input"] = self.tokens.get((lane, "input"), 0) + line.input_tokens
        if line.output_tokens:
            self.tokens[lane, "output"] = self.tokens.get((lane, "output"), 0) + line.output_tokens
        if line.model is not None:
            self._add_model(line.model, line)

    def _add_model(self, model: str, line: UsageLine) -> None:
        totals = self.models.get(model)
        if totals is None:
            if len(self.models) >= MODELS_KEPT:
                model = "(others)"
            totals = self.models.setdefault(model, ModelTotals(line.lane or ""))
        totals.requests += 1
        totals.input_tokens += line.input_tokens or 0
        totals.output_tokens += line.output_tokens or 0
        totals.cache_creation_input_tokens += line.cache_creation_input_tokens or 0
        totals.cache_read_input_tokens += line.cache_read_input_tokens or 0
        totals.errors += line.status is None or line.status >= 400
        totals.gaps += line.grammar is not None and line.grammar not in {"ok", "none"}


def render_metrics(tally: Tally, gauges: Gauges) -> bytes:
    """The Prometheus text format, version 0.0.4."""
    lines = [
        *_family("ccp_requests_total", "counter", "Requests, by lane, status and outcome."),
        *(
            f'ccp_requests_total{{lane="{lane}",status="{status}",outcome="{outcome}"}} {count}'
            for (lane, status, outcome), count in sorted(tally.requests.items())
        ),
        *_family("ccp_tokens_total", "counter", "Tokens that upstreams reported."),
        *(
            f'ccp_tokens_total{{lane="{lane}",kind="{kind}"}} {n}'
            for (lane, kind), n in sorted(tally.tokens.items())
        ),
        *_family("ccp_response_bytes_total", "counter", "Body bytes relayed."),
        *(
            f'ccp_response_bytes_total{{lane="{lane}"}} {n}'
            for lane, n in sorted(tally.response_bytes.items())
        ),
        *_family("ccp_stream_grammar_total", "counter", "Event streams, by how they kept the grammar."),
        *(
            f'ccp_stream_grammar_total{{lane="{lane}",grammar="{word}"}} {n}'
            for (lane, word), n in sorted(tally.grammar.items())
        ),
        *_family(
            "ccp_first_byte_seconds", "histogram", "From the whole request to the upstream's first byte."
        ),
        *(line for lane in sorted(tally.waits) for line in _histogram(tally, lane)),
    ]
    for name, kind, text, value in (
        (
            "ccp_streams_altered_total",
            "counter",
            "Answers whose digests up and down differ.",
            tally.differing,
        ),
        (
            "ccp_usage_lines_lost_total",
            "counter",
            "Usage lines that could not be written.",
            gauges.lines_lost,
        ),
        (
            "ccp_usage_log_failing",
            "gauge",
            "1 when the last usage line could not be written.",
            gauges.log_failing,
        ),
        ("ccp_requests_in_flight", "gauge", "Requests being answered.", gauges.in_flight),
        ("ccp_client_connections", "gauge", "Open client connections.", gauges.connections),
        ("ccp_policy_version", "gauge", "Version of the policy in force.", gauges.policy_version),
        (
            "ccp_denied_hosts_total",
            "counter",
            "Upstream connections that the broker refused.",
            gauges.denied_hosts,
        ),
    ):
        lines += [*_family(name, kind, text), f"{name} {int(value)}"]
    name = "ccp_broker_decisions_total"
    lines += _family(name, "counter", "Decisions of the broker outside the sandbox, by its reason.")
    lines += [f'{name}{{decision="{word}"}} {n}' for word, n in sorted(gauges.decisions.items())]
    return ("\n".join(lines) + "\n").encode()


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _histogram(tally: Tally, lane: str) -> list[str]:
    counts = tally.waits[lane]
    bounds = [*map(str, BUCKETS), "+Inf"]
    name = "ccp_first_byte_seconds"
    lines = [
        f'{name}_bucket{{lane="{lane}",le="{bound}"}} {sum(counts[: index + 1])}'
        for index, bound in enumerate(bounds)
    ]
    return [
        *lines,
        f'{name}_sum{{lane="{lane}"}} {tally.wait_sums[lane]}',
        f'{name}_count{{lane="{lane}"}} {sum(counts)}',
    ]
