"""Recheck proves root keys now, and can do nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from callers import caller
from keyfold_server.access.policy.grants import Grant, Role
from keyfold_server.access.policy.rights import CachedPolicy, Policy
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    DeadlineError,
    InvalidRecheckError,
    KeyDisabledError,
    KeyNotUsedError,
    NotAllowedError,
    RegionNotFoundError,
    RevokedError,
    StoreStaleError,
    StoreUnavailableError,
    UnreachableError,
)
from keyfold_server.domain.health import Health
from keyfold_server.domain.patterns import Pattern, Patterns
from keyfold_server.domain.rights import Caller, Identity
from keyfold_server.service.life import rechecks
from keyfold_server.service.life.rechecks import RecheckRequest, RecheckResult
from keyfold_server.service.loading import announcements
from replicas import LONG, House, Member, entered, house_in, until


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        built.provider.create_key("other")
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme in region eu, in use."""
    member = await house.replica()
    await member.enable()
    await member.wrap()
    return member


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Timeout]:
    """Gives the time limits that rechecks set, each of which a test can end."""
    made: list[asyncio.Timeout] = []

    def limit(seconds: float) -> asyncio.Timeout:
        made.append(asyncio.timeout(seconds))
        return made[-1]

    patched = SimpleNamespace(**(vars(asyncio) | {"timeout": limit}))
    monkeypatch.setattr(rechecks, "asyncio", patched)
    return made


async def recheck(
    member: Member,
    cluster: str = "acme",
    *regions: str,
    key_uri: str = "",
    within: float = 10.0,
    who: Caller | None = None,
) -> RecheckResult:
    """Makes the call, without waiting for replicas that no test lets poll."""
    member.replica.rechecks._wait = 0.0
    request = RecheckRequest("" if key_uri else cluster, regions, key_uri)
    deadline = member.house.clock.monotonic() + within
    return await member.replica.rechecks.recheck(who or caller(), request, deadline)


def narrowed(role: Role, cluster: str = "*", organization: str | None = None) -> Caller:
    """Makes a caller with one grant."""
    organizations = None if organization is None else Patterns((Pattern(organization),))
    grant = Grant(
        "tests",
        Patterns((Pattern("*"),)),
        frozenset({role}),
        clusters=Patterns((Pattern(cluster),)),
        organizations=organizations,
    )
    return Caller(CachedPolicy(Policy((grant,))).rights(Identity(("someone",), "token")))


def unwraps(house: House) -> list[str]:
    """Lists the uris of root keys that the KMS had to unwrap under."""
    return [call.uri for call in house.provider.calls if call.operation == "unwrap"]


async def test_a_good_key_is_proven_now(house: House, one: Member) -> None:
    """F1: a recheck's unwrap begins after the call, and its proof counts as any other."""
    house.clock.advance(50)
    before = len(unwraps(house))
    [found] = (await recheck(one)).found
    assert (found.health, found.can_unwrap, found.can_wrap) == (Health.HEALTHY, True, True)
    assert found.error is None
    assert len(unwraps(house)) == before + 1
    house.clock.advance(50)
    assert one.serves()


async def test_a_disabled_key_ends_everywhere(house: House, one: Member) -> None:
    """F2: a recheck's refusal drops the key at once here, and elsewhere with the next poll."""
    two = await house.replica()
    await two.wrap()
    house.provider.disable("fake:one")
    assert one.serves()
    assert two.serves()
    result = await recheck(one)
    assert isinstance(result.found[0].error, KeyDisabledError)
    assert (result.found[0].can_unwrap, result.found[0].can_wrap) == (False, None)
    assert not one.serves()
    assert [pending.replica for pending in result.pending] == [two.changes.replica]
    await two.poll()
    assert not two.serves()
    again = await recheck(one)
    assert again.found[0].health is Health.KEY_DISABLED


async def test_it_waits_until_every_replica_has_dropped_the_key(house: House, one: Member) -> None:
    """R4: the answer names the replicas that have dropped what the KMS refused."""
    two = await house.replica()
    await two.wrap()
    house.provider.disable("fake:one")
    call = asyncio.create_task(
        one.replica.rechecks.recheck(
            caller(), RecheckRequest("acme", (), ""), house.clock.monotonic() + 10
        )
    )
    await until(lambda: not one.serves())
    while not call.done():
        await two.poll()
        await one.poll()
        await asyncio.sleep(0)
    result = await call
    assert result.pending == ()
    assert set(result.confirmed) == {one.changes.replica, two.changes.replica}


async def test_a_refusal_met_again_is_told_within_seconds(house: House, one: Member) -> None:
    """F2b: whoever asks about a key does not wait out the pause between two announcements."""
    two = await house.replica()
    house.provider.disable("fake:one")
    await recheck(one)
    await two.poll()
    house.provider.enable("fake:one")
    await two.wrap()
    house.provider.disable("fake:one")
    house.clock.advance(announcements.HASTENED)
    assert two.serves()
    result = await recheck(one)
    assert [pending.replica for pending in result.pending] == [two.changes.replica]
    await two.poll()
    assert not two.serves()


async def test_a_key_that_works_again_serves_again(house: House, one: Member) -> None:
    """R7: a recheck resumes nothing by hand: the KMS's own answer does."""
    house.provider.disable("fake:one")
    await recheck(one)
    assert not one.serves()
    house.provider.enable("fake:one")
    assert (await recheck(one)).found[0].health is Health.HEALTHY
    assert one.serves()


async def test_it_restores_nothing(house: House, one: Member) -> None:
    """R7: a revoked region stays revoked, and its KMS is not asked."""
    await one.revoke()
    before = len(unwraps(house))
    assert (await recheck(one)).found == ()
    [named] = (await recheck(one, "acme", "eu")).found
    assert isinstance(named.error, RevokedError)
    assert (named.health, named.can_unwrap) == (Health.UNKNOWN, None)
    assert len(unwraps(house)) == before
    with pytest.raises(KeyNotUsedError):
        await recheck(one, key_uri="fake:one")


async def test_an_outage_is_no_refusal(house: House, one: Member) -> None:
    """F6: where the KMS cannot be asked, the answer says so, and the key goes on serving."""
    one.cut_off()
    result = await recheck(one)
    [found] = result.found
    assert isinstance(found.error, UnreachableError)
    assert (found.health, found.can_unwrap) == (Health.UNREACHABLE, None)
    assert (result.confirmed, result.pending) == ((), ())
    assert one.serves()


async def test_a_key_that_only_unwraps_is_named(house: House, one: Member) -> None:
    """F5: a recheck asks the root key to wrap, too, and that alone ends no use."""
    house.provider.deny("fake:one", "wrap")
    [found] = (await recheck(one)).found
    assert (found.health, found.can_unwrap, found.can_wrap) == (Health.HEALTHY, True, False)
    assert found.wrap_error is not None
    assert one.serves()


async def test_each_region_is_proven_by_itself(house: House, one: Member) -> None:
    """F4: a recheck of a cluster proves each region's KEK; one that fails hides no other."""
    await one.add_regions({"us": "fake:other"})
    house.provider.disable("fake:other")
    found = {each.region: each for each in (await recheck(one)).found}
    assert found["eu"].health is Health.HEALTHY
    assert found["us"].health is Health.KEY_DISABLED
    assert [each.region for each in (await recheck(one, "acme", "us")).found] == ["us"]


async def test_a_uri_stands_for_each_root_key_once(house: House, one: Member) -> None:
    """S12: a key that many regions use is proven once for each of its versions."""
    for name in ("b", "c", "d"):
        await one.enable(name)
    house.provider.new_version("fake:one")
    await one.rotate(cluster="d")
    before = len(unwraps(house))
    result = await recheck(one, key_uri="fake:one")
    versions = [e.generation.current.key_version for e in result.found if e.generation is not None]
    assert len(versions) == len(set(versions)) == 2
    assert len(unwraps(house)) == before + 2
    assert not result.more


async def test_a_call_proves_a_bounded_number_of_keys(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where more root keys have the uri than one call proves, the answer says so."""
    monkeypatch.setattr(rechecks, "MOST_KEYS", 1)
    await one.enable("b")
    house.provider.new_version("fake:one")
    await one.rotate(cluster="b")
    result = await recheck(one, key_uri="fake:one")
    assert len(result.found) == 1
    assert result.more


async def test_a_call_names_a_cluster_or_a_key(one: Member) -> None:
    """The request names one of both, and the error says so."""
    for request in (
        RecheckRequest("", (), ""),
        RecheckRequest("acme", (), "fake:one"),
        RecheckRequest("", ("eu",), "fake:one"),
    ):
        with pytest.raises(InvalidRecheckError, match="either"):
            await one.replica.rechecks.recheck(caller(), request, 1e9)


async def test_what_does_not_exist_is_named(one: Member) -> None:
    """A typo in a customer's automation is an error, and never an empty success."""
    with pytest.raises(ClusterNotFoundError):
        await recheck(one, "nobody")
    with pytest.raises(RegionNotFoundError):
        await recheck(one, "acme", "nowhere")
    with pytest.raises(KeyNotUsedError):
        await recheck(one, key_uri="fake:nobody")


async def test_a_hidden_cluster_looks_like_none(house: House, one: Member) -> None:
    """C7, C8: a caller rechecks what its grants cover; all else looks as if it were not there."""
    await one.enable("rival", {"eu": "fake:other"}, organization="rival")
    await one.enable("mine", organization="acme")
    who = narrowed(Role.AUDITOR, organization="acme")
    with pytest.raises(ClusterNotFoundError):
        await recheck(one, "rival", who=who)
    with pytest.raises(KeyNotUsedError):
        await recheck(one, key_uri="fake:other", who=who)
    [found] = (await recheck(one, key_uri="fake:one", who=who)).found
    assert found.cluster == "mine"
    with pytest.raises(NotAllowedError):
        await recheck(one, who=narrowed(Role.WRAP))


async def test_a_kms_that_hangs_costs_the_caller_its_deadline_alone(
    house: House, one: Member, limits: list[asyncio.Timeout]
) -> None:
    """W1: the call answers before its deadline, and says that the KMS has not."""
    hang = house.provider.hang()
    rechecking = asyncio.create_task(recheck(one, within=LONG))
    await entered(hang)
    limits[0].reschedule(0.0)
    [found] = (await rechecking).found
    assert isinstance(found.error, DeadlineError)
    assert found.can_unwrap is None


async def test_a_stale_replica_proves_nothing(house: House, one: Member) -> None:
    """S3: a replica that has not seen the store for too long refuses."""
    house.clock.advance(200)
    with pytest.raises(StoreStaleError):
        await recheck(one)


async def test_a_refusal_that_the_store_does_not_take_leaves_others_pending(
    house: House, one: Member, limits: list[asyncio.Timeout]
) -> None:
    """F2: where the others cannot know of a refusal yet, no answer says that they do."""
    house.provider.disable("fake:one")
    one.line.fail("refused", StoreUnavailableError("the store is away"))
    rechecking = asyncio.create_task(recheck(one, within=LONG))
    await until(lambda: len(limits) == 2)  # It waits for the store to take the refusal.
    limits[1].reschedule(0.0)
    result = await rechecking
    assert not one.serves()
    assert [pending.replica for pending in result.pending] == ["unknown"]
    one.line.mend()
