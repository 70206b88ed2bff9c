"""First write wins, in every store: one conformance suite, on real servers."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from holdfast.clock import wait_until
from holdfast.systems.kakeya.dedup import (
    LIFETIME_SECONDS,
    DedupStore,
    SqliteStore,
    StoreUnavailableError,
    open_store,
)
from holdfast.systems.kakeya.dedup.conformance import CHECKS, Make, check_store
from holdfast.systems.kakeya.dedup.postgres import PostgresStore
from holdfast.systems.kakeya.dedup.redis import RedisStore


def need(program: str, package: str) -> str:
    """A server's program; its absence is a failure where everything is promised."""
    candidates = [*map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{program}")), shutil.which(program)]
    found = next((c for c in candidates if c), None)
    if found is None:
        assert os.environ.get("HOLDFAST_PROFILE") != "nightly", f"{program} is missing; run: make setup-peers"
        pytest.skip(f"{package} is not installed; `make setup-peers` brings it")
    return found


@pytest.fixture(scope="module")
def redis_socket() -> Iterator[Path]:
    """A Redis server of our own, on a Unix socket and no port."""
    program = need("redis-server", "redis-server")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        unix = folder / "redis.sock"
        options = [
            "--port",
            "0",
            "--unixsocket",
            str(unix),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(folder),
        ]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        wait_until(lambda: answers(RedisStore(unix)), what="redis-server answers", seconds=20)
        yield unix


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of our own, on a Unix socket and no port; as another user where we are root."""
    initdb, server = need("initdb", "postgresql"), need("postgres", "postgresql")
    as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        if as_user:
            os.chown(folder, 65534, 65534)
        data = str(folder / "data")
        common = [
            "--auth=trust",
            "--no-sync",
            "--username=kakeya",
            "--no-instructions",
            "--encoding=UTF8",
            "--locale=C",
        ]
        subprocess.run(
            [*as_user, initdb, "-D", data, *common], check=True, capture_output=True, cwd=folder, env={}
        )
        options = [
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={folder}",
            "-c",
            "fsync=off",
            "-c",
            "log_destination=stderr",
        ]
        running = subprocess.Popen(
            [*as_user, server, "-D", data, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
        )
        stack.callback(running.wait)
        stack.callback(running.terminate)
        conninfo = f"host={folder} user=kakeya dbname=postgres"
        wait_until(lambda: answers(PostgresStore(conninfo)), what="postgres answers", seconds=40)
        yield conninfo


def answers(store: DedupStore) -> bool:
    try:
        store.ready()
    except StoreUnavailableError:
        return False
    finally:
        store.close()
    return True


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Handles on one store, by lifetime."""
    match request.param:
        case "sqlite":
            return lambda lifetime: SqliteStore(tmp_path / "first.sqlite3", lifetime=lifetime)
        case "redis":
            unix = request.getfixturevalue("redis_socket")
            return lambda lifetime: RedisStore(unix, lifetime=lifetime)
        case _:
            conninfo = request.getfixturevalue("postgres")
            return lambda lifetime: PostgresStore(conninfo, lifetime=lifetime)


def test_the_conformance_suite_passes(make: Make) -> None:
    assert check_store(make) == len(CHECKS) == 5


def test_a_first_write_is_kept_for_its_lifetime_and_no_longer(make: Make) -> None:
    """SQLite and PostgreSQL go by the caller's clock; Redis by its own, so there the lifetime is short."""
    key = secrets.token_hex(8)
    store = make(0.05)
    try:
        assert store.put_first(key, "first", now=1000.0) is None
        if isinstance(store, RedisStore):
            wait_until(
                lambda: store.put_first(key, "second", now=0) is None, what="the key expires", seconds=10
            )
        else:
            assert store.put_first(key, "second", now=1000.04) == "first"
            assert store.put_first(key, "second", now=1000.05) is None
            assert store.put_first(key, "third", now=1000.06) == "second"
    finally:
        store.close()


def test_the_lifetime_is_fourteen_days() -> None:
    assert LIFETIME_SECONDS == 14 * 86_400


def test_expired_rows_can_be_swept(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "f", lifetime=10)
    for n in range(5):
        store.put_first(str(n), "v", now=n)
    assert store.forget_expired(12.5) == 3
    store.close()


def last_wins(real: Make) -> Make:
    """A store that overwrites: what a plain SET, or an upsert, would do."""

    class LastWins:
        waits = False
        kept: dict[str, str]

        def __init__(self) -> None:
            self.kept = shared

        def put_first(self, key: str, value: str, *, now: float) -> str | None:
            earlier = self.kept.get(key)
            self.kept[key] = value
            return earlier

        def ready(self) -> None:
            return

        def close(self) -> None:
            return

    shared: dict[str, str] = {}
    return lambda _: LastWins()


@pytest.mark.planted
def test_planted_a_store_whose_last_write_wins_fails_the_suite() -> None:
    with pytest.raises(AssertionError, match="replaced the first"):
        check_store(last_wins(lambda _: SqliteStore(Path(":memory:"))))


@pytest.mark.planted
def test_planted_stores_that_do_not_share_fail_the_suite() -> None:
    with pytest.raises(AssertionError, match="not told of the first"):
        check_store(lambda lifetime: SqliteStore(Path(":memory:"), lifetime=lifetime))


@pytest.mark.parametrize(
    "text", ["", "redis", "sqlite:x", "postgres:", "mysql:x", "redis://localhost", "redis://h:x"]
)
def test_a_store_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no store|names no port"):
        open_store(text, tmp_path)


@pytest.mark.parametrize(
    "opened",
    [lambda p: RedisStore(p / "nobody.sock"), lambda p: PostgresStore(f"host={p} user=x dbname=x")],
    ids=["redis", "postgres"],
)
def test_a_server_that_is_not_there_is_unavailable_and_says_so(
    opened: Callable[[Path], DedupStore], tmp_path: Path
) -> None:
    store = opened(tmp_path)
    with pytest.raises(StoreUnavailableError):
        store.ready()
    with pytest.raises(StoreUnavailableError):
        store.put_first("k", "v", now=0)
    store.close()


def test_redis_is_asked_again_after_it_broke_off(redis_socket: Path) -> None:
    store = RedisStore(redis_socket)
    key = secrets.token_hex(8)
    assert store.put_first(key, "v", now=0) is None
    assert store._socket is not None
    store._socket.close()
    with pytest.raises(StoreUnavailableError):
        store.put_first(key, "v", now=0)
    assert store.put_first(key, "w", now=0) == "v"
    store.close()
