"""Policy packs: JSON text -> `Policy`, in both written forms; every complaint names file, line and field.

The short form (`routes`, `constraints`, `timeouts`) names lanes that ccp knows; the long one, schema
`ccp.policy.v1`, defines them. Unknown fields are errors: a misspelt constraint must not be an absent one.
No pack holds a secret, only the name of the environment variable that does, and only of variables that are
meant for it, so that a pack cannot pick any other secret of the process and send it somewhere.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

import msgspec

from holdfast.records.canonical import NotCanonicalError, canonical_bytes, parse_strict
from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.http1 import Limits
from holdfast.systems.ccp.origins import parse_base_url
from holdfast.systems.ccp.policy import DEFAULT_POLICY, Auth, LanePolicy, Matcher, Policy, Timeouts

__all__ = [
    "SCHEMA",
    "Constraints",
    "Fronting",
    "Pack",
    "denied_lanes",
    "embedded_pack_text",
    "line_of",
    "parse_pack",
]

SCHEMA = "ccp.policy.v1"
SIZE_LIMIT = 1024 * 1024
_MODES = {
    "passthrough": Auth.PASSTHROUGH,
    "x-api-key": Auth.X_API_KEY,
    "zai": Auth.X_API_KEY,
    "bearer": Auth.BEARER,
    "authorization": Auth.BEARER,
    "auth": Auth.BEARER,
}
_LANE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_KEY_VARIABLE = re.compile(r"ZAI_API_KEY|CCP_KEY_[A-Z0-9_]{1,48}")
_JURISDICTION = re.compile(r"[a-z]{2}")
_PATH_PART = re.compile(r"\.([A-Za-z0-9_$-]+)|\[(\d+|\.\.\.)\]")


class _Strict(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """Fields are written in camel case; one that is not known is refused."""


@final
class Constraints(_Strict, frozen=True):
    """Where requests may not go."""

    disallow_providers: tuple[str, ...] = ()
    require_jurisdiction: str | None = None


class _Timeouts(_Strict, frozen=True):
    connect_ms: int = Timeouts().connect_ms
    read_ms: int = Timeouts().first_byte_ms
    after_stop_ms: int = Timeouts().after_stop_ms


class _Limits(_Strict, frozen=True):
    body_bytes: int = Limits().body_bytes
    head_bytes: int = Limits().head_bytes
    target_bytes: int = Limits().target_bytes
    head_seconds: float = Limits().head_seconds
    idle_seconds: float = Limits().idle_seconds


class _Common(_Strict, frozen=True, kw_only=True):
    """What both forms may carry."""

    version: int | None = None
    expires: datetime | None = None
    ttl_seconds: int = 900
    constraints: Constraints = Constraints()
    timeouts: _Timeouts = _Timeouts()
    limits: _Limits = _Limits()


class _ShortRoute(_Strict, frozen=True):
    match_model: str
    provider: str
    header_mode: str | None = None
    rename: str | None = None


class _Short(_Common, frozen=True, kw_only=True):
    routes: tuple[_ShortRoute, ...]


class _LongMatcher(_Strict, frozen=True):
    pattern: str
    lane: str
    rename: str | None = None


class _Routing(_Strict, frozen=True):
    matchers: tuple[_LongMatcher, ...]
    default_lane: str = "anthropic"


class _AuthHeader(_Strict, frozen=True):
    mode: str = "passthrough"
    env: str = ""
    passthrough: bool | None = None


class _Provider(_Strict, frozen=True):
    base_url: str = msgspec.field(name="baseURL")
    auth_header: _AuthHeader = _AuthHeader()
    jurisdiction: str = ""


class _Allowed(_Strict, frozen=True):
    hostport: str
    ttl: int = 0


@final
class Fronting(_Strict, frozen=True):
    """What the broker asks of a CONNECT, in this order."""

    require_sni: bool = msgspec.field(name="requireSNI", default=True)
    require_host_eq_sni: bool = msgspec.field(name="requireHostEqSNI", default=True)
    block_ip_literal: bool = msgspec.field(name="blockIPLiteral", default=True)
    allowlist: tuple[_Allowed, ...] = ()


class _SandboxLinux(_Strict, frozen=True):
    bwrap: bool | str = False
    seccomp: bool | str = False


class _Telemetry(_Strict, frozen=True):
    local_only: bool = True


class _Long(_Common, frozen=True, kw_only=True):
    schema: str
    routing: _Routing
    providers: Mapping[str, _Provider]
    fronting: Fronting = Fronting()
    sandbox_linux: _SandboxLinux = _SandboxLinux()
    telemetry: _Telemetry = _Telemetry()


@final
@dataclass(frozen=True, slots=True)
class Pack:
    """A pack as read: the policy, and what decides whether it may be used."""

    policy: Policy
    digest: str
    """SHA-256 of the canonical JSON, in hex: the same for two spellings of one pack."""
    versioned: bool
    """It names its version and its expiry, as a signed pack must."""
    expires: datetime | None
    ttl_seconds: int
    fronting: Fronting


@final
class _FieldError(ValueError):
    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def parse_pack(text: bytes, *, name: str, tighten: Constraints | None = None) -> Pack:
    """`text` as a pack; raises `ConfigError` naming `name`, the line and the field.

    `tighten` are constraints of the environment: they are added to the pack's own and remove none.
    """
    if len(text) > SIZE_LIMIT:
        raise ConfigError(f"policy `{name}` is larger than {SIZE_LIMIT} bytes")
    try:
        value = parse_strict(text)
        digest = hashlib.sha256(canonical_bytes(value)).hexdigest()
    except NotCanonicalError as error:
        raise ConfigError(f"policy `{name}`: {error}") from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"policy `{name}` is not a JSON object")
    try:
        return _read(value, digest, tighten or Constraints())
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise _complaint(text, name, where.strip("`") or "$", message) from error
    except _FieldError as error:
        raise _complaint(text, name, error.path, str(error)) from error


def _read(value: Mapping[str, Any], digest: str, tighten: Constraints) -> Pack:
    if "schema" in value:
        if value["schema"] != SCHEMA:
            raise _FieldError("$.schema", f"the only schema known is `{SCHEMA}`")
        long = msgspec.convert(value, _Long)
        return _finish(_long_policy(long), long.fronting, long, digest, tighten)
    short = msgspec.convert(value, _Short)
    return _finish(_short_policy(short), Fronting(), short, digest, tighten)


def _finish(policy: Policy, fronting: Fronting, common: _Common, digest: str, tighten: Constraints) -> Pack:
    _check_common(common)
    denied = {**denied_lanes(policy.lanes, common.constraints), **denied_lanes(policy.lanes, tighten)}
    complete = Policy(
        version=common.version if common.version is not None else 1,
        matchers=policy.matchers,
        lanes=policy.lanes,
        default_lane=policy.default_lane,
        timeouts=Timeouts(common.timeouts.connect_ms, common.timeouts.read_ms, common.timeouts.after_stop_ms),
        limits=Limits(**msgspec.structs.asdict(common.limits)),
        denied=denied,
    )
    versioned = common.version is not None and common.expires is not None
    return Pack(complete, digest, versioned, common.expires, common.ttl_seconds, fronting)


def denied_lanes(lanes: Mapping[str, LanePolicy], constraints: Constraints) -> dict[str, str]:
    """Lane -> why it is denied. A lane of unknown jurisdiction is denied as soon as jurisdictions matter."""
    disallowed = {entry.lower() for entry in constraints.disallow_providers}
    required = (constraints.require_jurisdiction or "").lower()
    matters = bool(required) or any(_JURISDICTION.fullmatch(entry) for entry in disallowed)
    denied = {}
    for name, lane in lanes.items():
        if name in disallowed:
            denied[name] = f"the policy disallows provider `{name}`"
        elif matters and not lane.jurisdiction:
            denied[name] = "its jurisdiction is not known"
        elif lane.jurisdiction in disallowed:
            denied[name] = f"the policy disallows jurisdiction `{lane.jurisdiction}`"
        elif required and lane.jurisdiction != required:
            denied[name] = (
                f"the policy requires jurisdiction `{required}`, and it is in `{lane.jurisdiction}`"
            )
    return denied


def _check_common(common: _Common) -> None:
    positive = {
        "$.timeouts.connectMs": common.timeouts.connect_ms,
        "$.timeouts.readMs": common.timeouts.read_ms,
        "$.timeouts.afterStopMs": common.timeouts.after_stop_ms,
        "$.limits.bodyBytes": common.limits.body_bytes,
        "$.limits.headBytes": common.limits.head_bytes,
        "$.limits.targetBytes": common.limits.target_bytes,
        "$.limits.headSeconds": common.limits.head_seconds,
        "$.limits.idleSeconds": common.limits.idle_seconds,
        "$.ttlSeconds": common.ttl_seconds,
    }
    for path, number in positive.items():
        if number <= 0:
            raise _FieldError(path, "must be greater than zero")
    if common.version is not None and common.version < 1:
        raise _FieldError("$.version", "must be 1 or more")
    if common.expires is not None and common.expires.tzinfo is None:
        raise _FieldError("$.expires", "needs a time zone, as in `2027-01-01T00:00:00Z`")
    required = common.constraints.require_jurisdiction
    if required is not None and not _JURISDICTION.fullmatch(required.lower()):
        raise _FieldError("$.constraints.requireJurisdiction", "is not a two-letter country code")


def _short_policy(short: _Short) -> Policy:
    lanes = dict(DEFAULT_POLICY.lanes)
    matchers = []
    for index, route in enumerate(short.routes):
        path = f"$.routes[{index}]"
        if route.provider not in lanes:
            known = ", ".join(f"`{name}`" for name in lanes)
            raise _FieldError(
                f"{path}.provider", f"`{route.provider}` is not known; the short form knows {known}"
            )
        if route.header_mode is not None:
            mode = _mode(route.header_mode, f"{path}.headerMode")
            lane = lanes[route.provider]
            if (mode is Auth.PASSTHROUGH) != (lane.auth is Auth.PASSTHROUGH):
                raise _FieldError(
                    f"{path}.headerMode", f"`{route.header_mode}` does not fit provider `{route.provider}`"
                )
            lanes[route.provider] = LanePolicy(lane.base_url, mode, lane.env, lane.jurisdiction)
        matchers.append(_matcher(route.match_model, route.provider, route.rename, f"{path}.matchModel"))
    return Policy(version=1, matchers=tuple(matchers), lanes=lanes)


def _long_policy(long: _Long) -> Policy:
    lanes = {name: _lane(name, provider) for name, provider in long.providers.items()}
    matchers = []
    for index, entry in enumerate(long.routing.matchers):
        path = f"$.routing.matchers[{index}]"
        if entry.lane not in lanes:
            raise _FieldError(f"{path}.lane", f"`{entry.lane}` is not among `providers`")
        matchers.append(_matcher(entry.pattern, entry.lane, entry.rename, f"{path}.pattern"))
    if long.routing.default_lane not in lanes:
        raise _FieldError("$.routing.defaultLane", f"`{long.routing.default_lane}` is not among `providers`")
    return Policy(version=1, matchers=tuple(matchers), lanes=lanes, default_lane=long.routing.default_lane)


def _lane(name: str, provider: _Provider) -> LanePolicy:
    path = f"$.providers.{name}"
    if not _LANE.fullmatch(name):
        raise _FieldError(path, "a lane's name is lower-case letters, digits and `-`")
    try:
        parse_base_url(provider.base_url, what="baseURL")
    except ConfigError as error:
        raise _FieldError(f"{path}.baseURL", str(error)) from error
    header = provider.auth_header
    mode = Auth.PASSTHROUGH if header.passthrough else _mode(header.mode, f"{path}.authHeader.mode")
    if mode is not Auth.PASSTHROUGH and not _KEY_VARIABLE.fullmatch(header.env):
        raise _FieldError(
            f"{path}.authHeader.env",
            "names the variable with the key: `ZAI_API_KEY`, or one that begins `CCP_KEY_`",
        )
    if provider.jurisdiction and not _JURISDICTION.fullmatch(provider.jurisdiction):
        raise _FieldError(f"{path}.jurisdiction", "is not a two-letter country code in lower case")
    env = "" if mode is Auth.PASSTHROUGH else header.env
    return LanePolicy(provider.base_url, mode, env, provider.jurisdiction)


def _mode(text: str, path: str) -> Auth:
    if text not in _MODES:
        raise _FieldError(path, f"`{text}` is none of: {', '.join(_MODES)}")
    return _MODES[text]


def _matcher(pattern: str, lane: str, rename: str | None, path: str) -> Matcher:
    try:
        return Matcher(pattern, lane, rename)
    except ValueError as error:
        raise _FieldError(path, str(error)) from error


def _complaint(text: bytes, name: str, path: str, message: str) -> ConfigError:
    shown = message[:1].lower() + message[1:]
    return ConfigError(f"policy `{name}`, line {line_of(text.decode(), path)}, `{path}`: {shown}")


def line_of(text: str, path: str) -> int:
    """The line where the value at `path` (`$.a.b[0]`) begins, or of the nearest one above that exists."""
    decoder = json.JSONDecoder()
    at = _skip_blank(text, 0)
    for key, index in _PATH_PART.findall(path):
        found = _member(text, at, decoder, key, index)
        if found is None:
            break
        at = found
    return text.count("\n", 0, at) + 1


def _member(text: str, at: int, decoder: json.JSONDecoder, key: str, index: str) -> int | None:
    """Where the member `key` or the element `index` of the container at `at` begins."""
    opening = text[at]
    if opening != ("{" if key else "["):
        return None
    at = _skip_blank(text, at + 1)
    count = 0
    while text[at] not in "}]":
        name = None
        if opening == "{":
            name, at = decoder.raw_decode(text, at)
            at = _skip_blank(text, _skip_blank(text, at) + 1)
        if (key and name == key) or (index and index == str(count)):
            return at
        _, at = decoder.raw_decode(text, at)
        at = _skip_blank(text, at)
        if text[at] == ",":
            at = _skip_blank(text, at + 1)
        count += 1
    return None


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def embedded_pack_text() -> bytes:
    """The embedded default as a pack in the long form: what stands when none is given, and an example."""
    policy = DEFAULT_POLICY
    return json.dumps(
        {
            "schema": SCHEMA,
            "routing": {
                "matchers": [{"pattern": m.pattern, "lane": m.lane} for m in policy.matchers],
                "defaultLane": policy.default_lane,
            },
            "providers": {
                name: {
                    "baseURL": lane.base_url,
                    "authHeader": {"mode": lane.auth.value, "env": lane.env},
                    "jurisdiction": lane.jurisdiction,
                }
                for name, lane in policy.lanes.items()
            },
        },
        indent=2,
    ).encode()
