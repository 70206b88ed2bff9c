"""Planted faults, each as a change to a copy of the package: what kills it, and who would have noticed.

    python -m tests.systems.kernel.mutants > docs/KERNEL-MUTANTS.md

A mutant counts as killed when tests *fail* on it (pytest's exit 1); a copy that cannot be collected or
imported does not count. The unchanged copy is the control: every killer passes on it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
COPIED = ("__init__.py", "clock.py", "records", "systems", "suites", "harness", "sandbox", "profiles")
HERE = "tests/systems/kernel"
CASES = f"{HERE}/test_policy_cases.py"
KERNEL = "systems/kernel"


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement, of a text that stands in the file exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault, and the named test that kills it."""

    name: str
    fault: str
    edits: tuple[Edit, ...]
    killer: str


def mutant(name: str, fault: str, killer: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(
        name, fault, tuple(Edit(f"{KERNEL}/{file}", old, new) for file, old, new in edits), f"{HERE}/{killer}"
    )


MUTANTS = (
    mutant("P1", "tail verification starts from the genesis hash",
           "test_audit_log.py::test_incremental_verification_reads_only_what_is_new_and_still_sees_what_is_wrong_there",
           ("audit/verify.py", "walk.sealed = sealed.head, sealed.last_id, sealed.size",
            "walk.sealed = GENESIS, sealed.last_id, sealed.size")),
    mutant("P2", "after a crash the extension's evaluation answers pass",
           "test_extension.py::test_an_extension_that_fails_denies_and_is_started_again[crashes]",
           ("extension.py", "self._fail()\n                return (self._denial(str(failure)),)", "self._fail()\n                return ()")),
    mutant("P3", "an extension's timeout answers pass",
           "test_extension.py::test_an_extension_that_fails_denies_and_is_started_again[does not answer]",
           ("extension.py", "            except _FailureError as failure:\n                if self.health",
            "            except _FailureError as failure:\n                if 'in time' in str(failure):\n                    return ()\n                if self.health")),
    mutant("P4", "warm-up is a no-op",
           "test_extension.py::test_it_is_asked_with_the_request_and_the_snapshot_and_its_votes_count",
           ("extension.py", "self._await_ready(self._started + self._start_seconds)", "self.health = Health.READY")),
    mutant("P5a", "the nonce is never checked",
           "test_tokens.py::test_the_nonce_is_remembered_when_the_record_forgets_its_count",
           ("tokens.py", "lane is None or lane.window.seen(token.nonce)", "lane is None")),
    mutant("P5b", "the store never evicts",
           "test_tokens.py::test_memory_is_bounded_expired_records_go_and_nothing_is_issued_over_the_limit",
           ("tokens.py", "while self._expiries and", "while False and self._expiries and")),
    mutant("P6", "an empty path list on a token means unrestricted",
           "test_tokens.py::test_empty_globs_grant_nothing_and_a_pathless_token_grants_no_path",
           ("tokens.py", "return paths.holds(", "return not paths.plain or paths.holds(")),
    mutant("P7a", "a use is consumed though the outcome was review",
           "test_guard.py::test_a_review_takes_no_use",
           ("guard.py", "decision.outcome is not Outcome.ALLOW or self.tokens.use(valid[0])",
            "self.tokens.use(valid[0])")),
    mutant("P7b", "the signature is compared with an ordinary comparison",
           "test_tokens.py::test_the_mac_is_compared_in_constant_time",
           ("token_format.py", "return hmac.compare_digest(self.mac(sealed[:-MAC_BYTES]), sealed[-MAC_BYTES:])",
            "return not self.mac(sealed[:-MAC_BYTES]) != sealed[-MAC_BYTES:]")),
    mutant("P8", "issuing takes container and pid from the caller",
           "test_tokens.py::test_a_token_names_the_process_behind_the_socket_whatever_was_claimed",
           ("tokens.py", "    uses: int = 1\n    life", "    uses: int = 1\n    pid: int = 1\n    container: str = ''\n    life"),
           ("tokens.py", "claim.uses, peer.pid, peer.start,", "claim.uses, claim.pid, peer.start,")),
    mutant("P9a", "built-ins guard against write alone",
           "test_paths.py::test_no_spelling_of_a_protected_file_can_be_changed_by_any_call[plain-policy.yaml]",
           ("builtin_rules.py", "return _rule(name, action, CHANGES_FILES, globs, reason)",
            "return _rule(name, action, frozenset({'fs.write'}), globs, reason)")),
    mutant("P9b", "built-ins miss the write-ahead log",
           "test_paths.py::test_no_spelling_of_a_protected_file_can_be_changed_by_any_call[plain-audit.db-wal]",
           ("builtin_rules.py", 'SQLITE_COMPANIONS: Final = ("", "-wal", "-shm", "-journal")', 'SQLITE_COMPANIONS: Final = ("",)')),
    mutant("P9c", "paths are judged as written, links unresolved",
           "test_paths.py::test_a_symlink_and_a_hard_link_are_the_file_that_they_lead_to[policy.yaml]",
           ("resolve.py", 'where = str(Path(f"/proc/self/fd/{fd}").readlink())', "where = os.path.normpath(self._text)"),
           ("resolve.py", "        _refuse_text(text)\n        try:", "        _refuse_text(text)\n        self._text = self._absolute(text)\n        try:"),
           ("resolve.py", "self._protected_name(status) or where", "where")),
    mutant("P9d", "globs miss dotfiles",
           "test_paths.py::test_a_glob_matches[src/**]",
           ("glob.py", 'r"(?:[^/]+/)*", last)', 'r"(?:[^/.][^/]*/)*", last)')),
    mutant("P10", "of all reasons the last one wins",
           "test_policy_cases.py::test_case[10]",
           ("engine.py", "tuple(reason for _, reason in pairs)", "(pairs[-1][1],)")),
    mutant("P11a", "the line reader has no length limit",
           "test_extension.py::test_an_extension_that_fails_denies_and_is_started_again[floods]",
           ("extension.py", "if len(self._buffer) > MAX_LINE:", "if False:")),
    mutant("P11b", "malformed JSON is dropped silently",
           "test_extension.py::test_an_extension_that_fails_denies_and_is_started_again[sends no JSON]",
           ("extension.py", 'raise _FailureError("sent a line that is not JSON") from None', 'return {"id": self.calls, "votes": []}')),
    mutant("P12", "the row's version is not covered by the hash",
           "test_audit_log.py::test_the_hand_written_encoding_is_rfc_8785_byte_for_byte",
           ("audit/encoding.py", 'leaf = f\'\\0{{"body":{body},"id":{entry_id},"previous":"{previous.hex()}","version":{version}}}\'',
            'leaf = f\'\\0{{"body":{body},"id":{entry_id},"previous":"{previous.hex()}"}}\''),
           ("audit/encoding.py", 'return f\'{{"body":{body},"id":{entry_id},"previous":"{previous.hex()}","version":{version}}}\'.encode()',
            'return f\'{{"body":{body},"id":{entry_id},"previous":"{previous.hex()}"}}\'.encode()')),
    mutant("P13", "security events go through the buffer",
           "test_audit_log.py::test_a_security_event_is_on_disk_when_append_returns_and_others_wait[EventType.POLICY_UPDATE]",
           ("audit/log.py", "if event.type in self.options.security:", "if False:")),
    mutant("P15", "`except` ignores the syscall `*`",
           "test_policy_cases.py::test_case[14]",
           ("rules.py", "            if item.holds(request):", "            if item.syscalls is not None and item.holds(request):")),
    mutant("P16a", "two clock reads in one evaluation, by the guard",
           "test_guard.py::test_a_token_is_issued_logged_used_once_and_then_evaluated_in_full",
           ("guard.py", "self.tokens.check(token, r, peer, now)", "self.tokens.check(token, r, peer, snapshot_ns())")),
    mutant("P16b", "two clock reads in one evaluation, by the engine",
           "test_policy_cases.py::test_case[22]",
           ("engine.py", "votes += ask(request, now)", "votes += ask(request, now + 1)")),
    mutant("P17", "a deny short-circuits before later reasons are collected",
           "test_policy_cases.py::test_case[11]",
           ("policy.py", "            if rule.vote(request) is vote.action:\n                votes.append(vote)\n        by_directory",
            "            if rule.vote(request) is vote.action:\n                votes.append(vote)\n                if vote.action is Action.DENY:\n                    return votes\n        by_directory")),
    mutant("P18", "the first match wins",
           "test_policy_cases.py::test_case[03]",
           ("policy.py", "            if rule.vote(request) is vote.action:\n                votes.append(vote)\n        by_directory",
            "            if rule.vote(request) is vote.action:\n                return [vote]\n        by_directory")),
)  # fmt: skip
"""P14 is a fault of seccomp profiles and is planted there."""


class NotApplicableError(LookupError):
    """A text to be replaced does not stand in the file exactly once: the table is out of date."""


def copy_package(target: Path, edits: Iterable[Edit] = ()) -> Path:
    """The package under `target`, with the edits; what PYTHONPATH must name."""
    package = target / "holdfast"
    package.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, package / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, package / name)
    for edit in edits:
        path = package / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise NotApplicableError(f"{edit.file}: found {text.count(edit.old)} times: {edit.old}")
        path.write_text(text.replace(edit.old, edit.new))
    return target


def run_tests(package: Path, *tests: str) -> int:
    """pytest's exit code for `tests` on the copy."""
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("HOLDFAST_PROFILE", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--no-header",
        "-p",
        "no:xdist",
        "-p",
        "no:randomly",
        *tests,
    ]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=300, check=False
    ).returncode


def whole_suite() -> list[str]:
    """Every test of the kernel but those of the mutants themselves and the slow sweeps."""
    left_out = {"test_mutants.py", "test_audit_crash.py", "test_reference_model.py"}
    return sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / HERE).glob("test_*.py") if path.name not in left_out
    )


def render(rows: list[tuple[Mutant, bool, bool]]) -> str:
    by_cases, by_all = sum(row[1] for row in rows), sum(row[2] for row in rows)
    return "\n".join(
        [
            "# Planted faults of the kernel",
            "",
            "Rendered from a run. Each fault was read in a real implementation; here it is a change to a copy of this",
            "package. `26 cases`: whether the normative cases alone notice; `suite`: whether all tests do.",
            "",
            f"Mutation score of the 26 cases alone: **{by_cases} of {len(rows)}**. Of the whole suite: **{by_all} of {len(rows)}**.",
            "",
            "| fault | what is wrong | 26 cases | suite | killed by |",
            "|---|---|---|---|---|",
            *(
                f"| {m.name} | {m.fault} | {'killed' if cases else 'survives'} | {'killed' if suite else 'survives'} | `{m.killer.rpartition('::')[2]}` |"
                for m, cases, suite in rows
            ),
            "",
        ]
    )


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for one in MUTANTS:
            package = copy_package(Path(folder) / one.name, one.edits)
            rows.append((one, run_tests(package, CASES) == 1, run_tests(package, *whole_suite()) == 1))
    sys.stdout.write(render(rows))


if __name__ == "__main__":
    main()
