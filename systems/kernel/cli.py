"""`agent-kernel`: for people who write rules, and for people who read the log.

Exit codes: 0 holds · 1 does not · 2 cannot tell · 64 bad usage or bad input · 70 our own fault.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from holdfast.records.checkpoint import NoteError
from holdfast.systems.kernel.audit.cli import audit
from holdfast.systems.kernel.audit.store import AuditError
from holdfast.systems.kernel.explain import explain
from holdfast.systems.kernel.glob import GlobError
from holdfast.systems.kernel.loader import Loaded, PolicyFileError, load_rules
from holdfast.systems.kernel.policy import PolicyError, compile_policy
from holdfast.systems.kernel.request import Request, RequestError, ResolvedPath
from holdfast.systems.kernel.scenario import (
    WORKSPACE,
    Observed,
    ScenarioError,
    builtin_from,
    rules_from,
    run_scenario,
    scenario_from,
)
from holdfast.systems.kernel.units import UnitError
from holdfast.systems.kernel.yaml_nodes import MAX_BYTES, Node, YamlError, parse_yaml

__all__ = ["app", "main"]

HOLDS, FAILS, CANNOT_TELL, BAD_INPUT, OUR_FAULT = 0, 1, 2, 64, 70
NO_INSTANT: Final = 0
BAD: Final = (
    PolicyFileError, PolicyError, RequestError, ScenarioError, GlobError, UnitError, AuditError, NoteError,
    json.JSONDecodeError, UnicodeDecodeError, OSError,
)  # fmt: skip

app = typer.Typer(
    help="The agent kernel's policy and audit tools.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
policy = typer.Typer(help="Check, explain and test policy files.", no_args_is_help=True)
app.add_typer(policy, name="policy")
app.add_typer(audit, name="audit")

PolicyFile = Annotated[Path, typer.Argument(help="the policy's YAML file")]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise PolicyFileError(str(path), 1, 1, f"file is larger than {MAX_BYTES >> 20} MiB")
        return raw.decode()
    except UnicodeDecodeError as error:
        raise PolicyFileError(str(path), 1, 1, f"not UTF-8 at byte {error.start}") from None


def _load(path: Path) -> Loaded:
    return load_rules(_read(path), str(path))


@policy.command()
def check(file: PolicyFile) -> None:
    """Load FILE as the kernel would; exit 0 when it loads, warnings included."""
    loaded = _load(file)
    for warned in loaded.warnings:
        typer.echo(f"{file}:{warned.line}: warning: rule `{warned.rule}`: {warned.message}")
    compiled = compile_policy(loaded.rules)
    typer.echo(
        f"{file}: {len(loaded.rules)} rules, {len(loaded.warnings)} warnings, policy {compiled.digest[:16]}"
    )


@policy.command(name="explain")
def explain_command(
    file: PolicyFile,
    syscall: Annotated[str, typer.Option(help="the call, as in fs.read")],
    path: Annotated[str | None, typer.Option(help="absolute, or below the workspace")] = None,
    caller_tag: Annotated[str | None, typer.Option(help="core_plugin, trusted_write or third_party")] = None,
    state: Annotated[str | None, typer.Option(help="the state machine's state")] = None,
    workspace: Annotated[str, typer.Option(help="what relative globs are relative to")] = WORKSPACE,
) -> None:
    """Say which rule and line of FILE decide a call, and what would have to change for it to be allowed."""
    compiled = compile_policy(_load(file).rules)
    resolved = None
    if path is not None:
        resolved = ResolvedPath.judged(path if path.startswith("/") else f"{workspace}/{path}", workspace)
    explained = explain(Request(syscall, "explain", resolved, caller_tag, state), compiled, NO_INSTANT)
    decision = explained.decision
    typer.echo(f"{decision.outcome.value} (phase {decision.phase.value})")
    for rule in explained.deciding:
        typer.echo(f"  {file}:{rule.line}: rule `{rule.name}` ({rule.action.value}): {rule.ballot().reason}")
    if not explained.deciding:
        typer.echo(f"  {decision.reasons[0]}")
    for line in explained.advice:
        typer.echo(f"  it would be allowed with {line}")


@policy.command(name="test")
def run_tests(
    file: Annotated[Path, typer.Argument(help="a file with `tests`; see docs/KERNEL.md")],
    as_json: Annotated[bool, typer.Option("--json", help="print what came out, for scripts")] = False,
) -> None:
    """Run the tests in FILE; exit 1 when one fails, 2 when there is none."""
    document = _document(file)
    rules = _rules_under_test(file, document)
    results = [_run(name, body, rules) for name, body in _tests(document)]
    if as_json:
        typer.echo(json.dumps({"schema": "holdfast.policy-test/1", "results": results}))
    else:
        _print(results)
    if not results:
        raise typer.Exit(CANNOT_TELL)
    raise typer.Exit(HOLDS if all(result["passed"] for result in results) else FAILS)


def _document(file: Path) -> dict[str, Any]:
    try:
        root = parse_yaml(_read(file))
    except YamlError as error:
        raise PolicyFileError(str(file), error.line, error.column, str(error)) from None
    document = None if root is None else _plain(root)
    if not isinstance(document, dict) or not isinstance(document.get("tests"), list):
        raise ScenarioError(f"`{file}` has no list `tests`")
    return document


def _plain(node: Node) -> Any:
    if isinstance(node.value, str):
        return None if node.plain and node.value in {"null", "~", ""} else node.value
    if isinstance(node.value, tuple):
        return [_plain(item) for item in node.value]
    return {key: _plain(value) for key, (_, value) in node.value.items()}


def _rules_under_test(file: Path, document: Mapping[str, Any]) -> Any:
    if unknown := sorted(set(document) - {"policy", "capabilities", "builtins", "tests"}):
        raise ScenarioError(f"unknown key `{unknown[0]}` in `{file}`")
    if "policy" in document:
        rules = _load(file.parent / str(document["policy"])).rules
    else:
        rules = rules_from(document.get("capabilities", []))
    return builtin_from(rules_from(document.get("builtins", []))) + rules


def _tests(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    tests: list[tuple[str, Mapping[str, Any]]] = []
    for number, body in enumerate(document["tests"], start=1):
        if not isinstance(body, dict) or not isinstance(body.get("expect"), dict) or not body["expect"]:
            raise ScenarioError(f"test {number} says nothing in `expect`")
        tests.append((str(body.pop("name", number)), body))
    return tests


def _run(name: str, body: Mapping[str, Any], rules: Any) -> dict[str, Any]:
    observed = run_scenario(scenario_from(body, rules))
    found = asdict(observed)
    wrong = [f"{word}: expected {want!r}, got {found[word]!r}" for word, want in body["expect"].items()
             if not _agrees(word, want, observed)]  # fmt: skip
    return {"name": name, "passed": not wrong, "wrong": wrong, "observed": found}


def _agrees(word: str, want: Any, observed: Observed) -> bool:
    """Test files are YAML read as texts: a list is compared item by item, anything else as it prints."""
    if word not in Observed.__slots__:
        raise ScenarioError(f"unknown word `{word}` in `expect`; known: {', '.join(Observed.__slots__)}")
    found = getattr(observed, word)
    if isinstance(found, tuple):
        return isinstance(want, list) and [str(item) for item in want] == list(found)
    return str(want).lower() == str(found).lower()


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        typer.echo(f"{'ok  ' if result['passed'] else 'FAIL'} {result['name']}")
        for line in result["wrong"]:
            typer.echo(f"     {line}")
    passed = sum(result["passed"] for result in results)
    typer.echo(f"{passed} of {len(results)} tests passed")


def _refuse(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    typer.echo(f"agent-kernel: {line[:1].lower()}{line[1:]}", err=True)
    raise SystemExit(code)


def main() -> NoReturn:
    """The command's entry point: every way out is one of the five codes."""
    try:
        # Without its standalone mode the library hands an exit code back instead of raising it.
        code = app(standalone_mode=False)
    except typer.Exit as done:
        code = done.exit_code
    except typer.Abort:
        _refuse("interrupted", OUR_FAULT)
    except BAD as error:
        _refuse(str(error), BAD_INPUT)
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback reaches a user
        # Usage errors are known by what they can do: typer moved them from one library to another.
        if (message := getattr(error, "format_message", None)) is not None:
            _refuse(message(), BAD_INPUT)
        _refuse(f"our own fault: {type(error).__name__}: {error}", OUR_FAULT)
    sys.exit(code if isinstance(code, int) else HOLDS)
