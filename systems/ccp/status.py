"""What the proxy says about itself, as JSON values: pure, with nothing in it that is a client's text or a key."""

from collections.abc import Mapping
from datetime import datetime

from holdfast.systems.ccp.routes import Routes
from holdfast.systems.ccp.tally import Tally
from holdfast.systems.ccp.usage import UsageLog

__all__ = ["VERSION", "ready_page", "usage_page"]

VERSION = "0.1.0"


def ready_page(
    routes: Routes,
    log: UsageLog,
    upstreams: Mapping[str, str],
    *,
    complaint: str,
    draining: bool,
    sandbox: Mapping[str, object],
) -> tuple[int, object]:
    """`/readyz`: 200 when every lane's upstream answers, the log can be written and no end is near."""
    ready = all(answer == "ok" for answer in upstreams.values()) and not log.failing and not draining
    return 200 if ready else 503, {
        "status": "ready" if ready else "not ready",
        "version": VERSION,
        "upstreams": upstreams,
        "policy": {
            "version": routes.policy.version,
            "digest": routes.digest,
            "source": routes.source,
            "reload_refused": complaint or None,
            "denied_lanes": dict(routes.policy.denied),
        },
        "usage_log": {"lost": log.lost, "failing": log.failing, "cut_bytes": log.cut},
        "sandbox": sandbox,
        "draining": draining,
    }


def usage_page(tally: Tally, log: UsageLog, now: datetime) -> object:
    """`/v1/usage`: this process's sums since it started, by model and by outcome."""
    return {
        "schema": "ccp.usage-snapshot/1",
        "ts": now,
        "models": tally.models,
        "requests": [
            {"lane": lane or None, "status": status or None, "outcome": outcome, "count": count}
            for (lane, status, outcome), count in sorted(tally.requests.items())
        ],
        "lines_lost": log.lost,
    }
