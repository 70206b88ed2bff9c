"""The environment, read once and turned into types. Every complaint names its variable."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import final

from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.lanes import Lane
from holdfast.systems.ccp.origins import Secret, parse_base_url
from holdfast.systems.ccp.policy import ANTHROPIC_URL, ZAI_URL, Auth, LanePolicy, Policy

__all__ = ["Isolation", "Settings", "build_lanes", "build_vias", "read_settings"]

_URL_VARIABLES = {"anthropic": "CCP_ANTHROPIC_URL", "zai": "CCP_ZAI_URL"}
_PROXY = re.compile(r"http://([A-Za-z0-9._-]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5})/?")
_PIN = re.compile(r"sha256:[0-9a-fA-F]{64}")
_HEADER_MODES = {"zai": Auth.X_API_KEY, "auth": Auth.BEARER}
_PUBLIC_HOSTS = {
    "anthropic": parse_base_url(ANTHROPIC_URL, what="anthropic").origin.host,
    "zai": parse_base_url(ZAI_URL, what="zai").origin.host,
}


class Isolation(Enum):
    """`CCP_SANDBOX`: what the proxy confines itself with."""

    NONE = "none"
    SECCOMP = "seccomp"
    BWRAP = "bwrap"


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; keys stay in `environ` until a lane binds them."""

    environ: Mapping[str, str] = field(repr=False)
    header_mode: Auth | None
    isolation: Isolation
    via: str
    """A broker's Unix socket, through which every upstream connection goes; empty for none."""
    policy: str
    """`CCP_POLICY_URL`: a URL, or a file's path; empty for the embedded default."""
    pins: Mapping[str, str]
    """Lane -> SHA-256 of its upstream's public key, from `CCP_PIN_<LANE>`."""
    confined: str
    """`CCP_CONFINED`, set by ccp for its confined copy: the isolation that it runs under."""
    weaker: tuple[str, ...]
    """`CCP_WEAKER`, likewise: what `--allow-weaker` let through, one a line."""
    policy_keys: str
    """`CCP_POLICY_KEYS`: a PEM file of Ed25519 public keys; with it, every pack must be signed."""


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Raises `ConfigError` naming the first variable that is wrong."""
    mode = environ.get("CCP_HEADER_MODE", "")
    if mode and mode not in _HEADER_MODES:
        raise ConfigError("`CCP_HEADER_MODE` is neither `zai` (x-api-key) nor `auth` (Authorization: Bearer)")
    try:
        isolation = Isolation(environ.get("CCP_SANDBOX") or "none")
    except ValueError as error:
        raise ConfigError("`CCP_SANDBOX` is none of: none, seccomp, bwrap") from error
    if environ.get("CCP_BWRAP_ARGS") and isolation is not Isolation.BWRAP:
        raise ConfigError("`CCP_BWRAP_ARGS` needs `CCP_SANDBOX=bwrap`; without it they would confine nothing")
    via = environ.get("CCP_UPSTREAM_VIA", "")
    if via and not via.startswith("/"):
        raise ConfigError("`CCP_UPSTREAM_VIA` is not the absolute path of a broker's Unix socket")
    if environ.get("CCP_CONFINED") and not via:
        raise ConfigError(
            "`CCP_CONFINED` is set by ccp for its confined copy; unset it, and set `CCP_SANDBOX`"
        )
    return Settings(
        environ,
        _HEADER_MODES.get(mode),
        isolation,
        via,
        environ.get("CCP_POLICY_URL", ""),
        _pins(environ),
        environ.get("CCP_CONFINED", ""),
        tuple(environ.get("CCP_WEAKER", "").splitlines()),
        environ.get("CCP_POLICY_KEYS", ""),
    )


def _pins(environ: Mapping[str, str]) -> dict[str, str]:
    pins = {}
    for name, value in environ.items():
        if name.startswith("CCP_PIN_") and value:
            if not _PIN.fullmatch(value):
                raise ConfigError(f"`{name}` is not `sha256:` and 64 hex digits, of the public key's DER")
            pins[name.removeprefix("CCP_PIN_").lower().replace("_", "-")] = value.lower()
    return pins


def build_vias(lanes: Mapping[str, Lane], settings: Settings) -> dict[str, str]:
    """Lane -> what its connections go through: the broker's path, or with `CCP_PROXY_FROM_ENV=1` the `host:port`
    that `HTTPS_PROXY` names for it. Raises `ConfigError` for a proxy that cannot be used.

    Loopback upstreams, and hosts that `NO_PROXY` names, are reached directly; lanes without https are loopback.
    """
    if settings.via:
        return dict.fromkeys(lanes, settings.via)
    asked = settings.environ.get("CCP_PROXY_FROM_ENV", "")
    if asked not in {"", "0", "1"}:
        raise ConfigError("`CCP_PROXY_FROM_ENV` is neither `1` (use the proxy variables) nor `0`")
    if asked != "1":
        return {}
    if settings.isolation is not Isolation.NONE:
        raise ConfigError(
            "`CCP_PROXY_FROM_ENV` and `CCP_SANDBOX` exclude each other: the broker connects to the policy's hosts only"
        )
    environ = settings.environ
    proxy = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
    origins = {name: lane.base.origin for name, lane in lanes.items()}
    return {
        name: _proxy_address(proxy)
        for name, origin in origins.items()
        if proxy and origin.scheme == "https" and not origin.loopback and not _bypassed(origin.host, environ)
    }


def _bypassed(host: str, environ: Mapping[str, str]) -> bool:
    """Whether `NO_PROXY` names the host: `*`, the host itself, or a domain above it; ports are not looked at."""
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = [name.strip().lower().lstrip(".") for name in listed.split(",") if name.strip()]
    return any(name in {"*", host} or host.endswith(f".{name}") for name in names)


def _proxy_address(text: str) -> str:
    found = _PROXY.fullmatch(text)
    if found is None:
        # Not shown: it may hold a password.
        raise ConfigError(
            "`HTTPS_PROXY` is not `http://host:port`; ccp speaks plain CONNECT, without a login"
        )
    return found[1]


def build_lanes(policy: Policy, settings: Settings) -> dict[str, Lane]:
    """Each lane that the policy routes to, its key bound to its origin; raises `ConfigError`."""
    used = {matcher.lane for matcher in policy.matchers} | {policy.default_lane}
    if unknown := sorted(used - set(policy.lanes)):
        raise ConfigError(f"the policy routes to lane `{unknown[0]}`, which it does not define")
    lanes = {
        name: _build_lane(name, lane, settings)
        for name, lane in policy.lanes.items()
        if name in used and name not in policy.denied
    }
    _check_apart(lanes)
    return lanes


def _build_lane(name: str, lane: LanePolicy, settings: Settings) -> Lane:
    variable = _URL_VARIABLES.get(name, "")
    text = settings.environ.get(variable) or lane.base_url
    base = parse_base_url(text, what=variable if settings.environ.get(variable) else f"lane {name}")
    if lane.auth is Auth.PASSTHROUGH:
        return Lane(name, base, lane.auth)
    key = settings.environ.get(lane.env, "")
    if not key:
        raise ConfigError(
            f"`{lane.env}` is not set, and the policy routes to lane `{name}`; set it to that lane's key"
        )
    return Lane(name, base, settings.header_mode or lane.auth, Secret(key, base.origin, what=lane.env))


def _check_apart(lanes: Mapping[str, Lane]) -> None:
    """No two lanes share an origin, and none points at another's public host (a mixed-up variable)."""
    seen: dict[object, str] = {}
    for name, lane in lanes.items():
        origin = lane.base.origin
        if origin in seen:
            raise ConfigError(
                f"lanes `{seen[origin]}` and `{name}` have one origin, {origin}; keys could cross"
            )
        seen[origin] = name
        for other, host in _PUBLIC_HOSTS.items():
            if other != name and origin.host == host:
                raise ConfigError(f"lane `{name}` points at {host}, which is lane `{other}`'s own host")
