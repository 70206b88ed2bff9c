"""What one tenant asks of each control, and which share of its traffic a control is let out to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, final

from holdfast.systems.kakeya.grounding import RagPolicy
from holdfast.systems.kakeya.identity.claims import TENANT_NAME
from holdfast.systems.kakeya.policy.keys import read_secret
from holdfast.systems.kakeya.policy.reader import PolicyError, Reader
from holdfast.systems.kakeya.routing.decision import RiskPolicy

__all__ = ["CONTROLS", "Mode", "Tenant", "VrfKey", "VrfPolicy", "read_tenant"]

CONTROLS = ("vrf", "rag", "riskRouting", "identity")
FOREVER = 2.0**40


@final
class Mode(Enum):
    """Whether a failed check refuses the request, is only recorded, or is not made."""

    OFF = "off"
    SHADOW = "shadow"
    ENFORCE = "enforce"


@final
@dataclass(frozen=True, slots=True)
class VrfKey:
    """A public key, and when it counts: `not_before <= now < not_after`, in seconds since the epoch."""

    key: bytes
    not_before: float = 0.0
    not_after: float = FOREVER


@final
@dataclass(frozen=True, slots=True)
class VrfPolicy:
    """`vrf.*`. Several keys count at once while one is rotated."""

    required: bool = False
    mode: Mode = Mode.SHADOW
    keys: tuple[VrfKey, ...] = ()

    def keys_at(self, now: float) -> tuple[bytes, ...]:
        """The keys that count at `now`."""
        return tuple(k.key for k in self.keys if k.not_before <= now < k.not_after)


@final
@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant's policy."""

    name: str
    signing_key: bytes = field(repr=False)
    vrf: VrfPolicy = VrfPolicy()
    rag: RagPolicy = field(default_factory=RagPolicy)
    risk: RiskPolicy = field(default_factory=RiskPolicy)
    token: Mode = Mode.OFF
    """Whether the token itself must come along with the stamp, verify, and name the same tenant."""
    canary: Mapping[str, float] = field(default_factory=dict)
    """Percent, by control; 100 where nothing is said."""


def read_tenant(name: str, reader: Reader, folder: Path) -> Tenant:
    """One tenant out of the policy file in `folder`; `PolicyError` names the key at fault."""
    if not TENANT_NAME.fullmatch(name):
        raise PolicyError(
            f"tenants.{name[:80]!a}", "is no tenant name: letters, digits, `.`, `_`, `-`, up to 64"
        )
    controls = {control: reader.nested(control) for control in CONTROLS}
    tenant = Tenant(
        name=name,
        signing_key=read_secret(reader.path_of("signingKeyFile"), folder / reader.text("signingKeyFile")),
        vrf=_read_vrf(controls["vrf"]),
        rag=_read_rag(controls["rag"]),
        risk=_read_risk(controls["riskRouting"]),
        token=Mode(controls["identity"].word("token", ("off", "shadow", "enforce"), default="off")),
        canary={c: r.number("canary", 0, 100, default=100) for c, r in controls.items()},
    )
    for control in (*controls.values(), reader):
        control.done()
    return tenant


def _read_vrf(reader: Reader) -> VrfPolicy:
    policy = VrfPolicy(
        required=reader.flag("required", default=False),
        mode=Mode(reader.word("mode", ("shadow", "enforce"), default="shadow")),
        keys=tuple(
            _read_key(entry, f"{reader.path_of('pubkey')}[{n}]")
            for n, entry in enumerate(reader.list_of("pubkey"))
        ),
    )
    if policy.required and not policy.keys:
        raise PolicyError(
            reader.path_of("pubkey"), "is empty while `vrf.required` is true: nothing could ever verify"
        )
    return policy


def _read_key(value: Any, path: str) -> VrfKey:
    reader = Reader(value, path)
    text = reader.text("key")
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise PolicyError(reader.path_of("key"), "must be 64 lower-case hexadecimal digits")
    key = VrfKey(
        bytes.fromhex(text),
        reader.number("notBefore", 0, FOREVER, default=0),
        reader.number("notAfter", 0, FOREVER, default=FOREVER),
    )
    reader.done()
    return key


def _read_rag(reader: Reader) -> RagPolicy:
    return RagPolicy(
        enabled=reader.flag("enabled", default=True),
        min_overlap=reader.number("minOverlap", 0, 1, default=0.35),
        shingle_size=reader.integer("shingleSize", 1, 8, default=2),
        stopwords=reader.flag("stopwords", default=True),
        stemming=reader.flag("stemming", default=False),
    )


def _read_risk(reader: Reader) -> RiskPolicy:
    return RiskPolicy(
        enabled=reader.flag("enabled", default=False),
        skip_ensemble_below=reader.number("skipEnsembleBelow", 0, 1, default=0.10),
        require_narrow_ci=reader.flag("requireNarrowCI", default=True),
        max_ci_width=reader.number("maxCIWidth", 0, 1, default=0.05),
    )
