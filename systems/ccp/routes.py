"""A policy in force: its lanes, their connections, the keys. Swapped as a whole, never changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.lanes import Lane
from holdfast.systems.ccp.origins import Secret
from holdfast.systems.ccp.policy import Policy
from holdfast.systems.ccp.upstream import Pool

__all__ = ["Routes", "build_routes"]


@final
@dataclass(frozen=True, slots=True)
class Routes:
    """What an exchange needs from its first decision to its last byte; it keeps the one it began with."""

    policy: Policy
    digest: str
    """SHA-256 of the policy's canonical JSON; in every usage line and in /readyz."""
    source: str
    """Where the policy came from, for people: `embedded`, `file`, `url`, `cache`."""
    lanes: Mapping[str, Lane]
    pools: Mapping[str, Pool] = field(repr=False)
    secrets: tuple[Secret, ...]

    def close(self) -> None:
        """Close idle connections; those in use end with their exchanges."""
        for pool in self.pools.values():
            pool.close()


def build_routes(
    policy: Policy,
    digest: str,
    source: str,
    lanes: Mapping[str, Lane],
    *,
    vias: Mapping[str, str],
    pins: Mapping[str, str],
) -> Routes:
    """A policy and its lanes, ready to be used; raises `ConfigError` for a pin that nothing can honour."""
    if loose := [name for name in pins if name in lanes and lanes[name].base.origin.scheme != "https"]:
        raise ConfigError(
            f"lane `{loose[0]}` has a pin and no https; a pin that is not checked would look like one"
        )
    pools = {name: Pool(lane, vias.get(name, ""), pins.get(name, "")) for name, lane in lanes.items()}
    secrets = tuple(lane.secret for lane in lanes.values() if lane.secret is not None)
    return Routes(policy, digest, source, lanes, pools, secrets)
