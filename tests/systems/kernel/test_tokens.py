"""Capability tokens: who may bear them, for what, until when, how often, and what is never accepted."""

import ast
import inspect
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.systems.kernel.decision import Outcome, Phase
from holdfast.systems.kernel.engine import decide
from holdfast.systems.kernel.glob import PathSet
from holdfast.systems.kernel.peer import Peer, PeerError
from holdfast.systems.kernel.policy import Policy, compile_policy
from holdfast.systems.kernel.replay import WINDOW, ReplayWindow
from holdfast.systems.kernel.request import Request, ResolvedPath
from holdfast.systems.kernel.rules import Action, Match, Rule, Source, Vote
from holdfast.systems.kernel.standing import Standing, TokenCheck
from holdfast.systems.kernel.token_format import Token, TokenFormatError, TokenKey, decode_token, encode_token
from holdfast.systems.kernel.tokens import Claim, Issued, IssueRefusedError, TokenStore
from tests.systems.kernel.sizes import law

SECOND = 1_000_000_000
PEER = Peer("mnt:1", 100, 7)
ANYTHING = compile_policy([Rule("all", Match(), Action.ALLOW)])
SRC = Claim("fs.read", ("src/**",))


def request(path: str = "src/a", syscall: str = "fs.read") -> Request:
    return Request(syscall, "bearer", ResolvedPath.judged(f"/w/{path}", "/w"))


def issued(claim: Claim = SRC, *, policy: Policy = ANYTHING, now: int = 0) -> tuple[TokenStore, Issued]:
    store = TokenStore("/w")
    return store, store.issue(PEER, claim, policy, now)


BEARERS = {
    "as it was meant": (Standing.VALID, PEER, request(), 1),
    "at the last instant": (Standing.VALID, PEER, request(), 30 * SECOND - 1),
    "at the instant of its expiry": (Standing.EXPIRED, PEER, request(), 30 * SECOND),
    "from another container": (Standing.OTHER_CONTAINER, Peer("mnt:2", 100, 7), request(), 1),
    "by another process": (Standing.OTHER_PEER, Peer("mnt:1", 101, 7), request(), 1),
    "by a later process of the same pid": (Standing.OTHER_PEER, Peer("mnt:1", 100, 8), request(), 1),
    "for another call": (Standing.OTHER_SYSCALL, PEER, request(syscall="fs.write"), 1),
    "for another path": (Standing.OTHER_PATH, PEER, request("doc/a"), 1),
    "expired and elsewhere: expiry first": (
        Standing.EXPIRED,
        Peer("mnt:2", 9, 9),
        request("doc/a"),
        31 * SECOND,
    ),
}


@pytest.mark.parametrize("name", BEARERS)
def test_a_token_stands(name: str) -> None:
    expected, peer, asked, now = BEARERS[name]
    store, token = issued()
    assert store.check(token.sealed, asked, peer, now).standing is expected


def test_no_byte_of_a_token_can_be_changed() -> None:
    store, token = issued()
    for at in range(len(token.sealed)):
        for bit in (1, 128):
            changed = bytearray(token.sealed)
            changed[at] ^= bit
            assert store.check(bytes(changed), request(), PEER, 1).standing is Standing.BAD_SIGNATURE


def test_no_truncation_and_no_trailing_byte_is_accepted() -> None:
    store, token = issued()
    for text in [token.sealed[:end] for end in range(len(token.sealed))] + [token.sealed + b"\0", b""]:
        assert store.check(text, request(), PEER, 1).standing is Standing.BAD_SIGNATURE


def test_empty_globs_grant_nothing_and_a_pathless_token_grants_no_path() -> None:
    store, token = issued(replace(SRC, globs=()))
    assert store.check(token.sealed, request(), PEER, 1).standing is Standing.OTHER_PATH
    store, token = issued(Claim("net.connect", None))
    assert store.check(token.sealed, Request("net.connect", "bearer"), PEER, 1).standing is Standing.VALID


def test_uses_are_counted_and_a_used_up_token_stays_used_up() -> None:
    store, token = issued(replace(SRC, uses=3))
    asked = request()
    for _ in range(3):
        assert store.use(store.check(token.sealed, asked, PEER, 1))
    assert store.check(token.sealed, asked, PEER, 1).standing is Standing.EXHAUSTED


def test_the_nonce_is_remembered_when_the_record_forgets_its_count() -> None:
    """Defence in depth: the replay window alone refuses a second use."""
    store, token = issued()
    asked = request()
    first = store.check(token.sealed, asked, PEER, 1)
    assert store.use(first)
    store._records[token.id].left = 1
    assert store.check(token.sealed, asked, PEER, 1).standing is Standing.REPLAYED
    assert not store.use(first)


def test_only_an_allow_takes_a_use() -> None:
    """The guard takes a use after an allow; checking and deciding alone never do."""
    reviewed = compile_policy([Rule("asks", Match(), Action.REVIEW, source=Source.BUILTIN)])
    store, token = issued()
    asked = request()
    for _ in range(5):
        check = store.check(token.sealed, asked, PEER, 1)
        assert check.standing is Standing.VALID
        assert decide(asked, reviewed, 1, check).outcome is Outcome.REVIEW
    assert store.use(store.check(token.sealed, asked, PEER, 1))


def test_first_uses_may_come_in_any_order() -> None:
    store = TokenStore("/w")
    tokens = [store.issue(PEER, SRC, ANYTHING, 0) for _ in range(50)]
    asked = request()
    for token in reversed(tokens):
        assert store.use(store.check(token.sealed, asked, PEER, 1))
    assert {store.check(t.sealed, asked, PEER, 1).standing for t in tokens} == {Standing.EXHAUSTED}


@pytest.mark.parametrize("uses", [1, 5])
def test_of_many_threads_racing_exactly_as_many_win_as_there_are_uses(uses: int) -> None:
    store, token = issued(replace(SRC, uses=uses))
    asked = request()
    check = store.check(token.sealed, asked, PEER, 1)
    gate, wins = threading.Barrier(16), []

    def race() -> None:
        gate.wait()
        wins.append(store.use(check))

    threads = [threading.Thread(target=race) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == [False] * (16 - uses) + [True] * uses


def test_memory_is_bounded_expired_records_go_and_nothing_is_issued_over_the_limit() -> None:
    store = TokenStore("/w", most=100)
    for _ in range(100):
        store.issue(PEER, SRC, ANYTHING, 0)
    with pytest.raises(IssueRefusedError, match="100 tokens are alive"):
        store.issue(PEER, SRC, ANYTHING, 1)
    for _ in range(10):
        store.issue(Peer("mnt:1", 200, 1), SRC, ANYTHING, 31 * SECOND)
    assert len(store) == 10
    assert len(store._lanes) == 1


def test_an_evicted_token_is_expired_and_an_unknown_one_unknown() -> None:
    store, token = issued()
    assert store.evict(31 * SECOND) == (token.id,)
    assert store.check(token.sealed, request(), PEER, 31 * SECOND).standing is Standing.EXPIRED
    stranger = TokenKey(bytes(32)).seal(replace(decode_token(token.sealed), expires=99 * SECOND))
    assert TokenStore("/w", secret=bytes(32)).check(stranger, request(), PEER, 1).standing is Standing.UNKNOWN


def test_a_restart_makes_every_older_token_dead() -> None:
    _, token = issued()
    assert TokenStore("/w").check(token.sealed, request(), PEER, 1).standing is Standing.BAD_SIGNATURE


def test_a_revoked_token_is_dead_at_once() -> None:
    store, token = issued()
    check = store.check(token.sealed, request(), PEER, 1)
    assert store.revoke(token.id)
    assert not store.use(check)
    assert store.check(token.sealed, request(), PEER, 1).standing is Standing.REVOKED
    assert not store.revoke(bytes(16))


def test_a_check_serves_only_its_own_request_and_instant() -> None:
    asked = request()
    check = TokenCheck(Standing.VALID, asked, 1)
    assert decide(asked, ANYTHING, 1, check).phase is Phase.TOKEN
    for other, now in ((request(), 1), (asked, 2)):
        with pytest.raises(ValueError, match="a token check serves only"):
            decide(other, ANYTHING, now, check)


# -- issuing ----------------------------------------------------------------------------------------


def policy_of(*rules: Rule) -> Policy:
    return compile_policy(rules)


def allow(*globs: str, **fields: frozenset[str]) -> Rule:
    return Rule("allow", Match(paths=PathSet.parse(globs) if globs else None, **fields), Action.ALLOW)


def deny(*globs: str, action: Action = Action.DENY) -> Rule:
    return Rule("deny", Match(paths=PathSet.parse(globs)), action)


ISSUES = {
    "allowed whole": (policy_of(allow("src/**")), ("src/**",), True),
    "below what is allowed": (policy_of(allow("src/**")), ("src/a/*.py",), True),
    "a literal path": (policy_of(allow("src/**"), deny("**/*.pem")), ("src/a/b",), True),
    "nothing allows it": (policy_of(), ("src/**",), False),
    "allowed in part": (policy_of(allow("src/a/**")), ("src/**",), False),
    "allowed by two rules together, which cannot be shown": (policy_of(allow("src/a"), allow("src/b")), ("src/?",), False),
    "a denial touches it": (policy_of(allow("src/**"), deny("src/a/*.pem")), ("src/**",), False),
    "a review touches it": (policy_of(allow("src/**"), deny("src/x", action=Action.REVIEW)), ("src/**",), False),
    "a denial elsewhere": (policy_of(allow("src/**"), deny("doc/**")), ("src/**",), True),
    "a hole in the allow": (policy_of(allow("src/**", "!src/a/**")), ("src/**",), False),
    "beside the hole": (policy_of(allow("src/**", "!src/a/**")), ("src/b/**",), True),
    "a literal denied path": (policy_of(allow("src/**"), deny("src/a/b")), ("src/a/b",), False),
    "one glob of two": (policy_of(allow("src/**")), ("src/**", "doc/**"), False),
}  # fmt: skip


@pytest.mark.parametrize("name", ISSUES)
def test_a_token_is_issued_only_for_what_the_policy_allows_whole(name: str) -> None:
    policy, globs, expected = ISSUES[name]
    store = TokenStore("/w")
    if expected:
        assert store.issue(PEER, Claim("fs.read", globs), policy, 0).sealed
        return
    with pytest.raises(IssueRefusedError):
        store.issue(PEER, Claim("fs.read", globs), policy, 0)
    assert len(store) == 0


def test_an_extension_is_asked_about_a_literal_path_and_refuses_patterns() -> None:
    store = TokenStore("/w")

    def no(asked: Request, now: int) -> list[Vote]:
        return [Vote("no", Action.DENY, "no", Phase.EXTENSION)]

    def abstain(asked: Request, now: int) -> list[Vote]:
        return []

    literal = Claim("fs.read", ("src/a",))
    assert store.issue(PEER, literal, ANYTHING, 0, extensions=(abstain,)).sealed
    for claim, extension in ((literal, no), (SRC, abstain)):
        with pytest.raises(IssueRefusedError):
            store.issue(PEER, claim, ANYTHING, 0, extensions=(extension,))


@pytest.mark.parametrize(
    "claim",
    [
        replace(SRC, uses=0), replace(SRC, uses=10_001), replace(SRC, life=0), replace(SRC, life=3601 * SECOND),
        Claim("fs.read", None), Claim("net.connect", ("src/**",)), Claim("fs.format", None),
    ],
)  # fmt: skip
def test_a_claim_that_makes_no_sense_is_refused(claim: Claim) -> None:
    with pytest.raises(IssueRefusedError):
        TokenStore("/w").issue(PEER, claim, ANYTHING, 0)


def test_the_mac_is_compared_in_constant_time() -> None:
    """No test of behaviour can see this one: the comparison must be the library's, and the only one."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(TokenKey.signed)))
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "hmac.compare_digest" in calls
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]


def test_a_token_never_shows_itself_in_a_repr() -> None:
    _, token = issued()
    assert token.sealed.hex() not in repr(token)
    assert "sealed" not in repr(token)


# -- the bytes --------------------------------------------------------------------------------------

texts = st.text(max_size=20)
u64 = st.integers(0, 2**64 - 1)
tokens = st.builds(
    Token, id=st.binary(min_size=16, max_size=16), nonce=u64, expires=u64, uses=st.integers(0, 2**32 - 1),
    pid=u64, start=u64, container=texts, syscall=texts, globs=st.none() | st.lists(texts, max_size=4).map(tuple),
)  # fmt: skip


@law
@given(tokens, tokens)
def test_the_encoding_is_canonical_and_one_to_one(one: Token, other: Token) -> None:
    assert decode_token(TokenKey(bytes(32)).seal(one)) == one
    assert (encode_token(one) == encode_token(other)) == (one == other)


@law
@given(st.binary(max_size=200))
def test_decoding_reads_tokens_or_refuses_and_never_breaks(raw: bytes) -> None:
    try:
        token = decode_token(raw)
    except TokenFormatError:
        return
    assert encode_token(token) == raw[:-32]


# -- the replay window ------------------------------------------------------------------------------


@law
@given(st.lists(st.integers(0, 4 * WINDOW), max_size=120))
def test_the_window_agrees_with_a_set_of_all_nonces_seen(nonces: list[int]) -> None:
    window, used, highest = ReplayWindow(), set[int](), 0
    for nonce in nonces:
        fresh = nonce >= 1 and nonce not in used and nonce + WINDOW > highest
        assert window.seen(nonce) is not fresh
        assert window.use(nonce) is fresh
        if fresh:
            used.add(nonce)
            highest = max(highest, nonce)


def test_a_first_use_just_inside_the_window_is_fine_and_just_outside_is_not() -> None:
    window = ReplayWindow()
    assert window.use(WINDOW + 1)
    assert not window.use(1)
    assert window.use(2)
    assert not window.use(2)


# -- the peer ---------------------------------------------------------------------------------------


def test_the_peer_is_who_the_kernel_says(tmp_path: Path) -> None:
    """A child connects and claims nothing; its pid, start time and mount namespace come from the kernel."""
    address = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        code = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
        with subprocess.Popen([sys.executable, "-c", code, str(address)]) as child:
            connection, _ = listener.accept()
            with connection:
                peer = Peer.from_socket(connection)
                assert peer.pid == child.pid
                assert peer.start == int(
                    Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
                )
                assert peer.container == f"mnt:{Path(f'/proc/{child.pid}/ns/mnt').stat().st_ino}"
                connection.send(b"x")
                child.wait()
                with pytest.raises(PeerError):
                    Peer.from_socket(connection)


def test_a_tcp_socket_has_no_peer() -> None:
    with socket.socket(socket.AF_INET) as tcp, pytest.raises(PeerError, match="use a Unix socket"):
        Peer.from_socket(tcp)


def test_nothing_outside_tests_and_scenarios_makes_a_peer_by_hand() -> None:
    """`Peer.from_socket` is the only door: any `Peer(` elsewhere would take identity from a caller."""
    room = Path(__file__).parents[3] / "systems" / "kernel"
    makers = {
        path.name for path in room.rglob("*.py") if "Peer(" in path.read_text().replace("class Peer(", "")
    }
    assert makers == {"scenario.py"}


def test_a_token_names_the_process_behind_the_socket_whatever_was_claimed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer.from_socket(theirs)
        token = decode_token(TokenStore("/w").issue(peer, SRC, ANYTHING, 0).sealed)
    assert (token.pid, token.start, token.container) == (peer.pid, peer.start, peer.container)
    assert "container" not in Claim.__slots__
    assert "pid" not in Claim.__slots__
    assert struct.calcsize("3i") == 12
