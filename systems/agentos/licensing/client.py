"""The licence check: a pure decision over a pack, a keyring, a moment and a device.

First no wins, and says what to do: unknown key, key out of its time, bad signature, wrong device, not yet
valid, expired, clock set back. Only then is there a Grant. What the pack says about itself (its times, its
device) is looked at after the signature, so an error about them is about a genuine pack.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from holdfast.systems.agentos.errors import BadInputError, RefusedError
from holdfast.systems.agentos.licensing.grant import Grant, seal_grant
from holdfast.systems.agentos.licensing.pack import Keyring, Pack, TrustedKey

__all__ = ["CLOCK_SLACK", "LicenceClient", "Verifier", "verify_ed25519"]

Verifier = Callable[[TrustedKey, bytes, bytes], bool]
"""(key, signature, signed bytes) -> whether the signature is the key's."""

CLOCK_SLACK = timedelta(minutes=5)
"""How far a clock may have gone back since the newest session of the log."""


def verify_ed25519(key: TrustedKey, signature: bytes, signed: bytes) -> bool:
    """The verifier of production."""
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, signed)
    except InvalidSignature:
        return False
    except ValueError as problem:
        raise BadInputError(f"a key of the keyring is no Ed25519 public key: {problem}") from None
    return True


@final
@dataclass(frozen=True, slots=True)
class LicenceClient:
    """Checks packs against the keys that are trusted."""

    keyring: Keyring
    _verify: Verifier = verify_ed25519

    @classmethod
    def with_verifier_for_tests(cls, keyring: Keyring, verify: Verifier) -> "LicenceClient":
        """Take another verifier. For tests and offline builds; no command and no setting leads here."""
        return cls(keyring, verify)

    def check(
        self, pack: Pack, *, now: datetime, device: str | None, latest_seen: datetime | None = None
    ) -> Grant:
        """The pack's grant at `now` on `device`, or `RefusedError` with the first reason against it.

        `latest_seen` is the newest moment that this data folder has recorded: a clock far behind it was set
        back, and would bring an expired licence to life again.
        """
        self._require_signed(pack, now)
        _require_device(pack, device)
        _require_time(pack, now, latest_seen)
        return seal_grant(
            license_id=pack.license_id,
            plan=pack.plan,
            entitlements=pack.entitlements,
            expires=pack.expires,
            key_id=pack.key_id,
        )

    def _require_signed(self, pack: Pack, now: datetime) -> None:
        key = self.keyring.get(pack.key_id)
        if key is None:
            known = ", ".join(sorted(self.keyring)) or "none"
            raise RefusedError(
                f"the licence is signed by the unknown key `{pack.key_id}`; known: {known};"
                " get the keyring that goes with it"
            )
        if key.not_before and now < key.not_before:
            raise RefusedError(
                f"the key `{pack.key_id}` is valid from {key.not_before.isoformat()}; now is {now.isoformat()}"
            )
        if key.not_after and now >= key.not_after:
            raise RefusedError(
                f"the key `{pack.key_id}` was retired on {key.not_after.isoformat()}; get a licence signed by a"
                " current key"
            )
        if not self._verify(key, pack.signature, pack.signed):
            raise RefusedError(
                f"the licence's signature is not by the key `{pack.key_id}`; it was changed after it was issued,"
                " or belongs to another keyring"
            )


def _require_device(pack: Pack, device: str | None) -> None:
    if pack.device is not None and device is None:
        raise RefusedError(
            f"the licence `{pack.license_id}` is bound to a device, and this machine has no /etc/machine-id"
            " to know it by; ask for a licence without a device"
        )
    if pack.device is not None and pack.device != device:
        raise RefusedError(
            f"the licence `{pack.license_id}` is for another device; this one is `{device}`;"
            " ask for a licence with this device's id"
        )


def _require_time(pack: Pack, now: datetime, latest_seen: datetime | None) -> None:
    if now < pack.not_before:
        raise RefusedError(
            f"the licence `{pack.license_id}` is valid from {pack.not_before.isoformat()} and this machine's clock"
            f" says {now.isoformat()}; check the clock, or wait"
        )
    if now >= pack.expires:
        raise RefusedError(
            f"the licence `{pack.license_id}` expired on {pack.expires.isoformat()} and this machine's clock says"
            f" {now.isoformat()}; renew it"
        )
    if latest_seen is not None and now < latest_seen - CLOCK_SLACK:
        raise RefusedError(
            f"this machine's clock says {now.isoformat()}, but the log has a session of {latest_seen.isoformat()};"
            " set the clock right"
        )
