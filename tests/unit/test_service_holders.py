"""C9: an account under a shared principal is the first organization's that proves a key in it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from callers import EVERYTHING, caller
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    InvalidOrganizationError,
    KeyfoldError,
    KeyHeldByAnotherError,
    KeyNotGrantedError,
    NotAllowedError,
    RefusedError,
)
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.holders import MAX_HOLDERS, Holder
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.operations import ActionKind, Work
from keyfold_server.domain.organizations import Settings
from keyfold_server.domain.rights import Caller, Identity
from keyfold_server.service.organizations.key_links import LinkResult
from keyfold_server.service.organizations.requests import (
    CreateKeyLinkRequest,
    CreateOrganizationRequest,
    OrganizationCall,
    OrganizationRequest,
    OrganizationResult,
    UpdateKeyLinkRequest,
    UpdateOrganizationRequest,
)
from keyfold_server.service.root_keys.access_policies import AccessPolicyRequest
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from regional import RegionalHouse, RegionalProvider, role
from replicas import Member

OURS: Final = Holder("FAKE", "A")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RegionalHouse]:
    """Gives a house whose KMS has the keys A.one, A.two and B.one."""
    built = RegionalHouse(tmp_path)
    for name in ("A.one", "A.two", "B.one"):
        built.provider.create_key(name)
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
async def one(house: RegionalHouse) -> Member:
    """Gives a replica on which organization acme has account A, and globex has a cluster."""
    one = await house.replica()
    await one.enable("a-1", {"eu": "fake:A.one"}, organization="acme")
    await one.enable("b-1", {"eu": "fake:B.one"}, organization="globex")
    return one


def asked(
    rpc: str, request: OrganizationRequest, who: Caller | None = None
) -> OrganizationCall[OrganizationRequest]:
    """Makes a call for an organization."""
    return OrganizationCall(who or caller(), rpc, "", request, float("inf"))


def linked(
    one: Member, organization: str, uri: str, *, who: Caller | None = None
) -> Awaitable[LinkResult]:
    """Links a key for region us."""
    key = KeySpec("FAKE", uri)
    request = CreateKeyLinkRequest(organization, "main", "", "us", "", key)
    return one.replica.key_links.create(asked("CreateKeyLink", request, who))  # type: ignore[arg-type]


def relinked(one: Member, organization: str, uri: str) -> Awaitable[LinkResult]:
    """Gives a link another key."""
    request = UpdateKeyLinkRequest(organization, "main", None, KeySpec("FAKE", uri))
    return one.replica.key_links.update(asked("UpdateKeyLink", request))  # type: ignore[arg-type]


def moved(one: Member, organization: str, uri: str, *, dry_run: bool = False) -> Awaitable[object]:
    """Begins to move a link to another key."""
    key = KeySpec("FAKE", uri)
    work = Work(ActionKind.MOVE_LINK, organization=organization, key_link="main", key_spec=key)
    return one.replica.operations.start(caller(), "op", work, float("inf"), dry_run=dry_run)


def allowed(
    one: Member, organization: str, *holders: str, who: Caller | None = None
) -> Awaitable[OrganizationResult]:
    """Replaces what an organization holds."""
    request = UpdateOrganizationRequest(organization, Settings(), ("holders",), holders=holders)
    return one.replica.organization_service.update(asked("UpdateOrganization", request, who))  # type: ignore[arg-type]


async def held(one: Member, organization: str) -> tuple[Holder, ...]:
    """Returns what an organization holds."""
    view = await one.replica.organization_service.get(EVERYTHING, organization)
    return view.organization.holders


def tried(one: Member, uri: str, scope: Scope) -> Awaitable[object]:
    """Calls TestKey."""
    request = TestKeyRequest(KeySpec("FAKE", uri), scope)
    return one.replica.trials.test(caller(), request)


def described(one: Member, uri: str, scope: Scope) -> Awaitable[object]:
    """Calls GetAccessPolicy."""
    request = AccessPolicyRequest(KeySpec("FAKE", uri), scope)
    return one.replica.access_policies.get(caller(), request)


async def prepared(one: Member) -> None:
    """Gives globex a link whose key can be changed."""
    await linked(one, "globex", "fake:B.one")


WAYS: Final[dict[str, Callable[[Member, str], Awaitable[object]]]] = {
    "Enable": lambda one, uri: one.enable("b-2", {"eu": uri}, organization="globex"),
    "Enable, validate_only": lambda one, uri: one.enable(
        "b-2", {"eu": uri}, organization="globex", validate_only=True
    ),
    "Enable without organization": lambda one, uri: one.enable("c-1", {"eu": uri}),
    "AddRegions": lambda one, uri: one.add_regions({"us": uri}, "b-1"),
    "Rotate": lambda one, uri: one.rotate({"eu": uri}, "b-1"),
    "CreateKeyLink": lambda one, uri: linked(one, "initech", uri),
    "UpdateKeyLink": lambda one, uri: relinked(one, "globex", uri),
    "StartOperation": lambda one, uri: moved(one, "globex", uri),
    "StartOperation, dry_run": lambda one, uri: moved(one, "globex", uri, dry_run=True),
    "TestKey": lambda one, uri: tried(one, uri, Scope("b-1", "eu", None)),
    "TestKey of an organization": lambda one, uri: tried(one, uri, Scope("", "", "globex")),
    "TestKey of nobody": lambda one, uri: tried(one, uri, Scope("", "", None)),
    "GetAccessPolicy": lambda one, uri: described(one, uri, Scope("b-1", "", None)),
    "GetAccessPolicy of an organization": lambda one, uri: described(
        one, uri, Scope("", "", "globex")
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_rival_learns_nothing(house: RegionalHouse, one: Member, way: str) -> None:
    """C9: whether or not the key exists, the answer is the same, and costs nobody a KMS call."""
    await prepared(one)
    calls = len(house.provider.calls)
    answers = []
    for name in ("A.two", "A.none"):
        with pytest.raises(KeyHeldByAnotherError) as refused:
            await WAYS[way](one, f"fake:{name}")
        error = refused.value
        assert "acme" not in error.message
        assert name not in error.message
        answers.append((error.reason, error.message, error.field, error.region))
    assert answers[0] == answers[1]
    assert len(house.provider.calls) == calls
    assert OURS not in (*await held(one, "globex"),)


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_is_in_the_log(house: RegionalHouse, one: Member, way: str) -> None:
    """R5, C8: whoever names another organization's key leaves an entry."""
    await prepared(one)
    with pytest.raises(KeyHeldByAnotherError):
        await WAYS[way](one, "fake:A.two")
    await one.settle()
    events = house.store.events(EventQuery(None, newest_first=False, limit=1_000)).events
    assert [event.outcome for event in events].count("KEY_HELD_BY_ANOTHER") == 1


@pytest.mark.parametrize("way", WAYS)
async def test_an_administrator_lets_the_rival_in(one: Member, way: str) -> None:
    """C9: what an administrator allows, each method does; no organization cannot be allowed."""
    await prepared(one)
    await allowed(one, "globex", "FAKE:A", "FAKE:B")
    if "without" in way or "nobody" in way:
        with pytest.raises(KeyHeldByAnotherError):
            await WAYS[way](one, "fake:A.two")
        return
    if way == "CreateKeyLink":
        with pytest.raises(KeyHeldByAnotherError):
            await WAYS[way](one, "fake:A.two")
        await allowed(one, "globex", "FAKE:B")
        await one.replica.organization_service.create(
            asked("CreateOrganization", CreateOrganizationRequest("initech", Settings()))  # type: ignore[arg-type]
        )
        await allowed(one, "initech", "FAKE:A")
    await WAYS[way](one, "fake:A.two")


async def test_the_grant_comes_first(house: RegionalHouse, one: Member) -> None:
    """C1: who may not name a key at all does not even learn that it is held."""
    text = (
        '[[grant]]\ncallers = ["*"]\nroles = ["operator"]\norganizations = ["globex"]\n'
        'keys = [{type = "FAKE", uri = "fake:B.*", principal = "ambient"}]\n'
    )
    who = Caller(parse(text, "p").rights(Identity(("dns:x",), "certificate")))
    with pytest.raises(KeyNotGrantedError):
        await linked(one, "globex", "fake:A.two", who=who)


async def test_a_link_claims_what_it_moves_to(house: RegionalHouse, one: Member) -> None:
    """C9: a move proves the new key for the organization, so its account is the organization's."""
    await prepared(one)
    house.provider.create_key("C.one")
    await moved(one, "globex", "fake:C.one", dry_run=True)
    assert await held(one, "globex") == (Holder("FAKE", "B"),)
    await moved(one, "globex", "fake:C.one")
    assert await held(one, "globex") == (Holder("FAKE", "B"), Holder("FAKE", "C"))
    with pytest.raises(KeyHeldByAnotherError):
        await one.enable("a-2", {"eu": "fake:C.one"}, organization="acme")


async def test_an_account_of_the_vendors_is_nobodys(house: RegionalHouse, one: Member) -> None:
    """C9: keys that the vendor keeps for several organizations do not make one the holder."""
    house.provider.create_key("shared")
    for name, organization in (("a-2", "acme"), ("b-2", "globex")):
        await one.enable(name, {"eu": "fake:shared"}, organization=organization)
    assert await held(one, "acme") == (OURS,)


async def test_another_spelling_is_the_same_account(house: RegionalHouse, one: Member) -> None:
    """C9: holders follow from the canonical form of a uri, and not from how somebody wrote it."""
    with pytest.raises(KeyHeldByAnotherError):
        await one.enable("b-2", {"eu": "fake:///A.two"}, organization="globex")


async def test_a_key_with_an_external_id_is_its_owners(house: RegionalHouse, one: Member) -> None:
    """C2, C9: what the owner's external id guards is not shared, and claims nothing."""
    one_scope = Scope("", "", "globex")
    request = AccessPolicyRequest(role("fake:A.two"), one_scope)
    issued = await one.replica.access_policies.get(caller(), request)
    assert issued.external_id
    await one.enable("b-2", {"eu": role("fake:A.two")}, organization="globex")
    assert await held(one, "globex") == (Holder("FAKE", "B"),)
    # Neither does its use keep acme from its own account.
    await one.enable("a-2", {"eu": "fake:A.one"}, organization="acme")


async def test_the_vendors_own_key_is_nobodys(house: RegionalHouse, one: Member) -> None:
    """C9: many organizations use the PLATFORM key, and none of them holds its account."""
    house.platform[""] = RootKey("FAKE", "fake:P.one")
    house.provider.create_key("P.one")
    for name, organization in (("a-2", "acme"), ("b-2", "globex"), ("c-1", None)):
        await one.enable(name, {"eu": KeySpec("PLATFORM")}, organization=organization)
    assert await held(one, "acme") == (OURS,)
    assert (await one.rotate({"eu": KeySpec("PLATFORM")}, "b-1")).mutation.number


async def test_what_is_there_goes_on(house: RegionalHouse, one: Member) -> None:
    """C9: a region keeps its key through newer versions and Restore, whoever holds the account."""
    await allowed(one, "globex", "FAKE:A")
    await allowed(one, "acme")
    house.provider.new_version("fake:A.one")
    await one.rotate({"eu": None}, "a-1")
    await one.revoke("a-1")
    restored = await one.restore("a-1")
    assert restored.regions == ("eu",)
    await one.enable("a-1", {"eu": "fake:A.one"}, organization="acme")
    with pytest.raises(KeyHeldByAnotherError):
        await one.rotate({"eu": "fake:A.two"}, "a-1")


async def test_two_replicas_race(house: RegionalHouse) -> None:
    """C9: of two organizations that enable on one account at once, one gets it and one an error."""
    first, second = await house.replica(), await house.replica()
    for round_ in range(4):
        account = f"R{round_}"
        house.provider.create_key(f"{account}.one")
        done = await asyncio.gather(
            first.enable(f"a-{round_}", {"eu": f"fake:{account}.one"}, organization=f"o{round_}"),
            second.enable(f"b-{round_}", {"eu": f"fake:{account}.one"}, organization=f"p{round_}"),
            return_exceptions=True,
        )
        kinds = Counter(type(each) for each in done)
        assert kinds[KeyHeldByAnotherError] == 1, done


async def test_only_what_was_proven_is_claimed(house: RegionalHouse, one: Member) -> None:
    """C9: who cannot prove a key gets no account by naming it, nor by a trial."""
    house.provider.create_key("N.one")
    house.provider.disable("fake:N.one")
    with pytest.raises(RefusedError):
        await one.enable("a-2", {"eu": "fake:N.one"}, organization="acme")
    with pytest.raises(KeyfoldError):
        await linked(one, "acme", "fake:N.one")
    await tried(one, "fake:B.one", Scope("", "", "globex"))
    house.provider.create_key("T.one")
    await tried(one, "fake:T.one", Scope("", "", "acme"))
    await one.enable("a-3", {"eu": "fake:T.one"}, organization="acme", validate_only=True)
    assert await held(one, "acme") == (OURS,)


async def test_only_an_administrator_of_all_changes_holders(one: Member) -> None:
    """C9: an organization's own administrator cannot allow it the account of another one."""
    text = '[[grant]]\ncallers = ["*"]\nroles = ["admin"]\norganizations = ["globex"]\n'
    own = Caller(parse(text, "p").rights(Identity(("dns:x",), "certificate")))
    with pytest.raises(NotAllowedError):
        await allowed(one, "globex", "FAKE:A", "FAKE:B", who=own)
    with pytest.raises(NotAllowedError):
        await allowed(one, "globex", who=own)
    # Whoever writes back what was read changes nothing.
    await allowed(one, "globex", "FAKE:B", who=own)
    assert await held(one, "globex") == (Holder("FAKE", "B"),)


@pytest.mark.parametrize(
    "holder",
    ["", "A", "FAKE:", ":A", "LOCAL:/x", "PLATFORM:x", "NONE:A", "FAKE:a\nb", "FAKE:" + "x" * 2000],
)
async def test_what_no_holder_looks_like(one: Member, holder: str) -> None:
    """An allowance that could stand for nothing is refused, and changes nothing."""
    with pytest.raises(InvalidOrganizationError):
        await allowed(one, "globex", holder)
    assert await held(one, "globex") == (Holder("FAKE", "B"),)


class _Naming(RegionalProvider):
    """A KMS that knows the names of its accounts."""

    holder_example = "A"

    def holder(self, name: str) -> str | None:
        return name.upper() if name.isalpha() else None


async def test_an_allowance_is_kept_in_canonical_form(one: Member) -> None:
    """C9: an administrator need not know how the provider writes an account."""
    one.replica._kms._made["FAKE"] = _Naming()
    await allowed(one, "globex", "FAKE:a", "FAKE:A", "FAKE:b")
    assert await held(one, "globex") == (OURS, Holder("FAKE", "B"))
    with pytest.raises(InvalidOrganizationError, match="FAKE:A"):
        await allowed(one, "globex", "FAKE:a/b")


async def test_an_organization_is_not_made_with_holders_it_has_too_many_of() -> None:
    """W5: a list of holders is bounded before anybody looks at it."""
    from keyfold.v1 import organization_service_pb2 as pb
    from keyfold_server.rpc.messages import organizations

    one = pb.Organization(organization="acme", holders=["FAKE:A"] * (MAX_HOLDERS + 1))
    with pytest.raises(InvalidOrganizationError):
        organizations.update_request(pb.UpdateOrganizationRequest(organization=one))
    few = pb.Organization(organization="acme", holders=["FAKE:A"])
    with pytest.raises(InvalidOrganizationError):
        organizations.create_request(pb.CreateOrganizationRequest(organization=few))
