"""From what a caller wrote to the file that it means: no spelling, link or move slips past a built-in rule."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.systems.kernel.builtin_rules import Protected, builtin_rules
from holdfast.systems.kernel.decision import Outcome
from holdfast.systems.kernel.engine import decide
from holdfast.systems.kernel.glob import GlobError, PathSet, parse_glob
from holdfast.systems.kernel.policy import MAX_BUILTINS, Policy, PolicyError, compile_policy
from holdfast.systems.kernel.request import CHANGES_FILES, Request, RequestError, ResolvedPath
from holdfast.systems.kernel.resolve import Resolver
from holdfast.systems.kernel.rules import Action, Match, Rule, Source
from tests.systems.kernel.sizes import law


class World:
    """A workspace with the kernel's own files in a dot folder inside it, and a policy that allows everything."""

    def __init__(self, root: Path) -> None:
        self.root = root
        own = root / ".kernel"
        (root / "src").mkdir()
        (root / "sub" / "deep").mkdir(parents=True)
        own.mkdir()
        self.protected = Protected(
            policy=own / "policy.yaml", audit=own / "audit.db", state=own / "state.db",
            bootstrap=(root / "boot.py",), kernel=(root / "kernel",),
        )  # fmt: skip
        (root / "kernel").mkdir()
        for path in (*self.protected.files(), root / "src" / "main.py", root / "kernel" / "k.py"):
            if not path.is_dir():
                path.write_text("x")
        self.resolver = Resolver(root, self.protected.files())
        everything = Rule("all", Match(), Action.ALLOW)
        self.policy: Policy = compile_policy((*builtin_rules(self.protected), everything))

    def outcome(self, syscall: str, text: str) -> Outcome:
        with self.resolver.opened(text, syscall) as opened:
            return decide(Request(syscall, "intruder", opened.path), self.policy, 1).outcome


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "w").mkdir()
    return World(tmp_path / "w")


def absolute(world: World, name: str) -> str:
    return str(world.root / ".kernel" / name)


def through_link(world: World, name: str) -> str:
    (world.root / "src" / f"to-{name}").symlink_to(world.root / ".kernel" / name)
    return f"src/to-{name}"


def through_linked_folder(world: World, name: str) -> str:
    (world.root / "src" / "there").symlink_to(world.root / ".kernel")
    return f"src/there/{name}"


def link_then_parent(world: World, name: str) -> str:
    """`..` after a link is the target's parent, as the kernel reads it and a lexical clean-up does not."""
    (world.root / "src" / "jump").symlink_to(world.root / ".kernel")
    return f"src/jump/../.kernel/{name}"


SPELLINGS: dict[str, Callable[[World, str], str]] = {
    "plain": lambda world, name: f".kernel/{name}",
    "dot slash": lambda world, name: f"./.kernel/./{name}",
    "parent": lambda world, name: f"src/../.kernel/{name}",
    "many parents": lambda world, name: f"sub/deep/../../.kernel/{name}",
    "double slash": lambda world, name: f".kernel//{name}",
    "absolute": absolute,
    "absolute through /proc": lambda world, name: f"/proc/self/root{absolute(world, name)}",
    "a linked folder": through_linked_folder,
    "a link and then its parent": link_then_parent,
}
FOLLOWED = sorted(CHANGES_FILES - {"fs.delete", "fs.rename", "fs.link", "fs.symlink", "fs.mkdir"})
FILES = (
    "policy.yaml",
    "audit.db",
    "audit.db-wal",
    "audit.db-shm",
    "audit.db-journal",
    "state.db",
    "state.db-wal",
    "audit.db.key",
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_protected_file_can_be_changed_by_any_call(
    world: World, spelling: str, name: str
) -> None:
    text = SPELLINGS[spelling](world, name)
    assert {syscall: world.outcome(syscall, text) for syscall in CHANGES_FILES} == dict.fromkeys(
        CHANGES_FILES, Outcome.DENY
    )
    assert world.outcome("fs.read", text) is Outcome.ALLOW


@pytest.mark.parametrize("name", FILES)
def test_a_symlink_and_a_hard_link_are_the_file_that_they_lead_to(world: World, name: str) -> None:
    text = through_link(world, name)
    os.link(world.root / ".kernel" / name, world.root / "src" / f"hard-{name}")
    for syscall in FOLLOWED:
        assert world.outcome(syscall, text) is Outcome.DENY
        assert world.outcome(syscall, f"src/hard-{name}") is Outcome.DENY
    assert world.outcome("fs.delete", text) is Outcome.ALLOW, "removing a link leaves the file alone"


def test_a_protected_file_that_is_not_there_yet_cannot_be_made(world: World) -> None:
    (world.root / ".kernel" / "audit.db-wal").unlink()
    for syscall in ("fs.write", "fs.symlink", "fs.link", "fs.mkdir", "fs.rename"):
        assert world.outcome(syscall, ".kernel/audit.db-wal") is Outcome.DENY


def test_folders_above_protected_files_cannot_be_moved_or_removed(world: World) -> None:
    for syscall in ("fs.rename", "fs.delete"):
        assert world.outcome(syscall, ".kernel") is Outcome.DENY
        assert world.outcome(syscall, "src") is Outcome.ALLOW


def test_bootstrap_and_kernel_files_ask_for_a_review(world: World) -> None:
    for syscall in CHANGES_FILES:
        assert world.outcome(syscall, "boot.py") is Outcome.REVIEW
        assert world.outcome(syscall, "kernel/k.py") is Outcome.REVIEW
    assert world.outcome("fs.write", "src/main.py") is Outcome.ALLOW


def test_a_policy_update_is_reviewed_whatever_rules_allow(world: World) -> None:
    assert decide(Request("policy.update", "me"), world.policy, 1).outcome is Outcome.REVIEW


def test_there_are_at_most_ten_builtins(world: World) -> None:
    assert len(builtin_rules(world.protected)) <= MAX_BUILTINS
    eleven = [Rule(f"b{n}", Match(), Action.DENY, source=Source.BUILTIN) for n in range(11)]
    with pytest.raises(PolicyError, match="at most 10"):
        compile_policy(eleven)


def test_what_was_judged_is_what_is_used_even_when_the_name_is_swapped_meanwhile(world: World) -> None:
    """The race that a path check loses: after the decision the name points to a protected file."""
    target = world.root / "src" / "main.py"
    with world.resolver.opened("src/main.py", "fs.write") as opened:
        assert decide(Request("fs.write", "x", opened.path), world.policy, 1).outcome is Outcome.ALLOW
        target.unlink()
        target.symlink_to(world.root / ".kernel" / "policy.yaml")
        with open(f"/proc/self/fd/{opened.fd}", "w") as used:  # noqa: PTH123 - the descriptor, by its path
            used.write("changed")
    assert (world.root / ".kernel" / "policy.yaml").read_text() == "x"


def test_a_file_to_be_made_is_judged_by_its_folder_and_name(world: World) -> None:
    with world.resolver.opened("src/../src/new.py", "fs.write") as opened:
        assert (opened.path.relative, opened.name) == ("src/new.py/", "new.py")
        fd = os.open(opened.name or "", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=opened.fd)
        os.close(fd)
    assert (world.root / "src" / "new.py").exists()


def test_a_dangling_link_to_a_protected_name_is_judged_as_an_entry_and_never_followed(world: World) -> None:
    (world.root / ".kernel" / "audit.db-shm").unlink()
    (world.root / "src" / "trap").symlink_to(world.root / ".kernel" / "audit.db-shm")
    with world.resolver.opened("src/trap", "fs.write") as opened:
        assert opened.name == "trap"
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            os.open("trap", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, dir_fd=opened.fd)


BAD_PATHS = {
    "a NUL": ("src/\0main.py", "NUL"),
    "no UTF-8": ("src/\udcff", "not valid UTF-8"),
    "over PATH_MAX": ("a/" * 2048, "the limit is 4095"),
    "empty": ("", "empty"),
    "not there": ("src/none/x", "cannot be resolved"),
    "a component over NAME_MAX": ("x" * 300, "cannot be resolved"),
    "a loop": ("src/loop", "cannot be resolved"),
}


@pytest.mark.parametrize("name", BAD_PATHS)
def test_a_path_that_means_nothing_is_refused_with_a_clear_error(world: World, name: str) -> None:
    (world.root / "src" / "loop").symlink_to("loop")
    text, said = BAD_PATHS[name]
    with pytest.raises(RequestError, match=said) as caught:
        world.resolver.open(text, "fs.read")
    assert len(str(caught.value)) < 400
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [{"syscall": ""}, {"caller": ""}, {"caller": "a\0b"}, {"state": "x" * 257}, {"caller_tag": "\udcff"},
     {"caller": "a\nb"}, {"path": None}],
)  # fmt: skip
def test_a_request_that_is_not_well_formed_is_refused(fields: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"syscall": "fs.read", "caller": "me", "path": ResolvedPath.judged("/a", "/")}
    Request(**whole)
    with pytest.raises(RequestError):
        Request(**{**whole, **fields})


@pytest.mark.parametrize(
    "text", ["relative", "/a/../b", "/a//b", "/a/.", "/a/", "/a\0b", "/" + "a/" * 3000 + "a", "/\udcff"]
)
def test_a_resolved_path_is_resolved(text: str) -> None:
    with pytest.raises(RequestError):
        ResolvedPath.judged(text, "/")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_do_not_leak(world: World) -> None:
    before = open_descriptors()
    for _ in range(20):
        with world.resolver.opened("src/main.py", "fs.read"):
            pass
        with pytest.raises(RequestError):
            world.resolver.open("src/none", "fs.read")
    assert open_descriptors() == before


# -- globs ------------------------------------------------------------------------------------------

GLOBS = {
    "src/**": (["src", "src/a", "src/a/b", "src/.hidden"], ["srcs", "a/src/b", ""]),
    "src/*": (["src/a", "src/.a"], ["src", "src/a/b"]),
    "**/b": (["b", "a/b", "a/a/b"], ["ab", "b/a"]),
    "a/**/b": (["a/b", "a/x/b", "a/x/y/b"], ["a/bx", "ab", "b"]),
    "a/**/b/**/c": (["a/b/c", "a/x/b/y/c", "a/b/b/c/c"], ["a/c", "a/b", "b/c"]),
    "*.py": (["m.py", "a/b/m.py", ".py"], ["m.pyc", "m.py/x"]),
    "x": (["x", "a/x"], ["xx", "x/a"]),
    "doc/": (["doc", "doc/a", "doc/a/b"], ["docs", "a/doc"]),
    "s?c/[a-c]": (["src/a", "sxc/c"], ["src/d", "sc/a", "s/c/a"]),
    "[!a-c]/x": (["d/x"], ["a/x", "/x"]),
    "a*b*c": (["abc", "axbxc", "a/abbc"], ["ab", "acb", "ab/c"]),
    "/**": ([], []),
}


@pytest.mark.parametrize("text", GLOBS)
def test_a_glob_matches(text: str) -> None:
    paths = PathSet.parse([text])
    yes, no = GLOBS[text]
    for path in yes:
        assert paths.holds(f"w/{path}/", f"{path}/"), path
    for path in no:
        assert not paths.holds(f"w/{path}/", f"{path}/" if path else ""), path


def test_an_exclusion_wins_wherever_it_stands_and_an_empty_list_matches_nothing() -> None:
    for entries in (["src/**", "!src/secret/**"], ["!src/secret/**", "src/**"]):
        paths = PathSet.parse(entries)
        assert paths.holds("w/src/a/", "src/a/")
        assert not paths.holds("w/src/secret/a/", "src/secret/a/")
    assert not PathSet.parse([]).holds("a/", "a/")
    assert not PathSet.parse(["!a"]).holds("b/", "b/")
    assert PathSet.parse(["/**"]).holds("", None)
    assert not PathSet.parse(["**"]).holds("etc/", None), "relative globs end at the workspace"


def naive(pattern: list[str], path: list[str]) -> bool:
    """The obvious, exponential matcher."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(naive(pattern[1:], path[at:]) for at in range(len(path) + 1))
    return bool(path) and naive_segment(pattern[0], path[0]) and naive(pattern[1:], path[1:])


def naive_segment(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive_segment(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] in {"?", text[0]} and naive_segment(pattern[1:], text[1:])


segments = st.sampled_from(["**", "**", "*", "a", "b", "a*", "*b", "a*b", "*a*b*", "?", "a?*", "ab"])
names = st.sampled_from(["a", "b", "ab", "aab", "abb", "ba", "aabb", "c"])


@law
@given(st.lists(segments, min_size=2, max_size=6), st.lists(names, min_size=1, max_size=7))
def test_the_compiled_glob_agrees_with_the_naive_matcher(pattern: list[str], path: list[str]) -> None:
    glob = parse_glob("/".join(pattern))
    assert bool(glob.regex.fullmatch("".join(f"{name}/" for name in path))) == naive(pattern, path)


@pytest.mark.parametrize(
    "text", ["*a" * 32 + "*", "**/a/" * 20 + "b", "a*" * 60 + "/**/" + "x", "**/*a*a*a*a*a*a*a*a*a*a*/**/b"]
)
def test_a_glob_built_to_backtrack_answers_at_once(text: str) -> None:
    """Exponential matchers need longer than the universe has; the run's time box is the bound."""
    try:
        glob = parse_glob(text)
    except GlobError:
        return
    assert not glob.regex.fullmatch(("a" * 200 + "/") * 18 + "c/")
    assert not glob.regex.fullmatch("a/" * 1000 + "c/")
