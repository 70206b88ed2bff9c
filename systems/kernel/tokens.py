"""Capability tokens: issued to a peer for calls that the policy allows, checked in constant time and O(1).

    TokenStore.issue(peer, claim, policy, now)   asks the policy for all that the claim covers -> bytes
    TokenStore.check(sealed, request, peer, now) -> TokenCheck     changes nothing
    TokenStore.use(check)                        after an `allow` only; one of two racers wins

The secret is made at start, so a restart makes every older token dead. Records whose time is up are evicted,
and issuing stops at a limit, so memory is bounded. Per peer a replay window over nonces outlives the
records: a token that was used up stays used up after its record is gone.
"""

import heapq
import secrets
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

from holdfast.systems.kernel.coverage import Coverage
from holdfast.systems.kernel.engine import Ask
from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.peer import Peer
from holdfast.systems.kernel.policy import Policy
from holdfast.systems.kernel.replay import ReplayWindow
from holdfast.systems.kernel.request import Request
from holdfast.systems.kernel.standing import Standing, TokenCheck
from holdfast.systems.kernel.token_format import (
    MAC_BYTES,
    Token,
    TokenFormatError,
    TokenKey,
    decode_token,
)

__all__ = ["Claim", "IssueRefusedError", "Issued", "TokenStore"]

SECOND: Final = 1_000_000_000
DEFAULT_LIFE: Final = 30 * SECOND
LONGEST_LIFE: Final = 3600 * SECOND
MOST_USES: Final = 10_000
MOST_RECORDS: Final = 65_536


class IssueRefusedError(PermissionError):
    """No token: the policy does not allow all that was claimed, or the store is full."""


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """What a peer asks a token for. It cannot say who it is."""

    syscall: str
    globs: tuple[str, ...] | None
    """None for a call that names no path."""
    uses: int = 1
    life: int = DEFAULT_LIFE
    """Nanoseconds."""
    caller_tag: str | None = None
    state: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Issued:
    """A new token; the bytes go to the peer and nowhere else."""

    id: bytes
    sealed: bytes = field(repr=False)


@final
@dataclass(slots=True)
class _Record:
    token: Token
    sealed: bytes
    paths: PathSet | None
    left: int
    revoked: bool = False


@final
@dataclass(slots=True)
class _Lane:
    """What is remembered of one peer: its nonces, and how many of its tokens still have a record."""

    window: ReplayWindow = field(default_factory=ReplayWindow)
    issued: int = 0
    records: int = 0


@final
class TokenStore:
    """The tokens of one boot; every method may be called from any thread."""

    def __init__(self, workspace: str, *, secret: bytes | None = None, most: int = MOST_RECORDS) -> None:
        """`secret` is for the published samples and for tests; it is 32 random bytes otherwise."""
        self._workspace = workspace
        self._key = TokenKey(secrets.token_bytes(MAC_BYTES) if secret is None else secret)
        self._lock = threading.Lock()
        self._most = most
        self._records: dict[bytes, _Record] = {}
        self._lanes: dict[tuple[str, int, int], _Lane] = {}
        self._expiries: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._records)

    def issue(
        self, peer: Peer, claim: Claim, policy: Policy, now: int, *, extensions: Sequence[Ask] = ()
    ) -> Issued:
        """A token for `claim`; raises `IssueRefusedError`, or `GlobError` for a glob that is none."""
        if not 1 <= claim.uses <= MOST_USES or not 0 < claim.life <= LONGEST_LIFE:
            raise IssueRefusedError(
                f"uses must be 1 to {MOST_USES} and life at most {LONGEST_LIFE // SECOND} s"
            )
        paths = None if claim.globs is None else PathSet.parse(claim.globs)
        coverage = Coverage(policy, self._workspace, claim.syscall, claim.caller_tag, claim.state)
        if refusal := coverage.refusal(paths, now, extensions):
            raise IssueRefusedError(refusal)
        with self._lock:
            self._evict(now)
            if len(self._records) >= self._most:
                raise IssueRefusedError(f"{self._most} tokens are alive; wait until some expire")
            lane = self._lanes.setdefault((peer.container, peer.pid, peer.start), _Lane())
            lane.issued += 1
            lane.records += 1
            token = Token(
                uuid.uuid4().bytes, lane.issued, now + claim.life, claim.uses, peer.pid, peer.start,
                peer.container, claim.syscall, claim.globs,
            )  # fmt: skip
            sealed = self._key.seal(token)
            self._records[token.id] = _Record(token, sealed, paths, claim.uses)
            heapq.heappush(self._expiries, (token.expires, token.id))
        return Issued(token.id, sealed)

    def check(self, sealed: bytes, request: Request, peer: Peer, now: int) -> TokenCheck:
        """How `sealed` stands for this request at `now`; never raises, never changes anything.

        The order is fixed: signature, expiry, record, replay, revocation, uses, container, peer, syscall,
        path. Only the signature's check reads what the bearer can choose freely.
        """
        try:
            signed = self._key.signed(sealed)
        except TypeError:
            return TokenCheck(Standing.MALFORMED, request, now)
        if not signed:
            return TokenCheck(Standing.BAD_SIGNATURE, request, now)
        record = self._records.get(sealed[1:17])
        if record is None:
            return TokenCheck(_without_record(sealed, now), request, now, sealed[1:17])
        if sealed != record.sealed:
            # Signed by this key and yet not what was issued: never read a token in two ways.
            return TokenCheck(Standing.MALFORMED, request, now, record.token.id)
        return TokenCheck(self._standing(record, request, peer, now), request, now, record.token.id)

    def _standing(self, record: _Record, request: Request, peer: Peer, now: int) -> Standing:
        token = record.token
        if token.expires <= now:
            return Standing.EXPIRED
        lane = self._lanes.get((token.container, token.pid, token.start))
        if record.revoked:
            return Standing.REVOKED
        if record.left < 1:
            return Standing.EXHAUSTED
        if lane is None or lane.window.seen(token.nonce):
            return Standing.REPLAYED
        if token.container != peer.container:
            return Standing.OTHER_CONTAINER
        if token.pid != peer.pid or token.start != peer.start:
            return Standing.OTHER_PEER
        if token.syscall != request.syscall:
            return Standing.OTHER_SYSCALL
        if not _covers(record.paths, request):
            return Standing.OTHER_PATH
        return Standing.VALID

    def use(self, check: TokenCheck) -> bool:
        """Take one use for an allowed call; False when it was taken meanwhile: then decide anew."""
        if check.standing is not Standing.VALID or check.token_id is None:
            return False
        with self._lock:
            record = self._records.get(check.token_id)
            if record is None or record.revoked or record.left < 1 or record.token.expires <= check.now:
                return False
            token = record.token
            if record.left == 1 and not self._lanes[token.container, token.pid, token.start].window.use(
                token.nonce
            ):
                return False
            record.left -= 1
            return True

    def revoke(self, token_id: bytes) -> bool:
        """Make a token dead at once; False when there is none of that id."""
        with self._lock:
            record = self._records.get(token_id)
            if record is not None:
                record.revoked = True
            return record is not None

    def evict(self, now: int) -> tuple[bytes, ...]:
        """Forget what is expired; the ids, for the log's `capability_expired`."""
        with self._lock:
            return self._evict(now)

    def _evict(self, now: int) -> tuple[bytes, ...]:
        gone = []
        while self._expiries and self._expiries[0][0] <= now:
            _, token_id = heapq.heappop(self._expiries)
            token = self._records.pop(token_id).token
            key = (token.container, token.pid, token.start)
            lane = self._lanes[key]
            lane.records -= 1
            if not lane.records:
                # Safe: every token that this window guarded is expired, and its expiry is under the MAC.
                del self._lanes[key]
            gone.append(token_id)
        return tuple(gone)


def _covers(paths: PathSet | None, request: Request) -> bool:
    if paths is None or request.path is None:
        return paths is None and request.path is None
    return paths.holds(request.path.absolute, request.path.relative)


def _without_record(sealed: bytes, now: int) -> Standing:
    """A signed token whose record is gone: expired, or of a store that forgot it."""
    try:
        token = decode_token(sealed)
    except TokenFormatError:
        return Standing.MALFORMED
    return Standing.EXPIRED if token.expires <= now else Standing.UNKNOWN
