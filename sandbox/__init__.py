"""Confine a process, and show what the confinement denies. Imports nothing of ours but the clock.

    isolation.py   strings -> Isolation            profile.py   OCI JSON -> Profile
    plan.py        -> Plan(ops), pure              bpf/         Profile -> filter bytes, and back
    launchers/     Plan -> Launch                  spawn.py     Launch -> Confined, by the spawner process
    agent.py       runs inside, starts the service, forks one child a probe
    instance.py    a sandbox with an agent in it   probes/      one module a family
    verdict.py     two arms -> what they show, pure tables

Who only wants to confine: `confine(isolation, command, profile=...)`, or `holdfast run`.
"""

from holdfast.sandbox.confine import confine, policy_for
from holdfast.sandbox.further import Further, parse_further
from holdfast.sandbox.host import Host, read_host
from holdfast.sandbox.isolation import Isolation, parse_isolation, parse_isolations
from holdfast.sandbox.plan import Command, Plan, plan_for
from holdfast.sandbox.profile import Profile, load_profile, parse_profile
from holdfast.sandbox.refusal import BadInputError, CannotConfineError, SandboxError
from holdfast.sandbox.spawn import Confined, Spawner

__all__ = [
    "BadInputError",
    "CannotConfineError",
    "Command",
    "Confined",
    "Further",
    "Host",
    "Isolation",
    "Plan",
    "Profile",
    "SandboxError",
    "Spawner",
    "confine",
    "load_profile",
    "parse_further",
    "parse_isolation",
    "parse_isolations",
    "parse_profile",
    "plan_for",
    "policy_for",
    "read_host",
]
