"""Change one flag of one tenant, or take the last change back: the file is replaced, never written into.

The policy that was in force stands beside it as `NAME.previous`, so that a rollback needs no memory of what
it was. A change that would not load is refused before anything is replaced.
"""

import json
from pathlib import Path
from typing import Any

from holdfast.systems.kakeya.policy import CONTROLS, PolicyError, load_policy
from holdfast.systems.kakeya.strict_json import parse_object

__all__ = ["previous_of", "roll_back", "set_flag"]


def set_flag(path: Path, tenant: str, key: str, value: Any) -> None:
    """`key` is `vrf.mode`, `riskRouting.canary`, ...; `value` as JSON has it."""
    load_policy(path)
    document = parse_object(path.read_bytes())
    control, _, name = key.partition(".")
    if control not in CONTROLS or not name:
        raise PolicyError(key, f"is no flag; flags begin with one of {', '.join(CONTROLS)}")
    if tenant not in document.get("tenants", {}):
        raise PolicyError(f"tenants.{tenant[:64]}", "is not in the policy")
    document["tenants"][tenant].setdefault(control, {})[name] = value
    _replace(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def roll_back(path: Path) -> None:
    """The policy before the last change; doing it twice undoes the rollback."""
    previous = previous_of(path)
    if not previous.exists():
        raise PolicyError("policy", f"`{path}` has no `{previous.name}` beside it to go back to")
    _replace(path, previous.read_text("utf-8"))


def previous_of(path: Path) -> Path:
    """Where the policy before this one is kept."""
    return path.with_name(path.name + ".previous")


def _replace(path: Path, text: str) -> None:
    """Try the new text under another name in the same folder; secrets' paths are relative to it."""
    candidate = path.with_name(path.name + ".candidate")
    candidate.write_text(text, "utf-8")
    try:
        load_policy(candidate)
        kept = path.with_name(path.name + ".keeping")
        kept.write_bytes(path.read_bytes())
        kept.replace(previous_of(path))
        candidate.replace(path)
    finally:
        candidate.unlink(missing_ok=True)
