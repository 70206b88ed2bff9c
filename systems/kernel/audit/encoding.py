"""The one way to write an event: canonical JSON (RFC 8785), assembled by hand because the key order is known.

A test holds this against `rfc8785` byte for byte over generated events. The leaf of an entry is the
canonical JSON of `{"body", "id", "previous", "version"}`; its hash is the RFC 6962 leaf hash, and is the
link of the chain as well: one hash covers every column that is stored, the version included.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any, Final

import rfc8785

from holdfast.systems.kernel.audit.event import MAX_SUMMARY, Event

__all__ = ["GENESIS", "VERSION", "encode_body", "entry_hash", "entry_leaf", "redacted"]

VERSION: Final = 1
GENESIS: Final = bytes(32)
"""`previous` of the first entry."""
SAFE: Final = 2**53 - 1
SECRETS: Final = re.compile(
    r"""-----BEGIN[ A-Z]*PRIVATE\ KEY-----.*?(?:-----END[ A-Z]*PRIVATE\ KEY-----|\Z)
      | \b(?:sk|pk|rk|ghp|gho|ghs|xox[abp]|glpat|hf)[-_][A-Za-z0-9_-]{8,}
      | \bgithub_pat_[A-Za-z0-9_]{8,} | \bAKIA[0-9A-Z]{12,} | \bAIza[A-Za-z0-9_-]{20,}
      | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?
      | (?<=://)[^/\s:@]{1,256}:[^/\s@]{1,256}(?=@)
      | (?i:\b(?:authorization|proxy-authorization|x-api-key|cookie)["']?\s*[:=]\s*["']?(?:bearer\s+|basic\s+)?)[^\s"',;]+
      | (?i:\bbearer\s+)[A-Za-z0-9._~+/-]{8,}=*
      | (?i:\w{0,64}(?:password|passwd|secret|token|api_?key|access_?key)["']?\s*[:=]\s*["']?)[^\s"',;&]+""",
    re.VERBOSE | re.DOTALL,
)
REMOVED: Final = "[removed]"
MAX_SCANNED: Final = 8 * MAX_SUMMARY

quote = encode_basestring


def redacted(text: str) -> str:
    """`text` without what looks like a secret, at most 500 characters.

    Cut before and after: the scan is bounded, and a secret that the first cut splits is still recognised
    by its beginning.
    """
    if not text:
        return ""
    scanned = text[:MAX_SCANNED]
    return (SECRETS.sub(REMOVED, scanned) if _suspect(scanned.lower()) else scanned)[:MAX_SUMMARY]


def _suspect(low: str) -> bool:
    """Whether any pattern above could match at all: each needs one of these. Most inputs are paths.

    Written out, since this stands on the way of every entry and a loop would cost three times as much.
    """
    return (
        ":" in low or "=" in low or "-----begin" in low or "bearer" in low
        or "sk-" in low or "sk_" in low or "pk-" in low or "pk_" in low or "rk-" in low or "rk_" in low
        or "gh" in low or "xox" in low or "glpat" in low or "hf-" in low or "hf_" in low
        or "akia" in low or "aiza" in low or "eyj" in low
    )  # fmt: skip


def encode_body(event: Event, time: str) -> str:
    """The event's canonical JSON; raises `ValueError` for metadata that canonical JSON cannot hold."""
    decision, mode, state, sandbox, token = (
        event.decision,
        event.mode,
        event.state,
        event.sandbox,
        event.token,
    )
    return (
        f'{{"caller":{quote(event.caller)},"decision":{"null" if decision is None else quote(decision)},'
        f'"duration_us":{event.duration_us},"event":"{event.type.value}",'
        f'"input":{quote(redacted(event.summary))},"metadata":{_metadata(event.metadata)},'
        f'"mode":{"null" if mode is None else quote(mode)},"reasons":{_texts(event.reasons)},'
        f'"rules":{_texts(event.rules)},"sandbox":{"null" if sandbox is None else quote(sandbox)},'
        f'"state":{"null" if state is None else quote(state)},"subject":{quote(event.subject)},'
        f'"time":"{time}","token":{"null" if token is None else quote(token)}}}'
    )


def entry_leaf(entry_id: int, version: int, body: str, previous: bytes) -> bytes:
    """The bytes that an entry's hash is over (after the leaf prefix), for a third party to rebuild."""
    return f'{{"body":{body},"id":{entry_id},"previous":"{previous.hex()}","version":{version}}}'.encode()


def entry_hash(entry_id: int, version: int, body: str, previous: bytes) -> bytes:
    """The chain's link and the tree's leaf hash, in one."""
    leaf = f'\0{{"body":{body},"id":{entry_id},"previous":"{previous.hex()}","version":{version}}}'
    return sha256(leaf.encode()).digest()


def _texts(texts: tuple[str, ...]) -> str:
    if len(texts) == 1:
        return f"[{quote(texts[0])}]"
    return f"[{','.join(map(quote, texts))}]"


def _metadata(values: Mapping[str, Any]) -> str:
    """Texts and whole numbers under ASCII keys by hand; anything else by the library."""
    if not values:
        return "{}"
    parts = []
    for key, value in sorted(values.items()):
        kind = type(value)
        if kind is str:
            parts.append(f"{quote(key)}:{quote(value)}")
        elif kind is int and -SAFE <= value <= SAFE:
            parts.append(f"{quote(key)}:{value}")
        elif value is None:
            parts.append(f"{quote(key)}:null")
        else:
            return rfc8785.dumps(dict(values)).decode()
    text = f"{{{','.join(parts)}}}"
    # Outside ASCII, RFC 8785 sorts by UTF-16 code units and Python by code points.
    return text if text.isascii() else rfc8785.dumps(dict(values)).decode()
