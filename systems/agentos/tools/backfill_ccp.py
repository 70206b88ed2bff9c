"""The proxy's `logs/archive/usage*.jsonl[.gz]` and `results/METRICS*.json` into one summary.

    find_sources -> backfill: fragments -> usage totals, gate outcomes -> a JSON value; the caller writes it

Streams: memory does not grow with the input. Names come from logs that anybody may have written to, so
their number and length are bounded too.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, final

import msgspec

from holdfast.clock import monotonic
from holdfast.systems.agentos.errors import BadInputError
from holdfast.systems.agentos.files import explain_os_error, read_bounded
from holdfast.systems.agentos.metrics.health import model_health, render_health
from holdfast.systems.agentos.schemas import require_valid
from holdfast.systems.agentos.strict_json import parse_object
from holdfast.systems.agentos.tools.fragments import Blocks, Found, Many, Reader, Unreadable, iter_found
from holdfast.systems.agentos.tools.unpack import Unpacked

__all__ = ["Progress", "Sources", "UsageRecord", "backfill", "find_sources"]

T = TypeVar("T")

NAMES = 1000
"""How many different names of a kind are told apart; the rest is one."""
OTHER = "(other)"
TROUBLE = frozenset({"upstream_failed", "aborted"})
RANGES = 1000
"""How many unreadable places are listed; the rest is counted."""
COUNT_LIMIT = 2**53


class UsageRecord(msgspec.Struct):
    """What is read of a usage line, in the proxy's words and in its older ones."""

    model: str | msgspec.UnsetType | None = msgspec.UNSET
    lane: str | None = None
    status: int | None = None
    outcome: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    duration_ms: float | None = None
    latency_ms: float | None = None


class _Text(Protocol):
    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


@final
@dataclass(frozen=True, slots=True)
class Sources:
    """What there is to read."""

    usage: tuple[Path, ...]
    metrics: tuple[Path, ...]
    size: int


@final
@dataclass(slots=True)
class Progress:
    """Bytes read of bytes there are, a line at most every half second."""

    total: int
    stream: _Text | None
    done: int = 0
    shown_at: float = field(default_factory=monotonic)

    def advance(self, more: int) -> None:
        """Count, and show."""
        self.done += more
        if self.stream is not None and monotonic() - self.shown_at >= 0.5:
            self.shown_at = monotonic()
            self._show(self.stream)

    def finish(self) -> None:
        """Show where it ended."""
        if self.stream is not None:
            self._show(self.stream)

    def _show(self, stream: _Text) -> None:
        # An archive is longer unpacked than it lies there, so the share may pass 100 %.
        share = min(100.0, 100.0 * self.done / self.total) if self.total else 100.0
        stream.write(f"backfill: {self.done / 1e6:.0f} MB read, {share:.0f} %\n")
        stream.flush()


@final
@dataclass(slots=True)
class _Totals:
    """What one model did."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    latency_ms: float = 0.0
    warnings: int = 0


@final
@dataclass(slots=True)
class _Tally:
    """Everything that is counted."""

    models: dict[str, _Totals] = field(default_factory=dict)
    lanes: Counter[str | None] = field(default_factory=Counter)
    statuses: Counter[int | None] = field(default_factory=Counter)
    gates: dict[str, Counter[str]] = field(default_factory=dict)
    records: int = 0
    mended: int = 0
    malformed: int = 0
    unrecognised: int = 0
    runs: int = 0
    unreadable: int = 0
    torn: list[str] = field(default_factory=list)
    """Archives that end before their end: how much is lost nobody can know."""
    ranges: list[dict[str, Any]] = field(default_factory=list)
    omitted: int = 0

    def add_record(self, record: UsageRecord) -> None:
        """One usage line."""
        name = record.model
        if name is msgspec.UNSET:
            self.unrecognised += 1
            return
        tokens_in = record.input_tokens or record.tokens_in or 0
        tokens_out = record.output_tokens or record.tokens_out or 0
        if not (0 <= tokens_in < COUNT_LIMIT and 0 <= tokens_out < COUNT_LIMIT):
            self.malformed += 1
            return
        self.records += 1
        totals = self.models.get(name)  # type: ignore[arg-type]  # None is in no dict of names: the slow way then
        if totals is None:
            totals = self._totals(name)
        totals.requests += 1
        totals.tokens_in += tokens_in
        totals.tokens_out += tokens_out
        totals.latency_ms += record.duration_ms or record.latency_ms or 0.0
        status, lane = record.status, record.lane
        if (status is not None and status >= 400) or record.outcome in TROUBLE:
            totals.warnings += 1
        if lane in self.lanes:
            self.lanes[lane] += 1
        else:
            self.lanes[_bounded(lane, self.lanes)] += 1
        self.statuses[status if status is None or 0 <= status <= 999 else -1] += 1

    def add_metrics(self, value: dict[str, Any]) -> None:
        """One metrics file."""
        gates = value.get("gates")
        if not isinstance(gates, dict):
            self.unrecognised += 1
            return
        self.runs += 1
        for name, gate in gates.items():
            outcome = gate.get("outcome") if isinstance(gate, dict) else None
            counted = self.gates.setdefault(_bounded(name, self.gates), Counter())
            counted[outcome if outcome in {"pass", "fail", "cannot_tell"} else OTHER] += 1

    def add_unreadable(self, file: str, seen: Unreadable) -> None:
        """Bytes lost, and where."""
        self.unreadable += seen.length
        if len(self.ranges) < RANGES:
            self.ranges.append({"file": file, "offset": seen.offset, "length": seen.length})
        else:
            self.omitted += 1

    def _totals(self, model: str | None) -> _Totals:
        return self.models.setdefault(_bounded(model, self.models), _Totals())


def find_sources(root: Path) -> Sources:
    """The files under the proxy's folder. An archive that lies there packed and unpacked is read once."""
    if not root.is_dir():
        raise BadInputError(f"there is no folder `{root}`; give the proxy's folder with --ccp-root")
    plain = sorted((root / "logs" / "archive").glob("usage*.jsonl"))
    packed = sorted((root / "logs" / "archive").glob("usage*.jsonl.gz"))
    usage = (*plain, *(path for path in packed if path.with_suffix("") not in set(plain)))
    metrics = tuple(sorted((root / "results").glob("METRICS*.json")))
    if not usage and not metrics:
        raise BadInputError(f"`{root}` has neither logs/archive/usage*.jsonl nor results/METRICS*.json")
    return Sources(usage, metrics, sum(path.stat().st_size for path in (*usage, *metrics)))


def backfill(sources: Sources, progress: Progress, snapshot: Path | None = None) -> dict[str, Any]:
    """Read all of `sources`; the summary as JSON values. Writes nothing."""
    tally = _Tally()
    for path in sources.usage:
        _read_usage(path, tally, progress)
    for path in sources.metrics:
        _read_metrics(path, tally, progress)
    progress.finish()
    return _render(tally, sources, _health(snapshot))


def _read_usage(path: Path, tally: _Tally, progress: Progress) -> None:
    decode = _UsageDecoder(tally)
    reader: Reader[UsageRecord | None] = Reader(
        decode, lambda r: r is not None and r.model is not msgspec.UNSET
    )
    for values, mended in _iter_file(path, reader, progress, tally, decode.lines):
        tally.mended += mended
        for record in values:
            if record is not None:
                tally.add_record(record)


def _read_metrics(path: Path, tally: _Tally, progress: Progress) -> None:
    reader: Reader[dict[str, Any]] = Reader(
        msgspec.json.Decoder(dict[str, Any]).decode, lambda v: "gates" in v
    )
    for values, _ in _iter_file(path, reader, progress, tally):
        for value in values:
            tally.add_metrics(value)


@final
class _UsageDecoder:
    """Bytes to a record; None for an object of another shape, which is no loss of bytes."""

    __slots__ = ("_any", "_decode", "_tally", "lines")

    def __init__(self, tally: _Tally) -> None:
        self.lines: Callable[[bytes], list[UsageRecord | None]] = partial(
            _decode_lines, msgspec.json.Decoder(UsageRecord)
        )
        self._decode = msgspec.json.Decoder(UsageRecord).decode
        self._any = msgspec.json.Decoder(dict[str, Any]).decode
        self._tally = tally

    def __call__(self, raw: bytes) -> UsageRecord | None:
        try:
            return self._decode(raw)
        except msgspec.ValidationError:
            self._any(raw)
            self._tally.malformed += 1
            return None


def _decode_lines(decoder: "msgspec.json.Decoder[UsageRecord]", whole: bytes) -> list[UsageRecord | None]:
    return [*decoder.decode_lines(whole)]


def _iter_file(
    path: Path,
    reader: Reader[T],
    progress: Progress,
    tally: _Tally,
    decode_lines: Callable[[bytes], list[T]] | None = None,
) -> Iterator[tuple[list[T], bool]]:
    """The values of a file, and whether they had to be mended; what is lost goes to the tally."""
    try:
        with path.open("rb", buffering=0) as file:
            blocks = Unpacked(file) if path.suffix == ".gz" else file
            for seen in iter_found(cast("Blocks", blocks), reader, progress.advance, decode_lines):
                match seen:
                    case Many(values):
                        yield values, False
                    case Found(value, mended):
                        yield [value], mended
                    case Unreadable():
                        tally.add_unreadable(path.name, seen)
    except OSError as problem:
        raise explain_os_error(f"read `{path}`", problem) from None
    if isinstance(blocks, Unpacked) and blocks.torn:
        tally.torn.append(path.name)


def _status_word(status: int | None) -> str:
    return {None: "none", -1: OTHER}.get(status) or str(status)


def _bounded(name: str | None, known: "Mapping[Any, Any]") -> str:
    text = (name or "(none)")[:200]
    return text if text in known or len(known) < NAMES else OTHER


def _health(snapshot: Path | None) -> dict[str, Any]:
    if snapshot is None:
        return {}
    value = parse_object(read_bounded(snapshot, what="the snapshot"), what="the snapshot", limit=1 << 20)
    require_valid("usage", value)
    return render_health(model_health([value]))


def _render(tally: _Tally, sources: Sources, health: dict[str, Any]) -> dict[str, Any]:
    seen = {
        model: {"samples": totals.requests, "warnings": totals.warnings, "gaps": 0}
        for model, totals in tally.models.items()
    }
    own = render_health(model_health([{"taken_at": "", "models": seen}]))
    return {
        "schema": "ccc.ccp-summary/1",
        "sources": {
            "usage_files": len(sources.usage),
            "metrics_files": len(sources.metrics),
            "bytes": sources.size,
        },
        "records": tally.records,
        "mended": tally.mended,
        "malformed": tally.malformed,
        "unrecognised": tally.unrecognised,
        "tokens": {
            "in": sum(totals.tokens_in for totals in tally.models.values()),
            "out": sum(totals.tokens_out for totals in tally.models.values()),
        },
        "models": {
            model: {
                "requests": totals.requests,
                "tokens_in": totals.tokens_in,
                "tokens_out": totals.tokens_out,
                "latency_ms": totals.latency_ms,
                "warnings": totals.warnings,
            }
            for model, totals in sorted(tally.models.items())
        },
        "lanes": {str(lane): count for lane, count in tally.lanes.items()},
        "statuses": {_status_word(status): count for status, count in tally.statuses.items()},
        "runs": {
            "count": tally.runs,
            "gates": {name: dict(seen) for name, seen in sorted(tally.gates.items())},
        },
        "model_health": {**own, **health},
        "unreadable": {
            "bytes": tally.unreadable,
            "ranges": tally.ranges,
            "ranges_omitted": tally.omitted,
            "torn_archives": tally.torn,
        },
    }
