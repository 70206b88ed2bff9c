"""Faults planted in a proxy: each turns the right gate red, with the sentence that the report must say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.harness.gate import Outcome
from holdfast.sandbox import Isolation
from holdfast.suites.ccp import GATES, suite
from tests.running import proxy_with, record, report_of, run

pytestmark = pytest.mark.planted

FAULTS = {
    "sends the zai key to anthropic": ("no_zai_credential_on_anthropic", "the zai key in request 0 (hex)"),
    "sends the zai key once": ("no_zai_credential_on_anthropic", "the zai key in request 2 (hex)"),
    "forwards the token to zai": ("no_anthropic_credential_on_zai", "on the zai lane"),
    "forwards the token to zai on count_tokens": ("no_anthropic_credential_on_zai", "on the zai lane"),
    "forwards the token to zai on retry": ("no_anthropic_credential_on_zai", "on the zai lane"),
    "follows redirects": ("no_anthropic_credential_on_zai", "on the zai lane"),
    "sends the zai key only under concurrency": ("no_zai_credential_on_anthropic", "the zai key in request"),
    "sends the zai key every fiftieth time": ("no_zai_credential_on_anthropic", "the zai key in request"),
    "sends the zai key by chance, one time in fifty": (
        "no_zai_credential_on_anthropic",
        "the zai key in request",
    ),
    "drops the credential": ("credential_untouched", "`authorization` arrived 0 time(s)"),
    "sends haiku to anthropic": ("no_haiku_on_anthropic", "reached the anthropic lane"),
    "sends everything to zai": ("no_other_model_on_zai", "reached the zai lane"),
    "routes by regex": ("no_other_model_on_zai", "claude-sonnet-4-5-20250929 reached the zai lane"),
    "buffers the stream": ("sse_not_buffered", "event 1 had not reached the client when the next was due"),
    "merges two events": ("sse_not_buffered", "had not reached the client when the next was due"),
    "drops event lines": ("sse_identical", "differs from byte 0 on"),
    "synthesises message_stop": ("sse_identical", "differs from byte"),
    "re-serialises json": ("bodies_untouched", "differs from byte"),
    "sends an early 200": ("status_faithful", "the client was told 200 where the upstream said"),
    "ends a cut answer politely": ("cut_shown", "broke off upstream and was ended as if it were whole"),
    "answers from a cache": ("sse_identical", "became 0 upstream requests"),
    "mirrors to the other lane": ("every_request_accounted", "a request that no client sent reached the"),
    "writes a stray line upstream": ("every_request_accounted", "no whole request reached a lane"),
    "refuses a few by itself": ("every_request_accounted", "reached no upstream (the client was told 503)"),
    "logs a body": ("no_leak", "the request's text in logs/debug.log (plain)"),
    "logs a body on errors": ("no_leak", "the request's text in logs/debug.log (plain)"),
    "writes a secret into a traceback": ("no_leak", "the zai key in the proxy's stderr (plain)"),
    "prints a secret": ("no_leak", "the zai key in the proxy's stdout (plain)"),
}


def test_a_sound_proxy_that_is_not_ours_passes_every_gate(tmp_path: Path) -> None:
    """The control: the same small proxy without a fault."""
    concluded = run(tmp_path, Isolation.BWRAP, suites=(suite,), proxy=proxy_with("none"))
    assert concluded.code == 0, concluded.overall
    assert {gate.name for gate in GATES} <= set(concluded.overall)


@pytest.mark.parametrize(("fault", "gate", "says"), [(f, *e) for f, e in FAULTS.items()], ids=list(FAULTS))
def test_a_planted_fault_turns_its_gate_red(
    fault: str, gate: str, says: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record(record_property, subject="proxy", fault=fault, gate=gate, says=says)
    concluded = run(tmp_path, Isolation.NONE, suites=(suite,), proxy=proxy_with(fault))
    assert concluded.overall[gate].outcome is Outcome.FAIL
    assert concluded.code == 1
    assert says in report_of(concluded)


def test_each_gate_has_a_fault_that_turns_it_red() -> None:
    covered = {gate for gate, _ in FAULTS.values()}
    assert {gate.name for gate in GATES} - covered == {"a_200_on_each_lane", "many_at_once"}, (
        "these are below"
    )


def test_a_proxy_that_takes_one_at_a_time_leaves_concurrency_untold(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    says = "at most 1 of 16 requests were in flight together"
    record(
        record_property, subject="proxy", fault="takes one request at a time", gate="many_at_once", says=says
    )
    concluded = run(
        tmp_path, Isolation.NONE, suites=(suite,), proxy=proxy_with("takes one request at a time")
    )
    assert concluded.overall["many_at_once"].outcome is Outcome.CANNOT_TELL
    assert concluded.code == 2
    assert says in report_of(concluded)


@pytest.mark.parametrize(
    "command",
    [("/bin/false",), ("/no/such/proxy",), ("/bin/sh", "-c", "echo cannot bind >&2; exit 3")],
    ids=["ends-at-once", "not-there", "says-why"],
)
def test_a_proxy_that_never_comes_up_cannot_tell(command: tuple[str, ...], tmp_path: Path) -> None:
    concluded = run(tmp_path, Isolation.NONE, suites=(suite,), proxy=command)
    assert concluded.code == 2
    assert concluded.overall["a_200_on_each_lane"].outcome is Outcome.CANNOT_TELL
    assert command[0] in report_of(concluded)


def test_a_proxy_that_answers_errors_fails_the_200_gate(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record(
        record_property,
        subject="proxy",
        fault="answers errors only",
        gate="a_200_on_each_lane",
        says="no complete 200 by the anthropic lane (statuses [503])",
    )
    script = (
        "import http.server,sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self): self.send_error(503)\n"
        "    def log_message(self, *a): pass\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    path = tmp_path / "down.py"
    path.write_text(script)
    concluded = run(
        tmp_path, Isolation.NONE, suites=(suite,), proxy=("/usr/bin/env", "python3", str(path), "{port}")
    )
    assert concluded.overall["a_200_on_each_lane"].outcome is Outcome.FAIL
    assert "no complete 200 by the anthropic lane (statuses [503])" in report_of(concluded)
