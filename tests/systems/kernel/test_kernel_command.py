"""`agent-kernel`, as a person runs it: exit codes, one clear line for bad input, advice that is true."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.systems.kernel.audit_tools import Bench, event

POLICY = """capabilities:
  - name: allow-src
    match: {syscall: fs.read, path_glob: "src/**", caller_tag: core_plugin}
    action: allow
  - name: no-keys
    match: {syscall: "*", path_glob: "**/*.pem"}
    action: deny
    reason: keys stay where they are
"""


def kernel(*argv: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", "from holdfast.systems.kernel.cli import main; main()", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "policy.yaml").write_text(POLICY)
    return str(tmp_path / "policy.yaml")


def test_check_says_what_loads_and_warns(policy: str) -> None:
    code, out, _ = kernel("policy", "check", policy)
    assert (code, "2 rules, 0 warnings" in out) == (0, True)
    Path(policy).write_text(POLICY + "  - {name: nowhere, match: {path_glob: []}, action: allow}\n")
    code, out, _ = kernel("policy", "check", policy)
    assert code == 0
    assert f"{policy}:9: warning: rule `nowhere`: `path_glob` has no entry" in out


BAD: dict[str, str | bytes] = {
    "unknown action": "capabilities:\n- {name: a, match: {}, action: permit}",
    "not UTF-8": b"\xff\xfe",
    "too large": "#" * (3 << 20),
    "an alias bomb": "a: &a [x]\nb: [*a, *a]",
    "no YAML": "capabilities: [",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_exit_64(policy: str, name: str) -> None:
    content = BAD[name]
    Path(policy).write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in (("check",), ("explain", "--syscall", "fs.read", "--path", "a"), ("test",)):
        code, out, err = kernel("policy", command[0], policy, *command[1:])
        assert (code, out) == (64, "")
        assert err.startswith("agent-kernel: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err


@pytest.mark.parametrize(
    "argv",
    [("policy", "check", "/nonexistent"), ("policy", "check"), ("policy", "bless", "x"), ("audit", "show", "/nonexistent"),
     ("audit", "verify", "/nonexistent", "--key", "junk"), ("audit", "show", "/dev/null", "--last", "0"), ("--nope",)],
)  # fmt: skip
def test_bad_usage_is_exit_64(argv: tuple[str, ...]) -> None:
    code, _, err = kernel(*argv)
    assert code == 64
    assert "Traceback" not in err


def test_explain_names_rule_and_line_and_what_would_have_to_change(policy: str) -> None:
    _, out, _ = kernel(
        "policy",
        "explain",
        policy,
        "--syscall",
        "fs.read",
        "--path",
        "src/k.pem",
        "--caller-tag",
        "core_plugin",
    )
    assert out.splitlines() == [
        "deny (phase yaml)",
        f"  {policy}:5: rule `no-keys` (deny): keys stay where they are",
        "  it would be allowed with an `except` in `no-keys` that holds for this call: another rule allows it already",
    ]
    _, out, _ = kernel("policy", "explain", policy, "--syscall", "fs.read", "--path", "src/a.py")
    assert out.splitlines() == [
        "deny (phase default)",
        "  no rule allows this call",
        "  it would be allowed with a caller with the tag `core_plugin`",
    ]
    _, out, _ = kernel(
        "policy", "explain", policy, "--syscall", "fs.read", "--path", "doc/a", "--caller-tag", "core_plugin"
    )
    assert "a `path_glob` in rule `allow-src` (line 2) that holds for `/workspace/doc/a`" in out
    _, out, _ = kernel(
        "policy", "explain", policy, "--syscall", "fs.read", "--path", "src/a", "--caller-tag", "core_plugin"
    )
    assert out.splitlines() == [
        "allow (phase yaml)",
        f"  {policy}:2: rule `allow-src` (allow): rule `allow-src` says allow",
    ]


@pytest.mark.parametrize("path", ["../x", "a//b", "src/./a", "a\x07/../b"])
def test_explain_refuses_a_path_that_is_not_resolved(policy: str, path: str) -> None:
    code, _, err = kernel("policy", "explain", policy, "--syscall", "fs.read", "--path", path)
    assert (code, "Traceback" in err) == (64, False)


def file_of(folder: Path, tests: list[object]) -> str:
    (folder / "tests.json").write_text(json.dumps({"policy": "policy.yaml", "tests": tests}))
    return str(folder / "tests.json")


def test_policy_tests_pass_fail_and_cannot_tell(policy: str, tmp_path: Path) -> None:
    request = {"syscall": "fs.read", "path": "src/a", "caller_tag": "core_plugin"}
    right = {"name": "reads", "request": request, "expect": {"outcome": "allow", "rules": ["allow-src"]}}
    wrong = {"name": "wrong", "request": request, "expect": {"outcome": "deny"}}
    assert kernel("policy", "test", file_of(tmp_path, [right]))[0] == 0
    code, out, _ = kernel("policy", "test", file_of(tmp_path, [right, wrong]))
    assert code == 1
    assert "outcome: expected 'deny', got 'allow'" in out
    assert kernel("policy", "test", file_of(tmp_path, []))[0] == 2


@pytest.mark.parametrize(
    "test",
    [{"request": {"syscall": "fs.read", "path": "a"}}, {"request": {"syscall": "fs.read", "path": "a"}, "expect": {}},
     {"request": {"syscall": "fs.read", "path": "a"}, "expect": {"outcom": "deny"}},
     {"request": {"syscall": "fs.read", "path": "a", "who": "me"}, "expect": {"outcome": "deny"}},
     {"request": {"syscall": "fs.read", "path": "a"}, "token": "golden", "expect": {"outcome": "deny"}}, "text"],
)  # fmt: skip
def test_a_policy_test_that_says_nothing_or_is_misspelt_is_bad_input(
    policy: str, tmp_path: Path, test: object
) -> None:
    """A test that compares nothing would be green forever."""
    assert policy
    assert kernel("policy", "test", file_of(tmp_path, [test]))[0] == 64


def test_audit_commands_verify_show_export_prove_and_redecide(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fill(12)
    key, log, witness = str(bench.signer.verifier), str(bench.path), str(tmp_path / "witness")
    code, out, _ = kernel("audit", "verify", log, "--key", key, "--witness", witness)
    assert (code, out.splitlines()[0]) == (0, "ok: 14 entries, all covered by signed checkpoints")
    assert "no witness was given" in kernel("audit", "verify", log, "--key", key)[1]
    assert kernel("audit", "verify", log, "--key", key, "--witness", witness, "--incremental")[0] == 0
    shown = kernel("audit", "show", log, "--last", "3")[1]
    assert len(shown.splitlines()) == 3
    exported = [json.loads(line) for line in kernel("audit", "export", log)[1].splitlines()]
    assert [entry["id"] for entry in exported] == list(range(1, 15))
    code, proof, _ = kernel("audit", "prove", log, "5")
    (tmp_path / "proof.json").write_text(proof)
    code, out, _ = kernel("audit", "check-proof", str(tmp_path / "proof.json"), "--key", key)
    assert (code, json.loads(out)["id"]) == (0, 5)
    (tmp_path / "proof.json").write_text(proof.replace("because", "despite"))
    assert kernel("audit", "check-proof", str(tmp_path / "proof.json"), "--key", key)[0] == 64
    with bench.raw() as db:
        db.execute("UPDATE entries SET body = replace(body, 'because 3', 'despite 3')")
    code, out, _ = kernel("audit", "verify", log, "--key", key, "--witness", witness)
    assert (code, out.split(":")[0]) == (1, "rewritten")


def test_an_unsealed_tail_and_an_empty_witness_cannot_be_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fill(3)
    key, log = str(bench.signer.verifier), str(bench.path)
    (tmp_path / "empty").write_text("")
    assert kernel("audit", "verify", log, "--key", key, "--witness", str(tmp_path / "empty"))[0] == 2
    with bench.open() as writing:
        writing.append(event())
        writing.flush()
        assert kernel("audit", "verify", log, "--key", key)[0] == 2


def test_control_characters_in_the_log_do_not_reach_the_terminal(tmp_path: Path) -> None:
    from dataclasses import replace

    bench = Bench(tmp_path)
    with bench.open() as log:
        log.append(replace(event(), caller="a\x1b[31mred", summary="line\nbreak"))
    out = kernel("audit", "show", str(bench.path))[1]
    assert "\x1b" not in out
    assert "line\\nbreak" in out


def test_what_is_printed_for_scripts_is_valid_against_the_shipped_schemas(
    policy: str, tmp_path: Path
) -> None:
    schemas = Path(__file__).parents[3] / "docs" / "schemas"

    def check(name: str, document: object) -> None:
        schema = json.loads((schemas / f"kernel-{name}.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(document)

    bench = Bench(tmp_path)
    bench.fill(3)
    for line in kernel("audit", "export", str(bench.path))[1].splitlines():
        check("audit-entry", json.loads(line))
    check("audit-proof", json.loads(kernel("audit", "prove", str(bench.path), "2")[1]))
    request = {"syscall": "fs.read", "path": "src/a"}
    tests = file_of(tmp_path, [{"request": request, "expect": {"outcome": "deny"}}])
    check("policy-test", json.loads(kernel("policy", "test", "--json", tests)[1]))
    assert policy
