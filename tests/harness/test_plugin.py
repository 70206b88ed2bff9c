"""The plugin from outside: a project that is not ours, with folders `sandbox` and `harness` of its own."""

import pytest

THEIRS = {
    "sandbox/__init__": "mine = 'their sandbox'",
    "harness/__init__": "mine = 'their harness'",
    "conftest": "",
}

QUIET = tuple(
    f"-pno:{name}" for name in ("cacheprovider", "schemathesis", "hypothesispytest", "anyio", "xdist")
)
"""Other plugins of this environment only cost time here."""

TESTS = """
import json, sys, urllib.request
import harness, sandbox
import pytest

def test_their_own_folders_are_theirs():
    assert (sandbox.mine, harness.mine) == ("their sandbox", "their harness")

def test_confined(confined, tmp_path):
    done = confined(["/bin/sh", "-c", "cat; echo x > made"], stdin=b"hello")
    assert (done.status, done.stdout) == (0, b"hello")
    assert (tmp_path / "made").read_text() == "x\\n"
    assert confined(["/bin/sh", "-c", "exit 7"]).status == 7
    assert confined(["/bin/mount", "-t", "tmpfs", "x", "/mnt"]).status != 0

def test_service(service):
    running = service([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"], ready="/")
    assert urllib.request.urlopen(running.url, timeout=5).status == 200
    running.require_inside()

def test_witness(witness):
    upstream = witness(body=(b'{"a":', b"1}"))
    request = urllib.request.Request(upstream.url + "/x", data=b"sent", headers={"X-Mine": "yes"})
    assert json.load(urllib.request.urlopen(request, timeout=5)) == {"a": 1}
    capture, = upstream.captures
    assert (capture.target, capture.body, capture.header("x-mine")) == ("/x", b"sent", ("yes",))

def test_denials(denials):
    assert denials["mount"] == "held"
    denials.require()
"""


@pytest.fixture
def their_project(pytester: pytest.Pytester) -> pytest.Pytester:
    for name, text in THEIRS.items():
        path = pytester.path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    pytester.makepyfile(test_theirs=TESTS)
    return pytester


@pytest.mark.parametrize("isolation", ["seccomp", "bwrap"])
def test_the_fixtures_just_work_in_a_foreign_project(their_project: pytest.Pytester, isolation: str) -> None:
    result = their_project.runpytest_subprocess("--isolation", isolation, *QUIET, "-W", "error")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*confining by " + isolation])


def test_denials_are_not_held_where_nothing_confines(their_project: pytest.Pytester) -> None:
    """The fixture can fail: without an isolation every family is open."""
    result = their_project.runpytest_subprocess("--isolation", "none", "-k", "test_denials", *QUIET)
    result.assert_outcomes(failed=1, deselected=4)
    result.stdout.fnmatch_lines(["*assert 'open' == 'held'*"])


def test_an_isolation_that_there_is_not_is_bad_usage(their_project: pytest.Pytester) -> None:
    result = their_project.runpytest_subprocess("--isolation", "bwarp")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*invalid choice: 'bwarp'*"])


def test_a_project_that_uses_nothing_of_it_imports_nothing_of_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\ndef test_x():\n    assert not [m for m in sys.modules if m.startswith('holdfast.sandbox')]\n"
    )
    pytester.runpytest_subprocess(*QUIET).assert_outcomes(passed=1)
