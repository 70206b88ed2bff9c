"""Where a policy comes from, and when it may be used. Packs are verified at every load, from the cache too.

    CCP_POLICY_URL (https, loopback http, or a file)  --fetch-->  verify  -->  highest version  -->  in force
                                    cache.json (TTL)  ----------------^

* With a trust anchor (`CCP_POLICY_KEYS`) every pack must be signed by one of its keys, name a version and
  an expiry. That follows from the anchor and never from the data: a pack stripped of its signature is refused.
* The version may not go back: the highest seen is kept in its own file, not in the cache that it guards.
* An expired pack is refused. When none can be had, the embedded default stands, but only where no pack was
  ever in force: else whoever blocks the fetch could take a constraint away.
Models: OPA bundles (activate after verification, else keep), TUF (rollback, freeze), GHSA-g2pf-6v5v-qcc8.
"""

import base64
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, final

import msgspec

from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.origins import parse_base_url
from holdfast.systems.ccp.pack import SIZE_LIMIT, Constraints, Pack, embedded_pack_text, parse_pack

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = [
    "PAYLOAD_TYPE",
    "Loaded",
    "PolicyStore",
    "Received",
    "embedded",
    "load_keys",
    "open_pack",
    "tightening",
]

PAYLOAD_TYPE = "application/vnd.holdfast.ccp-policy+json"
FETCH_SECONDS = 5.0
_SWITCH = {"1": True, "true": True, "yes": True, "": False, "0": False, "false": False, "no": False}


@final
@dataclass(frozen=True, slots=True)
class Received:
    """Bytes as they came, not yet believed."""

    body: bytes
    signature: bytes | None = None
    """The envelope that came beside a bare pack."""


@final
@dataclass(frozen=True, slots=True)
class Loaded:
    """A pack that may be used."""

    pack: Pack
    source: str
    """`embedded`, `file`, `url`, `cache` or `stale cache`."""
    signed: bool


class _Cached(msgspec.Struct, frozen=True):
    where: str
    fetched_at: datetime
    body: str
    signature: str | None = None


class _Highest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    highest: int


def tightening(environ: Mapping[str, str]) -> Constraints:
    """What `CCP_REQUIRE_US_ONLY` and `CCP_BLOCK_CN` add to every policy; they can only take lanes away."""

    def switch(name: str) -> bool:
        text = environ.get(name, "").strip().lower()
        if text not in _SWITCH:
            raise ConfigError(f"`{name}` is neither 1 nor 0")
        return _SWITCH[text]

    return Constraints(
        disallow_providers=("cn",) if switch("CCP_BLOCK_CN") else (),
        require_jurisdiction="us" if switch("CCP_REQUIRE_US_ONLY") else None,
    )


def embedded(tighten: Constraints) -> Loaded:
    """The default that ccp carries: version 0, older than any pack."""
    pack = parse_pack(embedded_pack_text(), name="embedded default", tighten=tighten)
    return Loaded(replace(pack, policy=replace(pack.policy, version=0)), "embedded", signed=False)


def load_keys(path: Path) -> "tuple[Ed25519PublicKey, ...]":
    """The PEM public keys in `path`; raises `ConfigError` when there is none or one is not Ed25519."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the policy keys `{path}` cannot be read ({error.strerror})") from error
    end = b"-----END PUBLIC KEY-----"
    keys: list[Ed25519PublicKey] = []
    for block in text.split(end)[:-1]:
        try:
            key = load_pem_public_key(block + end)
        except ValueError as error:
            raise ConfigError(f"the policy keys `{path}` hold something that is no PEM public key") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"the policy keys `{path}` hold a key that is not Ed25519")
        keys.append(key)
    if not keys:
        raise ConfigError(f"the policy keys `{path}` hold no PEM public key; an empty anchor trusts nobody")
    return tuple(keys)


def open_pack(
    received: Received,
    keys: "tuple[Ed25519PublicKey, ...]",
    *,
    name: str,
    tighten: Constraints,
    now: datetime,
) -> Pack:
    """The pack in `received`, verified when there are keys; raises `ConfigError` for one that may not be used."""
    if keys:
        pack = parse_pack(_verified(received, keys, name), name=name, tighten=tighten)
        if not pack.versioned:
            raise ConfigError(
                f"policy `{name}` is signed but lacks `version` or `expires`; it could be replayed"
            )
    else:
        pack = parse_pack(_unwrapped(received), name=name, tighten=tighten)
    if pack.expires is not None and pack.expires <= now:
        raise ConfigError(f"policy `{name}` expired at {pack.expires.isoformat()}; publish one that has not")
    return pack


def _verified(received: Received, keys: "tuple[Ed25519PublicKey, ...]", name: str) -> bytes:
    """The signed bytes; parse these and no others."""
    from holdfast.records.dsse import BadEnvelopeError, verify

    envelope = received.signature if received.signature is not None else received.body
    try:
        payload = verify(envelope, PAYLOAD_TYPE, keys)
    except BadEnvelopeError as error:
        raise ConfigError(f"policy `{name}` is not signed by a trusted key: {error}") from error
    if received.signature is not None and payload != received.body:
        raise ConfigError(f"policy `{name}` is not what its signature was made for")
    return payload


def _unwrapped(received: Received) -> bytes:
    """Without an anchor nothing is verified; an envelope is opened all the same, so that packs can be signed
    before every machine has the key."""
    try:
        envelope = msgspec.json.decode(received.body, type=dict[str, msgspec.Raw])
        if envelope.keys() >= {"payload", "payloadType", "signatures"}:
            return base64.b64decode(msgspec.json.decode(envelope["payload"], type=str), validate=True)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    return received.body


@final
class PolicyStore:
    """One source, its cache and its memory of the highest version."""

    def __init__(
        self,
        where: str,
        folder: Path,
        keys: "tuple[Ed25519PublicKey, ...]" = (),
        tighten: Constraints | None = None,
    ) -> None:
        self._path = _as_path(where)
        if where and self._path is None:
            parse_base_url(where.partition("?")[0], what="CCP_POLICY_URL")
        self._where = where
        self._folder = folder
        self._keys = keys
        self._tighten = tighten or Constraints()

    def load(self, now: datetime) -> Loaded:
        """The pack to use; raises `ConfigError` when there is none that may be."""
        if not self._where:
            return embedded(self._tighten)
        try:
            return self._load_file(now) if self._path is not None else self._load_url(now)
        except ConfigError:
            if self._path is not None or self._highest() > 0:
                raise
            return embedded(self._tighten)

    def _load_file(self, now: datetime) -> Loaded:
        assert self._path is not None
        received = _read_file(self._path, with_signature=bool(self._keys))
        return self._accept(received, "file", now)

    def _load_url(self, now: datetime) -> Loaded:
        cached = self._cached()
        if cached is not None:
            fresh = self._from_cache(cached, now, stale=False)
            if fresh is not None:
                return fresh
        try:
            received = fetch(self._where, with_signature=bool(self._keys))
            loaded = self._accept(received, "url", now)
        except ConfigError:
            stale = self._from_cache(cached, now, stale=True) if cached is not None else None
            if stale is None:
                raise
            return stale
        self._store(received, now)
        return loaded

    def _from_cache(self, cached: _Cached, now: datetime, *, stale: bool) -> Loaded | None:
        """What the cache gives, verified anew; None when it is too old, from elsewhere or not acceptable."""
        try:
            received = Received(
                base64.b64decode(cached.body),
                base64.b64decode(cached.signature) if cached.signature else None,
            )
            loaded = self._accept(received, "stale cache" if stale else "cache", now)
        except (ConfigError, ValueError):
            return None
        age = (now - cached.fetched_at).total_seconds()
        # A stamp from the future is no reason to skip fetching for longer.
        return loaded if stale or 0 <= age < loaded.pack.ttl_seconds else None

    def _accept(self, received: Received, source: str, now: datetime) -> Loaded:
        pack = open_pack(received, self._keys, name=self._where, tighten=self._tighten, now=now)
        highest = self._highest()
        if pack.policy.version < highest:
            raise ConfigError(
                f"policy `{self._where}` has version {pack.policy.version}, and {highest} was in force before; "
                "publish a higher version"
            )
        if pack.policy.version > highest:
            self._write("highest-version.json", msgspec.json.encode(_Highest(pack.policy.version)))
        return Loaded(pack, source, signed=bool(self._keys))

    def _highest(self) -> int:
        path = self._folder / "highest-version.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Highest).highest
        except FileNotFoundError:
            return 0
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"`{path}` cannot be read; it keeps old policies from coming back") from error

    def _cached(self) -> _Cached | None:
        try:
            cached = msgspec.json.decode((self._folder / "cache.json").read_bytes(), type=_Cached)
        except (OSError, msgspec.DecodeError):
            return None
        return cached if cached.where == self._where and cached.fetched_at.tzinfo is not None else None

    def _store(self, received: Received, now: datetime) -> None:
        signature = base64.b64encode(received.signature).decode() if received.signature is not None else None
        cached = _Cached(self._where, now, base64.b64encode(received.body).decode(), signature)
        self._write("cache.json", msgspec.json.encode(cached))

    def _write(self, name: str, data: bytes) -> None:
        temporary = self._folder / f".{name}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(self._folder / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise ConfigError(
                f"the policy folder `{self._folder}` cannot be written ({error.strerror})"
            ) from error


def _as_path(where: str) -> Path | None:
    """A file's path, or None for a URL."""
    if where.startswith("file://"):
        return Path(where.removeprefix("file://"))
    return None if "://" in where or not where else Path(where)


def _read_file(path: Path, *, with_signature: bool) -> Received:
    beside = path.with_name(path.name + ".sig")
    try:
        body = path.read_bytes()
        signature = beside.read_bytes() if with_signature and beside.exists() else None
    except OSError as error:
        raise ConfigError(f"policy `{path}` cannot be read ({error.strerror})") from error
    return Received(body, signature)


def fetch(url: str, *, with_signature: bool) -> Received:
    """The pack at `url`, and with it what lies at `url.sig` when the pack is no envelope itself.

    No redirect is followed and no proxy of the environment is used; 1 MiB and five seconds at most.
    """
    body = _get(url)
    if not with_signature or b'"payloadType"' in body:
        return Received(body)
    return Received(body, _get(f"{url}.sig"))


def _get(url: str) -> bytes:
    import http.client
    import urllib.error
    import urllib.request

    class _NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(url, timeout=FETCH_SECONDS) as response:
            data = bytes(response.read(SIZE_LIMIT + 1))
    except urllib.error.HTTPError as error:
        raise ConfigError(f"policy `{url}` cannot be fetched (status {error.code})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConfigError(f"policy `{url}` cannot be fetched ({type(error).__name__})") from error
    if len(data) > SIZE_LIMIT:
        raise ConfigError(f"policy `{url}` is larger than {SIZE_LIMIT} bytes")
    return data
