"""Write `vectors.json`: submissions with the bytes they are signed over, or the field they are refused for.

    python tests/golden/generate.py     then     node tests/golden/check.mjs tests/golden/vectors.json

The bytes come from the project's canonicaliser; `check.mjs` computes them again from the text alone, in
another language, with integers of any size and its own reading of binary64.
"""

import json
from pathlib import Path
from typing import Any

from holdfast.systems.kakeya.pcs import BadFieldError, canonical, parse_body, pcs_id_of, sign

KEY = bytes(range(32))
ROOT = "ab" * 32
_SIG = "A" * 43 + "="

MEASURES = {
    "trailing zero": "1.234567890",
    "nine decimals": "0.123456789",
    "one": "1",
    "one point zero": "1.0",
    "zero": "0",
    "negative zero": "-0.0",
    "negative zero as an integer": "-0",
    "negative below the last place": "-1e-10",
    "below the last place": "1e-10",
    "half of the last place": "5e-10",
    "just above half of the last place": "5.0000000000000011e-10",
    "tie to even, down": "0.0009765625",
    "tie to even, up": "0.0029296875",
    "tie to even, negative": "-0.0009765625",
    "tie below two": "1.0009765625",
    "not a tie, though written as one": "0.1234567885",
    "not a tie either": "1.0000000005",
    "a third": "0.333333333333333333",
    "one tenth": "0.1",
    "three tenths": "0.30000000000000004",
    "rounds up to one": "0.9999999999",
    "carries through": "9.9999999995",
    "exponent": "1.5e3",
    "exponent with capital and plus": "1.5E+3",
    "negative exponent": "12.5e-3",
    "ten to the sixteen": "1e16",
    "ten to the sixteen as an integer": "10000000000000000",
    "two to the fifty-three": "9007199254740992",
    "two to the fifty-three and one": "9007199254740993",
    "ten to the twenty-one": "1e21",
    "ten to the twenty-two": "1e22",
    "largest": "1.7976931348623157e308",
    "smallest subnormal": "5e-324",
    "smallest normal": "2.2250738585072014e-308",
    "many digits": "3.14159265358979323846264338327950288419716939937510",
    "negative": "-12.75",
    "underflows to zero": "1e-400",
}
SHARDS = {
    "space": '"a b"',
    "latin": '"caf\u00e9"',
    "decomposed": '"cafe\u0301"',
    "cjk": '"\u5206\u7247"',
    "astral": '"\U0001f980"',
    "astral, escaped": '"\\ud83e\\udd80"',
    "escaped letter": '"\\u0061"',
    "escaped slash": '"a\\/b"',
    "quote and backslash": '"\\"\\\\"',
    "controls": '"\\u0000\\u001f\\b\\t\\n\\f\\r"',
    "delete and line separators": '"\\u007f\\u2028\\u2029"',
    "markup": '"<&>"',
    "bar": '"a|7|b"',
}
EPOCHS = {"zero": "0", "two to the fifty-three and one": "9007199254740993", "largest": "9223372036854775807"}
REFUSED: dict[str, tuple[str, str]] = {
    "NaN": ("D_hat", "NaN"),
    "Infinity": ("D_hat", "Infinity"),
    "negative Infinity": ("r", "-Infinity"),
    "overflows to infinity": ("budget", "1e400"),
    "integer beyond any float": ("budget", "1" + "0" * 400),
    "text for a measure": ("r", '"1.0"'),
    "true for a measure": ("r", "true"),
    "null for a measure": ("coh_star", "null"),
    "float for an epoch": ("epoch", "7.0"),
    "exponent for an epoch": ("epoch", "7e0"),
    "negative epoch": ("epoch", "-1"),
    "epoch of two to the sixty-three": ("epoch", "9223372036854775808"),
    "empty shard": ("shard_id", '""'),
    "half a surrogate pair": ("shard_id", '"\\ud800"'),
    "leading zero": ("D_hat", "01"),
    "plus sign": ("D_hat", "+1"),
    "bare point": ("D_hat", ".5"),
    "upper-case root": ("merkle_root", json.dumps("AB" * 32)),
}
_NOT_JSON = {
    "NaN",
    "Infinity",
    "negative Infinity",
    "half a surrogate pair",
    "leading zero",
    "plus sign",
    "bare point",
}


def body(**fields: str) -> str:
    """A submission's text; each field as raw JSON text."""
    texts = {
        "shard_id": '"shard-1"',
        "epoch": "7",
        "merkle_root": json.dumps(ROOT),
        "D_hat": "1.25",
        "coh_star": "0.5",
        "r": "0.125",
        "budget": "1",
        "sig": json.dumps(_SIG),
    } | fields
    texts.setdefault("pcs_id", json.dumps(_id_of(texts)))
    return "{" + ", ".join(f'"{name}": {text}' for name, text in texts.items()) + "}"


def _id_of(texts: dict[str, str]) -> str:
    try:
        root, epoch, shard = (json.loads(texts[name]) for name in ("merkle_root", "epoch", "shard_id"))
        return pcs_id_of(root, epoch, shard)
    except ValueError:
        return "0" * 64


def accepted(name: str, **fields: str) -> dict[str, Any]:
    """One vector with its bytes."""
    text = body(**fields)
    payload = canonical(parse_body(text.encode()).pcs)
    return {"name": name, "body": text, "payload": payload.decode(), "signature": sign(KEY, payload)}


def refused(name: str, field: str, value: str) -> dict[str, Any]:
    """One vector with the field that it is refused for."""
    text = body(**{field: value})
    found = _refused_field(text)
    assert found == ("body" if name in _NOT_JSON else field), (name, found)
    return {"name": name, "body": text, "refused": found}


def _refused_field(text: str) -> str | None:
    try:
        parse_body(text.encode("utf-8", "surrogatepass"))
    except BadFieldError as error:
        return error.field
    return None


def vectors() -> list[dict[str, Any]]:
    """All of them, in order."""
    fields = ("D_hat", "coh_star", "r", "budget")
    rows = [accepted(f"measure: {n}", **{fields[i % 4]: t}) for i, (n, t) in enumerate(MEASURES.items())]
    rows += [accepted(f"shard: {n}", shard_id=t) for n, t in SHARDS.items()]
    rows += [accepted(f"epoch: {n}", epoch=t) for n, t in EPOCHS.items()]
    rows.append(
        accepted("fields in another order", budget="1", pcs_id=json.dumps(pcs_id_of(ROOT, 7, "shard-1")))
    )
    return rows + [refused(n, field, value) for n, (field, value) in REFUSED.items()]


def document() -> str:
    """The file's text."""
    head = {"schema": "holdfast.kakeya-golden/1", "key": KEY.hex(), "vectors": vectors()}
    return json.dumps(head, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("vectors.json").write_text(document(), "ascii")
