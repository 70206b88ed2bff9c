"""`ccp policy check | sign | keygen | explain | show`."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from holdfast.clock import utc_now
from holdfast.records.dsse import key_id, sign
from holdfast.systems.ccp.distribution import (
    PAYLOAD_TYPE,
    Received,
    embedded,
    load_keys,
    open_pack,
    tightening,
)
from holdfast.systems.ccp.faults import ConfigError
from holdfast.systems.ccp.pack import Pack, embedded_pack_text, parse_pack

__all__ = ["explain", "run_policy_command"]


def run_policy_command(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """One of the commands above; raises `ConfigError`."""
    match options.action:
        case "check":
            text = _check(options.file, options.keys, environ)
        case "sign":
            text = _sign(options.file, options.key)
        case "keygen":
            text = _keygen(options.prefix)
        case "explain":
            text = explain(_pack(options.policy, environ), options.model)
        case _:
            text = embedded_pack_text().decode()
    sys.stdout.write(text + "\n")
    return 0


def explain(pack: Pack, model: str) -> str:
    """Which lane `model` takes under `pack`, and why."""
    policy = pack.policy
    matcher = policy.match(model)
    if matcher in policy.matchers:
        number = policy.matchers.index(matcher) + 1
        why = f"rule {number} of {len(policy.matchers)}, pattern `{matcher.pattern}`"
    else:
        why = "no rule matches; this is the default lane"
    lane = policy.lanes[matcher.lane]
    lines = [
        f"model `{model}` -> lane `{matcher.lane}` ({why})",
        f"upstream: {lane.base_url}",
        f"credential: {'of the client, untouched' if not lane.env else f'{lane.env}, sent as {lane.auth.value}'}",
        f"jurisdiction: {lane.jurisdiction or 'unknown'}",
        f"policy: version {policy.version}, digest {pack.digest}",
    ]
    if matcher.rename:
        lines.insert(1, f"sent as model `{matcher.rename}`")
    if matcher.lane in policy.denied:
        lines.insert(1, f"DENIED: {policy.denied[matcher.lane]}; such a request gets 403")
    return "\n".join(lines)


def _pack(where: str, environ: Mapping[str, str]) -> Pack:
    tighten = tightening(environ)
    if not where:
        return embedded(tighten).pack
    return parse_pack(_read(Path(where)), name=where, tighten=tighten)


def _check(path: Path, keys_path: Path | None, environ: Mapping[str, str]) -> str:
    keys = load_keys(keys_path) if keys_path is not None else ()
    beside = path.with_name(path.name + ".sig")
    signature = _read(beside) if keys and beside.exists() else None
    pack = open_pack(
        Received(_read(path), signature), keys, name=str(path), tighten=tightening(environ), now=utc_now()
    )
    policy = pack.policy
    denied = [f"lane `{lane}` is denied: {why}" for lane, why in policy.denied.items()]
    signed = "signed by a trusted key" if keys else "signature not checked (no --keys)"
    head = f"policy `{path}` may be used: version {policy.version}, {len(policy.matchers)} rules, {signed}"
    return "\n".join([head, f"digest {pack.digest}", *denied])


def _sign(path: Path, key_path: Path) -> str:
    body = _read(path)
    pack = parse_pack(body, name=str(path))
    if not pack.versioned:
        raise ConfigError(
            f"policy `{path}` needs `version` and `expires` before it is signed; else it can be replayed"
        )
    try:
        key = load_pem_private_key(_read(key_path), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"`{key_path}` is no PEM private key without a passphrase") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"`{key_path}` is not an Ed25519 key")
    target = path.with_name(path.name + ".sig")
    _write(target, (json.dumps(sign(body, PAYLOAD_TYPE, key), indent=1) + "\n").encode(), 0o644)
    return f"wrote `{target}`, signed by key {key_id(key.public_key())}"


def _keygen(prefix: Path) -> str:
    key = Ed25519PrivateKey.generate()
    private, public = prefix.with_name(prefix.name + ".key"), prefix.with_name(prefix.name + ".pub")
    if taken := [path for path in (private, public) if path.exists()]:
        raise ConfigError(f"`{taken[0]}` is there already; keys are not overwritten")
    _write(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return f"wrote `{private}` (keep it) and `{public}` (give it out), key {key_id(key.public_key())}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be read ({error.strerror})") from error


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be written ({error.strerror})") from error
