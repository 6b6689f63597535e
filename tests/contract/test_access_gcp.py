"""The access policy of Google Cloud is sufficient, and no part of it is spare.

A shell runs the generated text, and the counterpart carries out what the text passes to `gcloud`,
so nothing is granted that the text does not name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from contract.counterparts import BUDGET
from contract.gcp_kms import GcpCounterpart
from counterparts.gcp_commands import GcloudCommands
from counterparts.gcp_iam import GET_ACCESS_TOKEN, IMPLICIT_DELEGATION
from counterparts.shell import CommandError
from keyfold_server.bootstrap.providers import catalog
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import AccessDeniedError, SetupError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, DescribesAccess
from keyfold_server.domain.seats import Seat
from keyfold_server.providers.gcp.provider import GcpKmsProvider
from keyfold_server.settings import Settings

_WANTED: Final = AccessWanted("orders", "eu-west-1", "acme")
_BINDING: Final = Binding("orders", "eu-west-1", os.urandom(16), "acme")
_KEY: Final = "projects/acme-prod/locations/europe-west1/keyRings/cmek/cryptoKeys/k"
_ON_KEY: Final = (
    "cloudkms.cryptoKeyVersions.useToEncrypt",
    "cloudkms.cryptoKeyVersions.useToDecrypt",
    "cloudkms.cryptoKeys.get",
)
_WHO: Final = ("itself", "impersonated", "delegated")
"""The callers: Keyfold itself, an account that it acts as, and one that it reaches through two."""


class Customer:
    """A key in a project of its own, which nobody may use yet, and `gcloud`."""

    def __init__(self, folder: Path, who: str) -> None:
        self.there = GcpCounterpart(folder)
        nonce = self.there.own.partition("@")[0].rpartition("-")[2]
        # A custom role can be made only once in a project.
        project = f"customer-{nonce}"
        self.account = f"user@{project}.iam.gserviceaccount.com"
        self.middle = [f"{each}@{project}.iam.gserviceaccount.com" for each in ("one", "two")]
        uri = f"projects/{project}/locations/europe-west1/keyRings/ring/cryptoKeys/key"
        self.there.kms.create_key(uri)
        for each in (self.account, *self.middle):
            self.there.kms.service_account_file(each)
        through = (("delegates", ",".join(self.middle)),) if who == "delegated" else ()
        self.key = RootKey("GCP_CLOUD_KMS", uri, "" if who == "itself" else self.account, through)
        self.gcloud = GcloudCommands(self.there.kms)
        self.policy = _policy(self.key, self.there.own)

    def attach(self, *without: str) -> None:
        """Carries out the statements, without some permissions that they name."""
        for each in self.policy.statements:
            assert each.language == "shell"
            text = each.text
            for permission in without:
                text = re.sub(rf"{re.escape(permission)},?|,{re.escape(permission)}$", "", text)
            self.gcloud.run(text)

    def use(self) -> None:
        """Does everything that Keyfold does with a key."""
        provider, payload = self.there.provider, bytes(_BINDING.payload(os.urandom(32)))
        assert isinstance(provider, GcpKmsProvider)
        provider.authenticate(self.key, budget=BUDGET)
        provider.describe(self.key, budget=BUDGET)
        wrapped = provider.wrap(self.key, payload, _BINDING, budget=BUDGET)
        opened = provider.unwrap(
            self.key, wrapped.key_version, wrapped.ciphertext, _BINDING, budget=BUDGET
        )
        assert opened.plaintext == payload


@pytest.fixture
def customer(who: str, tmp_path: Path) -> Iterator[Customer]:
    """A customer with a key."""
    found = Customer(tmp_path, who)
    yield found
    found.there.close()


def _policy(key: RootKey, own: str | None = None) -> AccessPolicy:
    provider = GcpKmsProvider(principal=own)
    assert isinstance(provider, DescribesAccess)
    return provider.access_policy(provider.canonical(key), _WANTED)


@pytest.mark.parametrize("who", _WHO)
def test_the_statements_are_enough(customer: Customer) -> None:
    """With exactly the policy's statements Keyfold can act as the account and use the key."""
    with pytest.raises(AccessDeniedError):
        customer.use()
    customer.attach()
    customer.use()


@pytest.mark.parametrize("who", _WHO)
def test_nothing_else_is_given(customer: Customer) -> None:
    """The statements grant three permissions on the key, and one on each account in the chain."""
    customer.attach()
    kms, key = customer.there.kms, customer.key
    on_key = {(key.uri, each) for each in _ON_KEY}
    first, second = customer.middle
    if not key.principal:
        assert kms.given(customer.there.own) - {(customer.there.customer, GET_ACCESS_TOKEN)} == (
            on_key
        )
    elif not key.options:
        assert kms.given(key.principal) == on_key
        assert (key.principal, GET_ACCESS_TOKEN) in kms.given(customer.there.own)
    else:
        assert kms.given(key.principal) == on_key
        assert (first, IMPLICIT_DELEGATION) in kms.given(customer.there.own)
        assert kms.given(first) == {(second, IMPLICIT_DELEGATION)}
        assert kms.given(second) == {(key.principal, GET_ACCESS_TOKEN)}


@pytest.mark.parametrize(
    ("who", "permission"),
    [
        *(("impersonated", each) for each in (*_ON_KEY, GET_ACCESS_TOKEN)),
        ("delegated", IMPLICIT_DELEGATION),
    ],
)
def test_each_permission_is_needed(customer: Customer, permission: str) -> None:
    """A role without one of its permissions is refused, and the error names that permission."""
    assert any(permission in each.permissions for each in customer.policy.statements)
    customer.attach(permission)
    with pytest.raises(AccessDeniedError, match=re.escape(permission)) as raised:
        customer.use()
    # For every link of a chain, Google's error names the same permission.
    named = GET_ACCESS_TOKEN if permission == IMPLICIT_DELEGATION else permission
    assert raised.value.missing_permission == named


@pytest.mark.parametrize("who", _WHO)
def test_each_statement_is_needed(customer: Customer) -> None:
    """Without a role gcloud cannot bind it, and without any one binding Keyfold has no access."""
    roles = [each for each in customer.policy.statements if "iam roles create" in each.text]
    bindings = [each for each in customer.policy.statements if each not in roles]
    for each in bindings:
        with pytest.raises(CommandError, match="no role"):
            customer.gcloud.run(each.text)
    for each in roles:
        customer.gcloud.run(each.text)
    for each in reversed(bindings):
        with pytest.raises(AccessDeniedError) as raised:
            customer.use()
        assert raised.value.missing_permission is not None
        customer.gcloud.run(each.text)
    customer.use()


def test_whose_statements_they_are() -> None:
    """Statements in the project of Keyfold's own identity are marked as the vendor's."""
    middle = "way-in@vendor-project.iam.gserviceaccount.com"
    key = RootKey(
        "GCP_CLOUD_KMS",
        _KEY,
        "user@acme-prod.iam.gserviceaccount.com",
        (("delegates", middle),),
    )
    found = _policy(key, "keyfold@vendor-project.iam.gserviceaccount.com")
    assert {each.attach_to for each in found.statements if each.by_vendor} == {
        "project vendor-project",
        middle,
    }


def test_a_seat_is_used_by_all_of_its_principals() -> None:
    """Each principal of a seat gets the role on the key; the rest is the vendor's (C2)."""
    own, also = (
        "seat-1@vendor-project.iam.gserviceaccount.com",
        "agent@vendor-project.iam.gserviceaccount.com",
    )
    provider = GcpKmsProvider(principal="keyfold@vendor-project.iam.gserviceaccount.com")
    assert isinstance(provider, DescribesAccess)
    seat = Seat("eu-0001", "GCP_CLOUD_KMS", "eu", own, (also,))
    key = provider.canonical(RootKey("GCP_CLOUD_KMS", _KEY, own))
    found = provider.access_policy(key, replace(_WANTED, seat=seat))
    bindings = [each for each in found.statements if each.attach_to == _KEY]
    assert [own in bindings[0].text, also in bindings[1].text] == [True, True]
    assert [each.by_vendor for each in bindings] == [False, False]
    others = [e for e in found.statements if not e.by_vendor and e.attach_to != _KEY]
    assert [each.title.partition(" ")[0] for each in others] == ["Custom"]


def test_an_unknown_identity_is_left_open() -> None:
    """Without `principal` in the settings, statements have a placeholder and a notice says so."""
    found = _policy(RootKey("GCP_CLOUD_KMS", _KEY))
    assert found.principal == "<email of the service account of Keyfold>"
    assert "<email of the service account" in found.statements[-1].text
    assert any("principal in [providers.gcp]" in each for each in found.notices)


def test_a_federated_identity_is_a_member_as_it_is() -> None:
    """An identity that is not a service account is named as IAM names it."""
    own = "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/x"
    found = _policy(RootKey("GCP_CLOUD_KMS", _KEY), own)
    assert f"--member={own}" in found.statements[-1].text


def test_the_settings_tell_it() -> None:
    """The statements name the `principal` of [providers.gcp]."""
    own = "keyfold@vendor-project.iam.gserviceaccount.com"
    settings = Settings(providers={"gcp": {"principal": own}})
    provider = catalog(settings).provider("GCP_CLOUD_KMS")
    assert isinstance(provider, DescribesAccess)
    assert provider.access_policy(RootKey("GCP_CLOUD_KMS", _KEY), _WANTED).principal == own


@pytest.mark.parametrize("own", ["keyfold", "user:me@example.com", "principal://evil.example/x"])
def test_an_identity_that_is_none_is_refused(own: str) -> None:
    """The provider refuses, when it is set up, a `principal` that IAM would not accept."""
    with pytest.raises(SetupError, match="principal"):
        GcpKmsProvider(principal=own)


@pytest.mark.parametrize(
    ("account", "where"),
    [
        ("user@acme-prod.iam.gserviceaccount.com", "acme-prod"),
        ("user@acme-prod.example.com.iam.gserviceaccount.com", "example.com:acme-prod"),
        (
            "1-compute@developer.gserviceaccount.com",
            "'<project of 1-compute@developer.gserviceaccount.com>'",
        ),
    ],
)
def test_the_project_of_an_account(account: str, where: str) -> None:
    """A role is in the account's own project; a placeholder stands for one that is unknown."""
    found = _policy(RootKey("GCP_CLOUD_KMS", _KEY, account))
    assert f"--project={where}" in found.statements[-1].text
    assert ("<" in where) == any("project's id" in each for each in found.notices)


def test_what_is_bound() -> None:
    """The policy names the context, and a notice says that no binding can demand it."""
    found = _policy(RootKey("GCP_CLOUD_KMS", _KEY))
    assert found.bound_context == _BINDING.as_map()
    assert any("no binding can demand" in each for each in found.notices)
