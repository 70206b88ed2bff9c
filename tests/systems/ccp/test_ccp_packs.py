"""Policy packs: both forms, what is refused and where, signatures, rollback, freeze, cache, jurisdictions."""

import base64
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from holdfast.records.dsse import sign
from holdfast.systems.ccp.cli import main
from holdfast.systems.ccp.distribution import PAYLOAD_TYPE, Loaded, PolicyStore, load_keys, tightening
from holdfast.systems.ccp.faults import ConfigError, Refusal
from holdfast.systems.ccp.http1 import Limits, Request, parse_request_head
from holdfast.systems.ccp.pack import Constraints, embedded_pack_text, line_of, parse_pack
from holdfast.systems.ccp.policy import Auth, Matcher
from holdfast.systems.ccp.rig import Witness, json_answer
from holdfast.systems.ccp.routing import Route, decide

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ROOT = Path(__file__).parents[3]
SHORT = """{
  "routes": [
    {"matchModel": "claude-haiku-4.*", "provider": "zai", "headerMode": "x-api-key"}
  ],
  "constraints": {"disallowProviders": ["cn"], "requireJurisdiction": "us"},
  "timeouts": {"connectMs": 1500, "readMs": 120000}
}"""
LONG: dict[str, Any] = {
    "schema": "ccp.policy.v1",
    "version": 7,
    "expires": "2027-01-01T00:00:00Z",
    "ttlSeconds": 900,
    "routing": {"matchers": [{"pattern": "*haiku*", "lane": "zai"}]},
    "providers": {
        "anthropic": {
            "baseURL": "https://api.anthropic.com",
            "authHeader": {"mode": "passthrough", "passthrough": True},
            "jurisdiction": "us",
        },
        "zai": {
            "baseURL": "https://api.z.ai/api/anthropic",
            "authHeader": {"mode": "bearer", "env": "ZAI_API_KEY"},
        },
    },
    "fronting": {
        "requireSNI": True,
        "requireHostEqSNI": True,
        "blockIPLiteral": True,
        "allowlist": [{"hostport": "api.z.ai:443", "ttl": 60}],
    },
    "sandboxLinux": {"bwrap": True, "seccomp": "standard-net"},
    "telemetry": {"localOnly": True},
}


def long_with(**changes: Any) -> bytes:
    return json.dumps({**LONG, **changes}, indent=2).encode()


def test_the_short_form_is_read() -> None:
    pack = parse_pack(SHORT.encode(), name="p")
    assert pack.policy.match("claude-haiku-4-5-20251001").lane == "zai"
    assert pack.policy.match("claude-sonnet-4-5").lane == "anthropic"
    assert pack.policy.timeouts.first_byte_ms == 120000
    assert pack.policy.denied == {"zai": "the policy disallows jurisdiction `cn`"}


def test_the_long_form_is_read() -> None:
    pack = parse_pack(long_with(), name="p")
    assert (pack.policy.version, pack.versioned, pack.ttl_seconds) == (7, True, 900)
    assert pack.policy.lanes["zai"].auth is Auth.BEARER
    assert pack.fronting.allowlist[0].hostport == "api.z.ai:443"


def test_the_digest_is_of_the_meaning_and_not_of_the_spelling() -> None:
    spaced = parse_pack(json.dumps(LONG, indent=7).encode(), name="p")
    turned = parse_pack(json.dumps(dict(reversed(LONG.items()))).encode(), name="p")
    assert spaced.digest == turned.digest
    assert spaced.digest != parse_pack(long_with(version=8), name="p").digest


WRONG = {
    "misspelt-constraint": (SHORT.replace("disallowP", "disalowP"), 5, "$.constraints"),
    "unknown-top-field": (SHORT.replace('"timeouts"', '"timeout"'), 1, "$"),
    "unknown-provider": (SHORT.replace('"zai"', '"zia"'), 3, "$.routes[0].provider"),
    "header-mode": (SHORT.replace("x-api-key", "cookie"), 3, "$.routes[0].headerMode"),
    "mode-does-not-fit": (SHORT.replace("x-api-key", "passthrough"), 3, "$.routes[0].headerMode"),
    "type": (SHORT.replace("1500", '"1500"'), 6, "$.timeouts.connectMs"),
    "negative": (SHORT.replace("1500", "-1"), 6, "$.timeouts.connectMs"),
    "jurisdiction": (SHORT.replace('"us"', '"usa"'), 5, "$.constraints.requireJurisdiction"),
    "pattern-empty": (SHORT.replace("claude-haiku-4.*", ""), 3, "$.routes[0].matchModel"),
    "pattern-wild": (SHORT.replace("claude-haiku-4.*", "*a*b*c*d*e*"), 3, "$.routes[0].matchModel"),
    "schema": (long_with(schema="ccp.policy.v2").decode(), 2, "$.schema"),
    "version": (long_with(version=0).decode(), 3, "$.version"),
    "expires-without-zone": (long_with(expires="2027-01-01T00:00:00").decode(), 4, "$.expires"),
    "lane": (long_with(routing={"matchers": [{"pattern": "*", "lane": "x"}]}).decode(), 10, "$.routing.matchers[0].lane"),
    "no-default": (long_with(routing={"matchers": [], "defaultLane": "x"}).decode(), 8, "$.routing.defaultLane"),
    "foreign-secret": (
        long_with(providers={"anthropic": {"baseURL": "https://a", "authHeader": {"mode": "bearer", "env": "AWS_SECRET_ACCESS_KEY"}}}).decode(),
        19,
        "$.providers.anthropic.authHeader.env",
    ),
    "plain-http": (long_with(providers={"anthropic": {"baseURL": "http://evil.example"}}).decode(), 16, "$.providers.anthropic.baseURL"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_pack_is_refused_by_file_line_and_field(text: str, line: int, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pack(text.encode(), name="p.json")
    message = str(caught.value)
    assert message.startswith("policy `p.json`, line ")
    assert f"`{field}`" in message
    assert int(message.split("line ")[1].split(",", maxsplit=1)[0]) == line


def test_line_of_finds_the_line_through_objects_lists_and_strings_that_look_like_both() -> None:
    text = '{\n "a": "}]{[",\n "b": [1,\n  {"c":\n   5}]\n}'
    assert [line_of(text, path) for path in ("$", "$.a", "$.b", "$.b[1]", "$.b[1].c", "$.b[9]")] == [
        1,
        2,
        3,
        4,
        5,
        3,
    ]


TEXTS = {
    "empty": b"",
    "not-json": b"{",
    "list": b"[]",
    "duplicate-key": b'{"routes":[],"routes":[]}',
    "nan": b'{"routes":[],"ttlSeconds":NaN}',
    "huge": b" " * (1 << 20) + b"{}",
    "deep": b'{"routes":' + b"[" * 100_000,
    "lone-surrogate": rb'{"routes":[],"x":"\ud800"}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_what_is_no_pack_at_all_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pack(text, name="p.json")
    assert "p.json" in str(caught.value)


MATCHES = {
    ("claude-haiku-4.*", "claude-haiku-4-5"): True,
    ("claude-haiku-4.*", "claude-haiku-4.5"): True,
    ("claude-haiku-4.*", "claude-haiku-4"): True,
    ("claude-haiku-4.*", "claude-haiku-3"): False,
    ("*haiku*", "CLAUDE-HAIKU"): True,
    ("*haiku*", "claude-3-5-haiku-latest"): True,
    ("claude-3.5", "claude-3.5"): True,
    ("claude-3.5", "claude-3x5"): False,
    ("glm-*", "my-glm-4"): False,
    ("*", ""): True,
    ("a*", "a\nb"): True,
    ("(a|b)+", "a"): False,
}


@pytest.mark.parametrize(("case", "matches"), MATCHES.items(), ids=[f"{p}~{m!r}" for p, m in MATCHES])
def test_patterns(case: tuple[str, str], matches: bool) -> None:
    assert Matcher(case[0], "zai").matches(case[1]) is matches


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        {"matchModel": "*haiku-3*", "provider": "anthropic"},
        {"matchModel": "*haiku*", "provider": "zai"},
    ]
    policy = parse_pack(json.dumps({"routes": rules}).encode(), name="p").policy
    assert [policy.match(m).lane for m in ("haiku-3", "haiku-4")] == ["anthropic", "zai"]


# -- jurisdictions --------------------------------------------------------------------------------------

DENIED = {
    "nothing": ({}, {}, set()),
    "require-us": ({"requireJurisdiction": "us"}, {}, {"zai", "unknown"}),
    "block-cn": ({"disallowProviders": ["cn"]}, {}, {"zai", "unknown"}),
    "block-a-provider": ({"disallowProviders": ["zai"]}, {}, {"zai"}),
    "env-us-only": ({}, {"CCP_REQUIRE_US_ONLY": "1"}, {"zai", "unknown"}),
    "env-block-cn": ({}, {"CCP_BLOCK_CN": "true"}, {"zai", "unknown"}),
    "env-off": ({}, {"CCP_REQUIRE_US_ONLY": "0", "CCP_BLOCK_CN": "false"}, set()),
    "env-cannot-loosen": (
        {"requireJurisdiction": "cn"},
        {"CCP_REQUIRE_US_ONLY": "1"},
        {"anthropic", "zai", "unknown"},
    ),
}


@pytest.mark.parametrize(("constraints", "environ", "denied"), DENIED.values(), ids=DENIED.keys())
def test_who_is_denied_and_the_unknown_always_is_when_jurisdictions_matter(
    constraints: dict[str, Any], environ: dict[str, str], denied: set[str]
) -> None:
    providers = {
        "anthropic": {"baseURL": "https://a.example", "jurisdiction": "us"},
        "zai": {"baseURL": "https://z.example", "jurisdiction": "cn"},
        "unknown": {"baseURL": "https://u.example"},
    }
    text = long_with(providers=providers, constraints=constraints)
    assert set(parse_pack(text, name="p", tighten=tightening(environ)).policy.denied) == denied


def request_for(model: str) -> Request:
    return Request(
        parse_request_head(b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n\r\n", Limits()),
        json.dumps({"model": model}).encode(),
    )


def test_a_denied_lane_is_refused_and_no_other_lane_takes_its_place() -> None:
    policy = parse_pack(SHORT.encode(), name="p").policy
    with pytest.raises(Refusal) as caught:
        decide(request_for("claude-haiku-4-5"), policy)
    assert caught.value.status == 403
    route = decide(request_for("claude-sonnet-4-5"), policy)
    assert isinstance(route, Route)
    assert route.lane == "anthropic"


# -- signatures, versions, cache ------------------------------------------------------------------------


@dataclass
class Shop:
    """A publisher with a key, and a machine that trusts it."""

    folder: Path
    key: Ed25519PrivateKey
    witness: Witness

    @property
    def keys(self) -> Path:
        path = self.folder / "trusted.pub"
        path.write_bytes(self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return path

    def signed(self, by: Ed25519PrivateKey | None = None, kind: str = PAYLOAD_TYPE, **changes: Any) -> bytes:
        return json.dumps(sign(long_with(**changes), kind, by or self.key)).encode()

    def load(self, body: bytes, *, at: datetime = NOW, url: bool = False) -> Loaded:
        where = self.folder / "published.json"
        where.write_bytes(body)
        self.witness.script = json_answer(body)
        source = f"{self.witness.url}/policy.json" if url else str(where)
        return PolicyStore(source, self.folder / "state", load_keys(self.keys)).load(at)


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    with closing(Witness()) as witness:
        yield Shop(tmp_path, Ed25519PrivateKey.generate(), witness)


def test_a_signed_pack_is_taken(shop: Shop) -> None:
    loaded = shop.load(shop.signed())
    assert (loaded.pack.policy.version, loaded.signed, loaded.source) == (7, True, "file")


def test_a_detached_signature_is_taken(shop: Shop) -> None:
    (shop.folder / "published.json.sig").write_bytes(shop.signed())
    assert shop.load(long_with()).signed


UNSIGNED: dict[str, Callable[[Shop], bytes]] = {
    "stripped-to-the-pack": lambda shop: long_with(),
    "no-signatures": lambda shop: json.dumps({**json.loads(shop.signed()), "signatures": []}).encode(),
    "signatures-missing": lambda shop: json.dumps(
        {k: v for k, v in json.loads(shop.signed()).items() if k != "signatures"}
    ).encode(),
    "by-a-stranger": lambda shop: shop.signed(by=Ed25519PrivateKey.generate()),
    "of-another-type": lambda shop: shop.signed(kind="text/plain"),
    "type-relabelled": lambda shop: json.dumps(
        {**json.loads(shop.signed(kind="text/plain")), "payloadType": PAYLOAD_TYPE}
    ).encode(),
    "payload-swapped": lambda shop: json.dumps(
        {**json.loads(shop.signed()), "payload": base64.b64encode(long_with(version=9)).decode()}
    ).encode(),
    "one-bit": lambda shop: (
        shop.signed().replace(b'"sig": "A', b'"sig": "B').replace(b'"sig": "', b'"sig": "AA', 1)
    ),
    "no-version": lambda shop: shop.signed(version=None),
    "no-expiry": lambda shop: shop.signed(expires=None),
    "expired": lambda shop: shop.signed(expires="2026-01-01T00:00:00Z"),
    "empty": lambda shop: b"",
    "duplicate-payload": lambda shop: shop.signed().replace(b'{"payload"', b'{"payload": "", "payload"', 1),
}


@pytest.mark.parametrize("make", UNSIGNED.values(), ids=UNSIGNED.keys())
def test_with_a_trust_anchor_anything_else_is_refused(shop: Shop, make: Callable[[Shop], bytes]) -> None:
    with pytest.raises(ConfigError):
        shop.load(make(shop))


def test_a_detached_signature_of_another_pack_is_refused(shop: Shop) -> None:
    (shop.folder / "published.json.sig").write_bytes(shop.signed(version=8))
    with pytest.raises(ConfigError, match="not what its signature was made for"):
        shop.load(long_with())


def test_the_version_does_not_go_back_even_when_the_cache_is_deleted(shop: Shop) -> None:
    shop.load(shop.signed(version=9), url=True)
    (shop.folder / "state" / "cache.json").unlink()
    with pytest.raises(ConfigError, match="9 was in force before"):
        shop.load(shop.signed(version=8), url=True)


def test_a_memory_that_cannot_be_read_is_not_an_empty_one(shop: Shop) -> None:
    shop.load(shop.signed())
    (shop.folder / "state" / "highest-version.json").write_text("{}")
    with pytest.raises(ConfigError, match="highest-version"):
        shop.load(shop.signed())


def test_a_fresh_cache_spares_the_fetch_and_a_stale_one_does_not(shop: Shop) -> None:
    body = shop.signed()
    assert [shop.load(body, url=True, at=NOW + timedelta(minutes=m)).source for m in (0, 14, 16)] == [
        "url",
        "cache",
        "url",
    ]
    assert len(shop.witness.captured) == 2


def test_a_stamp_from_the_future_does_not_freeze_the_cache(shop: Shop) -> None:
    shop.load(shop.signed(), url=True, at=NOW + timedelta(days=20))
    assert shop.load(shop.signed(version=8), url=True).pack.policy.version == 8


def test_the_cache_is_verified_like_anything_else(shop: Shop) -> None:
    shop.load(shop.signed(), url=True)
    path = shop.folder / "state" / "cache.json"
    cached = json.loads(path.read_bytes())
    forged = shop.signed(by=Ed25519PrivateKey.generate(), version=99)
    path.write_text(json.dumps({**cached, "body": base64.b64encode(forged).decode()}))
    loaded = shop.load(shop.signed(), url=True)
    assert (loaded.source, loaded.pack.policy.version) == ("url", 7)


def test_when_the_fetch_fails_the_stale_cache_stands_until_it_expires(shop: Shop) -> None:
    shop.load(shop.signed(), url=True)
    assert shop.load(b"garbage", url=True, at=NOW + timedelta(days=1)).source == "stale cache"
    with pytest.raises(ConfigError):
        shop.load(b"garbage", url=True, at=datetime(2027, 2, 1, tzinfo=UTC))


def test_the_embedded_default_stands_only_where_no_pack_was_ever_in_force(shop: Shop) -> None:
    assert shop.load(b"garbage", url=True).source == "embedded"
    shop.load(shop.signed(), url=True)
    (shop.folder / "state" / "cache.json").unlink()
    with pytest.raises(ConfigError):
        shop.load(b"garbage", url=True)


def test_a_redirect_of_the_policy_is_not_followed(shop: Shop) -> None:
    with closing(Witness(json_answer(shop.signed()))) as elsewhere:
        shop.witness.script = json_answer(
            b"", status=b"302 Found", extra=b"Location: %s/p\r\n" % elsewhere.url.encode()
        )
        store = PolicyStore(f"{shop.witness.url}/p", shop.folder / "state", load_keys(shop.keys))
        assert store.load(NOW).source == "embedded"
        assert not elsewhere.captured


def test_plain_http_to_another_machine_is_no_source() -> None:
    with pytest.raises(ConfigError):
        PolicyStore("http://policy.example/p.json", Path("x"))


def test_keys_that_are_none_are_refused(tmp_path: Path) -> None:
    for text in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        (tmp_path / "k").write_bytes(text)
        with pytest.raises(ConfigError):
            load_keys(tmp_path / "k")


# -- the commands ---------------------------------------------------------------------------------------


def test_keygen_sign_check_and_explain_work_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = tmp_path / "policy.json"
    pack.write_bytes(long_with(expires="2100-01-01T00:00:00Z"))
    assert main(["policy", "keygen", str(tmp_path / "k")]) == 0
    assert (tmp_path / "k.key").stat().st_mode & 0o777 == 0o600
    assert main(["policy", "check", str(pack), "--keys", str(tmp_path / "k.pub")]) == 64
    assert main(["policy", "sign", str(pack), "--key", str(tmp_path / "k.key")]) == 0
    assert main(["policy", "check", str(pack), "--keys", str(tmp_path / "k.pub")]) == 0
    capsys.readouterr()
    assert main(["policy", "explain", "--model", "claude-haiku-4-5", "--policy", str(pack)]) == 0
    assert capsys.readouterr().out.startswith(
        "model `claude-haiku-4-5` -> lane `zai` (rule 1 of 1, pattern `*haiku*`)"
    )


def test_keys_are_not_overwritten(tmp_path: Path) -> None:
    assert main(["policy", "keygen", str(tmp_path / "k")]) == 0
    before = (tmp_path / "k.key").read_bytes()
    assert main(["policy", "keygen", str(tmp_path / "k")]) == 64
    assert (tmp_path / "k.key").read_bytes() == before


def test_the_embedded_default_is_a_pack_and_fits_its_schema() -> None:
    schema = json.loads((ROOT / "docs/schemas/ccp-policy-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for text in (embedded_pack_text(), long_with(), SHORT.encode()):
        validator.validate(json.loads(text))
        parse_pack(text, name="p", tighten=Constraints())


BY_STRUCTURE = ("misspelt-constraint", "unknown-top-field", "unknown-provider", "header-mode", "type", "negative",
                "schema", "version", "jurisdiction", "pattern-empty", "foreign-secret")  # fmt: skip


@pytest.mark.parametrize("name", BY_STRUCTURE)
def test_what_the_schema_can_see_it_refuses_too(name: str) -> None:
    schema = json.loads((ROOT / "docs/schemas/ccp-policy-1.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(WRONG[name][0]), schema)
