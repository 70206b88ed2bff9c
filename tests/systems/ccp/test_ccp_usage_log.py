"""The usage log: whole lines, once each, across rotation, other processes, full disks and kills."""

import asyncio
import gzip
import json
import re
import resource
import signal
import socket
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import jsonschema
import pytest
import uvloop

from holdfast.systems.ccp.exchange import refused_line
from holdfast.systems.ccp.faults import ConfigError, Refusal
from holdfast.systems.ccp.rig import Canaries, Captured, Witness, ask, json_answer, stage
from holdfast.systems.ccp.tally import Gauges, Tally, render_metrics
from holdfast.systems.ccp.usage import Rotation, UsageLine, UsageLog

ROOT = Path(__file__).parents[3]


def line(number: int) -> UsageLine:
    return refused_line(Refusal(404, "x"), None, request_id=f"r{number}", model=None, size=0, policy="p")


def ids_in(folder: Path) -> list[str]:
    """Every request id in the live file and all archives; each line must be whole."""
    found = []
    for path in [folder / "usage.jsonl", *folder.glob("archive/usage-*")]:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert data == b"" or data.endswith(b"\n")
        found += [json.loads(text)["request_id"] for text in data.splitlines()]
    return found


def test_nothing_is_lost_or_doubled_by_rotation(tmp_path: Path) -> None:
    with closing(UsageLog(tmp_path, Rotation(max_bytes=2000, keep=1000))) as log:
        for number in range(200):
            log.write(line(number))
        assert log.lost == 0
    assert sorted(ids_in(tmp_path)) == sorted(f"r{n}" for n in range(200))
    archives = list(tmp_path.glob("archive/*"))
    assert len(archives) > 10
    assert {path.suffix for path in archives} == {".gz"}
    assert (tmp_path / "usage.jsonl").stat().st_size <= 2000


def test_only_the_last_archives_are_kept(tmp_path: Path) -> None:
    with closing(UsageLog(tmp_path, Rotation(max_bytes=1000, keep=3))) as log:
        for number in range(60):
            log.write(line(number))
    assert len(list(tmp_path.glob("archive/*.gz"))) == 3
    assert "r59" in ids_in(tmp_path)


def test_a_file_is_put_away_by_age_counted_from_its_first_line(tmp_path: Path) -> None:
    old = json.loads(json.dumps({"ts": "2020-01-01T00:00:00Z", "request_id": "old"}))
    (tmp_path / "usage.jsonl").write_text(json.dumps(old) + "\n")
    with closing(UsageLog(tmp_path)) as log:
        log.write(line(1))
    assert ids_in(tmp_path) == ["r1", "old"]
    assert len(list(tmp_path.glob("archive/*.gz"))) == 1


def test_several_processes_share_one_file_through_rotation(tmp_path: Path) -> None:
    """Two logs on one folder, written to in turn, as two workers do."""
    rotation = Rotation(max_bytes=1500, keep=1000)
    with closing(UsageLog(tmp_path, rotation)) as one, closing(UsageLog(tmp_path, rotation)) as other:
        for number in range(100):
            (one, other)[number % 2].write(line(number))
        assert one.lost == other.lost == 0
    assert sorted(ids_in(tmp_path)) == sorted(f"r{n}" for n in range(100))


def test_threads_of_writers_and_rotators_lose_nothing(tmp_path: Path) -> None:
    rotation = Rotation(max_bytes=5000, keep=1000)
    logs = [UsageLog(tmp_path, rotation) for _ in range(4)]

    def write(index: int) -> None:
        for number in range(100):
            logs[index].write(line(index * 1000 + number))

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    assert sorted(ids_in(tmp_path)) == sorted(f"r{i * 1000 + n}" for i in range(4) for n in range(100))


def test_a_torn_last_line_is_cut_off_at_the_start_and_counted(tmp_path: Path) -> None:
    with closing(UsageLog(tmp_path)) as log:
        log.write(line(1))
    with (tmp_path / "usage.jsonl").open("ab") as file:
        file.write(b'{"schema":"ccp.usage/1","ts":"20')
    with closing(UsageLog(tmp_path)) as log:
        assert log.cut == 32
        log.write(line(2))
    assert ids_in(tmp_path) == ["r1", "r2"]


def test_a_torn_line_longer_than_a_block_is_cut_off_whole(tmp_path: Path) -> None:
    (tmp_path / "usage.jsonl").write_bytes(b'{"request_id":"a"}\n' + b"x" * 200_000)
    UsageLog(tmp_path).close()
    assert ids_in(tmp_path) == ["a"]


def test_a_plain_archive_left_by_a_kill_is_compressed_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/usage-20260101T000000Z-00000.jsonl").write_text('{"request_id":"left"}\n')
    (tmp_path / "archive/usage-20260101T000000Z-00000.jsonl.tmp").write_bytes(b"half")
    UsageLog(tmp_path).close()
    assert [path.name for path in tmp_path.glob("archive/usage-*")] == [
        "usage-20260101T000000Z-00000.jsonl.gz"
    ]
    assert ids_in(tmp_path) == ["left"]


def test_a_file_that_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    with closing(UsageLog(tmp_path)) as log:
        log.write(line(1))
        (tmp_path / "usage.jsonl").unlink()
        log.write(line(2))
        assert log.lost == 0
    assert ids_in(tmp_path) == ["r2"]


def test_a_line_cut_short_is_taken_away_and_the_next_one_is_whole(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(UsageLog(tmp_path)) as log:
        log.write(line(1))
        size = (tmp_path / "usage.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
        try:
            log.write(line(2))
            log.write(line(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (log.lost, log.failing) == (2, True)
        log.write(line(4))
        assert (log.lost, log.failing) == (2, False)
    assert ids_in(tmp_path) == ["r1", "r4"]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(ConfigError, match="log folder"):
        UsageLog(tmp_path / "logs")


def test_every_line_fits_the_published_schema(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    schema = json.loads((ROOT / "docs/schemas/ccp-usage-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    zai.script = json_answer(b"{}", extra=b"request-id: req_1\r\n")
    with stage(tmp_path, anthropic, zai, canaries=canaries) as proxy:
        ask(
            proxy.port, "/v1/messages", b'{"model":"claude-haiku-4-5"}', [("x-claude-code-session-id", "s-1")]
        )
        ask(proxy.port, "/v1/messages", b"{}")
        ask(proxy.port, "/v1/models", method="GET")
        zai.script = lambda sock, captured: False
        ask(proxy.port, "/v1/messages", b'{"model":"claude-haiku-4-5"}')
    lines = [json.loads(text) for text in (tmp_path / "usage.jsonl").read_bytes().splitlines()]
    assert [entry["outcome"] for entry in lines] == ["relayed", "refused", "relayed", "upstream_failed"]
    assert (lines[0]["upstream_request_id"], lines[0]["session_id"]) == ("req_1", "s-1")
    for entry in lines:
        jsonschema.validate(entry, schema)
    assert set(schema["properties"]) == set(UsageLine.__struct_fields__)


@pytest.mark.planted
def test_planted_an_answer_altered_on_its_way_shows_in_the_digests_and_the_count() -> None:
    tally = Tally()
    import msgspec

    fine = msgspec.structs.replace(line(1), lane="zai", sha256_upstream="a", sha256_downstream="a")
    tally.add(fine)
    assert tally.differing == 0
    tally.add(msgspec.structs.replace(fine, sha256_downstream="b"))
    assert tally.differing == 1


def test_metrics_are_prometheus_text_and_add_up() -> None:
    tally = Tally()
    import msgspec

    for status, wait in ((200, 3.0), (200, 700.0), (429, 130_000.0)):
        tally.add(
            msgspec.structs.replace(
                line(1),
                lane="zai",
                model="m",
                status=status,
                first_byte_ms=wait,
                input_tokens=5,
                grammar="ok",
            )
        )
    text = render_metrics(tally, Gauges(1, 2, 3, True, 4, 5, {"sni_mismatch": 7})).decode()
    assert 'ccp_requests_total{lane="zai",status="200",outcome="refused"} 2' in text
    assert 'ccp_tokens_total{lane="zai",kind="input"} 15' in text
    assert 'ccp_broker_decisions_total{decision="sni_mismatch"} 7' in text
    buckets = [int(n) for n in re.findall(r"ccp_first_byte_seconds_bucket\{.*\} (\d+)", text)]
    assert (buckets == sorted(buckets), buckets[-1]) == (True, 3)
    for entry in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \S+ .+|[a-z_]+(\{[^}]*\})? -?[0-9.e+-]+", entry), entry


def test_models_without_number_do_not_fill_the_memory() -> None:
    tally = Tally()
    import msgspec

    for number in range(1000):
        tally.add(msgspec.structs.replace(line(1), lane="zai", model=f"m{number}"))
    assert len(tally.models) == 257
    assert sum(totals.requests for totals in tally.models.values()) == 1000


# -- kill -9 --------------------------------------------------------------------------------------------

NONCE = re.compile(rb'"n":(\d+)')


def echo(sock: socket.socket, captured: Captured) -> bool:
    """Answers with the request's own number, which then stands in the answer and in the log's digest."""
    match = NONCE.search(captured.request.body)
    assert match is not None
    return json_answer(b'{"n":%s}' % match[1], extra=b"request-id: n-%s\r\n" % match[1])(sock, captured)


async def _client(port: int, numbers: list[int], got: Counter[int]) -> None:
    """Requests on one kept connection; counts the answers whose last byte has come; gives up when cut off."""
    while numbers:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        try:
            while numbers:
                number = numbers.pop()
                body = b'{"model":"claude-haiku-4-5","n":%d}' % number
                writer.write(
                    b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
                    % (len(body), body)
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
                assert json.loads(await reader.readexactly(length)) == {"n": number}
                got[number] += 1
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


async def _load(port: int, numbers: list[int], got: Counter[int], clients: int) -> None:
    await asyncio.gather(*(_client(port, numbers, got) for _ in range(clients)))


def drive(port: int, numbers: list[int], got: Counter[int], clients: int) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_load(port, numbers, got, clients))


def test_after_a_kill_9_each_answered_request_is_in_the_log_exactly_once(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    """10,000 requests at 64 connections; killed in the middle; started again for the rest; rotated on the way."""
    zai.script = echo
    numbers = list(range(10_000))
    got: Counter[int] = Counter()
    args = ("--log-max-bytes", "1500000", "--log-keep", "100")
    with stage(tmp_path, anthropic, zai, canaries=canaries, args=args) as proxy:
        thread = threading.Thread(target=drive, args=(proxy.port, numbers, got, 64))
        thread.start()
        zai.wait_captured(4000)
        proxy.signal(signal.SIGKILL)
        thread.join(60)
    before = len(got)
    assert 3000 < before < 10_000, "the kill must come in the middle"
    with stage(tmp_path, anthropic, zai, canaries=canaries, args=args) as proxy:
        drive(proxy.port, numbers, got, 64)
    logged: Counter[str] = Counter()
    for path in [tmp_path / "usage.jsonl", *tmp_path.glob("archive/usage-*")]:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for text in data.splitlines():
            entry = json.loads(text)
            if entry["outcome"] == "relayed":
                logged[entry["upstream_request_id"]] += 1
    assert len(list(tmp_path.glob("archive/*"))) >= 2
    assert max(got.values()) == 1
    assert len(got) > before
    assert {number for number in got if logged[f"n-{number}"] != 1} == set()
