"""`CCP_BWRAP_ARGS`: taken as a shell would split it, refused where it loosens, recorded where that was meant."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.sandbox import BadInputError, Further, parse_further
from holdfast.systems.ccp.rig import Canaries, Proxy, Witness, ask, json_answer
from holdfast.systems.ccp.verify import EVENTS

TAKEN = {
    "nothing": ("", ()),
    "name": ("--hostname quiet", ("--hostname", "quiet")),
    "quoted": ("--tmpfs '/srv/a b'", ("--tmpfs", "/srv/a b")),
    "several": ("--unshare-net --cap-drop ALL", ("--unshare-net", "--cap-drop", "ALL")),
}
LOOSENING = {
    "network": "--share-net",
    "root": "--bind / /",
    "devices": "--dev-bind /dev /dev",
    "capability": "--cap-add ALL",
    "read-only-root": "--ro-bind / /",
    "preload": "--setenv LD_PRELOAD /tmp/x.so",
    "after-a-harmless-one": "--hostname a --share-net",
}
NEVER = {
    "another-filter": "--seccomp 5",
    "arguments-from-a-descriptor": "--args 7",
    "end-of-options": "-- /bin/sh",
    "a-command": "/bin/sh",
    "a-joined-value": "--bind=/",
    "one-dash": "-bind / /",
    "no-value": "--hostname",
    "half-a-pair": "--bind /",
    "open-quote": "--hostname 'a",
    "a-prefix": "--share",
}


@pytest.mark.parametrize(("text", "words"), TAKEN.values(), ids=TAKEN.keys())
def test_arguments_that_give_nothing_away_are_taken(text: str, words: tuple[str, ...]) -> None:
    assert parse_further(text, source="X", allow_weaker=False) == Further(words, ())


@pytest.mark.parametrize("text", LOOSENING.values(), ids=LOOSENING.keys())
def test_an_argument_that_loosens_is_refused_or_told(text: str) -> None:
    with pytest.raises(BadInputError, match="allow-weaker"):
        parse_further(text, source="X", allow_weaker=False)
    taken = parse_further(text, source="X", allow_weaker=True)
    assert taken.weaker == (text.removeprefix("--hostname a "),)
    assert " ".join(taken.words) == text


@pytest.mark.parametrize("text", NEVER.values(), ids=NEVER.keys())
def test_what_would_replace_the_plan_is_never_taken(text: str) -> None:
    with pytest.raises(BadInputError, match="`X`"):
        parse_further(text, source="X", allow_weaker=True)


@contextmanager
def confined(
    folder: Path, anthropic: Witness, zai: Witness, canaries: Canaries, *args: str, **extra: str
) -> Iterator[tuple[Proxy, int]]:
    environ = {
        "ZAI_API_KEY": canaries.zai_key,
        "CCP_ANTHROPIC_URL": anthropic.url,
        "CCP_ZAI_URL": zai.url,
        "CCP_SANDBOX": "bwrap",
        "PATH": os.environ["PATH"],
        **extra,
    }
    proxy = Proxy(environ, folder / "logs", ("--port", "0", *args))
    try:
        yield proxy, int(proxy.line.rsplit(":", 1)[1].split()[0])
    finally:
        proxy.stop()


def test_a_loosened_sandbox_is_on_record_wherever_one_looks(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    given = {"CCP_BWRAP_ARGS": f"--hostname quiet --ro-bind {shutil.which('bwrap')} /srv/extra"}
    weaker = given["CCP_BWRAP_ARGS"].removeprefix("--hostname quiet ")
    with confined(tmp_path, anthropic, zai, canaries, "--allow-weaker", **given) as (proxy, port):
        sandbox = json.loads(ask(port, "/readyz", method="GET").payload)["sandbox"]
        assert sandbox == {"isolation": "bwrap", "weaker": [weaker]}
        assert f"`{weaker}`" in proxy.errors
    lines = [json.loads(line) for line in (tmp_path / "logs/broker.jsonl").read_text().splitlines()]
    assert [line["weaker"] for line in lines if "weaker" in line] == [weaker]


def test_an_argument_reaches_bwrap(
    tmp_path: Path, anthropic: Witness, zai: Witness, canaries: Canaries
) -> None:
    """The name of the machine inside is another, and nothing is said to be weaker."""
    zai.script = json_answer(b"".join(EVENTS))
    with confined(tmp_path, anthropic, zai, canaries, CCP_BWRAP_ARGS="--hostname quiet") as (proxy, port):
        assert ask(port, "/v1/messages", b'{"model":"claude-haiku-4-5"}').status == 200
        names = {uts_name(pid) for pid in descendants(proxy.process.pid)}
        page = json.loads(ask(port, "/readyz", method="GET").payload)
    assert b"--hostname\0quiet" in b"".join(names)
    assert page["sandbox"] == {"isolation": "bwrap", "weaker": []}


def uts_name(pid: int) -> bytes:
    """The command line of a process: bwrap's own shows what it was told."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


REFUSED = {
    "loosening": {"CCP_BWRAP_ARGS": "--share-net"},
    "unknown": {"CCP_BWRAP_ARGS": "--seccomp 3"},
    "a-claim-to-be-confined": {"CCP_CONFINED": "bwrap", "CCP_BWRAP_ARGS": "", "CCP_SANDBOX": ""},
    "without-bwrap": {"CCP_BWRAP_ARGS": "--hostname a", "CCP_SANDBOX": "seccomp"},
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
def test_arguments_that_cannot_be_honoured_refuse_to_start(tmp_path: Path, wrong: dict[str, str]) -> None:
    environ = {"ZAI_API_KEY": "k", "CCP_SANDBOX": "bwrap", "PATH": "/usr/bin:/bin", **wrong}
    with pytest.raises(RuntimeError, match=r"CCP_(BWRAP_ARGS|CONFINED)") as caught:
        Proxy(environ, tmp_path / "logs")
    assert "internal error" not in str(caught.value)
