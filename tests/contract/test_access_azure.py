"""The access policy of Azure is sufficient, and no part of it is spare.

A shell runs the generated text, and the counterpart carries out what the text passes to `az`, so
nothing is granted that the text does not name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from contract.azure_key_vault import VENDOR, AzureCounterpart
from contract.counterparts import BUDGET
from counterparts.azure_commands import AzCommands
from counterparts.azure_key_vault import TENANT
from counterparts.shell import CommandError
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import AccessDeniedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import (
    AccessPolicy,
    AccessWanted,
    Authenticates,
    DescribesAccess,
    DescribesKeys,
    Statement,
)
from keyfold_server.domain.seats import Seat
from keyfold_server.providers.azure.provider import AzureKeyVaultProvider

_WANTED: Final = AccessWanted("orders", "eu-west-1", "acme")
_BINDING: Final = Binding("orders", "eu-west-1", os.urandom(16), "acme")
_NAMES: Final = {False: "acme-prod.vault.azure.net", True: "acme-hsm.managedhsm.azure.net"}
_KINDS: Final = pytest.mark.parametrize("hsm", [False, True], ids=["vault", "managed HSM"])
_ACTIONS: Final = pytest.mark.parametrize(
    ("hsm", "action"),
    [
        *((False, f"Microsoft.KeyVault/vaults/keys/{each}") for each in ("read", "wrap/action")),
        (False, "Microsoft.KeyVault/vaults/keys/unwrap/action"),
        *(
            (True, f"Microsoft.KeyVault/managedHsm/keys/{each}/action")
            for each in ("read", "encrypt", "decrypt")
        ),
    ],
)


class Customer:
    """A key, Keyfold's application, which is not in the customer's tenant yet, and `az`."""

    def __init__(self, folder: Path, *, hsm: bool, kty: str = "") -> None:
        self.there = AzureCounterpart(folder, hsm=hsm)
        azure, client = self.there.azure, self.there.client
        azure.register_application(VENDOR, client)
        azure.withdraw(TENANT, client)
        self.name = next(self.there._names)
        azure.create_key(self.name, self.there.vault, kty)
        self.key = self.there.key(self.name)
        label = _NAMES[hsm].partition(".")[0]
        self.az = AzCommands(azure, TENANT, {label: self.there.vault}, (client,))
        # The policy is for Azure's own host; the counterpart has another address.
        uri = f"https://{_NAMES[hsm]}/keys/{self.name}"
        self.policy = _policy(RootKey("AZURE_KEY_VAULT", uri, self.key.principal))

    def attach(self, *statements: Statement) -> None:
        """Carries out these statements, or all of them."""
        for each in statements or self.policy.statements:
            assert each.language == "shell"
            self.az.run(each.text)

    def use(self) -> None:
        """Does everything that Keyfold does with a key."""
        provider, payload = self.there.provider, bytes(_BINDING.payload(os.urandom(32)))
        assert isinstance(provider, Authenticates)
        assert isinstance(provider, DescribesKeys)
        provider.authenticate(self.key, budget=BUDGET)
        provider.describe(self.key, budget=BUDGET)
        wrapped = provider.wrap(self.key, payload, _BINDING, budget=BUDGET)
        opened = provider.unwrap(
            self.key, wrapped.key_version, wrapped.ciphertext, _BINDING, budget=BUDGET
        )
        assert opened.plaintext == payload


@pytest.fixture
def customer(hsm: bool, tmp_path: Path) -> Iterator[Customer]:  # noqa: FBT001
    """A customer with a key in a vault or a Managed HSM."""
    found = Customer(tmp_path, hsm=hsm)
    yield found
    found.there.close()


def _policy(key: RootKey, wanted: AccessWanted = _WANTED) -> AccessPolicy:
    provider = AzureKeyVaultProvider(
        allowed_endpoints=["https://kms.example"],
        audiences={"https://kms.example": "https://vault.azure.net"},
    )
    assert isinstance(provider, DescribesAccess)
    return provider.access_policy(provider.canonical(key), wanted)


def _without(text: str, line: str) -> str:
    """Returns a role definition's text without one line of a list."""
    lines = [each for each in text.splitlines() if f'"{line}"' not in each]
    assert len(lines) == len(text.splitlines()) - 1
    return re.sub(r",(\n *\])", r"\1", "\n".join(lines))


@_KINDS
def test_the_statements_are_enough(customer: Customer) -> None:
    """With exactly the policy's statements Keyfold can log in, describe, wrap and unwrap."""
    customer.attach()
    customer.use()


@_KINDS
def test_nothing_else_is_given(customer: Customer) -> None:
    """The statements grant exactly the data actions that they name, on this key alone."""
    customer.attach()
    there = customer.there
    role = customer.policy.statements[-1]
    assert there.azure.given(there.principal, there.vault) == sorted(
        (customer.name, each) for each in role.permissions
    )


@_ACTIONS
def test_each_action_is_needed(customer: Customer, action: str) -> None:
    """A role without one of its data actions is refused, and the error names that action."""
    trust, role, assignment = customer.policy.statements
    assert action in role.permissions
    assert len(role.permissions) == 3
    customer.attach(trust)
    customer.az.run(_without(role.text, action))
    customer.attach(assignment)
    with pytest.raises(AccessDeniedError, match=re.escape(action)) as raised:
        customer.use()
    assert raised.value.missing_permission == action


@_KINDS
def test_each_statement_is_needed(customer: Customer) -> None:
    """Without the trust az finds no principal, without the role no role; each is needed."""
    trust, role, assignment = customer.policy.statements
    with pytest.raises(AccessDeniedError, match=re.escape(customer.there.principal)):
        customer.use()
    with pytest.raises(CommandError, match="not found"):
        customer.attach(assignment)
    customer.attach(trust)
    with pytest.raises(CommandError, match="no role"):
        customer.attach(assignment)
    customer.attach(role)
    with pytest.raises(AccessDeniedError) as raised:
        customer.use()
    assert raised.value.missing_permission in role.permissions
    customer.attach(assignment)
    customer.use()


@pytest.mark.parametrize("hsm", [False])
def test_access_policies_are_told_too(customer: Customer) -> None:
    """For a vault with access policies in place of roles, the notice's command is enough."""
    customer.attach(customer.policy.statements[0])
    (told,) = (each for each in customer.policy.notices if "set-policy" in each)
    customer.az.run(told[told.index("az ") :])
    customer.use()


@pytest.mark.parametrize("missing", [None, "wrap", "unwrap"])
def test_an_rsa_key_of_a_managed_hsm(tmp_path: Path, missing: str | None) -> None:
    """A notice names two actions; with them the key works, and a missing one shows in the error."""
    customer = Customer(tmp_path, hsm=True, kty="RSA-HSM")
    trust, role, assignment = customer.policy.statements
    text = role.text
    for there, instead in (("encrypt", "wrap"), ("decrypt", "unwrap")):
        old, new = (
            f"Microsoft.KeyVault/managedHsm/keys/{each}/action" for each in (there, instead)
        )
        assert any(new in each and old in each for each in customer.policy.notices)
        text = text.replace(old, new)
        text = _without(text, new) if missing == instead else text
    with closing(customer.there):
        customer.attach(trust)
        customer.az.run(text)
        customer.attach(assignment)
        if missing is None:
            customer.use()
            return
        with pytest.raises(AccessDeniedError) as raised:
            customer.use()
        needed = f"Microsoft.KeyVault/managedHsm/keys/{missing}/action"
        assert raised.value.missing_permission == needed


def test_a_role_for_the_other_kind_of_key(tmp_path: Path) -> None:
    """An RSA-HSM key whose role is made for oct-HSM keys lacks the actions of its own kind."""
    customer = Customer(tmp_path, hsm=True, kty="RSA-HSM")
    with closing(customer.there):
        customer.attach()
        with pytest.raises(AccessDeniedError) as raised:
            customer.use()
    assert raised.value.missing_permission == "Microsoft.KeyVault/managedHsm/keys/wrap/action"


@_KINDS
def test_what_is_bound(hsm: bool) -> None:  # noqa: FBT001
    """AES keys bind the context and RSA keys do not; a notice says that no role demands it."""
    found = _policy(RootKey("AZURE_KEY_VAULT", f"https://{_NAMES[hsm]}/keys/k"))
    assert found.bound_context == (_BINDING.as_map() if hsm else {})
    assert any("no role can demand" in each for each in found.notices)


@_KINDS
def test_a_seat_is_used_by_all_of_its_principals(hsm: bool) -> None:  # noqa: FBT001
    """Each application of a seat comes into the tenant, and has the role on the key (C2)."""
    own, also = "22222222-3333-4444-5555-666666666666", "33333333-4444-5555-6666-777777777777"
    key = RootKey("AZURE_KEY_VAULT", f"https://{_NAMES[hsm]}/keys/k", f"{TENANT}/{own}")
    seat = Seat("eu-0001", "AZURE_KEY_VAULT", "eu", own, (also,))
    found = _policy(key, replace(_WANTED, seat=seat)).statements
    for client in (own, also):
        titles = [each.title.partition(" ")[0] for each in found if client in each.text]
        assert titles == ["Service", "Role"]


def test_keyfold_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy names the server's identity if the environment has it, else leaves it open."""
    key = RootKey("AZURE_KEY_VAULT", "https://acme-prod.vault.azure.net/keys/k")
    client = "0d4c5f5e-5d2e-4c1e-8f51-1f7c61a3a001"
    monkeypatch.setenv("AZURE_CLIENT_ID", client.upper())
    found = _policy(key)
    assert found.principal == client
    assert len(found.statements) == 2
    assert f"az ad sp show --id {client}" in found.statements[-1].text
    assert "<" not in "".join(each.text for each in found.statements)
    monkeypatch.delenv("AZURE_CLIENT_ID")
    found = _policy(key)
    assert "'<object id of the managed identity of Keyfold>'" in found.statements[-1].text
    assert any("in place of <object id" in each for each in found.notices)


def test_what_an_uri_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a vault at its own address, the policy has a placeholder that is no vault's name."""
    monkeypatch.delenv("AZURE_CLIENT_ID", raising=False)
    found = _policy(RootKey("AZURE_KEY_VAULT", "https://kms.example/keys/k"))
    assert all("'<vault at kms.example>'" in each.text for each in found.statements)
    assert any("in place of <vault at kms.example>" in each for each in found.notices)


def test_another_cloud_is_selected_first() -> None:
    """For another of Azure's clouds, the first notice says how to point `az` at it."""
    uri = "https://acme.managedhsm.azure.cn/keys/k/0123456789abcdef0123456789abcdef"
    found = _policy(RootKey("AZURE_KEY_VAULT", uri, f"{TENANT}/{TENANT}"))
    assert "az cloud set --name AzureChinaCloud" in found.notices[0]
    assert found.statements[-1].attach_to == "https://acme.managedhsm.azure.cn/keys/k"
    assert found.statements[-1].text.endswith("--scope /keys/k")
