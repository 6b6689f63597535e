"""DeleteCluster and UndeleteCluster up to the erasure (protocol D1, D2, D4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ClusterRevokedError,
    ConcurrentChangeError,
    InvalidReasonError,
    InvalidWaitingPeriodError,
    KeyDeletedError,
    NotAllowedError,
    NotDeletedError,
    NotRevokedError,
    RegionNotFoundError,
    RegionsNotChosenError,
    RequestIdReusedError,
    RevokedError,
    StoreUnavailableError,
)
from keyfold_server.domain.events import EventFilter
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.domain.usage import MINUTE, UsageKey
from keyfold_server.service.life.deletion import DeleteClusterRequest
from keyfold_server.service.life.reports import ClusterReport
from keyfold_server.service.life.revocation import RetireGenerationRequest
from replicas import House, Member, entered, house_in

_DAY = 86_400


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme, revoked in regions eu and us under fake:one."""
    member = await house.replica()
    await member.enable(specs={"eu": "fake:one", "us": "fake:one"})
    await member.wrap()
    await member.revoke()
    return member


def states(house: House, cluster: str = "acme") -> dict[str, State]:
    """Reads the states that the store has."""
    found = house.store.cluster(cluster)
    assert found is not None
    return {region.name: region.state for region in found.regions}


def now(house: House) -> int:
    """Returns milliseconds of Unix time, by the store's clock."""
    return int(house.clock.wall() * 1000)


def granted(*grants: str) -> Rights:
    """Returns the rights of a caller with these grants."""
    me = Identity(("dns:me.example",), "certificate")
    text = "".join(f'[[grant]]\ncallers = ["{me.name}"]\n{grant}\n' for grant in grants)
    return parse(text, "policy.toml").rights(me)


# --- what a deletion does ---


async def test_a_deletion_waits_and_can_be_taken_back(house: House, one: Member) -> None:
    """D1, D2: for 7 days the regions are DELETED; UndeleteCluster returns them to REVOKED."""
    done = await one.delete()
    assert set(states(house).values()) == {State.DELETED}
    assert done.purge_time == now(house) + 7 * _DAY * 1000
    assert (done.confirmed, done.pending) == ((one.changes.replica,), ())
    house.clock.advance(7 * _DAY - 1)
    await one.poll()
    back = await one.undelete()
    assert {region.state for region in back.cluster.regions} == {State.REVOKED}
    assert {region.purge_time for region in back.cluster.regions} == {None}
    await one.restore()
    await one.wrap()


async def test_a_deletion_taken_back_needs_no_kms(house: House, one: Member) -> None:
    """D2: with no KMS in reach, neither method fails, and neither asks one."""
    house.provider.disconnect()
    before = len(house.provider.calls)
    await one.delete(days=1)
    house.clock.advance(_DAY - 1)
    await one.poll()
    await one.undelete()
    assert set(states(house).values()) == {State.REVOKED}
    assert len(house.provider.calls) == before


async def test_only_the_named_regions_go(house: House, one: Member) -> None:
    """D1: other regions stay as they are; all named regions go or none does."""
    with pytest.raises(RegionNotFoundError):
        await one.delete(regions=["us", "mars"])
    await one.restore(regions=["eu"])
    with pytest.raises(NotRevokedError) as refused:
        await one.delete(regions=["us", "eu"])
    assert refused.value.region == "eu"
    assert "call Revoke" in refused.value.message
    with pytest.raises(NotRevokedError):
        await one.delete()
    assert states(house) == {"eu": State.ENABLED, "us": State.REVOKED}
    await one.delete(regions=["us"])
    assert states(house) == {"eu": State.ENABLED, "us": State.DELETED}
    await one.wrap()


async def test_all_regions_means_those_at_the_commit(house: House, one: Member) -> None:
    """D1, R1: a region that was added meanwhile is not left out; it is in use, so nothing goes."""
    held = one.line.hold("usage", answered=True)
    deleting = asyncio.create_task(one.delete())
    await held.reached()
    two = await house.replica()
    await two.add_regions({"ap": "fake:one"}, into_revoked=True)
    one.line.let_go("usage")
    with pytest.raises(NotRevokedError):
        await deleting
    assert State.DELETED not in states(house).values()


@pytest.mark.parametrize(
    ("regions", "all_regions", "field"), [((), False, "regions"), (("eu",), True, "all_regions")]
)
async def test_a_deletion_says_which_regions(
    one: Member,
    regions: tuple[str, ...],
    all_regions: bool,  # noqa: FBT001
    field: str,
) -> None:
    """D1: neither regions nor all_regions is no request, and neither are both."""
    request = DeleteClusterRequest("acme", regions, all_regions, None, "", validate_only=False)
    with pytest.raises(RegionsNotChosenError) as refused:
        await one.replica.deletion.delete(one.asked("DeleteCluster", request))
    assert refused.value.field == field
    assert "all_regions" in refused.value.message


@pytest.mark.parametrize("days", [-1, -0.001, 90.001, 1e6])
async def test_bounds_of_the_waiting_period(one: Member, days: float) -> None:
    """D1: a waiting period is 0 to 90 days."""
    with pytest.raises(InvalidWaitingPeriodError, match="0 to 90 days"):
        await one.delete(days=days)


async def test_the_reason_has_a_bound(one: Member) -> None:
    """A reason fits the audit trail."""
    request = DeleteClusterRequest("acme", ("eu",), False, None, "x" * 1025, validate_only=False)  # noqa: FBT003
    with pytest.raises(InvalidReasonError):
        await one.replica.deletion.delete(one.asked("DeleteCluster", request))


async def test_deleting_twice(house: House, one: Member) -> None:
    """The same period changes nothing, and has the same answer; another one is refused."""
    first = await one.delete(days=3)
    house.clock.advance(60)
    again = await one.delete(days=3)
    assert (again.purge_time, again.losses) == (first.purge_time, first.losses)
    with pytest.raises(KeyDeletedError, match="UndeleteCluster first") as refused:
        await one.delete(days=4)
    assert refused.value.field == "waiting_period"
    with pytest.raises(KeyDeletedError):
        await one.delete()
    assert (await one.status()).regions[0].region.purge_time == first.purge_time


async def test_undeleting_what_is_not_deleted(house: House, one: Member) -> None:
    """A revoked region stays revoked; one in use is refused; a free name is NOT_FOUND."""
    await one.undelete()
    assert set(states(house).values()) == {State.REVOKED}
    await one.restore(regions=["eu"])
    with pytest.raises(NotDeletedError):
        await one.undelete(regions=["eu"])
    with pytest.raises(RegionNotFoundError):
        await one.undelete(regions=["mars"])
    with pytest.raises(ClusterNotFoundError):
        await one.undelete("nobody")
    await one.delete(regions=["us"])
    await one.undelete()
    assert states(house) == {"eu": State.ENABLED, "us": State.REVOKED}


# --- what a deleted region refuses ---


Use = Callable[[Member], Awaitable[object]]

USES: dict[str, Use] = {
    "Wrap": lambda m: m.wrap(region="us"),
    "Rotate": lambda m: m.rotate({"us": None}),
    "Restore": lambda m: m.restore(regions=["us"]),
    "Enable": lambda m: m.enable(specs={"eu": "fake:one", "us": "fake:one"}),
    "RetireGeneration": lambda m: m.replica.revocation.retire(
        m.asked("RetireGeneration", RetireGenerationRequest("acme", "us", 1, False, ""))  # noqa: FBT003
    ),
}


@pytest.mark.parametrize("use", USES)
async def test_a_deleted_region_serves_nothing(house: House, one: Member, use: str) -> None:
    """Every use of a deleted region says KEY_DELETED, when it goes, and what to do."""
    await one.restore()
    await one.revoke(regions=["us"])
    await one.delete(regions=["us"], days=1)
    with pytest.raises(KeyDeletedError) as refused:
        await USES[use](one)
    goes = datetime.fromtimestamp(house.clock.wall() + _DAY, UTC)
    assert f"{goes:%Y-%m-%dT%H:%M:%SZ}" in refused.value.message
    assert "UndeleteCluster" in refused.value.message
    assert (refused.value.cluster, refused.value.region) == ("acme", "us")


async def test_what_a_deleted_region_wrapped_stays_shut(one: Member) -> None:
    """Unwrap of a deleted region's keys says KEY_DELETED, and opens them once it is restored."""
    await one.restore()
    blob = await one.wrap()
    await one.revoke()
    await one.delete()
    with pytest.raises(KeyDeletedError):
        await one.unwrap(blob)
    await one.undelete()
    with pytest.raises(RevokedError):
        await one.unwrap(blob)
    await one.restore()
    await one.unwrap(blob)


async def test_a_deleted_region_is_not_added_again(house: House, one: Member) -> None:
    """AddRegions of a deleted region makes nothing, whatever its spec."""
    await one.delete()
    with pytest.raises(KeyDeletedError):
        await one.add_regions({"us": "fake:one"}, into_revoked=True)
    with pytest.raises(KeyDeletedError):
        await one.add_regions({"us": "fake:two"}, into_revoked=True)
    # Restore alone would be refused, too.
    with pytest.raises(ClusterRevokedError, match="is deleted; call UndeleteCluster and Restore"):
        await one.add_regions({"ap": "fake:one"})
    assert states(house) == {"eu": State.DELETED, "us": State.DELETED}


async def test_revoke_leaves_a_deletion(house: House, one: Member) -> None:
    """R1: Revoke of a deleted region succeeds, and its purge time stays."""
    purge_time = (await one.delete()).purge_time
    house.clock.advance(60)
    await one.poll()
    revoked = await one.revoke()
    assert {r.state for r in revoked.mutation.cluster.regions} == {State.DELETED}
    assert {r.purge_time for r in revoked.mutation.cluster.regions} == {purge_time}


async def test_restore_of_all_takes_back_what_is_revoked(house: House, one: Member) -> None:
    """A Restore that names no region restores the revoked ones; with none, it says why."""
    await one.delete(regions=["us"])
    await one.restore()
    assert states(house) == {"eu": State.ENABLED, "us": State.DELETED}
    await one.revoke()
    await one.delete(regions=["eu"])
    with pytest.raises(KeyDeletedError):
        await one.restore()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.rotate({"eu": "fake:two"}), id="rotate"),
        pytest.param(lambda m: m.add_regions({"ap": "fake:one"}), id="add"),
    ],
)
async def test_a_change_proven_meanwhile_is_not_committed_over_it(
    house: House, one: Member, change: Use
) -> None:
    """R1: a change of the cluster that was proving a key while regions were deleted loses."""
    await one.restore(regions=["eu"])
    hang = house.provider.hang(operations=("wrap",), answered=True)
    changing = asyncio.ensure_future(change(one))
    await entered(hang)
    await one.revoke()
    await one.delete()
    house.provider.mend()
    with pytest.raises(ConcurrentChangeError):
        await changing
    assert states(house) == {"eu": State.DELETED, "us": State.DELETED}


async def test_a_restore_does_not_undo_a_later_deletion(house: House, one: Member) -> None:
    """R1, R7: a Restore whose proof began before a deletion commits nothing."""
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    restoring = asyncio.create_task(one.restore())
    await entered(hang)
    await one.delete()
    house.provider.mend()
    with pytest.raises(ConcurrentChangeError):
        await restoring
    assert set(states(house).values()) == {State.DELETED}


async def test_two_replicas_delete_at_once(house: House, one: Member) -> None:
    """Both succeed with one purge time, by the store's clock; nothing is lost."""
    two = (await house.replica()).hurry()
    one.hurry()
    held = [member.line.hold("apply") for member in (one, two)]
    deleting = [asyncio.create_task(member.delete(days=1)) for member in (one, two)]
    for each in held:
        await each.reached()
    for member in (one, two):
        member.line.let_go("apply")
    first, second = await asyncio.gather(*deleting)
    assert first.purge_time == second.purge_time == now(house) + _DAY * 1000


# --- what it tells ---


async def test_what_becomes_unreadable(house: House, one: Member) -> None:
    """D1, D4: each generation with its last use, the region's uses of 30 days, and two times."""
    await one.restore()
    await one.rotate(new_generation=True)
    await one.wrap()
    await one.flush_uses()
    used = now(house)
    key = UsageKey(used - used % MINUTE, "acme", "eu", "me", "Wrap", "OK")
    old = key._replace(time=key.time - 31 * _DAY * 1000)
    failed = key._replace(outcome="REVOKED")
    other = key._replace(cluster="acme2")
    house.store.count_usage("w", 1, {key: 3, key._replace(caller="you"): 4}, 32 * _DAY * 1000)
    house.store.count_usage("w", 2, {old: 10, failed: 20, other: 40}, 32 * _DAY * 1000)
    await one.revoke()
    planned = await one.delete(validate_only=True)
    assert set(states(house).values()) == {State.REVOKED}
    assert [(loss.region, loss.generation.number, loss.recent_uses) for loss in planned.losses] == [
        ("eu", 1, 7),
        ("eu", 2, 7),
        ("us", 1, 0),
    ]
    assert planned.losses[1].last_use is not None
    assert planned.losses[2].last_use is None
    assert planned.report is not None
    assert {r.region.state for r in planned.report.regions} == {State.DELETED}
    assert planned.purge_time == used + 7 * _DAY * 1000
    assert planned.final_after == planned.purge_time + 30 * _DAY * 1000
    done = await one.delete()
    assert (done.losses, done.purge_time) == (planned.losses, planned.purge_time)
    assert done.final_after == planned.final_after
    assert house.trail("acme")[-2:] == [
        ("local", "rpc:cluster:deletecluster", "validated"),
        ("local", "rpc:cluster:deletecluster", "done"),
    ]


async def test_a_deletion_that_cannot_say_what_is_lost_does_not_happen(
    house: House, one: Member
) -> None:
    """A store that does not answer what was used changes nothing; the answer is never a guess."""
    one.line.fail("usage", StoreUnavailableError("no"), times=1)
    with pytest.raises(StoreUnavailableError):
        await one.delete()
    assert set(states(house).values()) == {State.REVOKED}


async def test_what_the_status_warns_of(house: House, one: Member) -> None:
    """D4: what is lost and when, how to take it back, when it is final, and what is at once."""
    done = await one.delete(regions=["us"], days=1)
    kept, goes = (await one.status()).regions
    assert (kept.notices, kept.final_after) == ((), None)
    assert goes.final_after == done.final_after
    at = f"{datetime.fromtimestamp(house.clock.wall() + _DAY, UTC):%Y-%m-%dT%H:%M:%SZ}"
    final = f"{datetime.fromtimestamp(house.clock.wall() + 31 * _DAY, UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert goes.notices == (
        (
            f"deleted: after {at} Keyfold erases the keys, and nothing opens any more what "
            "generation 1 wrapped; UndeleteCluster takes it back until then"
        ),
        (
            f"backups may hold the keys until {final}; destroying the root key at its KMS is final "
            "at once, for everything under that root key"
        ),
    )


async def test_the_status_of_a_deleted_region_asks_no_kms(house: House, one: Member) -> None:
    """A status of a deleted region makes no call, however old its last check is."""
    await one.delete()
    house.clock.advance(3_600)
    await one.poll()
    before = len(house.provider.calls)
    await one.status()
    await one.sweep()
    assert len(house.provider.calls) == before


async def test_lists_find_deleted_regions(one: Member) -> None:
    """ListClusters filters by the state DELETED."""
    await one.enable("other")
    await one.delete(regions=["us"])

    async def named(state: State) -> list[str]:
        found = await one.replica.listing.page(one.rights, ClusterFilter(state=state), 10, "")
        return [each.cluster.name for each in found.entries if isinstance(each, ClusterReport)]

    assert await named(State.DELETED) == ["acme"]
    assert await named(State.REVOKED) == ["acme"]
    assert await named(State.ENABLED) == ["other"]


async def test_the_log_tells_who_deleted_what_and_when_it_goes(house: House, one: Member) -> None:
    """S0: deletion and undeletion are decisions with the regions, the states and the purge time."""
    done = await one.delete(regions=["us"])
    await one.undelete()
    found = await one.replica.events.page(one.rights, EventFilter(), 2, "", newest_first=True)
    undeleted, deleted = (shown.event for shown in found.events)
    assert (deleted.kind, deleted.action) == (EntryKind.DECISION, "rpc:cluster:deletecluster")
    assert (undeleted.kind, undeleted.action) == (EntryKind.DECISION, "rpc:cluster:undeletecluster")
    assert deleted.regions == undeleted.regions == ("us",)
    assert deleted.decision is not None
    assert deleted.decision["regions"]["us"]["state"] == "DELETED"
    assert deleted.decision["regions"]["us"]["purge_time"] == done.purge_time
    assert deleted.message == "to be erased after 7 days; UndeleteCluster takes it back until then"
    assert undeleted.decision is not None
    assert undeleted.decision["regions"]["us"]["state"] == "REVOKED"


# --- request ids ---


async def test_a_repeated_deletion_answers_from_now(house: House, one: Member) -> None:
    """R6: the same request_id deletes once; after an Undelete it does not delete again."""
    first = await one.delete(request_id="r")
    again = await one.delete(request_id="r")
    assert (again.mutation.replayed, again.mutation.superseded) == (True, False)
    assert (again.purge_time, again.losses) == (first.purge_time, first.losses)
    await one.undelete(request_id="u")
    late = await one.delete(request_id="r")
    assert (late.mutation.replayed, late.mutation.superseded) == (True, True)
    assert (late.purge_time, late.final_after, late.losses) == (None, None, ())
    assert set(states(house).values()) == {State.REVOKED}
    await one.delete(request_id="s")
    back = await one.undelete(request_id="u")
    assert (back.replayed, back.superseded) == (True, True)
    assert set(states(house).values()) == {State.DELETED}
    with pytest.raises(RequestIdReusedError):
        await one.delete(request_id="r", days=1)


# --- rights ---


@pytest.mark.parametrize("role", ["operator", "auditor", "crypto"])
async def test_only_a_destroyer_deletes(house: House, one: Member, role: str) -> None:
    """D1: deleting, and taking it back, have a role of their own; an operator lacks it."""
    one.rights = granted(f'roles = ["{role}"]')
    with pytest.raises(NotAllowedError, match="destroyer"):
        await one.delete()
    with pytest.raises(NotAllowedError, match="destroyer"):
        await one.delete(validate_only=True)
    with pytest.raises(NotAllowedError, match="destroyer"):
        await one.undelete()
    one.rights = granted('roles = ["destroyer"]')
    await one.delete()
    await one.undelete()
    with pytest.raises(NotAllowedError):
        await one.restore()
    assert set(states(house).values()) == {State.REVOKED}


async def test_a_destroyer_of_some_regions_names_them(house: House, one: Member) -> None:
    """C7: a grant for some regions deletes neither others nor all, and shows no others."""
    one.rights = granted('roles = ["destroyer"]\nregions = ["us"]')
    with pytest.raises(NotAllowedError, match="name the regions"):
        await one.delete()
    with pytest.raises(RegionNotFoundError):
        await one.delete(regions=["eu"])
    done = await one.delete(regions=["us"])
    assert done.report is not None
    assert [each.region.name for each in done.report.regions] == ["us"]
    with pytest.raises(NotAllowedError, match="name the regions"):
        await one.undelete()
    await one.undelete(regions=["us"])
    assert set(states(house).values()) == {State.REVOKED}
