"""The life of a key: Enable, AddRegions, Rotate, Restore, GetStatus, ListClusters, R6."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from audit_chain import verified_events
from builders import a_region
from callers import EVERYTHING
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.changes import with_more_regions
from keyfold_server.domain.errors import (
    ClusterExistsError,
    ClusterNotFoundError,
    ClusterRevokedError,
    DuplicateRegionError,
    InvalidKeySpecError,
    InvalidNameError,
    InvalidPageError,
    InvalidRequestIdError,
    KeyDisabledError,
    KeyfoldError,
    KeyInvalidError,
    KeyNotFoundError,
    KeySpecMissingError,
    OrganizationMismatchError,
    RegionExistsError,
    RegionMismatchError,
    RegionNotFoundError,
    RequestIdReusedError,
    RequestInProgressError,
    RevokedError,
    TooManyRegionsError,
    UnknownProviderError,
    UnreachableError,
)
from keyfold_server.domain.health import Health
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RegionSpec, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.rpc.messages import replies
from keyfold_server.service.life.listing import Page, page_token
from keyfold_server.service.life.reports import ClusterReport, RegionReport
from replicas import House, Member, entered, house_in


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with nothing in its store."""
    return await house.replica()


# Enable


async def test_enable_proves_every_key_before_it_stores_anything(house: House, one: Member) -> None:
    """Enable stores all regions or none, and the error names each region that failed."""
    with pytest.raises(KeyNotFoundError) as caught:
        await one.enable(specs={"eu": "fake:one", "us": "fake:none", "ap": "fake:nil"})
    assert "region ap" in caught.value.message
    assert "region us" in caught.value.message
    assert "region eu" not in caught.value.message
    assert house.store.cluster("acme") is None
    with pytest.raises(ClusterNotFoundError):
        await one.wrap()
    await one.enable()
    assert {c.operation for c in house.provider.calls if c.uri == "fake:one"} >= {"wrap", "unwrap"}


async def test_a_key_that_does_not_unwrap_what_it_wrapped_is_refused(
    house: House, one: Member
) -> None:
    """A key is proven once it wrapped, unwrapped, and the two were compared."""
    house.provider.wrong_plaintext("fake:one")
    with pytest.raises(KeyInvalidError):
        await one.enable()
    house.provider.deny("fake:two", "unwrap")
    with pytest.raises(KeyfoldError):
        await one.enable(specs={"eu": "fake:two"})
    assert house.store.cluster("acme") is None


async def test_enable_names_the_region_without_a_spec(one: Member) -> None:
    """If the request lists regions, the error names a region without a spec."""
    with pytest.raises(KeySpecMissingError) as missing:
        await one.enable(specs={"eu": "fake:one", "us": None}, regions=["eu", "us", "ap"])
    assert "us, ap" in missing.value.message
    with pytest.raises(RegionMismatchError):
        await one.enable(specs={"eu": "fake:one", "us": "fake:one"}, regions=["eu"])
    with pytest.raises(KeySpecMissingError):
        await one.enable(specs={})
    with pytest.raises(InvalidNameError):
        await one.enable("../acme")
    with pytest.raises(DuplicateRegionError):
        await one.enable(regions=["eu", "eu"])
    with pytest.raises(TooManyRegionsError):
        await one.enable(specs={f"r-{i}": "fake:one" for i in range(65)})
    with pytest.raises(UnknownProviderError):
        await one.enable(specs={"eu": KeySpec("NOPE", "x")})
    with pytest.raises(InvalidKeySpecError):
        await one.enable(specs={"eu": "PLATFORM"})


async def test_enable_again(house: House, one: Member) -> None:
    """The same specs change nothing; others get CLUSTER_EXISTS; a revoked cluster, REVOKED."""
    specs = {"eu": "fake:one", "us": "fake:two"}
    await one.enable(specs=specs, organization="org")
    before = house.store.cluster("acme")
    again = await one.enable(specs=specs, organization="org")
    assert (again.number, again.cluster) == (None, before)
    assert house.store.cluster("acme") == before
    for other in ({"eu": "fake:one"}, {"eu": "fake:two", "us": "fake:two"}):
        with pytest.raises(ClusterExistsError):
            await one.enable(specs=other, organization="org")
    with pytest.raises(ClusterExistsError):
        await one.enable(specs=specs)
    await one.revoke(regions=["us"])
    with pytest.raises(RevokedError):
        await one.enable(specs=specs, organization="org")


async def test_validate_only_stores_nothing(house: House, one: Member) -> None:
    """With validate_only Enable tries everything and stores nothing."""
    done = await one.enable(validate_only=True)
    assert done.cluster.region("eu").state is State.ENABLED
    assert house.store.cluster("acme") is None
    await one.enable()
    before = house.store.cluster("acme")
    await one.add_regions({"us": "fake:two"}, validate_only=True)
    rotated = await one.rotate({"eu": "fake:two"}, validate_only=True)
    assert rotated.mutation.cluster.region("eu").key_spec.uri == "fake:two"
    assert house.store.cluster("acme") == before
    house.provider.disable("fake:two")
    with pytest.raises(KeyDisabledError):
        await one.rotate({"eu": "fake:two"}, validate_only=True)


async def test_two_enables_at_once_make_one_cluster(house: House, one: Member) -> None:
    """Of two requests that race, one wins and the other changes nothing."""
    results = await asyncio.gather(*(one.enable() for _ in range(4)), return_exceptions=True)
    assert sum(not isinstance(r, BaseException) for r in results) >= 1
    found = house.store.cluster("acme")
    assert found is not None
    assert found.version == 1


async def test_add_regions(house: House, one: Member) -> None:
    """The same spec changes nothing, another is REGION_EXISTS; all regions or none."""
    await one.enable(organization="org")
    await one.add_regions({"us": "fake:two", "eu": "fake:one"})
    await one.wrap(region="us")
    before = house.store.cluster("acme")
    assert (await one.add_regions({"us": "fake:two"})).number is None
    with pytest.raises(RegionExistsError):
        await one.add_regions({"us": "fake:one", "ap": "fake:one"})
    with pytest.raises(RegionExistsError):
        await one.add_regions(
            {"us": RegionSpec("us", KeySpec("FAKE", "fake:two"), RegionPolicy(1))}
        )
    with pytest.raises(KeyNotFoundError):
        await one.add_regions({"ap": "fake:one", "sa": "fake:none"})
    with pytest.raises(OrganizationMismatchError):
        await one.add_regions({"ap": "fake:one"}, organization="other")
    with pytest.raises(ClusterNotFoundError):
        await one.add_regions({"ap": "fake:one"}, "nobody")
    assert house.store.cluster("acme") == before


async def test_no_region_is_added_to_a_revoked_cluster_unawares(house: House, one: Member) -> None:
    """R10: it needs `into_revoked`; a refusal makes no KMS call, and stands in the audit trail."""
    await one.enable(specs={"eu": "fake:one", "us": "fake:one"})
    await one.revoke(regions=["eu"])
    await one.add_regions({"ap": "fake:one"})
    await one.revoke()
    calls = len(house.provider.calls)
    for validate_only in (False, True):
        with pytest.raises(ClusterRevokedError, match="every region of cluster acme is revoked"):
            await one.add_regions({"sa": "fake:two"}, validate_only=validate_only)
    assert len(house.provider.calls) == calls
    assert house.trail("acme")[-1][1:] == ("rpc:cluster:addregions", "CLUSTER_REVOKED")
    assert (await one.add_regions({"eu": "fake:one"})).number is None
    added = await one.add_regions({"sa": "fake:two"}, into_revoked=True)
    states = {region.name: region.state for region in added.cluster.regions}
    assert states.pop("sa") is State.ENABLED
    assert set(states.values()) == {State.REVOKED}
    await one.wrap(region="sa")
    await one.revoke()
    await one.restore(regions=["eu"])
    await one.add_regions({"me": "fake:two"})


async def test_the_commit_looks_again_whether_a_cluster_is_revoked(
    house: House, one: Member
) -> None:
    """R10: what was decided before holds for the cluster as the store has it."""
    await one.enable()
    await one.revoke()
    revoked = house.store.cluster("acme")
    assert revoked is not None
    for into_revoked in (True, False):
        decide = with_more_regions(revoked, [a_region("us")], 1, into_revoked=into_revoked)
        if into_revoked:
            assert decide(revoked).cluster.version == revoked.version + 1
        else:
            with pytest.raises(ClusterRevokedError):
                decide(revoked)


# Rotate


async def test_rotate_to_a_new_version(house: House, one: Member) -> None:
    """Rotate re-wraps under the newest version; the old one is needed until then, not after."""
    await one.enable()
    blob = await one.wrap()
    version = house.provider.new_version("fake:one")
    rotated = await one.rotate()
    assert rotated.mutation.cluster.region("eu").newest.current.key_version == version
    house.provider.delete("fake:one", "1")
    one.loads.drop_all()
    opened = await one.unwrap(blob)
    assert (opened.plaintext, opened.generation) == (b"k" * 32, 1)
    assert (await one.rewrap(blob))[2]


async def test_rotate_to_another_key(house: House, one: Member) -> None:
    """After a move the old key is not needed, and only the named regions have moved."""
    await one.enable(specs={"eu": "fake:one", "us": "fake:one"})
    blobs = {region: await one.wrap(region=region) for region in ("eu", "us")}
    before = house.store.cluster("acme")
    assert before is not None
    await one.rotate({"eu": "fake:two"})
    after = house.store.cluster("acme")
    assert after is not None
    assert after.region("us") == before.region("us")
    assert after.region("eu").key_spec == KeySpec("FAKE", "fake:two")
    [old] = house.store.superseded_wraps("acme")
    assert old.root.uri == "fake:one"
    assert not hasattr(old, "ciphertext")
    house.provider.delete("fake:one")
    one.loads.drop_all()
    await one.unwrap(blobs["eu"])
    with pytest.raises(KeyNotFoundError):
        await one.unwrap(blobs["us"])


async def test_a_rotation_that_fails_changes_nothing(house: House, one: Member) -> None:
    """If an old or a new key fails in one of two regions, everything stays as it was."""
    await one.enable(specs={"eu": "fake:one", "us": "fake:one"})
    blob = await one.wrap()
    before = house.store.cluster("acme")
    with pytest.raises(KeyNotFoundError):
        await one.rotate({"us": "fake:two", "eu": "fake:none"})
    house.provider.deny("fake:two", "unwrap")
    with pytest.raises(KeyfoldError):
        await one.rotate({"eu": "fake:two"})
    house.provider.allow("fake:two")
    house.provider.disable("fake:one")
    with pytest.raises(KeyDisabledError):
        await one.rotate({"eu": "fake:two"})
    house.provider.enable("fake:one")
    house.provider.disconnect("fake:two")
    with pytest.raises(UnreachableError):
        await one.rotate({"eu": "fake:two"})
    with pytest.raises(RegionNotFoundError):
        await one.rotate({"eu": None, "mars": None})
    with pytest.raises(KeySpecMissingError):
        await one.rotate({})
    assert house.store.cluster("acme") == before
    await house.after(5)  # For so long the replica remembers the old key's refusal.
    await one.unwrap(blob)


async def test_rotate_of_a_revoked_region_is_refused_before_any_kms_is_asked(
    house: House, one: Member
) -> None:
    """A region that is not ENABLED is refused before any KMS call for the others."""
    await one.enable(specs={"eu": "fake:one", "us": "fake:one"})
    await one.revoke(regions=["us"])
    before = len(house.provider.calls)
    with pytest.raises(RevokedError):
        await one.rotate({"eu": None, "us": None})
    assert len(house.provider.calls) == before
    await one.rotate({"eu": None})


async def test_old_blobs_open_after_every_rotation(house: House, one: Member) -> None:
    """Callers' wrapped keys stay valid through versions, keys, generations, PLATFORM."""
    house.platform[""] = RootKey("FAKE", house.provider.create_key("vendor").uri)
    await one.enable(specs={"eu": "PLATFORM"})
    blobs = [await one.wrap()]
    steps: list[tuple[str | None, bool]] = [
        (None, False),
        (None, True),
        ("fake:one", False),  # Leaves PLATFORM: a new generation.
        ("fake:two", False),
        ("PLATFORM", True),
        ("PLATFORM", False),
        ("fake:one", True),
    ]
    for spec, fresh in steps:
        for uri in house.provider.uris():
            house.provider.new_version(uri)
        await one.rotate({"eu": spec}, new_generation=fresh)
        blobs.append(await one.wrap())
        for blob in blobs:
            assert (await one.unwrap(blob)).plaintext == b"k" * 32
    generations = [(await one.unwrap(blob)).generation for blob in blobs]
    assert generations == [1, 1, 2, 3, 3, 4, 4, 5]
    current = house.store.cluster("acme")
    assert current is not None
    assert {g.current.root.uri for g in current.region("eu").generations} == {"fake:one"}
    house.provider.delete("fake:vendor")
    house.provider.delete("fake:two")
    one.loads.drop_all()
    for blob in blobs:
        await one.unwrap(blob)


async def test_a_changed_platform_setting_orphans_nothing(house: House, one: Member) -> None:
    """PLATFORM is resolved once and stored; a Rotate takes the new one."""
    house.platform[""] = RootKey("FAKE", "fake:one")
    await one.enable(specs={"eu": "PLATFORM"})
    blob = await one.wrap()
    house.platform[""] = RootKey("FAKE", "fake:two")
    one.loads.drop_all()
    await one.unwrap(blob)
    await one.rotate()
    house.provider.delete("fake:one")
    await one.unwrap(blob)


async def test_a_policy_changes_only_where_it_is_given(house: House, one: Member) -> None:
    """Rotate keeps a policy, unless the request has a policy that replaces it."""
    await one.enable(specs={"eu": RegionSpec("eu", KeySpec("FAKE", "fake:one"), RegionPolicy(10))})
    rotated = await one.rotate({"eu": "fake:two"})
    assert rotated.mutation.cluster.region("eu").policy == RegionPolicy(10)
    await one.wrap()
    rotated = await one.rotate({"eu": RegionPolicy(0)})
    assert rotated.mutation.cluster.region("eu").key_spec.uri == "fake:two"
    await one.wrap()
    assert not one.serves()


# R6


async def test_a_repeated_request_is_answered_and_not_carried_out(
    house: House, one: Member
) -> None:
    """R6: the same id and request make no second change; a later change is `superseded`."""
    first = await one.enable(request_id="r-1")
    assert not first.replayed
    again = await one.enable(request_id="r-1")
    assert (again.replayed, again.superseded, again.number) == (True, False, None)
    rotated = await one.rotate(request_id="r-2", new_generation=True)
    assert not rotated.mutation.replayed
    later = await one.rotate(request_id="r-2", new_generation=True)
    assert (later.mutation.replayed, later.mutation.superseded) == (True, False)
    assert len(later.mutation.cluster.region("eu").generations) == 2
    old = await one.enable(request_id="r-1")
    assert (old.replayed, old.superseded) == (True, True)
    await one.revoke(request_id="r-3")
    await one.restore(request_id="r-4")
    late = await one.revoke(request_id="r-3")
    assert (late.mutation.replayed, late.mutation.superseded) == (True, True)
    assert late.mutation.cluster.region("eu").state is State.ENABLED
    await one.revoke()
    restored = await one.restore(request_id="r-4")
    assert (restored.mutation.replayed, restored.mutation.superseded) == (True, True)
    assert restored.regions == ()
    assert isinstance(restored.failed["eu"], RevokedError)


async def test_another_request_with_the_same_id_is_refused(house: House, one: Member) -> None:
    """R6: an id counts per caller, RPC and cluster, and there refuses another request."""
    await one.enable(request_id="r")
    with pytest.raises(RequestIdReusedError):
        await one.enable(specs={"eu": "fake:two"}, request_id="r")
    await one.enable("other", request_id="r")
    assert not (await one.rotate(request_id="r")).mutation.replayed
    assert not (await one.enable(request_id="r", caller="somebody")).replayed
    for bad in ("x" * 129, "a\nb", "ä"):
        with pytest.raises(InvalidRequestIdError):
            await one.enable(request_id=bad)


async def test_a_request_that_changed_nothing_counts_as_carried_out(
    house: House, one: Member
) -> None:
    """R6: the server also records a request that changed nothing; later it is superseded."""
    await one.enable()
    first = await one.enable(request_id="r")
    assert not first.replayed
    await one.rotate({"eu": "fake:two"})
    again = await one.enable(request_id="r")
    assert (again.replayed, again.superseded) == (True, True)
    with pytest.raises(RequestIdReusedError):
        await one.enable(specs={"eu": "fake:two"}, request_id="r")


async def test_failures_and_trials_are_not_recorded(house: House, one: Member) -> None:
    """R6: a caller may repeat under its id a request that failed or only validated."""
    house.provider.disable("fake:one")
    with pytest.raises(KeyDisabledError):
        await one.enable(request_id="r")
    house.provider.enable("fake:one")
    await one.enable(request_id="v", validate_only=True)
    await one.enable(request_id="v", validate_only=True)
    assert not (await one.enable(request_id="r")).replayed


@pytest.mark.parametrize("same_replica", [True, False])
async def test_a_concurrent_twin_is_aborted(
    house: House, one: Member, *, same_replica: bool
) -> None:
    """R6: of two requests that come at once one is carried out, the other gets ABORTED."""
    other = one if same_replica else await house.replica()
    hang = house.provider.hang()
    first = asyncio.create_task(one.enable(request_id="r"))
    await entered(hang)
    twin = asyncio.create_task(other.enable(request_id="r"))
    if same_replica:
        with pytest.raises(RequestInProgressError):
            await twin
    else:
        await entered(hang, 2)
    house.provider.mend()
    results = await asyncio.gather(first, twin, return_exceptions=True)
    good = [r for r in results if not isinstance(r, BaseException)]
    assert len(good) == 1
    assert sum(isinstance(r, RequestInProgressError) for r in results) == 1
    assert (await one.enable(request_id="r")).replayed


async def test_attempts_are_in_the_chain(house: House, one: Member) -> None:
    """R5: the trail has what was done or refused by KMS or state, not what was malformed."""
    await one.enable()
    assert verified_events(house.store, "acme") == 1
    house.provider.disable("fake:one")
    with pytest.raises(KeyDisabledError):
        await one.rotate()
    assert verified_events(house.store, "acme") == 2
    with pytest.raises(RegionNotFoundError):
        await one.rotate({"mars": None})
    assert verified_events(house.store, "acme") == 2
    before = house.store.cluster("acme")
    await one.revoke()
    with pytest.raises(RevokedError):
        await one.rotate()
    assert verified_events(house.store, "acme") == 4
    after = house.store.cluster("acme")
    assert before is not None
    assert after is not None
    assert after.version == before.version + 1


# GetStatus and ListClusters


async def test_the_status_of_a_region_in_service(house: House, one: Member) -> None:
    """A status right after Enable has state, health and what works, without a KMS call."""
    await one.enable()
    before = len(house.provider.calls)
    [region] = (await one.status()).regions
    assert region.region.state is State.ENABLED
    assert region.seen is not None
    assert region.seen.health is Health.HEALTHY
    assert (region.seen.can_wrap, region.seen.can_unwrap) == (True, True)
    assert len(house.provider.calls) == before


async def test_the_status_follows_the_kms(house: House, one: Member) -> None:
    """A status shows refused and could-not-tell with the message, and then the recovery."""
    await one.enable()

    async def health() -> Health:
        await house.after(61)
        [region] = (await one.status()).regions
        assert region.seen is not None
        return region.seen.health

    house.provider.disable("fake:one")
    assert await health() is Health.KEY_DISABLED
    house.provider.enable("fake:one")
    assert await health() is Health.HEALTHY
    house.provider.disconnect()
    assert await health() is Health.UNREACHABLE
    house.provider.mend()
    assert await health() is Health.HEALTHY
    house.provider.schedule_deletion("fake:one")
    assert await health() is Health.KEY_PENDING_DELETION


async def test_the_status_of_a_revoked_region_asks_no_kms(house: House, one: Member) -> None:
    """A revoked region keeps its last health and times, without can_wrap and can_unwrap."""
    await one.enable()
    await one.revoke()
    await house.after(600)
    before = len(house.provider.calls)
    [region] = (await one.status()).regions
    assert len(house.provider.calls) == before
    assert region.seen is not None
    assert region.seen.health is Health.HEALTHY
    status = replies.cluster_status(await one.status()).regions[0]
    assert status.health == res.HEALTH_HEALTHY
    assert not status.HasField("can_wrap")
    assert not status.HasField("can_unwrap")
    assert not status.HasField("can_describe")


async def test_a_status_does_not_wait_beyond_its_deadline(house: House, one: Member) -> None:
    """A KMS that hangs does not make a status hang."""
    await one.enable()
    await house.after(61)
    house.provider.hang()
    report = await asyncio.wait_for(one.status(within=0.4), 3)
    assert isinstance(report.regions[0], RegionReport)
    with pytest.raises(ClusterNotFoundError):
        await one.status("nobody")


def names_of(page: Page) -> list[str]:
    """Returns the names on a page of clusters whose rows are all authentic."""
    return [entry.cluster.name for entry in page.entries if isinstance(entry, ClusterReport)]


async def test_clusters_are_listed_in_pages(one: Member) -> None:
    """Pages have a fixed order and every cluster once, and take only our own tokens."""
    names = [f"c-{i:02}" for i in range(7)]
    for name in reversed(names):
        await one.enable(name)
    listed: list[str] = []
    token, pages = "", 0
    while True:
        page = await one.replica.listing.page(EVERYTHING, ClusterFilter(), 3, token)
        listed += names_of(page)
        pages += 1
        if not page.more:
            break
        token = page_token(listed[-1])
    assert listed == names
    assert pages == 3
    page = await one.replica.listing.page(EVERYTHING, ClusterFilter(), 7, "")
    assert (len(page.entries), page.more) == (7, False)
    for size, bad in ((-1, ""), (1_001, ""), (1, "!"), (1, "Li4v")):
        with pytest.raises(InvalidPageError):
            await one.replica.listing.page(EVERYTHING, ClusterFilter(), size, bad)


async def test_a_page_leaves_turns_to_others(one: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """W5: the event loop has other turns between the clusters of a page."""
    for i in range(5):
        await one.enable(f"c-{i}")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    of_reports: list[int] = []
    original = one.replica.reports._region

    async def region(*arguments: Any) -> RegionReport:
        of_reports.append(turns)
        return await original(*arguments)

    monkeypatch.setattr(one.replica.reports, "_region", region)
    await one.replica.listing.page(EVERYTHING, ClusterFilter(), 5, "")
    task.cancel()
    assert len(set(of_reports)) >= 5


async def test_a_page_takes_two_reads(one: Member) -> None:
    """S12: the number of reads of the store for a page does not depend on its clusters."""
    for i in range(5):
        await one.enable(f"c-{i}", {"eu": "fake:one", "us": "fake:two"})
    reads = []
    for size in (1, 5):
        before = one.line.counts.copy()
        page = await one.replica.listing.page(EVERYTHING, ClusterFilter(), size, "")
        assert len(page.entries) == size
        made = one.line.counts - before
        made.pop("poll", None)
        reads.append(made)
    assert reads == [{"clusters": 1, "seen": 1}] * 2


async def test_lists_are_filtered(house: House, one: Member) -> None:
    """ListClusters filters by organization, state, health and key uri."""
    await one.enable("a", organization="org")
    await one.enable("b", {"eu": "fake:two"})
    await one.enable("c")
    await one.revoke("c")
    house.provider.disable("fake:two")
    await house.after(61)
    with pytest.raises(KeyDisabledError):
        await one.wrap("b")
    await one.settle()
    await one.replica._health.flush()

    async def found(which: ClusterFilter) -> list[str]:
        return names_of(await one.replica.listing.page(EVERYTHING, which, 0, ""))

    assert await found(ClusterFilter(organization="org")) == ["a"]
    assert await found(ClusterFilter(state=State.REVOKED)) == ["c"]
    assert await found(ClusterFilter(key_uri="fake:two")) == ["b"]
    assert await found(ClusterFilter(health=Health.KEY_DISABLED)) == ["b"]
    assert await found(ClusterFilter(state=State.ENABLED, key_uri="fake:one")) == ["a"]


async def test_restore_serves_again(house: House, one: Member) -> None:
    """Restore proves the key and resumes; every wrapped key from before opens."""
    await one.enable()
    blob = await one.wrap()
    await one.rotate(new_generation=True)
    await one.revoke()
    restored = await one.restore()
    assert (restored.regions, restored.failed) == (("eu",), {})
    assert (await one.unwrap(blob)).plaintext == b"k" * 32
    assert (await one.restore()).regions == ()
    assert (await one.restore(regions=["eu"])).regions == ("eu",)
    with pytest.raises(RegionNotFoundError):
        await one.restore(regions=["mars"])
