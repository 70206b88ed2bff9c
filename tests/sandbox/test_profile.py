"""A profile is refused wherever libseccomp would change its meaning without a word."""

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.profiles.generate import profiles, render, requests_but
from holdfast.sandbox import BadInputError, load_profile, parse_profile
from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.json_position import line_of
from holdfast.sandbox.profile import Condition, Operator

SHIPPED = ("strict", "standard", "standard-net")
EQ, MASKED = "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def argument(index: int = 0, value: Any = 1, op: str = EQ, **more: Any) -> dict[str, Any]:
    return {"index": index, "value": value, "op": op, **more}


def document(*rules: Any, **more: Any) -> str:
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules), **more}, indent=1)


REFUSED = {
    "not-json": ("{", "not JSON"),
    "trailing-junk": (document() + "x", "not JSON"),
    "not-utf8": (b"\xff\xfe", "not usable JSON"),
    "duplicate-key": (
        '{"defaultAction": "SCMP_ACT_ERRNO", "defaultAction": "SCMP_ACT_ALLOW"}',
        "stands twice",
    ),
    "too-deep": ("[" * 100_000, "not usable JSON|not JSON"),
    "an-array": ("[]", "must be an object"),
    "no-default": ("{}", "lacks `defaultAction`"),
    "unknown-default": ('{"defaultAction": "DENY"}', "`defaultAction` is `DENY`.*SCMP_ACT_ERRNO"),
    "unknown-field": (document(defaultAktion="x"), "`defaultAktion` is not a field"),
    "docker-only-field": (document(archMap=[]), "docker's own"),
    "rule-includes": (document(rule("read", includes={})), r"`syscalls\[0\].includes` is docker's own"),
    "rule-not-object": (document("read"), r"`syscalls\[0\]` must be an object"),
    "no-names": (document({"action": "SCMP_ACT_ALLOW"}), "lacks `names`"),
    "empty-names": (document(rule()), "is empty"),
    "name-not-text": (document(rule(7)), r"`syscalls\[0\].names\[0\]` must be a non-empty string"),  # type: ignore[arg-type]
    "unknown-action": (document(rule("read", action="ALLOW")), r"`syscalls\[0\].action` is `ALLOW`"),
    "errno-too-large": (document(rule("read", errnoRet=4096)), "from 0 to 4095"),
    "errno-a-bool": (document(rule("read", errnoRet=True)), "must be a whole number"),
    "index-out-of-range": (document(rule("read", args=[argument(index=6)])), "from 0 to 5"),
    "value-negative": (document(rule("read", args=[argument(value=-1)])), "must be a whole number"),
    "value-too-wide": (document(rule("read", args=[argument(value=1 << 64)])), "must be a whole number"),
    "value-a-float": (document(rule("read", args=[argument(value=1.0)])), "must be a whole number"),
    "unknown-operator": (document(rule("read", args=[argument(op="EQ")])), "SCMP_CMP_MASKED_EQ"),
    "two-conditions-on-one-argument": (
        document(rule("ioctl", args=[argument(1, 5), argument(1, 6)])),
        "several conditions on one argument.*one rule a condition",
    ),
    "free-beside-bound": (
        document(rule("ioctl"), rule("ioctl", args=[argument()])),
        "with conditions beside one without.*drop the conditions",
    ),
    "deny-beside-free": (
        document(rule("ioctl"), rule("ioctl", action="SCMP_ACT_KILL", args=[argument()])),
        "with conditions beside one without",
    ),
    "two-free-actions": (document(rule("read"), rule("read", action="SCMP_ACT_KILL")), "two actions"),
    "the-default-again": (document(rule("read", action="SCMP_ACT_ERRNO")), "default's own action"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_malformed_profile_is_refused_and_says_where(text: str | bytes, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as refused:
        parse_profile(text.encode() if isinstance(text, str) else text, path="mine.json")
    assert str(refused.value).startswith("mine.json:")


def test_a_refusal_names_the_line_of_the_rule() -> None:
    text = document(rule("read"), rule("write", errnoRet="x"))
    line = next(i for i, row in enumerate(text.splitlines(), 1) if '"errnoRet"' in row)
    with pytest.raises(BadInputError, match=rf"mine.json:{line}: `syscalls\[1\].errnoRet`"):
        parse_profile(text.encode(), path="mine.json")


@pytest.mark.parametrize("name", ["nowhere.json", "/", "standard2"])
def test_a_profile_that_cannot_be_read_says_which_there_are(name: str) -> None:
    with pytest.raises(BadInputError, match="one of `standard`, `standard-net`, `strict`"):
        load_profile(name)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    large.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(BadInputError, match="larger than"):
        load_profile(str(large))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_files_are_what_the_lists_say(name: str) -> None:
    path = Path(__file__).parents[2] / "profiles" / f"{name}.json"
    assert path.read_text() == render(profiles()[name])


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_profiles_compile_to_a_filter_of_bounded_size(name: str) -> None:
    assembled = assemble(load_profile(name))
    assert 100 < assembled.instructions < 1000
    assert len(assembled.code) == 8 * assembled.instructions


def test_each_profile_allows_what_the_stricter_one_does() -> None:
    names = [{n for r in load_profile(name).rules for n in r.names} for name in SHIPPED]
    assert names[0] < names[1] <= names[2]


def test_only_the_net_profile_allows_inet_sockets() -> None:
    assert {name: load_profile(name).allows_inet for name in SHIPPED} == {
        "strict": False,
        "standard": False,
        "standard-net": True,
    }


@pytest.mark.parametrize("value", [0x5412, 0x541C, 0x1_0000_5412, 0xFFFF_FFFF_0000_541C])
def test_the_prefix_cover_never_matches_a_forbidden_request(value: int) -> None:
    assert not any(value & mask == want for mask, want in requests_but(0x5412, 0x541C))


@pytest.mark.parametrize(
    "value", [0, 0x5401, 0x5411, 0x5413, 0x541B, 0x541D, 0x5421, 0xFFFFFFFF, 0x1_0000_5413]
)
def test_the_prefix_cover_matches_every_other_request(value: int) -> None:
    assert sum(value & mask == want for mask, want in requests_but(0x5412, 0x541C)) == 1


def test_the_prefix_cover_of_two_requests_takes_34_rules() -> None:
    assert len(list(requests_but(0x5412, 0x541C))) == 34


def test_a_denied_name_that_libseccomp_does_not_know_is_refused() -> None:
    text = document(rule("no_such_call", action="SCMP_ACT_KILL"), defaultAction="SCMP_ACT_ALLOW")
    with pytest.raises(BadInputError, match="does not know `no_such_call`, which the profile denies"):
        assemble(parse_profile(text.encode(), path="mine.json"))


def test_an_allowed_name_that_libseccomp_does_not_know_is_left_out_and_told() -> None:
    text = document(rule("read", "no_such_call"))
    assert assemble(parse_profile(text.encode(), path="mine.json")).unknown == ("no_such_call",)


@pytest.mark.parametrize(
    ("operator", "holds", "fails"),
    [
        (Operator.NE, 4, 5),
        (Operator.LT, 4, 5),
        (Operator.LE, 5, 6),
        (Operator.EQ, 5, (1 << 32) + 5),
        (Operator.GE, 5, 4),
        (Operator.GT, 6, 5),
    ],
    ids=lambda v: v.name if isinstance(v, Operator) else None,
)
def test_a_condition_compares_all_64_bits(operator: Operator, holds: int, fails: int) -> None:
    condition = Condition(0, operator, 5)
    assert condition.holds_for(holds)
    assert not condition.holds_for(fails)


@pytest.mark.parametrize(
    ("path", "line"), [((), 1), (("b",), 3), (("b", 1), 5), (("b", 1, "c"), 6), (("b", 9), 3), (("z",), 1)]
)
def test_a_position_is_that_of_the_deepest_part_that_is_there(path: tuple[str | int, ...], line: int) -> None:
    assert line_of('{"a": "}]",\n\n"b": [1,\n\n{\n"c": 2}]}', path) == line
