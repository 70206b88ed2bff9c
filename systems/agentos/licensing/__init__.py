"""Licence packs: signed statements of what may be reported, checked offline.

pack (file) + keyring (file) -> LicenceClient.check(now, device) -> Grant | RefusedError
"""

from holdfast.systems.agentos.licensing.client import LicenceClient
from holdfast.systems.agentos.licensing.grant import Grant

__all__ = ["Grant", "LicenceClient"]
