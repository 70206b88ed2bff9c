"""Policy files: what loads, what is refused and where, and that refusing takes bounded time."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.systems.kernel.loader import PolicyFileError, load_rules
from holdfast.systems.kernel.units import UnitError, parse_size, parse_time_ms
from tests.systems.kernel.sizes import law

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/schemas/kernel-policy.json").read_text())
FULL = """capabilities:
  - name: allow-src
    match: {syscall: [fs.read, fs.write], path_glob: ["src/**", "!src/secret/**"], caller_tag: core_plugin, state: run}
    action: allow
    except: [{state: frozen}, {syscall: "*", path_glob: "**/*.pem"}]
    reason: plugins may work on sources
    constraints: {max_size: 10MiB, max_time: 30s}
"""


def test_a_full_rule_loads_with_everything_in_it() -> None:
    (rule,) = load_rules(FULL, "p.yaml").rules
    assert (rule.name, rule.line, rule.action.value) == ("allow-src", 2, "allow")
    assert rule.limits == (("max_size", 10 << 20), ("max_time", 30_000))
    assert rule.excepts[1].syscalls is None
    assert rule.match.paths is not None
    assert rule.match.paths.texts() == ("src/**", "!src/secret/**")


RULE = "capabilities:\n- {name: a, match: {syscall: fs.read}, action: allow}\n"
BAD = {
    "missing name": ("capabilities:\n- {match: {}, action: allow}", 2, "rule without `name`"),
    "missing match": ("capabilities:\n- {name: a, action: allow}", 2, "rule without `match`"),
    "missing action": ("capabilities:\n- {name: a, match: {}}", 2, "rule without `action`"),
    "unknown action": ("capabilities:\n- {name: a, match: {}, action: permit}", 2, "`permit`"),
    "action in capitals": ("capabilities:\n- {name: a, match: {}, action: Allow}", 2, "`Allow`"),
    "unknown key in a rule": ("capabilities:\n- {name: a, match: {}, action: allow, excepts: []}", 2, "`excepts`"),
    "unknown key in a match": ("capabilities:\n- {name: a, match: {path: x}, action: deny}", 2, "`path`"),
    "unknown key at the top": ("capability: []", 1, "`capability`"),
    "unknown constraint": ("capabilities:\n- {name: a, match: {}, action: allow, constraints: {size: 1}}", 2, "`size`"),
    "unparsable unit": (
        "capabilities:\n- {name: a, match: {}, action: allow, constraints: {max_size: 10kb}}", 2, "`10kb`"),
    "match is no mapping": ("capabilities:\n- {name: a, match: [], action: allow}", 2, "must be a mapping"),
    "rules are no list": ("capabilities: {a: b}", 1, "must be a list"),
    "a null field": ("capabilities:\n- {name: ~, match: {}, action: allow}", 2, "`name` must be a text"),
    "a null glob": ("capabilities:\n- {name: a, match: {path_glob: }, action: allow}", 2, "must be a text"),
    "a duplicate key": ("capabilities:\n- name: a\n  match: {}\n  action: deny\n  action: allow", 5, "given twice"),
    "an alias": ("capabilities:\n- &r {name: a, match: {}, action: allow}\n- *r", 2, "anchor `&r`"),
    "a tag": ("capabilities:\n- !!python/object:os.system {name: a}", 2, "tag"),
    "two documents": (RULE + "---\n" + RULE, 3, "second document"),
    "broken YAML": ("capabilities: [", 1, ""),
    "a tab": ("capabilities:\n\t- a", 2, ""),
    "a control character": ('capabilities:\n- {name: "a\\u0007", match: {}, action: allow}', 2, "cannot be printed"),
    "`**` inside a segment": ("capabilities:\n- {name: a, match: {path_glob: 'a**'}, action: allow}", 2, "whole segment"),
    "a glob with `..`": ("capabilities:\n- {name: a, match: {path_glob: '../x'}, action: allow}", 2, "`..`"),
    "a glob with an open class": ("capabilities:\n- {name: a, match: {path_glob: 'a[b'}, action: allow}", 2, "`[`"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_file_line_and_the_offending_text(name: str) -> None:
    text, line, quoted = BAD[name]
    with pytest.raises(PolicyFileError) as caught:
        load_rules(text, "bad.yaml")
    assert str(caught.value).startswith(f"bad.yaml:{line}:") or line == 1
    assert quoted in str(caught.value)
    assert "\n" not in str(caught.value)


def bomb() -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    return "\n".join(lines)


HUGE = {
    "an alias bomb": bomb(),
    "merge keys that explode": "a: &a {x: 1}\nb: &b {<<: *a}\nc: {<<: *b}",
    "10 MB of globs": "capabilities:\n- {name: a, match: {path_glob: ["
    + "'src/**'," * 1_200_000
    + "]}, action: allow}",
    "a wall of brackets": "[" * 100_000,
    "a wall of dashes": "- " * 100_000,
    "a deep block": "".join(" " * n + "a:\n" for n in range(900)),
    "a glob of a megabyte": "capabilities:\n- {name: a, match: {path_glob: '"
    + "a" * 1_000_000
    + "'}, action: allow}",
    "a glob of ten thousand stars": "capabilities:\n- {name: a, match: {path_glob: '"
    + "*a" * 300
    + "'}, action: allow}",
    "300 globs in a rule": "capabilities:\n- {name: a, match: {path_glob: ["
    + "x," * 300
    + "]}, action: allow}",
    "a name of a megabyte": "capabilities:\n- {name: " + "a" * 1_000_000 + ", match: {}, action: allow}",
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_built_to_cost_is_refused(name: str) -> None:
    """Each returns at once: the test run's own time box is the bound that is held."""
    with pytest.raises(PolicyFileError):
        load_rules(HUGE[name], "huge.yaml")


# -- the schema that is shipped ---------------------------------------------------------------------

scalars = st.sampled_from(
    ["fs.read", "src/**", "core_plugin", "allow", "deny", "x", "10MiB", "30s", "1e3", "", "*"]
)
match_documents = st.dictionaries(
    st.sampled_from(["syscall", "caller_tag", "path_glob", "state", "path"]),
    scalars | st.lists(scalars, max_size=2),
    max_size=3,
)
rule_documents = st.fixed_dictionaries(
    {},
    optional={
        "name": scalars,
        "match": match_documents | scalars,
        "action": scalars,
        "except": st.lists(match_documents, max_size=2) | scalars,
        "reason": scalars,
        "constraints": st.dictionaries(
            st.sampled_from(["max_size", "max_time", "size"]), scalars, max_size=2
        ),
        "other": scalars,
    },
)
documents = st.dictionaries(
    st.sampled_from(["capabilities", "capabilities", "rules"]),
    st.lists(rule_documents, max_size=2),
    max_size=1,
)


def refusal(text: str) -> str | None:
    """What the loader has against a text."""
    try:
        load_rules(text, "generated")
    except PolicyFileError as error:
        return str(error)
    return None


@law
@given(documents)
def test_the_shipped_schema_and_the_loader_say_the_same(document: dict[str, object]) -> None:
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(document)
    assert valid == (refusal(json.dumps(document)) is None)


@pytest.mark.parametrize(
    "name", ["missing name", "missing match", "unknown action", "unknown key in a rule", "unparsable unit"]
)
def test_the_shipped_schema_refuses(name: str) -> None:
    import yaml

    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(yaml.safe_load(BAD[name][0]))
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(yaml.safe_load(FULL))


# -- units ------------------------------------------------------------------------------------------

SIZES = {"0": 0, "1": 1, "007": 7, "1KiB": 1024, "3MiB": 3 << 20, "2GiB": 2 << 30, "1KB": 1000, "5MB": 5_000_000,
         "9223372036854775807": 2**63 - 1}  # fmt: skip
SIZE_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
NO_SIZES = ["kb", "1kb", "1KIB", "1.5.0", "1.5MB", "1 KiB", " 1", "1 ", "1\n", "1e3", "-1", "+1", "M", "1M", "1mS", "",
            "\uff19", "\u0661", "1_000", "0x10", "9223372036854775808", "8388608TiB", "10000000000GB", "1KiBB", "KiB", "1s",
            "9" * 10_000]  # fmt: skip
TIMES = {"0s": 0, "5ms": 5, "30s": 30_000, "2m": 120_000, "1h": 3_600_000}
NO_TIMES = [
    "30",
    "1mS",
    "1S",
    "1 s",
    "-1s",
    "1e3s",
    "1.5s",
    "s",
    "",
    "1d",
    "1min",
    "9223372036854775807h",
    "1H",
    "\u0663s",
]


def test_sizes_are_exact() -> None:
    assert {text: parse_size(text) for text in SIZES} == SIZES


def test_times_are_exact() -> None:
    assert {text: parse_time_ms(text) for text in TIMES} == TIMES


@pytest.mark.parametrize("text", NO_SIZES)
def test_a_size_that_would_need_guessing_is_refused(text: str) -> None:
    with pytest.raises(UnitError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_time_that_would_need_guessing_is_refused(text: str) -> None:
    with pytest.raises(UnitError, match="is not a time"):
        parse_time_ms(text)


@law
@given(st.integers(0, 2**63 - 1), st.sampled_from(list(SIZE_UNITS)))
def test_no_size_overflows(number: int, unit: str) -> None:
    exact = number * SIZE_UNITS[unit]
    if exact < 2**63:
        assert parse_size(f"{number}{unit}") == exact
    else:
        with pytest.raises(UnitError, match="larger than 2\\^63-1"):
            parse_size(f"{number}{unit}")
