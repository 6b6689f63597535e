"""The access policy of Vault is sufficient, and no part of it is spare.

The real server gets the generated policy and commands through its own command line, so nothing is
granted that the text does not name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from contract.counterparts import BUDGET, NotInstalledError, without
from counterparts.openbao import OpenBaoError, shared
from counterparts.openbao_roles import ROLE, Issuer, Site
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import AccessDeniedError, CredentialsFailedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, DescribesAccess
from keyfold_server.providers.vault.origins import Auth, Origin
from keyfold_server.providers.vault.provider import VaultTransitProvider

_WANTED: Final = AccessWanted("orders", "eu-west-1", "acme")
_BINDING: Final = Binding("orders", "eu-west-1", os.urandom(16), "acme")
_ORIGIN: Final = "https://vault.example:8200"
_AUTHS: Final = ("approle", "jwt", "kubernetes", "token")


class Customer:
    """A transit key, a login of Keyfold's without permissions, and the `bao` command."""

    def __init__(self, folder: Path, auth: Auth) -> None:
        self.site = Site(shared(), folder, Issuer(), auth)
        # Take away the permissions that a site gives by itself.
        self.site.server.call("DELETE", f"sys/policies/acl/{self.site.mount}")
        if auth != "token":
            self.site.give()
        self.folder = folder
        self.provider = self.site.provider()
        self.key = self.provider.canonical(self.site.key)
        self.policy = _policy(self.provider, self.key)

    def attach(self, dropped: str = "", *, default: bool = True) -> None:
        """Carries out the statements, without the rule for one path."""
        policy, *commands = self.policy.statements
        assert [each.language for each in self.policy.statements] == ["hcl", "shell", "shell"]
        rules = [f"path {each}" for each in policy.text.split("path ")[1:]]
        kept = [each for each in rules if not dropped or f'"{dropped}"' not in each]
        assert len(kept) == len(rules) - bool(dropped)
        name = policy.attach_to.removeprefix("policy ")
        (self.folder / f"{name}.hcl").write_text("\n".join(kept))
        for each in commands:
            self.run(each.text if default else each.text.replace("-orphan", "-no-default-policy"))

    def run(self, text: str) -> None:
        """Runs a command; puts the token that it prints where the settings read it."""
        said = self.site.server.run(text, self.folder)
        if "token create" in text:
            self.site.credential.write_text(said)

    def use(self, provider: VaultTransitProvider | None = None) -> None:
        """Does everything that Keyfold does with a key, with a login of its own."""
        provider, payload = provider or self.site.provider(), bytes(65)
        provider.authenticate(self.key, budget=BUDGET)
        provider.describe(self.key, budget=BUDGET)
        wrapped = provider.wrap(self.key, payload, _BINDING, budget=BUDGET)
        opened = provider.unwrap(
            self.key, wrapped.key_version, wrapped.ciphertext, _BINDING, budget=BUDGET
        )
        assert opened.plaintext == payload


@pytest.fixture
def auth() -> Auth:
    """Keyfold's auth method, unless a test names another."""
    return "approle"


@pytest.fixture
def customer(auth: Auth, tmp_path: Path) -> Iterator[Customer]:
    """A customer with a key."""
    try:
        shared()
    except NotInstalledError as error:
        without(error)
    found = Customer(tmp_path, auth)
    yield found
    found.site.close()


def _policy(provider: VaultTransitProvider, key: RootKey) -> AccessPolicy:
    assert isinstance(provider, DescribesAccess)
    return provider.access_policy(provider.canonical(key), _WANTED)


def _told(namespace: str = "", key: str = "team/transit/keys/App") -> AccessPolicy:
    section = Origin("approle", role=ROLE, credential=Path("/none"), namespace=namespace)
    provider = VaultTransitProvider(origins={_ORIGIN: section}, environment={})
    return _policy(provider, RootKey("VAULT_TRANSIT", f"{_ORIGIN}/v1/{key}"))


@pytest.mark.parametrize("auth", _AUTHS)
def test_the_statements_are_enough(customer: Customer) -> None:
    """With exactly the policy's statements Keyfold can log in, describe, wrap and unwrap."""
    if customer.site.auth != "token":
        with pytest.raises(AccessDeniedError):
            customer.use()
    customer.attach()
    customer.use()
    assert customer.policy.principal == (customer.site.section.principal or "a token")


@pytest.mark.parametrize("auth", ["approle", "jwt", "kubernetes"])
def test_the_role_keeps_the_rest(customer: Customer) -> None:
    """The statement that gives the role its policy changes nothing else in the role."""
    at = f"auth/{customer.site.login}/role/{ROLE}"
    before = customer.site.server.call("GET", at)["data"]
    customer.attach()
    after = customer.site.server.call("GET", at)["data"]
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"token_policies"}
    assert len(after["token_policies"]) == 1


def test_nothing_else_is_given(customer: Customer) -> None:
    """The server reports one capability on each of three paths, and none on the key's others."""
    customer.attach()
    site = customer.site
    secret = site.credential.read_text().strip()
    login = site.server.call("POST", f"auth/{site.login}/login", role_id=ROLE, secret_id=secret)
    paths = [
        f"{site.mount}/{each}"
        for each in (
            *("encrypt/app", "decrypt/app", "keys/app", "keys/app/config", "keys/app/rotate"),
            *("rewrap/app", "export/encryption-key/app", "encrypt/other", "keys/other"),
        )
    ]
    found = site.server.call(
        "POST", "sys/capabilities-self", token=login["auth"]["client_token"], paths=paths
    )["data"]
    given = {f"{may} {path}" for path in paths for may in found[path] if may != "deny"}
    assert given == set(customer.policy.statements[0].permissions)


@pytest.mark.parametrize("operation", ["encrypt", "decrypt", "keys"])
def test_each_rule_is_needed(customer: Customer, operation: str) -> None:
    """A policy without one of its paths is refused, and the error names path and capability."""
    path = f"{customer.site.mount}/{operation}/app"
    customer.attach(path)
    with pytest.raises(AccessDeniedError, match=path) as raised:
        customer.use()
    assert raised.value.missing_permission in customer.policy.statements[0].permissions
    assert str(raised.value.missing_permission).endswith(f" {path}")


def test_each_statement_is_needed(customer: Customer) -> None:
    """Without the file there is no policy; without the policy or the role there is no access."""
    policy, write, give = customer.policy.statements
    with pytest.raises(OpenBaoError):
        customer.run(write.text)
    customer.run(give.text)
    with pytest.raises(AccessDeniedError) as raised:
        customer.use()
    assert raised.value.missing_permission in policy.permissions
    customer.attach()
    customer.site.give()
    with pytest.raises(AccessDeniedError):
        customer.use()
    customer.run(give.text)
    customer.use()


@pytest.mark.parametrize("auth", ["approle", "token"])
def test_without_the_policy_default(customer: Customer) -> None:
    """A token without the policy `default` can look itself up with the rules of a notice."""
    if customer.site.auth == "approle":
        at = f"auth/{customer.site.login}/role/{ROLE}"
        customer.site.server.call("POST", at, token_no_default_policy=True)
    customer.attach(default=False)
    with pytest.raises(CredentialsFailedError):
        customer.use()
    policy = customer.policy.statements[0]
    (told,) = (each for each in customer.policy.notices if "policy default" in each)
    customer.site.server.call(
        "PUT",
        f"sys/policies/acl/{policy.attach_to.removeprefix('policy ')}",
        policy=policy.text + told.partition("give: ")[2],
    )
    customer.use()


@pytest.mark.parametrize("inside", [False, True], ids=["login above", "login inside"])
def test_a_key_in_a_namespace(customer: Customer, inside: bool) -> None:  # noqa: FBT001
    """The policy is written in the namespace of the login, with paths relative to it."""
    site, space = customer.site, f"ns-{customer.site.mount}"
    site.server.create_namespace(space)
    site.server.mount(f"{space}/{site.mount}")
    site.server.create_key(f"{space}/{site.mount}", "app")
    provider = customer.provider
    if inside:
        site.server.enable_auth(f"{space}/{site.login}", "approle")
        role_id, secret_id = site.server.create_app_role(f"{space}/{site.login}", ROLE)
        site.credential.write_text(secret_id)
        section = replace(site.section, namespace=space, role_id=role_id)
        provider = site.provider(origins={site.layer.url: section})
    uri = f"{site.layer.url}/v1/{space}/{site.mount}/keys/app"
    customer.key = provider.canonical(RootKey("VAULT_TRANSIT", uri))
    customer.policy = _policy(provider, customer.key)
    operations = [f"{site.mount}/encrypt/app", f"{space}/{site.mount}/encrypt/app"]
    customer.attach(operations[not inside])
    with pytest.raises(AccessDeniedError) as raised:
        customer.use(provider)
    assert raised.value.missing_permission in customer.policy.statements[0].permissions
    customer.attach()
    customer.use(provider)


def test_a_login_beside_the_key_is_told() -> None:
    """If the login is in another namespace than the key, a notice says that no policy can help."""
    assert any("no policy there can permit" in each for each in _told(namespace="other").notices)
    for space in ("", "team"):
        assert not any("no policy there" in each for each in _told(namespace=space).notices)


def test_what_is_bound() -> None:
    """The policy names the context, and a notice says that the policy does not demand it."""
    found = _told()
    assert found.bound_context == _BINDING.as_map()
    assert any("does not demand the context" in each for each in found.notices)


def test_names_of_policies_have_no_upper_case() -> None:
    """Policy names are in lower case in the statements, as on the server."""
    found = _told(namespace="team")
    name = found.statements[0].attach_to.removeprefix("policy ")
    assert name == name.lower()
    assert name.startswith("keyfold-team-transit-app")
    assert 'path "transit/encrypt/App"' in found.statements[0].text
    assert "-namespace=team" in found.statements[1].text


def test_no_two_keys_have_one_policy() -> None:
    """Writing one key's policy never replaces another key's, however similar their names are."""
    keys = [
        "transit/keys/prod-a",
        "transit/prod/keys/a",
        "transit-prod/keys/a",
        "transit/keys/Prod-A",
        "transit/keys/a",
        "transit/keys/A",
    ]
    names = [_told(key=key).statements[0].attach_to for key in keys]
    assert len(set(names)) == len(keys)
    assert names[4] == "policy keyfold-transit-a"
