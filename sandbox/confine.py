"""The library call: run one command under an isolation."""

from collections.abc import Mapping

from holdfast.sandbox.bpf.assemble import assemble
from holdfast.sandbox.further import Further
from holdfast.sandbox.host import Host, read_host
from holdfast.sandbox.instance import Policy
from holdfast.sandbox.isolation import AnyIsolation, Isolation
from holdfast.sandbox.launchers import launcher_for
from holdfast.sandbox.plan import Command, Plan, plan_for
from holdfast.sandbox.profile import Profile
from holdfast.sandbox.refusal import BadInputError
from holdfast.sandbox.spawn import Confined, Spawner

__all__ = ["confine", "plan_command", "policy_for"]

STANDARD_STREAMS: Mapping[int, int] = {0: 0, 1: 1, 2: 2}


def policy_for(isolation: AnyIsolation, profile: Profile | None) -> Policy:
    """What an isolation applies of a profile; raises `BadInputError` or `CannotConfineError` as `assemble` does."""
    if isolation is Isolation.NONE or profile is None:
        return Policy(None, None, shares_network=True)
    return Policy(assemble(profile).code, profile.path, shares_network=profile.allows_inet)


def plan_command(isolation: AnyIsolation, command: Command, profile: Profile | None, host: Host) -> Plan:
    """The plan that `confine` carries out, to be printed or compared."""
    policy = policy_for(isolation, profile)
    return plan_for(
        isolation,
        command,
        host,
        filter_code=policy.filter_code,
        profile=policy.profile,
        shares_network=policy.shares_network,
    )


def confine(
    spawner: Spawner,
    isolation: AnyIsolation,
    command: Command,
    *,
    profile: Profile | None,
    descriptors: Mapping[int, int] = STANDARD_STREAMS,
    further: Further | None = None,
) -> Confined:
    """Start `command`; nothing is passed on but the named descriptors (its number -> ours).

    `further` are a person's own arguments of bwrap; no other isolation takes any.

    Raises `BadInputError` when the command or its folder is not there (under bwrap this shows at its end
    instead, by an empty `launcher_status`), `CannotConfineError` when this host cannot confine it.
    """
    plan = plan_command(isolation, command, profile, read_host())
    if further is not None and further.words:
        if isolation is not Isolation.BWRAP:
            raise BadInputError(f"arguments of bwrap mean nothing to `{isolation.value}`")
        plan = plan.with_further(further.words)
    return spawner.launch(launcher_for(isolation).lower(plan, descriptors))
