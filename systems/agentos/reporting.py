"""What the tiers that report are put together from.

    settings ── licence + keyring ──> Grant ──> Minimized | Full ──> Uplink

Nothing here can be reached before `tier` has a grant in hand, and `tier` writes nothing and sends nothing.
"""

from datetime import datetime
from typing import Any, assert_never

from holdfast.clock import utc_now
from holdfast.systems.agentos.errors import RefusedError
from holdfast.systems.agentos.folder import DataFolder
from holdfast.systems.agentos.integrations.ccc_client import Uplink, start_reported
from holdfast.systems.agentos.integrations.local import Session
from holdfast.systems.agentos.integrations.recorder import Recorder
from holdfast.systems.agentos.licensing.client import LicenceClient
from holdfast.systems.agentos.licensing.grant import Grant
from holdfast.systems.agentos.licensing.issue import device_id
from holdfast.systems.agentos.licensing.pack import parse_keyring, parse_pack, read_file
from holdfast.systems.agentos.metrics.summary import fold_log
from holdfast.systems.agentos.privacy.tier import Full, Minimized, TierName
from holdfast.systems.agentos.settings import Settings, read_key
from holdfast.systems.agentos.upload.channel import Channel
from holdfast.systems.agentos.upload.endpoint import Endpoint
from holdfast.systems.agentos.upload.outbox import Outbox
from holdfast.systems.agentos.upload.retry import Policy

__all__ = ["Reporting"]


class Reporting:
    """One method a part. Not final: the tests' planted faults are subclasses of it."""

    outbox_class: type[Outbox] = Outbox
    channel_class: type[Channel] = Channel

    def grant(self, settings: Settings) -> Grant:
        """Check the licence, now, on this device, against this folder's newest session."""
        keys = parse_keyring(read_file(settings.need("keyring"), what="the keyring"))
        pack = parse_pack(read_file(settings.need("licence"), what="the licence"))
        return LicenceClient(keys).check(
            pack, now=utc_now(), device=device_id(), latest_seen=_latest_seen(settings)
        )

    def tier(self, settings: Settings) -> Minimized | Full:
        """The tier that is set, if the licence grants it."""
        match settings.tier:
            case TierName.MINIMIZED:
                return Minimized(self.grant(settings))
            case TierName.FULL:
                return Full(self.grant(settings))
            case TierName.LOCAL_ONLY:
                raise RefusedError(
                    "the tier is `local_only`: nothing is ever uploaded; set another tier to upload"
                )
            case never:
                assert_never(never)

    def uplink(self, settings: Settings, tier: Minimized | Full) -> Uplink:
        """The queue and the channel of the data folder."""
        endpoint = Endpoint.from_user(settings.address)
        key = read_key(settings.need("key_file"))
        folder = DataFolder(settings.data)
        channel = self.channel_class(tier, endpoint, key, authority=settings.authority)
        return Uplink(folder, self.outbox_class(folder.outbox), channel)

    def session(self, tier: Minimized | Full, recorder: Recorder, fields: dict[str, Any]) -> Session:
        """Begin a session under `tier`."""
        return start_reported(tier, recorder, fields)

    def patience(self, tries: int) -> Policy:
        """How long one upload goes on."""
        return Policy(tries=tries)


def _latest_seen(settings: Settings) -> datetime | None:
    folder = DataFolder(settings.data)
    newest = fold_log(folder.windows, folder.summary).rollup.last_created_at
    return datetime.fromisoformat(newest) if newest else None
