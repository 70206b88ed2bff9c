"""`agentos license`: look at a licence, check it, and issue one with a development key."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.systems.agentos.console import say
from holdfast.systems.agentos.errors import BadInputError
from holdfast.systems.agentos.files import write_json
from holdfast.systems.agentos.licensing.issue import (
    device_id,
    issue_pack,
    keyring_entry,
    load_private_key,
    make_private_key,
)
from holdfast.systems.agentos.licensing.pack import parse_keyring, parse_pack, read_file
from holdfast.systems.agentos.options import HERE, Data, KeyringFile, LicenceFile
from holdfast.systems.agentos.parts import parts
from holdfast.systems.agentos.privacy.tier import TierName
from holdfast.systems.agentos.settings import Settings
from holdfast.systems.agentos.strict_json import parse_object

__all__ = ["app"]

app = typer.Typer(help="Show, verify and issue licences.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def show(licence: LicenceFile = None, keyring: KeyringFile = None) -> None:
    """Print what a licence says, without verifying it."""
    del keyring
    pack = parse_pack(read_file(required(licence, "--licence"), what="the licence"))
    say(
        {
            "license_id": pack.license_id,
            "issuer": pack.issuer,
            "plan": pack.plan,
            "entitlements": sorted(pack.entitlements),
            "not_before": pack.not_before.isoformat(),
            "expires": pack.expires.isoformat(),
            "device": pack.device,
            "key_id": pack.key_id,
            "verified": False,
        }
    )


@app.command()
def verify(licence: LicenceFile = None, keyring: KeyringFile = None, data: Data = HERE) -> None:
    """Check a licence as a session's start does, against the keyring, the clock and this device."""
    settings = Settings(data, TierName.MINIMIZED, licence=licence, keyring=keyring)
    grant = parts().reporting().grant(settings)
    entitlements = ", ".join(sorted(grant.entitlements)) or "none"
    say(
        f"valid: {grant.license_id}, plan {grant.plan}, until {grant.expires.isoformat()}, grants {entitlements}"
    )


@app.command()
def device() -> None:
    """Print the id that a licence for this device is bound to."""
    found = device_id()
    if found is None:
        raise BadInputError("this machine has no /etc/machine-id; use a licence without a device")
    say(found)


@app.command("new-key")
def new_key(
    private: Annotated[Path, typer.Option(help="the private key's file, made with mode 600")],
    keyring: Annotated[Path, typer.Option(help="the keyring to add the public half to")],
    key_id: Annotated[str, typer.Option(help="its name in the keyring")],
    not_after: Annotated[
        str | None, typer.Option(help="when its packs stop being taken, RFC 3339, UTC")
    ] = None,
) -> None:
    """Make a development key and add its public half to a keyring."""
    content: dict[str, Any] = {"schema": "ccc.keyring/1", "keys": []}
    if keyring.exists():
        raw = read_file(keyring, what="the keyring")
        if key_id in parse_keyring(raw):
            raise BadInputError(f"the keyring has a key named `{key_id}` already; choose another name")
        content = parse_object(raw, what="the keyring", limit=1 << 16)
    entry = keyring_entry(key_id, make_private_key(private))
    content["keys"] = [*content["keys"], entry | ({"not_after": not_after} if not_after else {})]
    parse_keyring(json.dumps(content).encode())
    write_json(keyring, content)
    say(f"made `{private}`; `{keyring}` trusts `{key_id}`")


@app.command()
def issue(  # noqa: PLR0917 - the parameters are options, and have names on the command line
    private: Annotated[Path, typer.Option(help="the private key's file")],
    key_id: Annotated[str, typer.Option(help="its name in the keyring")],
    output: Annotated[Path, typer.Option(help="the licence to write")],
    license_id: str = "dev",
    issuer: str = "development",
    plan: str = "dev",
    entitlement: Annotated[list[str] | None, typer.Option(help="may be given several times")] = None,
    days: Annotated[float, typer.Option(help="how long it is valid; negative: expired already")] = 30.0,
    bind: Annotated[bool, typer.Option("--bind", help="for this device only")] = False,
    device_digest: Annotated[str | None, typer.Option("--device", help="for the device with this id")] = None,
) -> None:
    """Issue a licence with a development key."""
    now = datetime.now(UTC).replace(microsecond=0)
    begin, until = sorted((now, now + timedelta(days=days)))
    pack = issue_pack(
        load_private_key(private),
        key_id=key_id,
        issuer=issuer,
        license_id=license_id,
        plan=plan,
        entitlements=tuple(entitlement or ()),
        not_before=begin - timedelta(minutes=1),
        expires=until,
        device=device_id() if bind else device_digest,
    )
    write_json(output, pack)
    say(f"wrote {output}")


def required(value: Path | None, option: str) -> Path:
    """An option that this command cannot do without."""
    if value is None:
        raise BadInputError(f"give {option}")
    return value
