"""VAULT_TRANSIT without a server: uris, origins, sections, and what answers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import requests
from urllib3.exceptions import NewConnectionError, ProtocolError

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    InvalidKeySpecError,
    KekMismatchError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    KmsError,
    SetupError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.shared.deadlines import within
from keyfold_server.providers.shared.origins import configured_origin
from keyfold_server.providers.vault.errors import StatusError, login_failed, translate
from keyfold_server.providers.vault.origins import Origin
from keyfold_server.providers.vault.provider import VaultTransitProvider

_HERE: Final = "https://vault.example:8200"
_FILE: Final = Path("/nowhere/credential")
_TOKEN: Final = Origin("token", credential=_FILE)


def _key(origin: str, principal: str = "", path: str = "transit/keys/app") -> RootKey:
    return RootKey("VAULT_TRANSIT", f"{origin}/v1/{path}", principal)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("HTTPS://Vault.Example:443", "https://vault.example"),
        ("https://vault.example/", "https://vault.example"),
        ("http://vault.example:80", "http://vault.example"),
        ("https://127.0.0.1:8200", "https://127.0.0.1:8200"),
        ("https://[2001:DB8:0::1]:8200", "https://[2001:db8::1]:8200"),
        ("https://vault.example:65536", None),
        ("https://vault.example:", None),
        ("https://vault..example", None),
        ("https://[::1", None),
        ("https://[1.2]", None),
        ("https://vault.example//", None),
        ("https://väult.example", None),
        ("https://user@vault.example", None),
        ("ftp://vault.example", None),
        ("", None),
    ],
)
def test_an_origin_has_one_form(given: str, canonical: str | None) -> None:
    """Scheme, host and port have one form, and nothing else is an origin."""
    assert configured_origin(given) == canonical


@pytest.mark.parametrize("path", ["team/transit/keys/app", "a/b/c/keys/x.y-z_1", "t/keys/keys/k"])
def test_namespaces_stand_in_the_uri(path: str) -> None:
    """A namespace is part of the uri as the server itself serves it, so a key has one uri."""
    key = _key(_HERE, path=path)
    provider = VaultTransitProvider(origins={_HERE: _TOKEN}, environment={})
    assert provider.canonical(key) == key
    with pytest.raises(InvalidKeySpecError, match="part of the uri"):
        provider.canonical(RootKey(key.type, key.uri, "", (("namespace", "team"),)))


def test_an_origin_needs_its_section() -> None:
    """An allowed origin without a section has no credential (protocol C3)."""
    provider = VaultTransitProvider(
        origins={_HERE: _TOKEN}, allowed=["https://other:8200"], environment={}
    )
    assert provider.account(_key(_HERE)) == _HERE
    with pytest.raises(InvalidKeySpecError, match="no section") as raised:
        provider.canonical(_key("https://other:8200"))
    assert raised.value.field == "key_spec.uri"


def test_plain_http_must_be_listed() -> None:
    """Plain http needs more than a section: the operator must allow that very origin."""
    here = "http://127.0.0.1:8200"
    for allowed in ([], ["https://127.0.0.1:8200"], ["http://127.0.0.1"]):
        provider = VaultTransitProvider(origins={here: _TOKEN}, allowed=allowed, environment={})
        with pytest.raises(InvalidKeySpecError, match="in the clear"):
            provider.canonical(_key(here))
    VaultTransitProvider(
        origins={here: _TOKEN}, allowed=["HTTP://127.0.0.1:8200/"], environment={}
    ).canonical(_key(here))


def test_the_environment_is_for_one_origin() -> None:
    """VAULT_TOKEN belongs to VAULT_ADDR, and to no other origin (protocol C3)."""
    environment = {"VAULT_ADDR": f"{_HERE}/", "VAULT_TOKEN": "t", "VAULT_NAMESPACE": "team/"}
    provider = VaultTransitProvider(environment=environment)
    provider.canonical(_key(_HERE))
    with pytest.raises(InvalidKeySpecError, match="no section"):
        provider.canonical(_key("https://vault.example"))
    for missing in environment.keys() - {"VAULT_NAMESPACE"}:
        rest = {name: value for name, value in environment.items() if name != missing}
        with pytest.raises(InvalidKeySpecError, match="no section"):
            VaultTransitProvider(environment=rest).canonical(_key(_HERE))


def test_a_section_comes_before_the_environment() -> None:
    """If both name one origin, the section decides as whom Keyfold calls it."""
    section = Origin("jwt", role="keyfold", credential=_FILE)
    provider = VaultTransitProvider(
        origins={_HERE: section}, environment={"VAULT_ADDR": _HERE, "VAULT_TOKEN": "t"}
    )
    provider.canonical(_key(_HERE, "auth/jwt/role/keyfold"))


@pytest.mark.parametrize(
    ("principal", "said"),
    [
        ("auth/approle/role/other", "as auth/login/approle/role/keyfold"),
        ("auth/login/approle/role/keyfold/", "must be written"),
        ("keyfold", "must be written"),
    ],
)
def test_a_principal_is_the_origins_own(principal: str, said: str) -> None:
    """A key spec cannot choose another role than the origin's settings have."""
    section = Origin("approle", mount="login/approle", role="keyfold", credential=_FILE)
    provider = VaultTransitProvider(origins={_HERE: section}, environment={})
    provider.canonical(_key(_HERE, "auth/login/approle/role/keyfold"))
    provider.canonical(_key(_HERE))
    with pytest.raises(InvalidKeySpecError, match=said) as raised:
        provider.canonical(_key(_HERE, principal))
    assert raised.value.field == "key_spec.auth_principal"


def test_a_token_has_no_principal() -> None:
    """Where Keyfold has a token, nobody can name a role."""
    provider = VaultTransitProvider(origins={_HERE: _TOKEN}, environment={})
    with pytest.raises(InvalidKeySpecError, match="has no role"):
        provider.canonical(_key(_HERE, "auth/approle/role/keyfold"))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (Origin("ldap", credential=_FILE), "auth must be one of"),  # type: ignore[arg-type]
        (Origin("token", role="keyfold", credential=_FILE), "has no mount"),
        (Origin("token"), "credential must name"),
        (Origin("approle", credential=_FILE), "role must name"),
        (Origin("approle", role="a/b", credential=_FILE), "role must name"),
        (Origin("approle", role="keyfold"), "credential must name"),
        (Origin("jwt", role="keyfold", role_id="x", credential=_FILE), "AppRole's alone"),
        (Origin("jwt", role="keyfold", mount="/jwt/", credential=_FILE), "mount must be"),
        (Origin("token", namespace="a//b", credential=_FILE), "namespace must be"),
    ],
)
def test_a_section_that_cannot_work_stops_the_start(section: Origin, said: str) -> None:
    """A fault in a section is named with the section, before Keyfold calls anybody."""
    with pytest.raises(SetupError, match=said) as raised:
        VaultTransitProvider(origins={_HERE: section}, environment={})
    assert _HERE in raised.value.message


def test_sections_are_origins_each_once() -> None:
    """A section's name is an origin and nothing more; no origin has two."""
    for names in ([f"{_HERE}/v1/transit"], ["vault.example"], [_HERE, f"{_HERE}/"]):
        with pytest.raises(SetupError):
            VaultTransitProvider(origins=dict.fromkeys(names, _TOKEN), environment={})


@pytest.mark.parametrize(
    ("status", "errors", "meant"),
    [
        (400, ["cipher: message authentication failed"], KekMismatchError),
        (400, ["chacha20poly1305: message authentication failed"], KekMismatchError),
        (400, ["invalid ciphertext: version is too new"], KekMismatchError),
        (
            400,
            ["ciphertext or signature version is disallowed by policy (too old)"],
            KeyDisabledError,
        ),
        (400, ["refusing to use soft-deleted key"], KeyDisabledError),
        (400, ["encryption key not found"], KeyNotFoundError),
        (400, ["key type ecdsa-p256 not supported for this operation"], KeyNotFoundError),
        (
            400,
            ["'[0].associated_data' provided for non-AEAD cipher suite rsa-2048"],
            KeyInvalidError,
        ),
        (400, ["missing 'context' for key derivation; the key was created"], KeyInvalidError),
        (400, ["something new"], UnreachableError),
        (403, ["permission denied"], AccessDeniedError),
        (403, ["1 error occurred:\n\t* permission denied\n\n"], AccessDeniedError),
        (403, None, UnreachableError),
        (404, [], KeyNotFoundError),
        (404, ['no handler for route "x/keys/y". route entry not found.'], KeyNotFoundError),
        (
            404,
            ['no handler for route "x/keys/y". route entry found, but backend is nil.'],
            UnreachableError,
        ),
        (404, ["namespace not found"], KeyNotFoundError),
        (404, ["something new"], UnreachableError),
        (404, None, UnreachableError),
        (404, ["1 error occurred:\n\t* unsupported path\n\n"], KeyInvalidError),
        (405, ["1 error occurred:\n\t* unsupported operation\n\n"], KeyInvalidError),
        (412, ["required index state not present"], UnreachableError),
        (429, ['request path "x": rate limit quota exceeded'], ThrottledError),
        (429, [], UnreachableError),
        (472, [], UnreachableError),
        (473, [], UnreachableError),
        (500, ["encryption key not found"], UnreachableError),
        (502, None, UnreachableError),
        (503, ["Vault is sealed"], UnreachableError),
    ],
)
def test_what_an_answer_means(status: int, errors: list[str] | None, meant: type[KmsError]) -> None:
    """Only known words at their status say something about a key; Keyfold drops the text."""
    answer = StatusError(status, errors, "")
    found = translate(answer, "update transit/encrypt/app", "the key")
    assert type(found) is meant
    for text in errors or ():
        assert text not in f"{found.message}{vars(answer)}{answer.args}"


def test_a_denial_names_the_missing_permission() -> None:
    """The error names the missing permission as a policy writes it."""
    found = translate(StatusError(403, [], ""), "update team/transit/decrypt/app", "the key")
    assert found.missing_permission == "update team/transit/decrypt/app"


@pytest.mark.parametrize(("hint", "seconds"), [("7", 7.0), ("", None), ("soon", None)])
def test_a_hint_is_not_made_up(hint: str, seconds: float | None) -> None:
    """Keyfold passes Retry-After on if it is a number of seconds."""
    found = translate(
        StatusError(429, ["quota exceeded"], hint), "read transit/keys/app", "the key"
    )
    assert found.retry_after == seconds


def test_a_login_never_says_anything_of_a_key() -> None:
    """No answer to a login is a refusal (protocol F2a)."""
    for status, errors in ((400, ["invalid role or secret ID"]), (403, ["permission denied"])):
        found = login_failed(StatusError(status, errors, ""), "auth/approle/role/keyfold")
        assert type(found) is CredentialsFailedError
    assert type(login_failed(StatusError(404, [], ""), "x")) is CredentialsFailedError
    assert type(login_failed(StatusError(503, ["Vault is sealed"], ""), "x")) is UnreachableError
    assert type(login_failed(StatusError(429, ["quota exceeded"], "1"), "x")) is ThrottledError


def test_what_happened_on_the_way_is_said() -> None:
    """Keyfold finds the cause beneath the libraries' errors, and passes none of their text on."""
    refused = requests.ConnectionError(NewConnectionError(None, "secret"))  # type: ignore[arg-type]
    broken = requests.ConnectionError(ProtocolError("secret"))
    with within(5):
        for error, said in (
            (refused, "refuses"),
            (broken, "broke"),
            (KeyError("secret"), "cannot read"),
        ):
            found = translate(error, "", "")
            assert type(found) is UnreachableError
            assert said in found.message
            assert "secret" not in found.message
