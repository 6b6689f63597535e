"""VAULT_TRANSIT on the real server, beyond what the provider suite covers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from contract.counterparts import NotInstalledError
from counterparts.messages import Reply, Request
from counterparts.openbao import shared
from counterparts.openbao_roles import Issuer, Site
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    KekMismatchError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import Wrapped
from keyfold_server.providers.vault.provider import VaultTransitProvider

_BUDGET: Final = 5.0
_BINDING: Final = Binding("cluster-1", "eu-west-1", bytes(16))
_PAYLOAD: Final = bytes(_BINDING.payload(bytes(32)))


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Site]:
    """A transit engine and an AppRole with the least rights that Keyfold needs, for one key."""
    try:
        server = shared()
    except NotInstalledError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"VAULT_TRANSIT: {error}")
        pytest.skip(f"VAULT_TRANSIT: {error}")
    site = Site(server, tmp_path, Issuer(), "approle")
    yield site
    site.close()


@pytest.fixture
def provider(at: Site) -> VaultTransitProvider:
    """The provider, with the origin's section alone."""
    return at.provider()


def _allow_all(at: Site, *, encrypt: tuple[str, ...] = ("update",)) -> None:
    at.allow(
        {
            f"{at.mount}/encrypt/*": list(encrypt),
            f"{at.mount}/decrypt/*": ["update"],
            f"{at.mount}/keys/*": ["read"],
        }
    )


def _wrap(provider: VaultTransitProvider, key: RootKey) -> Wrapped:
    return provider.wrap(key, _PAYLOAD, _BINDING, budget=_BUDGET)


def _unwrap(provider: VaultTransitProvider, key: RootKey, wrapped: Wrapped) -> bytes:
    version, ciphertext = wrapped.key_version, wrapped.ciphertext
    return bytes(provider.unwrap(key, version, ciphertext, _BINDING, budget=_BUDGET).plaintext)


def _config(at: Site, **how: Any) -> None:
    at.server.call("POST", f"{at.mount}/keys/app/config", **how)


@pytest.mark.parametrize(
    "may", [("update",), ("create", "update"), ("create",), ("sudo", "create")]
)
def test_no_policy_makes_wrapping_make_a_key(
    at: Site, provider: VaultTransitProvider, may: tuple[str, ...]
) -> None:
    """A missing key is KEY_NOT_FOUND and stays missing, though the token may create keys."""
    _allow_all(at, encrypt=may)
    missing = at.key_named("missing")
    with pytest.raises(KeyNotFoundError):
        _wrap(provider, missing)
    path = f"{at.mount}/keys/missing"
    assert at.server.status("GET", path, token=at.server.root) == 404


def test_a_missing_key_that_may_not_be_read_is_denied(
    at: Site, provider: VaultTransitProvider
) -> None:
    """If the policy does not mention a key, nothing shows that the key is missing."""
    with pytest.raises(AccessDeniedError) as raised:
        _wrap(provider, at.key_named("missing"))
    assert raised.value.missing_permission == f"update {at.mount}/encrypt/missing"


@pytest.mark.parametrize("operation", ["encrypt", "decrypt", "keys"])
def test_a_denial_names_the_path(at: Site, provider: VaultTransitProvider, operation: str) -> None:
    """The error names the missing permission as a policy writes it."""
    wrapped = _wrap(provider, at.key)
    concerned = f"{at.mount}/{operation}/app"
    calls: dict[str, Callable[[], object]] = {
        "encrypt": lambda: _wrap(provider, at.key),
        "decrypt": lambda: _unwrap(provider, at.key, wrapped),
        "keys": lambda: provider.describe(at.key, budget=_BUDGET),
    }
    at.allow({path: may for path, may in at.rules.items() if path != concerned})
    with pytest.raises(AccessDeniedError) as raised:
        calls[operation]()
    verb = "read" if operation == "keys" else "update"
    assert raised.value.missing_permission == f"{verb} {concerned}"


def test_a_version_that_is_held_back_is_disabled(at: Site, provider: VaultTransitProvider) -> None:
    """A stored key below min_decryption_version is KEY_DISABLED until someone lowers that."""
    old = _wrap(provider, at.key)
    at.server.call("POST", f"{at.mount}/keys/app/rotate")
    new = _wrap(provider, at.key)
    _config(at, min_decryption_version=2)
    with pytest.raises(KeyDisabledError):
        _unwrap(provider, at.key, old)
    assert _unwrap(provider, at.key, new) == _PAYLOAD
    at.allow({path: may for path, may in at.rules.items() if "/keys/" not in path})
    with pytest.raises(KeyDisabledError):
        _unwrap(provider, at.key, old)
    _config(at, min_decryption_version=1)
    assert _unwrap(provider, at.key, old) == _PAYLOAD


def test_a_changed_version_is_a_mismatch(at: Site, provider: VaultTransitProvider) -> None:
    """A stored ciphertext with a changed version never looks like a disabled one (F4)."""
    wrapped = _wrap(provider, at.key)
    at.server.call("POST", f"{at.mount}/keys/app/rotate")
    _config(at, min_decryption_version=2)
    for before in (b"vault:v2:", b"vault:v0:", b"vault:v01:", b"vault:v-1:", b"VAULT:v1:"):
        changed = replace(wrapped, ciphertext=before + wrapped.ciphertext[9:])
        with pytest.raises(KekMismatchError):
            _unwrap(provider, at.key, changed)


@pytest.mark.parametrize("kind", ["aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305"])
def test_every_type_that_binds_a_context_can_be_used(
    at: Site, provider: VaultTransitProvider, kind: str
) -> None:
    """AEAD keys of every type wrap and bind the context, and Keyfold describes them."""
    _allow_all(at)
    at.server.create_key(at.mount, kind, type=kind)
    key = at.key_named(kind)
    wrapped = _wrap(provider, key)
    assert _unwrap(provider, key, wrapped) == _PAYLOAD
    other = replace(_BINDING, cluster="cluster-2")
    with pytest.raises(KekMismatchError):
        provider.unwrap(key, "1", wrapped.ciphertext, other, budget=_BUDGET)
    assert provider.describe(key, budget=_BUDGET).detail.startswith(kind)


@pytest.mark.parametrize(
    "how",
    [
        {"type": "ed25519"},
        {"type": "ecdsa-p256"},
        {"derived": True},
        {"derived": True, "convergent_encryption": True},
    ],
    ids=["signing", "curve", "derived", "convergent"],
)
def test_keys_that_cannot_be_used_are_invalid(
    at: Site, provider: VaultTransitProvider, how: dict[str, Any]
) -> None:
    """Keys that bind no context, and derived and convergent keys, are KEY_INVALID at once."""
    _allow_all(at)
    at.server.create_key(at.mount, "odd", **how)
    for call in (provider.describe, lambda key, budget: _wrap(provider, key)):
        with pytest.raises(KeyInvalidError):
            call(at.key_named("odd"), budget=_BUDGET)


def test_an_exportable_key_is_pointed_out(at: Site, provider: VaultTransitProvider) -> None:
    """A key whose material can be exported works, and its description warns of that."""
    assert "exported" not in provider.describe(at.key, budget=_BUDGET).detail
    _config(at, exportable=True)
    assert "exported" in provider.describe(at.key, budget=_BUDGET).detail
    _wrap(provider, at.key)


def test_a_key_in_a_namespace(at: Site) -> None:
    """Keyfold uses a key in a namespace by its path, with a login there or above it."""
    name = f"ns-{at.mount}"
    at.server.create_namespace(name)
    at.server.mount(f"{name}/{at.mount}")
    at.server.create_key(f"{name}/{at.mount}", "app")
    key = RootKey("VAULT_TRANSIT", f"{at.layer.url}/v1/{name}/{at.mount}/keys/app")
    with pytest.raises(AccessDeniedError) as raised:
        _wrap(at.provider(), key)
    assert raised.value.missing_permission == f"update {name}/{at.mount}/encrypt/app"
    at.allow({f"{name}/{path}": may for path, may in at.rules.items()})
    assert _wrap(at.provider(), key).key_version == "1"
    at.server.write_policy("app", at.rules, namespace=f"{name}/")
    at.server.enable_auth(f"{name}/{at.login}", "approle")
    role_id, secret_id = at.server.create_app_role(
        f"{name}/{at.login}", "keyfold", token_policies=["app"]
    )
    at.credential.write_text(secret_id)
    inside = replace(at.section, namespace=name, role_id=role_id)
    provider = at.provider(origins={at.layer.url: inside})
    provider.authenticate(key, budget=_BUDGET)
    assert _wrap(provider, key).key_version == "1"
    with pytest.raises(AccessDeniedError):
        _wrap(provider, at.key)


def test_an_engine_that_is_gone_has_no_keys(at: Site, provider: VaultTransitProvider) -> None:
    """If the customer removed the engine, the key is KEY_NOT_FOUND."""
    wrapped = _wrap(provider, at.key)
    at.server.unmount(at.mount)
    for call in (lambda: _wrap(provider, at.key), lambda: _unwrap(provider, at.key, wrapped)):
        with pytest.raises(KeyNotFoundError):
            call()
    at.server.mount(at.mount)


def test_an_engine_of_another_kind_is_invalid(at: Site, provider: VaultTransitProvider) -> None:
    """A uri that leads into another secrets engine is KEY_INVALID."""
    at.server.unmount(at.mount)
    at.server.mount(at.mount, "pki")
    for call in (lambda: _wrap(provider, at.key), lambda: provider.describe(at.key, budget=5)):
        with pytest.raises(KeyInvalidError):
            call()


@pytest.mark.parametrize("block", [{}, {"block_interval": "60s"}], ids=["rate", "block"])
def test_a_quota_of_the_server_is_throttling(
    at: Site, provider: VaultTransitProvider, block: dict[str, str]
) -> None:
    """A rate limit quota is THROTTLED."""
    _wrap(provider, at.key)
    quota = f"sys/quotas/rate-limit/{at.mount}"
    at.server.call("POST", quota, path=f"{at.mount}/", rate=1, interval="60s", **block)
    try:
        # The quota lets the first call through, and not the second one, which opens.
        with pytest.raises(ThrottledError):
            _wrap(provider, at.key)
    finally:
        at.server.call("DELETE", quota)


@pytest.mark.parametrize("changed", ["bm90IHdoYXQgd2FzIHdyYXBwZWQ=", "", "=", None])
def test_what_does_not_open_is_not_given_out(
    at: Site, provider: VaultTransitProvider, changed: str | None
) -> None:
    """A wrap that does not open to the same bytes is UNREACHABLE."""

    def wrongly(request: Request) -> Reply:
        reply = at.server.answer(request)
        if "/decrypt/" in request.path:
            value = "null" if changed is None else f'"{changed}"'
            return replace(reply, body=f'{{"data":{{"plaintext":{value}}}}}'.encode())
        return reply

    with at.layer.instead(wrongly), pytest.raises(UnreachableError):
        _wrap(provider, at.key)


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"data":{}}', b'{"data":{"ciphertext":"vault:v1:short"}}', b'{"data":null}', b"null"],
)
def test_an_answer_without_its_parts_is_none(
    at: Site, provider: VaultTransitProvider, body: bytes
) -> None:
    """Keyfold notices what an answer lacks, and the call is UNREACHABLE."""
    wrapped = _wrap(provider, at.key)

    def short(request: Request) -> Reply:
        return Reply(200, {"Content-Type": "application/json"}, body)

    with at.layer.instead(short):
        for call in (
            lambda: _wrap(provider, at.key),
            lambda: _unwrap(provider, at.key, wrapped),
            lambda: provider.describe(at.key, budget=_BUDGET),
            lambda: provider.authenticate(at.key, budget=_BUDGET),
        ):
            with pytest.raises(UnreachableError):
                call()


def test_a_section_that_is_gone_says_nothing_of_the_key(at: Site) -> None:
    """A stored key whose origin left the settings is UNREACHABLE (protocol F6)."""
    provider = at.provider(origins={})
    with pytest.raises(UnreachableError, match="no section"):
        _wrap(provider, at.key)
