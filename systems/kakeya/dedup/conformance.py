"""What every `DedupStore` must do, as checks that any store's tests can run: `check_store(make)`.

`make(lifetime)` opens one more handle on the *same* empty store; the checks use keys of their own.
"""

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from holdfast.systems.kakeya.dedup.store import DedupStore

__all__ = ["CHECKS", "check_store"]

Make: TypeAlias = Callable[[float], DedupStore]

_DAY = 86_400.0


def check_store(make: Make) -> int:
    """Run every check; `AssertionError` names the first that fails. Answers how many ran."""
    for check in CHECKS:
        check(make)
    return len(CHECKS)


def the_first_write_is_kept_and_every_later_one_is_told_of_it(make: Make) -> None:
    """Also through another handle, and with another value."""
    key = secrets.token_hex(8)
    one, other = make(_DAY), make(_DAY)
    try:
        assert one.put_first(key, "first", now=0) is None, "the first write was taken for a duplicate"
        assert other.put_first(key, "second", now=1) == "first", "a later write was not told of the first"
        assert one.put_first(key, "third", now=2) == "first", "a later write replaced the first"
    finally:
        one.close()
        other.close()


def keys_do_not_meet(make: Make) -> None:
    """Near misses are other keys."""
    key = secrets.token_hex(8)
    store = make(_DAY)
    try:
        for near in (key, key + " ", key.upper() + "X", key[:-1], key + "\u00e9"):
            assert store.put_first(near, near, now=0) is None, f"`{near}` was taken for another key"
    finally:
        store.close()


def values_come_back_as_they_were(make: Make) -> None:
    """Letters beyond ASCII, quotes, line ends, and many of them."""
    key, value = secrets.token_hex(8), "\u00e9\u4e16'\"\r\n$-1\r\n" + "x" * 100_000
    store = make(_DAY)
    try:
        assert store.put_first(key, value, now=0) is None
        assert store.put_first(key, "other", now=0) == value, "the value kept is not the value written"
    finally:
        store.close()


def one_of_many_at_once_is_first(make: Make) -> None:
    """Sixteen handles race for each of eight keys; each key has one winner, and the losers agree on it."""
    stores = [make(_DAY) for _ in range(16)]
    try:
        with ThreadPoolExecutor(len(stores)) as pool:
            for _ in range(8):
                _race(stores, pool, secrets.token_hex(8))
    finally:
        for store in stores:
            store.close()


def _race(stores: list[DedupStore], pool: ThreadPoolExecutor, key: str) -> None:
    answers = list(pool.map(lambda n: (n, stores[n].put_first(key, str(n), now=0)), range(len(stores))))
    winners = [number for number, answer in answers if answer is None]
    assert len(winners) == 1, f"{len(winners)} writers of {len(stores)} were first"
    told = {answer for _, answer in answers if answer is not None}
    assert told == {str(winners[0])}, f"the losers were told {told}, the winner is {winners[0]}"


def a_store_that_answers_is_ready(make: Make) -> None:
    """`ready` returns."""
    store = make(_DAY)
    try:
        store.ready()
    finally:
        store.close()


CHECKS: tuple[Callable[[Make], None], ...] = (
    the_first_write_is_kept_and_every_later_one_is_told_of_it,
    keys_do_not_meet,
    values_come_back_as_they_were,
    one_of_many_at_once_is_first,
    a_store_that_answers_is_ready,
)
