"""base64url in its one canonical spelling (RFC 4648, sections 3.2, 3.5 and 5).

Python's decoder skips what it does not know and ignores the last bits of the last letter, so that one value
has many spellings; a signature or a replay check over the text then sees several things where there is one.
"""

import base64
import re
from enum import Enum
from typing import final

__all__ = ["Padding", "decode", "encode"]

_ALPHABET = re.compile("[A-Za-z0-9_-]*")


@final
class Padding(Enum):
    """JWS forbids it (RFC 7515, section 2); Envoy's `pad_forward_payload_header` may add it."""

    FORBIDDEN = "forbidden"
    OPTIONAL = "optional"


def decode(text: str, padding: Padding) -> bytes | None:
    """The bytes, or None for any text that `encode` would not have written."""
    bare = text
    if padding is Padding.OPTIONAL and text.endswith("="):
        bare = text.rstrip("=")
        if len(text) % 4 or len(text) - len(bare) > 2:
            return None
    if not _ALPHABET.fullmatch(bare) or len(bare) % 4 == 1:
        return None
    value = base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    return value if encode(value) == bare else None


def encode(value: bytes) -> str:
    """Without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")
