"""The proxy's logs are read through everything that happens to logs, in constant memory, and losses are named."""

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from holdfast.systems.agentos.errors import BadInputError
from holdfast.systems.agentos.schemas import SchemaViolationError
from holdfast.systems.agentos.tools.backfill_ccp import Progress, backfill, find_sources
from holdfast.systems.agentos.tools.fragments import Found, Many, Reader, Unreadable, iter_found

LINE = (
    '{"schema":"ccp.usage/1","ts":"2026-06-01T00:00:00Z","request_id":"r1","model":"glm-4.6","lane":"zai",'
    '"status":200,"outcome":"relayed","input_tokens":10,"output_tokens":2,"duration_ms":12.5,"error":null}'
)
FAILED = LINE.replace("200", "529").replace("glm-4.6", "claude-opus").replace("zai", "anthropic")


def read(raw: bytes, *, fast: bool = True) -> tuple[list[Any], list[Unreadable]]:
    many = msgspec.json.Decoder(dict[str, Any]).decode_lines if fast else None
    reader: Reader[Any] = Reader(msgspec.json.Decoder(dict[str, Any]).decode, lambda value: "model" in value)
    values, lost = [], []
    for seen in iter_found(io.BytesIO(raw), reader, lambda _: None, many):
        match seen:
            case Many():
                values += seen.values
            case Found():
                values.append(seen.value)
            case Unreadable():
                lost.append(seen)
    return values, lost


A, B = '{"model":"a","n":1}', '{"model":"b","s":"x } { \\" y"}'
CASES: dict[str, tuple[str, list[str], list[tuple[int, int]]]] = {
    "a line each": (f"{A}\n{B}\n", [A, B], []),
    "no newline at the end": (f"{A}\n{B}", [A, B], []),
    "CRLF": (f"{A}\r\n{B}\r\n", [A, B], []),
    "a BOM": (f"\ufeff{A}\n{B}\n", [A, B], []),
    "a BOM in the middle": (f"{A}\n\ufeff{B}\n", [A, B], []),
    "blank lines": (f"\n\n{A}\n  \n{B}\n\n", [A, B], []),
    "two in one line": (f"{A}{B}\n", [A, B], []),
    "two in one line with blanks": (f"  {A} \t {B} \n", [A, B], []),
    "many in one line": (A * 50 + "\n", [A] * 50, []),
    "split between fields": (f"{A[:9]}\n{A[9:]}\n{B}\n", [A, B], []),
    "split into bytes": ("\n".join(A) + f"\n{B}\n", [A, B], []),
    "split inside a string": (f"{B[:22]}\n{B[22:]}\n", [B], []),
    "split behind a backslash": (f"{B[:26]}\n{B[26:]}\n{A}\n", [B, A], []),
    "split, and the next in the same line": (f"{A[:9]}\n{A[9:]}{B}\n", [A, B], []),
    "truncated, then a whole line": (f"{A[:9]}\n{B}\n", [B], [(0, 10)]),
    "truncated in a string, then a whole line": (f"{B[:22]}\n{A}\n", [A], [(0, 23)]),
    "truncated, then two in a line": (f"{A[:9]}\n{A}{B}\n", [A, B], [(0, 10)]),
    "truncated, and a writer went on in the line": (f"{B[:22]}{A}\n", [A], [(0, 22)]),
    "truncated at the end": (f"{A}\n{B[:12]}", [A], [(20, 12)]),
    "garbage between": (f"{A}\n#######\n{B}\n", [A, B], [(20, 7)]),
    "garbage before": (f"## {A}\n", [A], [(0, 3 - 1)]),
    "garbage behind": (f"{A} ##\n{B}\n", [A, B], [(20, 2)]),
    "NUL bytes": (f"{A}\n" + "\0" * 64 + f"{B}\n", [A, B], [(20, 64)]),
    "an array": (f"[1, 2]\n{A}\n", [A], [(0, 6)]),
    "braces that match and say nothing": (f"{{bad}}\n{A}\n", [A], [(0, 5)]),
    "only garbage": ("\x01\x02\x03", [], [(0, 3)]),
    "nothing": ("", [], []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_happened_to_the_log_is_undone_or_named(case: str) -> None:
    text, objects, places = CASES[case]
    values, lost = read(text.encode())
    assert values == [json.loads(one) for one in objects]
    assert [(one.offset, one.length) for one in lost] == places


texts = st.text(st.sampled_from('ab{}[]",\\\\ \u00e9'), max_size=12)
records = st.fixed_dictionaries(
    {"model": texts, "n": st.integers(0, 99)}, optional={"s": texts, "l": st.lists(texts, max_size=2)}
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(st.lists(records, min_size=1, max_size=6), st.data())
def test_records_concatenated_and_split_anywhere_are_all_found(
    made: list[dict[str, Any]], data: st.DataObject
) -> None:
    """A split is a newline where there was none; each record is split once at most, and ends its line or not."""
    text = ""
    for record in made:
        one = json.dumps(record, ensure_ascii=False)
        if data.draw(st.booleans()):
            cut = data.draw(st.integers(1, len(one) - 1))
            one = (
                one[:cut]
                + data.draw(st.sampled_from(["\n", "\r\n"] if one[cut - 1] in ",:" else ["\n"]))
                + one[cut:]
            )
        text += one + data.draw(st.sampled_from(["\n", "", "\r\n", " \n\n"]))
    values, lost = read(text.encode())
    assert values == made
    assert lost == []


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(
    st.lists(
        st.sampled_from([A, B, "{", "}", '"', "\\", "\n", "x", "\0", A[:7], B[:20], "\ufeff"]), max_size=14
    )
)
@example([A[:7], "\n", "{", "\n", A])
def test_on_any_input_losses_are_in_order_apart_and_inside_the_file(pieces: list[str]) -> None:
    raw = "".join(pieces).encode()
    values, lost = read(raw)
    # The second way, a line at a time, says the same.
    assert (values, lost) == read(raw, fast=False)
    place = 0
    for one in lost:
        assert one.offset >= place
        assert one.length > 0
        place = one.offset + one.length
    assert place <= len(raw)
    kept = sum(len(json.dumps(value, separators=(",", ":"))) for value in values)
    assert kept + sum(one.length for one in lost) <= len(raw)
    assert kept + sum(one.length for one in lost) >= len(b"".join(raw.replace(b"\xef\xbb\xbf", b"").split()))


def test_an_object_past_the_limit_is_given_up_and_the_next_is_found() -> None:
    values, lost = read(b'{"model": "' + b"x" * (3 << 20) + b"\n" + A.encode() + b"\n")
    assert values == [json.loads(A)]
    assert sum(one.length for one in lost) >= 3 << 20


HOSTILE = [b"{", b'{"a":', b"[", b'{"', b"{bad}", b"{bad} ", b'{"a"} {"', b'{"a":}', b'"', b"\\\\"]


@pytest.mark.parametrize("brace", HOSTILE)
def test_a_hostile_line_is_given_up_in_time_that_grows_with_its_length_only(brace: bytes) -> None:
    """By the square, a megabyte of any of these would take hours."""
    values, lost = read(brace * 200_000 + b"\n" + A.encode() + b"\n")
    assert values == [json.loads(A)]
    assert sum(one.length for one in lost) >= len(brace.replace(b" ", b"")) * 200_000


def proxy(root: Path, **files: bytes) -> Path:
    (root / "logs" / "archive").mkdir(parents=True)
    (root / "results").mkdir()
    for name, content in files.items():
        folder = root / "results" if name.startswith("METRICS") else root / "logs" / "archive"
        (folder / name.replace("__", ".")).write_bytes(content)
    return root


def run(root: Path, snapshot: Path | None = None) -> dict[str, Any]:
    return backfill(find_sources(root), Progress(0, None), snapshot)


def test_usage_and_metrics_are_added_up(tmp_path: Path) -> None:
    metrics = b'{"gates": {"lanes": {"outcome": "pass"}, "deny": {"outcome": "fail"}}}'
    more = b'{"gates": {"lanes": {"outcome": "cannot_tell"}}}'
    root = proxy(
        tmp_path,
        usage__jsonl=f"{LINE}\n{FAILED}\n".encode(),
        usage_2__jsonl=f"{LINE}{LINE}\n".encode(),
        METRICS_a__json=metrics,
        METRICS_b__json=json.dumps(json.loads(more), indent=2).encode(),
    )
    found = run(root)
    assert (found["records"], found["mended"], found["unreadable"]["bytes"]) == (4, 2, 0)
    assert found["tokens"] == {"in": 40, "out": 8}
    assert found["lanes"] == {"anthropic": 1, "zai": 3}
    assert found["models"]["glm-4.6"]["requests"] == 3
    assert found["model_health"]["claude-opus"] == {"warn_pct": 100.0, "gaps": 0, "samples": 1}
    assert found["runs"] == {
        "count": 2,
        "gates": {"deny": {"fail": 1}, "lanes": {"pass": 1, "cannot_tell": 1}},
    }


def test_a_packed_archive_is_read_and_one_beside_its_plain_copy_is_not_counted_twice(tmp_path: Path) -> None:
    root = proxy(
        tmp_path,
        usage_1__jsonl__gz=gzip.compress(LINE.encode()),
        usage_2__jsonl=LINE.encode(),
        usage_2__jsonl__gz=gzip.compress(LINE.encode()),
    )
    assert run(root)["records"] == 2


def test_a_torn_packed_archive_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    lines = "".join(f'{LINE[:-1]},"id":"{os.urandom(8).hex()}"}}\n' for _ in range(3000))
    packed = gzip.compress(lines.encode())
    found = run(proxy(tmp_path, usage_1__jsonl__gz=packed[: len(packed) // 2]))
    assert 1000 < found["records"] < 2000
    assert found["unreadable"]["torn_archives"] == ["usage_1.jsonl.gz"]


def test_an_archive_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    packed = gzip.compress(f"{LINE}\n".encode()) * 3
    found = run(proxy(tmp_path, usage_1__jsonl__gz=packed))
    assert (found["records"], found["unreadable"]["torn_archives"]) == (3, [])


def test_objects_of_another_shape_are_told_apart(tmp_path: Path) -> None:
    lines = [
        LINE,
        '{"hello": 1}',
        '{"model": 7}',
        '{"model": "m", "input_tokens": -5}',
        '{"model": "m", "input_tokens": 1e3}',
    ]
    found = run(proxy(tmp_path, usage__jsonl="\n".join(lines).encode()))
    assert (found["records"], found["unrecognised"], found["malformed"]) == (1, 1, 3)


def test_names_from_a_hostile_log_are_bounded_in_number_and_length(tmp_path: Path) -> None:
    lines = [LINE.replace("glm-4.6", f"m{number}").replace("zai", "z" * 500) for number in range(1500)]
    found = run(proxy(tmp_path, usage__jsonl="\n".join(lines).encode()))
    assert found["records"] == 1500
    assert len(found["models"]) <= 1001
    assert max(map(len, found["lanes"])) <= 200


def test_a_usage_snapshot_wins_over_what_the_logs_say_of_a_model(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot.json"
    models = {"glm-4.6": {"samples": 200, "warnings": 5, "gaps": 3}}
    snapshot.write_text(
        json.dumps({"schema": "ccc.usage/1", "taken_at": "2026-06-01T00:00:00Z", "models": models})
    )
    found = run(proxy(tmp_path / "p", usage__jsonl=LINE.encode()), snapshot)
    assert found["model_health"]["glm-4.6"] == {"warn_pct": 2.5, "gaps": 3, "samples": 200}
    snapshot.write_text('{"models": {}}')
    with pytest.raises(SchemaViolationError):
        run(tmp_path / "p", snapshot)


def test_a_folder_without_logs_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="neither logs/archive/usage"):
        find_sources(tmp_path)
    with pytest.raises(BadInputError, match="there is no folder"):
        find_sources(tmp_path / "nowhere")


def test_progress_ends_at_a_hundred_per_cent(tmp_path: Path) -> None:
    sources, told = find_sources(proxy(tmp_path, usage__jsonl=LINE.encode() * 10)), io.StringIO()
    backfill(sources, Progress(sources.size, told))
    assert told.getvalue().endswith(" 100 %\n")


def peak_of_backfill(folder: Path, size: int) -> tuple[float, dict[str, Any]]:
    """Peak memory in MiB of the command over `size` bytes of log, hostile pieces in it, and its result. Not by
    getrusage, whose maximum outlives exec and so counts what this process held before."""
    root = proxy(folder)
    block = (
        f"{LINE}\n{LINE}{FAILED}\n{LINE[:60]}\n{LINE[60:]}\r\n\0\0\0\n{LINE[:80]}\n{LINE}\n".encode() * 2000
    )
    with (root / "logs" / "archive" / "usage-1.jsonl").open("wb") as file:
        for _ in range(size // len(block) + 1):
            file.write(block)
        file.write(b'{"model": "' + b"x" * (8 << 20))
    program = (
        "import sys\n"
        "from holdfast.systems.agentos.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "peak = next(l for l in open('/proc/self/status') if l.startswith('VmHWM'))\n"
        "sys.stderr.write(peak.split()[1])\n"
        "sys.exit(status)\n"
    )
    output = folder / "out.json"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "backfill",
            "--ccp-root",
            str(root),
            "--output",
            str(output),
            "--quiet",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONMALLOC": "default"},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) / 1024, json.loads(output.read_bytes())


def test_memory_stays_under_the_limit_and_does_not_grow_with_the_log(tmp_path: Path) -> None:
    small, _ = peak_of_backfill(tmp_path / "small", 4_000_000)
    large, found = peak_of_backfill(tmp_path / "large", 40_000_000)
    assert large < 100
    assert large - small < 4
    assert found["unreadable"]["bytes"] > 8 << 20


@pytest.mark.nightly
def test_a_gigabyte_is_read_in_under_a_hundred_mebibytes(tmp_path: Path) -> None:
    peak, found = peak_of_backfill(tmp_path, 1 << 30)
    assert peak < 100
    assert found["records"] > 3_000_000
