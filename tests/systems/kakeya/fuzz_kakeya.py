"""Coverage-guided fuzzing of every parser with atheris: `python fuzz_kakeya.py TARGET [libFuzzer options]`.

A target returns or refuses in its own way; any other exception, and any acceptance that a second opinion
does not share, ends the run with a crash.
"""

import sys
from collections.abc import Callable

import atheris  # type: ignore[import-untyped]  # ships no types

with atheris.instrument_imports(include=["holdfast.systems.kakeya"]):
    from holdfast.systems.kakeya.ecvrf import InvalidProofError, fast, plain
    from holdfast.systems.kakeya.grounding.tokens import exact_words, fold, tokenise
    from holdfast.systems.kakeya.identity import (
        Expected,
        GatewayTrust,
        IdentityRefusedError,
        Peer,
        ReplayWindow,
        Verifier,
        identify,
    )
    from holdfast.systems.kakeya.identity.base64url import Padding, decode, encode
    from holdfast.systems.kakeya.pcs import BadFieldError, canonical, parse_body
    from holdfast.systems.kakeya.strict_json import BadJsonError, parse_object

PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
EXPECTED = Expected("i", "a")


def proof(data: bytes) -> None:
    """Both implementations say the same of any proof, and accept none that nobody made."""
    said = []
    for which in (fast, plain):
        try:
            said.append(which.trace_verifying(PUBLIC, b"fuzz", data).beta)
        except InvalidProofError as refused:
            said.append(str(refused).encode())
    assert said[0] == said[1]
    assert len(said[0]) != 64 or not data


def token(data: bytes) -> None:
    """No key is known, so no token is genuine."""
    parts = [encode(part) for part in data.split(b"|")] if b"|" in data else [data.decode("latin-1")]
    try:
        Verifier((), EXPECTED).identity(".".join(parts), now=0.0)
    except IdentityRefusedError:
        return
    raise AssertionError("a token was accepted under no key")


def json(data: bytes) -> None:
    """What is accepted is an object."""
    try:
        assert isinstance(parse_object(data), dict)
    except BadJsonError:
        return


def headers(data: bytes) -> None:
    """A stranger's headers, whatever they say, make nobody."""
    pairs = [tuple(line.split(b":", 1)) for line in data.split(b"\n") if b":" in line]
    try:
        identify(
            [(name, value) for name, value in pairs],
            Peer(1, 2, 3),
            trust=GatewayTrust(frozenset({1}), (bytes(32),)),
            expected=EXPECTED,
            window=ReplayWindow(60, opened=0),
            now=0.0,
        )
    except IdentityRefusedError:
        return
    raise AssertionError("a stranger was identified")


def body(data: bytes) -> None:
    """What is read can be written."""
    try:
        assert canonical(parse_body(data).pcs).startswith(b'{"D_hat":')
    except BadFieldError:
        return


def base64url(data: bytes) -> None:
    """One spelling."""
    text = data.decode("latin-1")
    value = decode(text, Padding.FORBIDDEN)
    assert value is None or encode(value) == text


def words(data: bytes) -> None:
    """The quick words are the exact ones."""
    text = fold(data.decode("utf-8", "ignore").translate(str.maketrans("@:/", "   ")))
    assert tokenise(text) == [w for chunk in text.split() for w in exact_words(chunk)]


TARGETS: dict[str, Callable[[bytes], None]] = {
    f.__name__: f for f in (proof, token, json, headers, body, base64url, words)
}

if __name__ == "__main__":
    atheris.enabled_hooks.add("RegEx")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
