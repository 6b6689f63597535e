"""Callers by token, and the published attacks on JSON Web Tokens (RFC 8725 and the usual lists)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from fakes import FakeClock
from keyfold_server.access.tokens import fetching
from keyfold_server.access.tokens.key_source import KeySource
from keyfold_server.access.tokens.verifier import TokenVerifier
from keyfold_server.domain.errors import (
    CallerCredentialError,
    IssuerUnreachableError,
    SetupError,
)
from keyfold_server.domain.rights import Claim, Identity, NeedsKeysError
from keyfold_server.rpc.incoming.callers import bearer

_ISSUER = "https://issuer.example/realm"
_AUDIENCE = "keyfold"
_RSA = rsa.generate_private_key(65_537, 2_048)
_EC = ec.generate_private_key(ec.SECP256R1())
_EC384 = ec.generate_private_key(ec.SECP384R1())
_ED = ed25519.Ed25519PrivateKey.generate()
_STRANGER = rsa.generate_private_key(65_537, 2_048)

Part = dict[str, Any] | bytes


def _jwk(key: Any, key_id: str, **more: object) -> dict[str, Any]:
    return {**_public(key), "kid": key_id, **more}


def _public(key: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)


_KEYS = [
    _jwk(_RSA, "rsa"),
    _jwk(_EC, "ec", use="sig"),
    _jwk(_EC384, "ec384"),
    _jwk(_ED, "ed"),
    _jwk(_RSA, "rsa-pinned", alg="PS256"),
]


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _part(part: Part) -> str:
    return _b64(part if isinstance(part, bytes) else json.dumps(part).encode())


def _sign(algorithm: str, text: bytes) -> bytes:
    hashing = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
    if algorithm == "EdDSA":
        return _ED.sign(text)
    chosen = hashing[algorithm[-3:]]
    if algorithm.startswith("ES"):
        key, size = (_EC, 32) if algorithm == "ES256" else (_EC384, 48)
        r, s = utils.decode_dss_signature(key.sign(text, ec.ECDSA(chosen)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if algorithm.startswith("PS"):
        pss = padding.PSS(padding.MGF1(chosen), padding.PSS.DIGEST_LENGTH)
        return _RSA.sign(text, pss, chosen)
    return _RSA.sign(text, padding.PKCS1v15(), chosen)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
async def tokens(tmp_path: Path, clock: FakeClock) -> TokenVerifier:
    """A verifier over the issuer's key set in a file."""
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": _KEYS}))
    source = KeySource(str(file), clock)
    await source.start()
    return TokenVerifier(source, _ISSUER, _AUDIENCE)


def _claims(**changes: object) -> dict[str, Any]:
    now = FakeClock().wall()
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "app", "iat": now, "exp": now + 600}
    return {name: value for name, value in {**claims, **changes}.items() if value is not ...}


def _header(**changes: object) -> dict[str, Any]:
    header = {"alg": "RS256", "kid": "rsa", "typ": "JWT"}
    return {name: value for name, value in {**header, **changes}.items() if value is not ...}


def _token(header: Part | None = None, claims: Part | None = None, signed: str = "RS256") -> str:
    text = f"{_part(header or _header())}.{_part(claims or _claims())}"
    return f"{text}.{_b64(_sign(signed, text.encode()))}"


def _verify(tokens: TokenVerifier, token: str, *, final: bool = True) -> Identity:
    return tokens.verify(token, FakeClock().wall(), final=final).identity


def _refused(tokens: TokenVerifier, token: str, why: str) -> None:
    """Checks that a token is refused for this reason, and that no part of it is in the message."""
    for _ in range(2):  # A refusal must not be remembered as an acceptance.
        with pytest.raises(CallerCredentialError, match=why) as caught:
            _verify(tokens, token)
        assert not any(len(part) > 8 and part in str(caught.value) for part in token.split("."))
        assert caught.value.__cause__ is None


# --- what is accepted ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "key_id"),
    [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("PS256", "rsa-pinned"),
        ("ES256", "ec"),
        ("ES384", "ec384"),
        ("EdDSA", "ed"),
    ],
)
def test_good_tokens(tokens: TokenVerifier, algorithm: str, key_id: str) -> None:
    """Each accepted algorithm proves ISSUER#SUBJECT."""
    token = _token(_header(alg=algorithm, kid=key_id), signed=algorithm)
    expected = Identity((f"jwt:{_ISSUER}#app",), "token")
    assert _verify(tokens, token) == expected
    assert _verify(tokens, token) == expected


@pytest.mark.parametrize(
    "claims",
    [
        _claims(aud=["other", _AUDIENCE]),
        _claims(exp=FakeClock().wall() + 0.5),
        _claims(exp=FakeClock().wall() - 59),
        _claims(nbf=FakeClock().wall() + 60),
        _claims(iat=FakeClock().wall() + 60),
        _claims(iat=...),
        _claims(sub="system:serviceaccount:prod:app#1"),
    ],
)
def test_good_claims(tokens: TokenVerifier, claims: dict[str, Any]) -> None:
    """Several audiences, fractions of seconds and clocks a minute apart are accepted."""
    assert _verify(tokens, _token(claims=claims)).name == f"jwt:{_ISSUER}#{claims['sub']}"


@pytest.mark.parametrize("kind", [..., "JWT", "jwt", "at+jwt", "application/at+JWT"])
def test_good_types(tokens: TokenVerifier, kind: object) -> None:
    """Tokens with the type of access tokens, or without a type, are accepted."""
    assert _verify(tokens, _token(_header(typ=kind))).proof == "token"


# --- the attacks --------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "null", None, ..., 0])
@pytest.mark.parametrize("signature", ["", "AA"])
def test_no_algorithm(tokens: TokenVerifier, algorithm: object, signature: str) -> None:
    """A token without a signature is refused, however its algorithm is spelt."""
    text = f"{_part(_header(alg=algorithm))}.{_part(_claims())}"
    _refused(tokens, f"{text}.{signature}", "three parts" if not signature else "algorithm is not")


def _public_pem() -> bytes:
    return _RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "hs256"])
@pytest.mark.parametrize(
    "secret",
    [_public_pem(), _public_pem().strip(), json.dumps(_KEYS[0]).encode(), b"", b"secret"],
)
def test_key_confusion(tokens: TokenVerifier, algorithm: str, secret: bytes) -> None:
    """A public key never serves as a shared secret."""
    text = f"{_part(_header(alg=algorithm))}.{_part(_claims())}"
    digest = f"sha{algorithm[2:]}"
    signature = hmac.digest(secret, text.encode(), digest)
    _refused(tokens, f"{text}.{_b64(signature)}", "algorithm is not")


@pytest.mark.parametrize("algorithm", ["rs256", "RS1", "ES256K", "ES512", "RSA-OAEP", "dir"])
def test_other_algorithms(tokens: TokenVerifier, algorithm: str) -> None:
    """An algorithm that is not on the list is refused before any key is looked up."""
    _refused(tokens, _token(_header(alg=algorithm)), "algorithm is not")


@pytest.mark.parametrize(
    ("algorithm", "key_id"),
    [
        ("ES256", "rsa"),
        ("RS256", "ec"),
        ("ES384", "ec"),
        ("EdDSA", "ec"),
        ("RS256", "rsa-pinned"),
        ("PS384", "rsa-pinned"),
    ],
)
def test_an_algorithm_of_another_key(tokens: TokenVerifier, algorithm: str, key_id: str) -> None:
    """A key is used as its own type, curve and declaration say, not as the token says."""
    token = _token(_header(alg=algorithm, kid=key_id), signed="RS256")
    _refused(tokens, token, "does not publish")


@pytest.mark.parametrize("signature", ["", "AA", "A" * 342, "!!", "=" * 4])
def test_missing_and_made_up_signatures(tokens: TokenVerifier, signature: str) -> None:
    """Without the issuer's signature a token is refused, whatever else it has."""
    text = _token().rpartition(".")[0]
    _refused(tokens, f"{text}.{signature}", "three parts|does not verify")
    _refused(tokens, text, "three parts")


def test_changed_tokens(tokens: TokenVerifier) -> None:
    """A changed payload, a changed header and another token's signature are all noticed."""
    header, payload, signature = _token().split(".")
    admin = _part(_claims(sub="admin"))
    _refused(tokens, f"{header}.{admin}.{signature}", "does not verify")
    _refused(tokens, f"{_part(_header(typ='at+jwt'))}.{payload}.{signature}", "does not verify")
    _refused(
        tokens, f"{header}.{payload}.{_token(claims=_claims(sub='b')).split('.')[2]}", "verify"
    )
    assert _verify(tokens, f"{header}.{payload}.{signature}").proof == "token"


def test_another_signer(tokens: TokenVerifier) -> None:
    """The right key id does not help an attacker without the key."""
    text = f"{_part(_header())}.{_part(_claims())}"
    signature = _STRANGER.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    _refused(tokens, f"{text}.{_b64(signature)}", "does not verify")


_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize(("r", "s"), [(0, 0), (1, 0), (0, 1), (_ORDER, _ORDER), (_ORDER, 0)])
def test_psychic_signatures(tokens: TokenVerifier, r: int, s: int) -> None:
    """An ECDSA signature of zeros, or of the order's multiples, signs nothing."""
    text = f"{_part(_header(alg='ES256', kid='ec'))}.{_part(_claims())}"
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    _refused(tokens, f"{text}.{_b64(signature)}", "does not verify")


@pytest.mark.parametrize(
    "key_id",
    [
        "nobody",
        "../../../../dev/null",
        "/dev/null",
        "file:///etc/passwd",
        "https://attacker.example/jwks",
        "x' UNION SELECT 'secret'; --",
        "rsa\x00",
        "rsa ",
        "RSA",
        "",
        "`id`",
        "x" * 4_000,
    ],
)
def test_made_up_key_ids(tokens: TokenVerifier, key_id: str) -> None:
    """A key id is only compared with the issuer's key ids; it is never a path or a query."""
    _refused(tokens, _token(_header(kid=key_id)), "does not publish")


@pytest.mark.parametrize("key_id", [..., None, 1, ["rsa"], {"kid": "rsa"}, True])
def test_key_ids_that_are_none(tokens: TokenVerifier, key_id: object) -> None:
    """A token that does not name its key is refused; no key is guessed."""
    _refused(tokens, _token(_header(kid=key_id)), "no kid")


class _Attacker:
    """A server that a token points to, which records whether anyone connected."""

    def __init__(self) -> None:
        self.visits = 0
        self.url = ""

    async def visited(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.close()


async def test_urls_in_headers_are_not_followed(
    tokens: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jku or x5u in a token is never fetched, and an embedded key verifies nothing."""
    attacker = _Attacker()
    server = await asyncio.start_server(attacker.visited, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    fetched: list[str] = []
    original = fetching.in_thread

    async def watched(fetch: fetching.Fetch) -> bytes:
        fetched.append("")
        return await original(fetch)

    monkeypatch.setattr(fetching, "in_thread", watched)
    stranger = _jwk(_STRANGER, "stranger")
    async with server:
        for more in ({"jku": url}, {"x5u": url}, {"jwk": stranger}, {"x5c": ["MIIB"]}):
            for key_id in ("stranger", "rsa"):
                text = f"{_part(_header(kid=key_id, **more))}.{_part(_claims())}"
                signature = _STRANGER.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
                _refused(tokens, f"{text}.{_b64(signature)}", "does not")
            # In a token that the issuer signed they are just as little looked at.
            assert _verify(tokens, _token(_header(**more))).proof == "token"
        # Our own visit comes after all others, and is the only one.
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
    assert (attacker.visits, fetched) == (1, [])


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": ["b64"], "b64": True},
        {"b64": False},
        {"crit": []},
        {"crit": "x"},
        {"crit": None},
    ],
)
def test_critical_extensions(tokens: TokenVerifier, more: dict[str, object]) -> None:
    """A token that demands an extension is refused, because Keyfold knows none."""
    _refused(tokens, _token(_header(**more)), "extensions")


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", "", None, 1])
def test_tokens_for_other_purposes(tokens: TokenVerifier, kind: object) -> None:
    """A token of the same issuer for another purpose is refused (RFC 8725, 3.11)."""
    _refused(tokens, _token(_header(typ=kind)), "of a type")


_NOW = FakeClock().wall()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": _NOW - 60}, "has expired"),
        ({"exp": 0}, "has expired"),
        ({"exp": ...}, "no exp"),
        ({"exp": None}, "exp is not a number"),
        ({"exp": str(_NOW + 600)}, "exp is not a number"),
        ({"exp": True}, "exp is not a number"),
        ({"exp": [_NOW + 600]}, "exp is not a number"),
        ({"exp": -1}, "exp is not a number"),
        ({"exp": 10**18}, "exp is not a number"),
        ({"exp": 10**400}, "exp is not a number"),
        ({"exp": 1e308}, "exp is not a number"),
        ({"exp": float("inf")}, "exp is not a number"),
        ({"exp": float("nan")}, "exp is not a number"),
        ({"nbf": _NOW + 61}, "not valid yet"),
        ({"nbf": str(_NOW)}, "nbf is not a number"),
        ({"nbf": float("nan")}, "nbf is not a number"),
        ({"iat": _NOW + 61}, "not valid yet"),
        ({"iat": "now"}, "iat is not a number"),
        ({"iss": ...}, "another issuer"),
        ({"iss": "https://issuer.example"}, "another issuer"),
        ({"iss": _ISSUER + "/"}, "another issuer"),
        ({"iss": _ISSUER + ".attacker.example"}, "another issuer"),
        ({"iss": _ISSUER.upper()}, "another issuer"),
        ({"iss": [_ISSUER]}, "another issuer"),
        ({"aud": ...}, "another audience"),
        ({"aud": ""}, "another audience"),
        ({"aud": "keyfold2"}, "another audience"),
        ({"aud": "key"}, "another audience"),
        ({"aud": ["other"]}, "another audience"),
        ({"aud": [[_AUDIENCE]]}, "another audience"),
        ({"aud": {_AUDIENCE: 1}}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": "x keyfold"}, "another audience"),
        ({"sub": ...}, "no sub"),
        ({"sub": ""}, "no sub"),
        ({"sub": None}, "no sub"),
        ({"sub": 7}, "no sub"),
        ({"sub": ["app"]}, "no sub"),
        ({"sub": "app\nadmin"}, "no sub"),
        ({"sub": "app\x00"}, "no sub"),
        ({"sub": "x" * 513}, "no sub"),
    ],
)
def test_claims_that_do_not_do(tokens: TokenVerifier, changes: dict[str, object], why: str) -> None:
    """A signed token must also be valid now, from the issuer, for us, and about somebody."""
    _refused(tokens, _token(claims=_claims(**changes)), why)


def _doubled(part: dict[str, Any], name: str, value: object) -> bytes:
    return f"{json.dumps(part)[:-1]}, {json.dumps(name)}: {json.dumps(value)}}}".encode()


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp"])
def test_doubled_claims(tokens: TokenVerifier, name: str) -> None:
    """A token with two claims of one name is refused: readers differ in which they take."""
    claims = _doubled(_claims(), name, _claims()[name])
    _refused(tokens, _token(claims=claims), "unique names")
    nested = _doubled(_claims(), "more", {"a": 1}).replace(b'{"a": 1}', b'{"a": 1, "a": 2}')
    _refused(tokens, _token(claims=nested), "unique names")


def test_doubled_header_members(tokens: TokenVerifier) -> None:
    """A token with two header members of one name, such as a second alg, is refused."""
    for name, value in (("alg", "none"), ("kid", "ec")):
        _refused(tokens, _token(_doubled(_header(), name, value)), "unique names")


@pytest.mark.parametrize(
    "part", [b"", b"x", b"null", b"[]", b'"x"', b"1", b"{", b"\xff", b"[" * 3_000, b"9" * 5_000]
)
def test_what_is_no_json_object(tokens: TokenVerifier, part: bytes) -> None:
    """A header or payload that is not a JSON object is refused."""
    _refused(tokens, f"{_b64(part)}.{_part(_claims())}.AA", "three parts|header is not")
    if part:
        _refused(tokens, _token(claims=part), "payload is not")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be", "utf-8-sig"])
def test_another_encoding(tokens: TokenVerifier, encoding: str) -> None:
    """A token is strict UTF-8: no other encoding is guessed, not even with a good signature."""
    header, claims = (json.dumps(part).encode(encoding) for part in (_header(), _claims()))
    _refused(tokens, _token(header), "header is not")
    _refused(tokens, _token(claims=claims), "payload is not")


@pytest.mark.parametrize("raw", [b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\xff"])
def test_what_is_not_utf_8(tokens: TokenVerifier, raw: bytes) -> None:
    """Strict UTF-8 has no surrogates, overlong forms and stray bytes: such a token is refused."""
    claims = json.dumps(_claims(more="MORE")).encode().replace(b"MORE", raw)
    _refused(tokens, _token(claims=claims), "payload is not")


def test_sizes(tokens: TokenVerifier) -> None:
    """A token of more than 8 KiB is refused before it is parsed."""
    _refused(tokens, "a" * 8_193, "longer than")
    _refused(tokens, _token(claims=_claims(more="x" * 8_192)), "longer than")
    assert _verify(tokens, _token(claims=_claims(more="x" * 5_000))).proof == "token"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        "a b.c.d",
        "a.b.c\n",
        "ä.b.c",
        "\ud800.b.c",
    ],
)
def test_what_is_no_token(tokens: TokenVerifier, token: str) -> None:
    """A text without three parts of base64url is refused; an encrypted token has five."""
    with pytest.raises(CallerCredentialError, match="three parts"):
        _verify(tokens, token)


def test_other_spellings_of_a_token(tokens: TokenVerifier) -> None:
    """Padding and loose last bits are refused, so that a token has only one spelling."""
    token = _token(_header(alg="ES256", kid="ec"), signed="ES256")
    _refused(tokens, token + "=", "three parts")
    _refused(tokens, token + "==", "three parts")
    _refused(tokens, token.replace(".", "=.", 1), "three parts")
    # 64 bytes leave two loose bits in the last character.
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    loose = token[:-1] + last[last.index(token[-1]) | 1]
    _refused(tokens, loose, "does not verify")


def test_nested_tokens(tokens: TokenVerifier) -> None:
    """A token inside a token is refused."""
    inner = _token()
    _refused(tokens, _token(_header(cty="JWT"), inner.encode()), "payload is not")


# --- what is remembered -------------------------------------------------------------------


def test_a_remembered_token_still_expires(tokens: TokenVerifier) -> None:
    """A remembered token is checked against the time, too, and expires with exp and skew."""
    token = _token(claims=_claims(nbf=_NOW - 10, exp=_NOW + 10))
    for _ in range(2):
        assert tokens.verify(token, _NOW).identity.proof == "token"
        assert tokens.verify(token, _NOW + 69).identity.proof == "token"
        for when in (_NOW + 70, _NOW + 10**6):
            with pytest.raises(CallerCredentialError, match="has expired"):
                tokens.verify(token, when)
        # The clock was set back.
        with pytest.raises(CallerCredentialError, match="not valid yet"):
            tokens.verify(token, _NOW - 71)


async def test_a_withdrawn_key_withdraws_its_tokens(tmp_path: Path, clock: FakeClock) -> None:
    """A token is refused as soon as the issuer no longer publishes its key."""
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": _KEYS}))
    source = KeySource(str(file), clock)
    await source.start()
    tokens = TokenVerifier(source, _ISSUER, _AUDIENCE)
    token, other = _token(), _token(_header(alg="EdDSA", kid="ed"), signed="EdDSA")
    assert _verify(tokens, token) == _verify(tokens, other)
    file.write_text(json.dumps({"keys": [_jwk(_ED, "ed")]}))
    await source.refresh()
    _refused(tokens, token, "does not publish")
    assert _verify(tokens, other).proof == "token"


def test_memory_is_bounded(tokens: TokenVerifier) -> None:
    """Only so many tokens stay in memory, and no refused one."""
    few = TokenVerifier(tokens._source, _ISSUER, _AUDIENCE, most_remembered=3)
    for number in range(5):
        _verify(few, _token(claims=_claims(jti=str(number))))
        _refused(few, _token(claims=_claims(jti=str(number), aud="other")), "another audience")
    assert len(few._verified) == 3


def test_a_warm_call_verifies_nothing(
    tokens: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call with a token costs a look-up by its digest; the token itself is not kept."""
    token = _token()
    _verify(tokens, token)
    monkeypatch.setattr(tokens, "_judged", None)
    assert _verify(tokens, token).proof == "token"
    digest = hashlib.blake2b(token.encode(), digest_size=32).digest()
    assert tokens._verified.get(digest) is not None


def test_unknown_keys_ask_for_a_refresh(tokens: TokenVerifier, clock: FakeClock) -> None:
    """A new key id causes one fetch; a token that no key could help causes none."""
    unknown = _token(_header(kid="new"))
    _refused(tokens, unknown, "does not publish")
    with pytest.raises(CallerCredentialError):
        _verify(tokens, unknown, final=False)  # They were fetched a moment ago.
    clock.advance(10)
    with pytest.raises(NeedsKeysError):
        _verify(tokens, unknown, final=False)
    for hopeless in (_token(_header(alg="none")), _token(_header(alg="ES256")), "x"):
        with pytest.raises(CallerCredentialError):
            _verify(tokens, hopeless, final=False)


async def test_a_new_key_is_taken_with_its_first_token(tmp_path: Path, clock: FakeClock) -> None:
    """A token under a key that the issuer has just begun to use is accepted after one refresh."""
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [_jwk(_EC, "ec")]}))
    source = KeySource(str(file), clock)
    await source.start()
    tokens = TokenVerifier(source, _ISSUER, _AUDIENCE)
    file.write_text(json.dumps({"keys": _KEYS}))
    clock.advance(10)
    with pytest.raises(NeedsKeysError):
        _verify(tokens, _token(), final=False)
    await tokens.refresh()
    assert _verify(tokens, _token()).proof == "token"


def test_no_keys_at_all(clock: FakeClock) -> None:
    """Without the issuer's keys no token is accepted; the error says to try again."""
    tokens = TokenVerifier(KeySource("https://issuer.example/jwks", clock), _ISSUER, _AUDIENCE)
    with pytest.raises(NeedsKeysError):
        _verify(tokens, _token(), final=False)
    with pytest.raises(IssuerUnreachableError, match="has no keys of its issuer") as caught:
        _verify(tokens, _token())
    assert caught.value.retry_after == 5.0


# --- the header and the settings ----------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "token"), [("Bearer abc.d.e", "abc.d.e"), ("bEARER  abc ", "abc")]
)
def test_bearer(value: str, token: str) -> None:
    """The scheme of the authorization header may be in any case."""
    assert bearer([value]) == token


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer a", "Bearer b"],
        ["Bearer a", "Bearer a"],
        ["Bearer a", ""],
        ["Basic dXNlcjpwYXNz"],
        ["Bearer"],
        ["Bearer "],
        ["Bearer    "],
        [""],
        ["abc.def.ghi"],
        ["Bearerabc"],
        ["DPoP abc"],
        [b"Bearer abc"],
    ],
)
def test_bad_authorization_headers(values: list[str | bytes]) -> None:
    """A credential that Keyfold does not understand is refused, never ignored."""
    with pytest.raises(CallerCredentialError) as caught:
        bearer(values)
    assert "abc" not in str(caught.value)
    assert "dXNl" not in str(caught.value)


def test_two_tokens_in_one_header(tokens: TokenVerifier) -> None:
    """Two tokens in one header are refused."""
    value = bearer([f"Bearer {_token()}, Bearer {_token()}"])
    with pytest.raises(CallerCredentialError, match=r"longer|three parts"):
        _verify(tokens, value)


@pytest.mark.parametrize(
    ("issuer", "audience", "setting"),
    [
        ("", "keyfold", "KEYFOLD_JWT_ISSUER"),
        ("https://x#y", "keyfold", "KEYFOLD_JWT_ISSUER"),
        ("https://x\n", "keyfold", "KEYFOLD_JWT_ISSUER"),
        (_ISSUER, "", "KEYFOLD_JWT_AUDIENCE"),
    ],
)
def test_bad_settings(tokens: TokenVerifier, issuer: str, audience: str, setting: str) -> None:
    """An issuer whose subjects would be ambiguous, or an empty audience, stops the start."""
    with pytest.raises(SetupError, match=setting):
        TokenVerifier(tokens._source, issuer, audience)


# --- claims that name an organization -------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("acme", ""),
        ("A.c_m-3", ""),
        ("a" * 128, ""),
        (..., "is not in its token"),
        ("", "is empty"),
        (["acme"], "is a list, and not a string"),
        ([], "is a list, and not a string"),
        ({"acme": {}}, "is an object, and not a string"),
        (None, "is null, and not a string"),
        (True, "is a boolean, and not a string"),
        (7, "is a number, and not a string"),
        (0.5, "is a number, and not a string"),
        *((name, "is not a valid name") for name in ("*", "a*", "acme ", " acme", "acme\n")),
        *(
            (name, "is not a valid name")
            for name in ("a/b", "-a", "acm\u00e9", "\u0430cme", "a" * 129)
        ),
        ("acme,globex", "is not a valid name"),
        ("acme\u0000", "is not a valid name"),
    ],
)
def test_an_organization_is_one_valid_name(
    tokens: TokenVerifier, value: object, fault: str
) -> None:
    """C7: only a string that is a name names an organization; the rest says what it is instead."""
    token = _token(claims=_claims(org=value))
    identity = tokens.verify(token, _NOW, frozenset({"org"})).identity
    claim = identity.claim("org")
    assert claim is not None
    assert claim.fault == fault
    assert claim.organization == ("" if fault else value)
    assert identity.name == f"jwt:{_ISSUER}#app"


def test_only_the_asked_claims_are_read(tokens: TokenVerifier) -> None:
    """An identity has the claims by which grants go, and those of the policy of the moment."""
    token = _token(claims=_claims(org="acme", tenant="globex", jti="x" * 40))
    assert tokens.verify(token, _NOW).identity.claims == ()
    both = tokens.verify(token, _NOW, frozenset({"tenant", "org"})).identity
    assert both.claims == (Claim("org", "acme"), Claim("tenant", "globex"))
    narrow = tokens.verify(token, _NOW, frozenset({"org"})).identity
    assert narrow.claims == (Claim("org", "acme"),)
    assert tokens.verify(token, _NOW).identity == Identity(both.names, "token")


def test_two_claims_of_one_name_are_no_token(tokens: TokenVerifier) -> None:
    """Which of two organizations counted would be up to each reader of the token."""
    payload = json.dumps(_claims(org="acme"))[:-1] + ', "org": "globex"}'
    with pytest.raises(CallerCredentialError, match="unique names"):
        tokens.verify(_token(claims=payload.encode()), _NOW, frozenset({"org"}))
