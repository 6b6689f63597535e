"""GetAccessPolicy: what a customer attaches, and the external id, without a KMS call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callers import EVERYTHING
from fakes import FakeProvider
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    InvalidKeySpecError,
    InvalidNameError,
    KeyfoldError,
    KeyNotGrantedError,
    NotAllowedError,
    OrganizationMismatchError,
    StoreRolledBackError,
    UnknownProviderError,
)
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.service.root_keys.access_policies import AccessPolicyRequest, AccessPolicyResult
from keyfold_server.service.root_keys.scope import Scope
from regional import ROLE, RegionalHouse, role
from replicas import Member

AS_ROLE = f'keys = [{{ type = "FAKE", uri = "fake:one", principal = "{ROLE}" }}]'


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RegionalHouse]:
    """Gives a house whose KMS describes access policies."""
    built = RegionalHouse(tmp_path)
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
async def one(house: RegionalHouse) -> Member:
    """Gives a replica."""
    return await house.with_regions({"eu": {"FAKE": ("eu-west-1",)}})


def rights(grant: str) -> Rights:
    """Returns the rights that one grant gives a caller."""
    text = f'[[grant]]\ncallers = ["dns:app.example"]\n{grant}\n'
    return parse(text, "policy.toml").rights(Identity(("dns:app.example",), "certificate"))


async def ask(
    member: Member,
    spec: KeySpec,
    cluster: str = "",
    region: str = "",
    organization: str | None = None,
    rights: Rights = EVERYTHING,
) -> AccessPolicyResult:
    """Calls GetAccessPolicy."""
    wanted = AccessPolicyRequest(spec, Scope(cluster, region, organization))
    return await member.replica.access_policies.get(Caller(rights), wanted)


async def test_a_policy_comes_with_the_external_id(house: RegionalHouse, one: Member) -> None:
    """The first call issues the id, which never changes and is enough for Enable (C2)."""
    found = await ask(one, role("fake:one"), "acme", "eu")
    assert found.external_id
    (statement,) = found.policy.statements
    assert statement.text == found.external_id
    assert found.policy.principal == ROLE
    assert found.policy.bound_context == {"keyfold:cluster": "acme"}
    assert (await ask(one, role("fake:two"), "acme")).external_id == found.external_id
    assert (await ask(one, role("fake:two"), "acme", "", "inc")).external_id != found.external_id
    assert house.provider.calls == []
    await one.enable(specs={"eu": role("fake:one")})
    assert house.provider.shown == {found.external_id}


async def test_the_servers_own_identity_needs_no_external_id(one: Member) -> None:
    """Keyfold issues no id where no provider would take one."""
    found = await ask(one, KeySpec("FAKE", "fake:one"), "acme")
    assert (found.external_id, found.policy.principal) == ("", "ambient")
    assert one.line.counts["issue_external_id"] == 0


async def test_a_key_elsewhere_is_pointed_out(one: Member) -> None:
    """A notice warns the customer before they attach anything to a key in the wrong place."""
    spec = KeySpec("FAKE", "fake:us-east-1.one")
    assert (await ask(one, spec, "acme")).policy.notices == ("a notice",)
    notices = (await ask(one, spec, "acme", "eu")).policy.notices
    assert notices == ("a notice", "the root key is in us-east-1, and region eu in eu-west-1")


async def test_the_platforms_key_is_the_regions(house: RegionalHouse, one: Member) -> None:
    """GetAccessPolicy resolves PLATFORM, as every call does."""
    house.platform["eu"] = RootKey("FAKE", "fake:two")
    found = await ask(one, KeySpec("PLATFORM"), "acme", "eu")
    assert found.policy.statements[0].attach_to == "fake:two"
    with pytest.raises(InvalidKeySpecError, match="no platform key"):
        await ask(one, KeySpec("PLATFORM"), "acme", "us")


async def test_a_cluster_that_is_there_has_its_organization(one: Member) -> None:
    """Keyfold issues the id under the owner where Enable, AddRegions and Rotate look."""
    await one.enable(organization="inc")
    found = await ask(one, role("fake:two"), "acme")
    assert found.external_id == (await ask(one, role("fake:two"), "", "", "inc")).external_id
    await one.rotate({"eu": role("fake:two")})
    for other in ("acme", "beta"):
        await one.enable("beta")
        with pytest.raises(OrganizationMismatchError):
            await ask(one, role("fake:two"), other, "", "other-inc")


@pytest.mark.parametrize(
    ("cluster", "region", "organization"),
    [("", "", None), ("", "eu", None), ("../x", "", None), ("a", "../x", None), ("a", "", "../x")],
)
async def test_for_whom_must_be_said(
    one: Member, cluster: str, region: str, organization: str | None
) -> None:
    """A policy without a cluster or an organization would hold for everybody."""
    with pytest.raises(InvalidNameError):
        await ask(one, role("fake:one"), cluster, region, organization)


@pytest.mark.parametrize(
    ("grant", "cluster", "organization", "error"),
    [
        ('roles = ["crypto", "auditor"]', "acme", None, NotAllowedError),
        (
            f'roles = ["operator"]\nclusters = ["beta"]\n{AS_ROLE}',
            "acme",
            None,
            ClusterNotFoundError,
        ),
        (
            f'roles = ["operator"]\nclusters = ["a*"]\norganizations = ["inc"]\n{AS_ROLE}',
            "acme",
            "other-inc",
            ClusterNotFoundError,
        ),
        ('roles = ["operator"]', "acme", None, KeyNotGrantedError),
        (f'roles = ["operator"]\nregions = ["us"]\n{AS_ROLE}', "acme", None, KeyNotGrantedError),
        (f'roles = ["operator"]\nclusters = ["a*"]\n{AS_ROLE}', "", "inc", KeyNotGrantedError),
        (
            f'roles = ["operator"]\nclusters = ["a*"]\norganizations = ["inc"]\n{AS_ROLE}',
            "",
            "inc",
            KeyNotGrantedError,
        ),
    ],
)
async def test_what_may_not_be_named_is_not_described(
    one: Member, grant: str, cluster: str, organization: str | None, error: type[KeyfoldError]
) -> None:
    """Rights count as for TestKey; without a cluster, only a grant on all clusters (C1)."""
    with pytest.raises(error):
        await ask(one, role("fake:one"), cluster, "", organization, rights(grant))
    assert one.line.counts["issue_external_id"] == 0


@pytest.mark.parametrize(
    "narrow", ["", 'clusters = ["ac*"]\n', 'clusters = ["a*"]\norganizations = ["inc"]\n']
)
async def test_what_may_be_named_is_described(one: Member, narrow: str) -> None:
    """The cluster need not exist yet."""
    allowed = rights(f'roles = ["operator"]\n{narrow}{AS_ROLE}')
    assert (await ask(one, role("fake:one"), "acme", "eu", "inc", allowed)).external_id
    if not narrow:
        assert (await ask(one, role("fake:one"), "", "", "inc", allowed)).external_id


async def test_a_provider_may_tell_no_policy(
    house: RegionalHouse, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that cannot describe access gets an error that says so."""
    with pytest.raises(UnknownProviderError):
        await ask(one, KeySpec("NOPE", "x"), "acme")
    monkeypatch.setattr(house, "provider_of", lambda _: FakeProvider())
    two = await house.replica()
    with pytest.raises(InvalidKeySpecError, match="FAKE cannot say"):
        await ask(two, KeySpec("FAKE", "fake:one"), "acme")


async def test_nothing_is_issued_in_a_store_that_was_rolled_back(
    one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id issued into a rolled-back store would be lost with it (protocol S1)."""
    monkeypatch.setattr(one.changes, "rolled_back", True)
    with pytest.raises(StoreRolledBackError):
        await ask(one, role("fake:one"), "acme")
    assert one.line.counts["issue_external_id"] == 0
