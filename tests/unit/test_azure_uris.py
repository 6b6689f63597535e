"""Uris and principals of Azure, and the stored form of a KEK: all without calling Azure."""

from __future__ import annotations

import os
from typing import Any, Final

import pytest

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import InvalidKeySpecError, SetupError, UnreachableError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import Authenticates, DescribesKeys
from keyfold_server.providers.azure.ciphertext import Sealed
from keyfold_server.providers.azure.provider import AzureKeyVaultProvider
from keyfold_server.providers.azure.uri import Places, principal
from keyfold_server.providers.shared.origins import canonical_origin

_VERSION: Final = "0123456789abcdef0123456789abcdef"
_PRIVATE: Final = "https://kms.example:8443"
_TENANT: Final = "6F1D3C1E-2b7a-4a55-9c0e-7d5f0a9b4e21"
_CLIENT: Final = "0b0c0d0e-0000-4000-8000-00000000000A"


def _root(uri: str, who: str = "") -> RootKey:
    return RootKey("AZURE_KEY_VAULT", uri, who)


@pytest.mark.parametrize(
    ("domain", "hsm", "authority"),
    [
        ("vault.azure.net", False, "login.microsoftonline.com"),
        ("managedhsm.azure.net", True, "login.microsoftonline.com"),
        ("vault.azure.cn", False, "login.chinacloudapi.cn"),
        ("managedhsm.azure.cn", True, "login.chinacloudapi.cn"),
        ("vault.usgovcloudapi.net", False, "login.microsoftonline.us"),
        ("managedhsm.usgovcloudapi.net", True, "login.microsoftonline.us"),
    ],
)
def test_a_token_is_for_the_cloud_of_its_key(domain: str, authority: str, *, hsm: bool) -> None:
    """Audience and Entra follow from the uri's domain alone, in every cloud (protocol C3)."""
    for end in ("", f"/{_VERSION}"):
        uri = Places((), {}).uri(f"https://v-1.{domain}/keys/k{end}")
        assert uri.place.scope == f"https://{domain}/.default"
        assert uri.place.hsm is hsm
        assert uri.place.cloud.authority == authority
        assert uri.version == end[1:]


def test_a_version_is_pinned_or_not() -> None:
    """The adapter names the version that a uri pins, and None for the newest."""
    provider = AzureKeyVaultProvider()
    uri = "https://v-1.vault.azure.net/keys/k"
    assert provider.pinned_version(_root(uri)) is None
    assert provider.pinned_version(_root(f"{uri}/{_VERSION}")) == _VERSION


def test_a_listed_origin_needs_its_audience() -> None:
    """The operator says for which audience the tokens of a listed origin are (protocol C3)."""
    uri = f"{_PRIVATE}/keys/k"
    with pytest.raises(InvalidKeySpecError, match="not in the allowed endpoints"):
        Places((), {}).uri(uri)
    with pytest.raises(InvalidKeySpecError, match="for which audience"):
        Places((_PRIVATE,), {}).uri(uri)
    own = Places((f"{_PRIVATE}/",), {_PRIVATE: "https://kms.example/"}).uri(uri).place
    assert (own.scope, own.hsm) == ("https://kms.example/.default", False)
    hsm = Places((_PRIVATE,), {_PRIVATE: "https://managedhsm.azure.cn"}).uri(uri).place
    assert hsm.hsm
    assert hsm.cloud.authority == "login.chinacloudapi.cn"


def test_azures_own_domains_keep_their_audience() -> None:
    """Listing one of Azure's own hosts changes nothing for it (protocol C3)."""
    vault = "https://v-1.vault.azure.net"
    for audiences in ({}, {vault: "https://other.example"}):
        place = Places((vault,), audiences).uri(f"{vault}/keys/k").place
        assert place.audience == "https://vault.azure.net"
    plain = "http://v-1.vault.azure.net"
    with pytest.raises(InvalidKeySpecError, match="begins with https"):
        Places((plain,), {plain: "https://vault.azure.net"}).uri(f"{plain}/keys/k")


def test_plain_http_only_where_it_is_listed_so() -> None:
    """A listed https origin does not let its http twin in, nor another port."""
    places = Places((_PRIVATE,), {_PRIVATE: "https://vault.azure.net"})
    for other in ("http://kms.example:8443", "https://kms.example", "https://kms.example:8444"):
        with pytest.raises(InvalidKeySpecError):
            places.uri(f"{other}/keys/k")
    plain = "http://kms.example"
    listed = Places((plain,), {plain: "https://vault.azure.net"})
    assert str(listed.uri("http://KMS.example:80/keys/k")) == f"{plain}/keys/k"


@pytest.mark.parametrize(
    "settings",
    [
        {"allowed_endpoints": ["kms.example"]},
        {"allowed_endpoints": ["https://kms.example/keys"]},
        {"allowed_endpoints": ["https://u@kms.example"]},
        {"audiences": {_PRIVATE: "https://vault.azure.net"}},
        {"authority": "http://login.example"},
        {"authority": "login.example"},
        {"canary": "keyfold"},
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any]) -> None:
    """The provider refuses such settings."""
    with pytest.raises(SetupError):
        AzureKeyVaultProvider(**settings)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://Host:443", "https://host"),
        ("http://host:80", "http://host"),
        ("https://host:80", "https://host:80"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://host:65536", None),
        ("https://host:0", None),
        ("https://host..example", None),
        ("https://host/", None),
        ("ftp://host", None),
        ("https://h\u00f6st", None),
    ],
)
def test_an_origin_has_one_form(given: str, normal: str | None) -> None:
    """An origin has scheme and host in lower case, and no default port."""
    assert canonical_origin(given) == normal


def test_a_principal_has_one_form() -> None:
    """Both ids in lower case, so that one principal has one set of tokens."""
    assert principal(f"{_TENANT}/{_CLIENT}") == f"{_TENANT}/{_CLIENT}".lower()
    provider = AzureKeyVaultProvider()
    given = _root("https://v-1.vault.azure.net/keys/k", f"{_TENANT}/{_CLIENT}")
    assert provider.canonical(given).principal == f"{_TENANT}/{_CLIENT}".lower()


def test_a_key_is_one_family_with_its_versions() -> None:
    """A uri with a version, and one in other letters, are of one key, listed or not (C6)."""
    provider, name = AzureKeyVaultProvider(), f"{_PRIVATE}/keys/my-key"
    for uri in (name, f"{_PRIVATE}/keys/My-Key", f"{name}/{_VERSION}"):
        assert provider.family(_root(uri)) == name
    assert provider.family(_root(f"{_PRIVATE}/keys/my-key-2")) != name


def test_the_tenant_is_that_of_the_principal() -> None:
    """A principal names the customer's tenant; the server's own identity has none there."""
    provider, uri = AzureKeyVaultProvider(), "https://v-1.vault.azure.net/keys/k"
    key = provider.canonical(_root(uri, f"{_TENANT}/{_CLIENT}"))
    assert provider.tenant(key) == _TENANT.lower()
    assert provider.tenant(_root(uri)) == ""


def test_a_key_that_may_not_be_called_any_more_is_no_refusal() -> None:
    """An origin taken off the list says nothing about the keys there; its account stays."""
    provider, key = AzureKeyVaultProvider(), _root(f"{_PRIVATE}/keys/k")
    with pytest.raises(UnreachableError, match="may not call"):
        provider.describe(key, budget=1.0)
    with pytest.raises(UnreachableError, match="may not call"):
        provider.wrap(key, b"k", Binding("c", "r", bytes(16)), budget=1.0)
    assert provider.account(key) == _PRIVATE


def test_it_authenticates_and_describes() -> None:
    """The adapter has both optional abilities."""
    provider = AzureKeyVaultProvider()
    assert isinstance(provider, Authenticates)
    assert isinstance(provider, DescribesKeys)


# The stored form.

_KID: Final = f"https://v-1.vault.azure.net/keys/k/{_VERSION}"
_STORED: Final = (
    Sealed(_KID, b"", b"", bytes(256)),
    Sealed(_KID, bytes(12), bytes(16), bytes(65)),
)


def test_the_stored_form_is_the_documented_one() -> None:
    """The form is identifier, iv and tag with their lengths, then the ciphertext."""
    stored = Sealed("https://v/keys/k/1", b"i" * 12, b"t" * 16, b"c").encoded()
    assert stored == (
        b"\x00\x12https://v/keys/k/1" + b"\x00\x0c" + b"i" * 12 + b"\x00\x10" + b"t" * 16 + b"c"
    )


@pytest.mark.parametrize("sealed", _STORED)
def test_what_is_stored_is_read_back(sealed: Sealed) -> None:
    """Both forms come back, and tell whether the context is bound."""
    assert Sealed.parsed(sealed.encoded()) == sealed
    assert sealed.bound is bool(sealed.iv)


@pytest.mark.parametrize("sealed", _STORED)
def test_what_has_another_form_is_not_read(sealed: Sealed) -> None:
    """Bytes that are cut, too large or of odd sizes are not a stored key."""
    whole = sealed.encoded()
    header = len(whole) - len(sealed.ciphertext)
    assert all(Sealed.parsed(whole[:size]) is None for size in range(header + 1))
    assert Sealed.parsed(whole + bytes(8_192)) is None
    assert Sealed.parsed(Sealed(_KID, bytes(12), b"", b"c").encoded()) is None
    assert Sealed.parsed(Sealed(_KID, bytes(16), bytes(16), b"c").encoded()) is None
    assert Sealed.parsed(b"\x00\x01\xff\x00\x00\x00\x00c") is None


def test_random_bytes_are_no_stored_key() -> None:
    """Reading never raises, whatever the bytes."""
    for size in range(200):
        found = Sealed.parsed(os.urandom(size))
        assert found is None or found.encoded()
