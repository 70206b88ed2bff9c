"""Launchers that are not ours: the words a user types, the plan they become, what a launch hands over."""

import os
import shutil
from pathlib import Path

import pytest

from holdfast.sandbox import (
    BadInputError,
    CannotConfineError,
    Command,
    Isolation,
    Spawner,
    confine,
    plan_for,
    read_host,
)
from holdfast.sandbox.foreign import KNOWN, Foreign, parse_launcher, parse_launchers
from holdfast.sandbox.launchers import _BY_NAME, channel_of, foreign_launcher, launcher_for
from holdfast.sandbox.launchers.docker import skeleton
from holdfast.sandbox.launchers.runtime import CAPABILITIES, Channel
from holdfast.sandbox.plan import Bind, Execute, Link, Plan, Through, describe
from tests.launchers_here import present


@pytest.mark.parametrize(
    ("text", "name", "prefix"),
    [
        ("docker", "docker", ()),
        (" docker ", "docker", ()),
        ("nsjail -Mo --chroot / --", "nsjail", ("nsjail", "-Mo", "--chroot", "/", "--")),
        ("/opt/my box/run", "my", ("/opt/my", "box/run")),
        ("'/opt/my box/run' -x", "run", ("/opt/my box/run", "-x")),
        ("firejail --noprofile", "firejail-prefix", ("firejail", "--noprofile")),
        ("bwrap", "bwrap-prefix", ("bwrap",)),
        ("none", "none-prefix", ("none",)),
        ("../x/..", "launcher", ("../x/..",)),
    ],
)
def test_a_word_is_a_known_launcher_and_more_is_a_prefix(
    text: str, name: str, prefix: tuple[str, ...]
) -> None:
    assert parse_launcher(text) == Foreign(name, prefix)


@pytest.mark.parametrize(
    ("text", "said"), [("", "an empty launcher"), ("  ", "an empty"), ("a 'b", "cannot be split")]
)
def test_what_is_no_launcher_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        parse_launcher(text)


def test_two_launchers_of_one_name_are_refused_since_one_file_would_hide_the_other() -> None:
    with pytest.raises(BadInputError, match="both called `env`"):
        parse_launchers(["env A=1", "env A=2"])
    assert parse_launchers(["env A=1", "env A=1"]) == (Foreign("env", ("env", "A=1")),)


def test_each_known_name_has_a_module_and_no_other_has() -> None:
    assert tuple(_BY_NAME) == KNOWN
    assert not {isolation.value for isolation in Isolation} & set(KNOWN)


def test_a_prefix_never_gets_the_module_of_a_known_name() -> None:
    assert foreign_launcher(parse_launcher("docker run")) is not foreign_launcher(Foreign("docker"))
    assert channel_of(parse_launcher("docker run")) is Channel.STDERR
    assert channel_of(Isolation.NONE) is Channel.INHERITED


def plan_of(foreign: Foreign, **environment: str) -> Plan:
    command = Command(("/bin/true",), environment=environment, writable=("/scratch",))
    return plan_for(foreign, command, read_host(), filter_code=None, profile=None, shares_network=True)


def test_the_plan_says_who_takes_over_and_names_no_value_of_the_environment() -> None:
    plan = plan_of(Foreign("docker"), TOKEN="secret")
    assert plan.ops[0] == Through("docker", (), ("TOKEN",))
    assert Bind("/scratch", writable=True) in plan.ops
    assert isinstance(plan.ops[-1], Execute)
    assert "secret" not in " ".join(plan.words())
    loosened = Through("docker", loosened=("filter",))
    assert describe(loosened) == "hand over to docker with filter off"


def test_what_a_container_lacks_of_the_hosts_root_stands_in_the_plan() -> None:
    host, plan = read_host(), plan_of(Foreign("runc"))
    assert {op.path for op in plan.ops if isinstance(op, Link)} == {path for path, _ in host.root_links}
    assert {op.path for op in plan.ops if isinstance(op, Bind)} >= {*host.root_folders, host.project}


@pytest.mark.parametrize(
    "name",
    [pytest.param("docker", marks=pytest.mark.nightly), "podman", "runc", "crun", "systemd-nspawn"],
)
def test_no_value_of_the_environment_stands_on_a_containers_command_line(name: str) -> None:
    with present(name) as foreign:
        launch = launcher_for(foreign).lower(plan_of(foreign, TOKEN="s3cret-value"), {0: 0, 1: 1, 2: 2})
    try:
        argv = launch.steps[-1][1]
        assert not any("s3cret-value" in word for word in argv)
        assert launch.clean_up, "what it leaves behind must be taken away"
    finally:
        for words in launch.clean_up:
            if words[0] == "rm":
                shutil.rmtree(words[-1])


def test_a_launcher_that_is_not_there_cannot_confine(spawner: Spawner) -> None:
    foreign = parse_launcher("/no/such/launcher --flag")
    with pytest.raises(CannotConfineError, match=r"`/no/such/launcher` is not on PATH"):
        confine(spawner, foreign, Command(("/bin/true",)), profile=None)


def test_a_clean_up_runs_when_the_command_ends_and_when_it_is_closed(
    spawner: Spawner, tmp_path: Path
) -> None:
    from dataclasses import replace

    for ends_by_itself in (True, False):
        left = tmp_path / f"left-{ends_by_itself}"
        left.mkdir()
        command = Command(
            ("/bin/true",) if ends_by_itself else ("/bin/sleep", "60"), inherited=dict(os.environ)
        )
        plan = plan_for(
            Isolation.NONE, command, read_host(), filter_code=None, profile=None, shares_network=True
        )
        launch = launcher_for(Isolation.NONE).lower(plan, {0: 0, 1: 1, 2: 2})
        clean_up = (("no-such-command",), ("rm", "-rf", "--", str(left)))
        with spawner.launch(replace(launch, clean_up=clean_up)) as confined:
            if ends_by_itself:
                confined.wait(10)
            else:
                assert left.exists()
        assert not left.exists()


def test_the_skeleton_of_an_image_has_mount_points_and_links_only() -> None:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(skeleton([Link("/bin", "usr/bin")]))) as archive:
        kinds = {member.name: (member.isdir(), member.linkname) for member in archive}
    assert kinds["usr"] == (True, "")
    assert kinds["bin"] == (False, "usr/bin")
    assert not any(is_file for is_file in [not d and not link for d, link in kinds.values()])


def test_capabilities_are_listed_by_their_numbers() -> None:
    numbers = {name: number for number, name in enumerate(CAPABILITIES)}
    assert (numbers["CHOWN"], numbers["SYS_PTRACE"], numbers["SYS_ADMIN"], numbers["CHECKPOINT_RESTORE"]) == (
        0,
        19,
        21,
        40,
    )
