"""Replicas that serve one region each, beside one that serves all: what each of them refuses.

A refusal for the region comes after the caller's rights and the state, and before anything is
written or any KMS is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    AlreadyExistsError,
    ClusterNotFoundError,
    GenerationRetiredError,
    KeyfoldError,
    KeyNotGrantedError,
    NotAllowedError,
    RegionNotFoundError,
    RevokedError,
    UnknownKekError,
    WrongRegionError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RegionSpec
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.service.data.call import Call
from keyfold_server.service.data.data_plane import Destination
from keyfold_server.service.life.rechecks import RecheckRequest, RecheckResult
from keyfold_server.service.life.revocation import RetireGenerationRequest
from keyfold_server.service.root_keys.access_policies import AccessPolicyRequest
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from regional import RegionalHouse
from replicas import House, Member, house_in

PLACES: Final = {
    "eu": "eu.keyfold.example:7443",
    "us": "us.keyfold.example:7443",
    "*": "control.keyfold.example:7443",
}

KEYS: Final = {"eu": "fake:one", "us": "fake:two"}


class Fleet:
    """A replica of eu, one of us, and a control replica, on one store.

    The cluster `acme` has fake:one in eu and fake:two in us.
    """

    def __init__(self, house: House, eu: Member, us: Member, control: Member) -> None:
        self.house, self.eu, self.us, self.control = house, eu, us, control

    @classmethod
    async def of(cls, house: House) -> Fleet:
        """Starts the replicas, and enables the cluster."""
        eu, us = [
            (await house.replica(served=ServedRegions.of([region], PLACES))).hurry()
            for region in ("eu", "us")
        ]
        fleet = cls(house, eu, us, await house.replica(served=ServedRegions(None, PLACES)))
        await fleet.control.enable(specs=KEYS)
        await fleet.polled()
        return fleet

    async def polled(self) -> None:
        """Has every replica apply what has changed."""
        for member in (self.eu, self.us, self.control):
            await member.poll()

    async def refused(
        self, work: Callable[[], Awaitable[object]], *, region: str = "us"
    ) -> WrongRegionError:
        """Carries out what must be refused, with no KMS call and no change of the store."""
        calls, newest = len(self.house.provider.calls), self._decided()
        with pytest.raises(WrongRegionError) as caught:
            await work()
        assert len(self.house.provider.calls) == calls
        assert self._decided() == newest
        assert caught.value.region == region
        return caught.value

    def _decided(self) -> list[tuple[str, str, str]]:
        return [each for each in self.house.trail("acme") if each[2] != "WRONG_REGION"]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Three replicas."""
    async with house_in(tmp_path) as house:
        yield await Fleet.of(house)


def rights(grant: str) -> Rights:
    """Returns the rights of a caller with one grant, which is written without its callers."""
    text = f'[[grant]]\ncallers = ["dns:app.example"]\n{grant}\n'
    return parse(text, "policy.toml").rights(Identity(("dns:app.example",), "certificate"))


# --- the data plane --------------------------------------------------------------------


async def test_wrap_and_unwrap_of_another_region(fleet: Fleet) -> None:
    """A region's replica uses its own keys, and refuses another's with the address to call."""
    here, there = await fleet.eu.wrap(region="eu"), await fleet.us.wrap(region="us")
    assert (await fleet.eu.unwrap(here)).region == "eu"
    error = await fleet.refused(lambda: fleet.eu.wrap(region="us"))
    assert (error.cluster, error.served_at) == ("acme", PLACES["us"])
    await fleet.refused(lambda: fleet.eu.unwrap(there))
    assert (await fleet.control.unwrap(here)).region == "eu"
    assert (await fleet.control.unwrap(there)).region == "us"


async def test_a_batch_refuses_the_items_of_another_region_alone(fleet: Fleet) -> None:
    """The other items of the batch are carried out."""
    there = await fleet.us.wrap(region="us")
    here = await fleet.eu.wrap(region="eu")
    made = await fleet.eu.call(
        lambda c: fleet.eu.plane.wrap_batch(
            "acme", [("eu", b"a", None), ("us", b"b", None), ("eu", b"c", None)], {}, c
        )
    )
    assert [isinstance(result, WrongRegionError) for result, _ in made] == [False, True, False]
    opened = await fleet.eu.call(
        lambda c: fleet.eu.plane.unwrap_batch("acme", [(there, None), (here, None)], {}, c)
    )
    assert isinstance(opened[0][0], WrongRegionError)
    assert opened[1][0] == b"k" * 32
    moved = await fleet.eu.call(
        lambda c: fleet.eu.plane.rewrap_batch(
            "acme", [(here, {}, Destination(None, "us", {})), (here, {}, None)], c
        )
    )
    assert isinstance(moved[0], WrongRegionError)
    assert moved[1] == (here, 1, True)


async def test_rewrap_needs_both_sides_and_loads_neither_for_nothing(fleet: Fleet) -> None:
    """If one side is in a region that is not served, the other side's KMS is not called."""
    there, here = await fleet.us.wrap(region="us"), await fleet.control.wrap(region="eu")
    await fleet.refused(lambda: fleet.eu.rewrap(here, Destination(None, "us", {})))
    await fleet.refused(lambda: fleet.eu.rewrap(there, Destination(None, "eu", {})))
    await fleet.refused(lambda: fleet.eu.rewrap(there))
    assert not fleet.eu.serves()
    moved, _, _ = await fleet.control.rewrap(there, Destination(None, "eu", {}))
    assert (await fleet.eu.unwrap(moved)).plaintext == b"k" * 32


async def test_a_cold_rewrap_between_regions_needs_two_rounds(fleet: Fleet) -> None:
    """Where both sides are served, their clusters and then their keys are fetched together."""
    blob = await fleet.us.wrap(region="us")
    plane, asked = fleet.control.plane, []

    def core(call: Call) -> object:
        asked.append(call)
        return plane.rewrap("acme", blob, {}, Destination(None, "eu", {}), call)

    await fleet.control.call(core)
    assert len(asked) == 3


async def test_at_ttl_zero_too(fleet: Fleet) -> None:
    """A region without a cache is no way around: nothing is asked for it either."""
    always = RegionPolicy(0.0, None, auto_rotate=False)
    specs = {r: RegionSpec(r, KeySpec("FAKE", uri), always) for r, uri in KEYS.items()}
    await fleet.control.enable("bare", specs)
    await fleet.polled()
    await fleet.refused(lambda: fleet.eu.wrap("bare", "us"))
    blob = await fleet.us.wrap("bare", "us")
    await fleet.refused(lambda: fleet.eu.unwrap(blob, "bare"))
    await fleet.eu.wrap("bare", "eu")


async def test_no_first_use_is_recorded(fleet: Fleet) -> None:
    """D6: a refused call leaves the mark of a cluster that nobody has used."""
    await fleet.refused(lambda: fleet.eu.wrap(region="us"))
    found = fleet.house.store.cluster("acme")
    assert found is not None
    assert found.unused
    await fleet.eu.wrap(region="eu")
    found = fleet.house.store.cluster("acme")
    assert found is not None
    assert not found.unused


async def test_the_state_comes_before_the_region(fleet: Fleet) -> None:
    """A revoked region is REVOKED on every replica, and a retired generation is retired."""
    blob = await fleet.us.wrap(region="us")
    await fleet.control.rotate({"us": None}, new_generation=True)
    call = fleet.eu.asked(
        "RetireGeneration", RetireGenerationRequest("acme", "us", 1, bring_back=False, reason="")
    )
    await fleet.eu.replica.revocation.retire(call)
    await fleet.polled()
    with pytest.raises(GenerationRetiredError):
        await fleet.eu.unwrap(blob)
    await fleet.eu.revoke(regions=["us"])
    await fleet.polled()
    for member in (fleet.eu, fleet.us, fleet.control):
        with pytest.raises(RevokedError):
            await member.wrap(region="us")


async def test_rights_come_before_the_region(fleet: Fleet) -> None:
    """C7, C8: a caller without rights learns nothing of what the replica serves."""
    blob = await fleet.us.wrap(region="us")
    fleet.eu.rights = rights('roles = ["crypto:wrap"]\nclusters = ["acme"]\nregions = ["eu"]')
    with pytest.raises(RegionNotFoundError):
        await fleet.eu.wrap(region="us")
    fleet.eu.rights = rights('roles = ["crypto:unwrap"]\nclusters = ["acme"]\nregions = ["eu"]')
    with pytest.raises(UnknownKekError):
        await fleet.eu.unwrap(blob)
    fleet.eu.rights = rights('roles = ["crypto:unwrap"]\nclusters = ["other"]')
    with pytest.raises(ClusterNotFoundError):
        await fleet.eu.wrap(region="us")
    fleet.eu.rights = rights('roles = ["operator"]\norganizations = ["org"]\nclusters = ["acme"]')
    for work in (
        lambda: fleet.eu.rotate({"us": None}),
        lambda: fleet.eu.restore(regions=["us"]),
        lambda: fleet.eu.add_regions({"ap": "fake:one"}),
    ):
        with pytest.raises((ClusterNotFoundError, NotAllowedError, KeyNotGrantedError)):
            await work()


async def test_an_outage_of_a_shared_root_key_does_not_hide_the_region(fleet: Fleet) -> None:
    """Two regions may have one root key. That its KMS is away says nothing of where to call."""
    await fleet.control.enable("shared", {"eu": "fake:one", "us": "fake:one"})
    await fleet.polled()
    fleet.eu.cut_off()
    with pytest.raises(KeyfoldError) as caught:
        await fleet.eu.wrap("shared", "eu")
    assert caught.value.reason == "UNREACHABLE"
    await fleet.refused(lambda: fleet.eu.wrap("shared", "us"))


# --- changes ---------------------------------------------------------------------------


async def test_enable_of_another_region(fleet: Fleet) -> None:
    """All or nothing: one region that is not served refuses the call, and names an address."""
    eu = fleet.eu
    error = await fleet.refused(lambda: eu.enable("new", {"eu": "fake:one", "us": "fake:two"}))
    assert error.served_at == PLACES["*"]
    assert fleet.house.store.cluster("new") is None
    error = await fleet.refused(lambda: eu.enable("new", {"us": "fake:two"}))
    assert error.served_at == PLACES["us"]
    await fleet.refused(lambda: eu.enable("new", {"us": "fake:two"}, validate_only=True))
    error = await fleet.refused(
        lambda: eu.enable("new", {"us": "fake:two", "ap": "fake:one", "eu": "fake:one"}),
    )
    assert error.regions == ("us", "ap")
    assert error.message == (
        "this replica does not serve regions us, ap; call control.keyfold.example:7443"
    )
    await eu.enable("new", {"eu": "fake:one"})


async def test_a_repeated_enable_needs_no_kms(fleet: Fleet) -> None:
    """What exists already is no change, so every replica can say so; R6 holds everywhere."""
    done = await fleet.eu.enable(specs=KEYS)
    assert done.cluster.name == "acme"
    with pytest.raises(AlreadyExistsError):
        await fleet.eu.enable(specs={"eu": "fake:one", "us": "fake:one"})
    await fleet.us.add_regions({"eu": "fake:one"})
    await fleet.us.rotate({"us": None}, request_id="once")
    again = await fleet.eu.rotate({"us": None}, request_id="once")
    assert again.mutation.replayed


async def test_add_regions_and_rotate_of_another_region(fleet: Fleet) -> None:
    """Each is refused as a whole, before a KMS is called."""
    eu = fleet.eu
    await fleet.refused(lambda: eu.add_regions({"ap": "fake:one"}), region="ap")
    await fleet.refused(lambda: eu.add_regions({"ap": "fake:one"}, validate_only=True), region="ap")
    await fleet.refused(lambda: eu.rotate({"us": None}))
    await fleet.refused(lambda: eu.rotate({"us": "fake:one"}, validate_only=True))
    await fleet.refused(lambda: eu.rotate({"eu": None, "us": None}, new_generation=True))
    await eu.rotate({"eu": None})
    await fleet.control.rotate({"eu": None, "us": None})


async def test_a_rotation_that_takes_a_replica_along_says_why_it_is_refused(
    tmp_path: Path,
) -> None:
    """A region that nobody named is told with its reason; without it the rotation goes on."""
    house = RegionalHouse(tmp_path)
    for uri in ("eu-west-1.mrk-one", "us-east-1.mrk-one"):
        house.provider.create_key(uri)
    try:
        eu = await house.replica(served=ServedRegions.of(["eu-west-1"], {}))
        control = await house.replica()
        replica = RegionSpec("us-east-1", replica_of="eu-west-1")
        await control.enable(specs={"eu-west-1": "fake:eu-west-1.mrk-one", "us-east-1": replica})
        calls = len(house.provider.calls)
        with pytest.raises(WrongRegionError) as caught:
            await eu.rotate({"eu-west-1": None})
        assert len(house.provider.calls) == calls
        assert caught.value.region == "us-east-1"
        assert caught.value.message == (
            "this replica does not serve region us-east-1; ask the operator which address serves "
            "regions eu-west-1, us-east-1; it rotates with region eu-west-1, whose replica it is, "
            "unless only_named_regions is set"
        )
        await eu.rotate({"eu-west-1": None}, only_named_regions=True)
    finally:
        await house.close()


async def test_a_geos_key_is_tried_where_the_whole_geo_is_served(tmp_path: Path) -> None:
    """TestKey for a geo tries a key in each of its regions: all of them, or no KMS is called."""
    house = RegionalHouse(tmp_path)
    for uri in ("eu-west-1.mrk-one", "eu-west-2.mrk-one"):
        house.provider.create_key(uri)
    geos = {"EU": ("eu-west-1", "eu-west-2")}
    request = TestKeyRequest(
        KeySpec("FAKE", "fake:eu-west-1.mrk-one"), Scope("", "", None), geo="EU"
    )
    try:
        one = await house.with_regions(geos=geos, served=ServedRegions.of(["eu-west-1"], PLACES))
        both = await house.with_regions(geos=geos, served=ServedRegions.of(geos["EU"], PLACES))
        with pytest.raises(WrongRegionError) as caught:
            await one.replica.geo_trials.test(Caller(one.rights), request)
        assert caught.value.region == "eu-west-2"
        assert caught.value.served_at == PLACES["*"]
        assert not house.provider.calls
        tried = await both.replica.geo_trials.test(Caller(both.rights), request)
        assert tried.accessible
    finally:
        await house.close()


async def test_an_access_policy_says_whose_identity_it_names(tmp_path: Path) -> None:
    """GetAccessPolicy calls no KMS, so it works everywhere, and says what it cannot know."""
    house = RegionalHouse(tmp_path)
    try:
        eu = await house.replica(served=ServedRegions.of(["eu"], {}))
        for region, told in (("eu", False), ("us", True), ("", True)):
            request = AccessPolicyRequest(KeySpec("FAKE", "fake:one"), Scope("acme", region, None))
            done = await eu.replica.access_policies.get(Caller(eu.rights), request)
            assert any("serves only eu" in each for each in done.policy.notices) is told
        assert not house.provider.calls
    finally:
        await house.close()


async def test_restore_goes_region_by_region(fleet: Fleet) -> None:
    """R7: a region that is not served stays revoked with WRONG_REGION, and the others return."""
    await fleet.us.revoke()
    await fleet.polled()
    done = await fleet.eu.restore()
    assert done.regions == ("eu",)
    assert isinstance(done.failed["us"], WrongRegionError)
    assert done.failed["us"].served_at == PLACES["us"]
    await fleet.polled()
    await fleet.eu.wrap(region="eu")
    alone = await fleet.eu.restore(regions=["us"])
    assert alone.regions == ()
    assert alone.failed["us"].reason == "WRONG_REGION"
    with pytest.raises(RevokedError):
        await fleet.us.wrap(region="us")
    assert (await fleet.us.restore()).regions == ("us",)


async def test_what_needs_no_kms_works_on_every_replica(fleet: Fleet) -> None:
    """R9: revocation and deletion of any region, at any replica, and everything that only reads."""
    calls = len(fleet.house.provider.calls)
    await fleet.eu.revoke(regions=["us"])
    await fleet.polled()
    with pytest.raises(RevokedError):
        await fleet.us.wrap(region="us")
    report = await fleet.eu.status()
    assert [each.region.name for each in report.regions] == ["eu", "us"]
    await fleet.eu.delete(regions=["us"])
    await fleet.eu.undelete(regions=["us"])
    assert [c for c in fleet.house.provider.calls[calls:] if c.uri == "fake:two"] == []


async def test_a_status_shows_another_region_as_its_own_replica_saw_it(fleet: Fleet) -> None:
    """GetStatus calls the KMSs of the served regions, and shows what the store has of others."""
    calls = len(fleet.house.provider.calls)
    fleet.house.clock.advance(3_600)
    await fleet.polled()
    await fleet.eu.status()
    asked = {call.uri for call in fleet.house.provider.calls[calls:]}
    assert asked == {"fake:one"}


async def test_an_outage_elsewhere_is_told_without_guesses(fleet: Fleet) -> None:
    """The status of a region that is not served does not say how long its keys still serve."""
    await fleet.us.wrap(region="us")
    fleet.us.cut_off()
    fleet.house.clock.advance(50)
    await fleet.us.look()
    fleet.house.clock.advance(15)
    await fleet.polled()
    await fleet.us.look()
    await fleet.us.replica._health.flush()
    report = await fleet.eu.status()
    [us] = [each for each in report.regions if each.region.name == "us"]
    assert any("does not serve the region" in notice for notice in us.notices)


# --- asking about keys -----------------------------------------------------------------


async def recheck(
    member: Member, cluster: str = "", regions: tuple[str, ...] = (), uri: str = ""
) -> RecheckResult:
    """Calls Recheck."""
    request = RecheckRequest(cluster, regions, uri)
    deadline = member.house.clock.monotonic() + 10
    return await member.replica.rechecks.recheck(Caller(member.rights), request, deadline)


async def test_recheck(fleet: Fleet) -> None:
    """The regions that are served are proven; the others are in the result, with the address."""
    result = await recheck(fleet.eu, "acme")
    assert [(each.region, each.error and each.error.reason) for each in result.found] == [
        ("eu", None),
        ("us", "WRONG_REGION"),
    ]
    await fleet.refused(lambda: recheck(fleet.eu, "acme", ("us",)))
    await fleet.refused(lambda: recheck(fleet.eu, uri="fake:two"))
    result = await recheck(fleet.control, "acme")
    assert [each.error for each in result.found] == [None, None]


async def test_recheck_of_a_key_proves_it_in_a_region_that_is_served(fleet: Fleet) -> None:
    """A root key of several regions is proven for one that this replica serves."""
    await fleet.control.enable("a-shared", {"ap": "fake:one", "eu": "fake:one", "us": "fake:one"})
    await fleet.polled()
    for member, region in ((fleet.eu, "eu"), (fleet.us, "us")):
        [found] = (await recheck(member, uri="fake:one")).found
        assert (found.region, found.error) == (region, None)


async def trial(member: Member, region: str) -> object:
    """Calls TestKey."""
    request = TestKeyRequest(KeySpec("FAKE", "fake:one"), Scope("", region, None))
    return await member.replica.trials.test(Caller(member.rights), request)


async def test_test_key(fleet: Fleet) -> None:
    """TestKey for another region, or for none, calls no KMS; a control replica tries both."""
    await fleet.refused(lambda: trial(fleet.eu, "us"))
    with pytest.raises(WrongRegionError) as caught:
        await trial(fleet.eu, "")
    assert caught.value.served_at == PLACES["*"]
    await trial(fleet.eu, "eu")
    await trial(fleet.control, "us")
    await trial(fleet.control, "")


async def test_what_only_the_other_region_has_is_not_called_wrong(fleet: Fleet) -> None:
    """A replica may lack another region's provider and platform key: it says where to call."""
    spec = {"us": KeySpec("ELSEWHERE_KMS", "elsewhere:key")}
    await fleet.refused(lambda: fleet.eu.enable("new", spec))
    await fleet.refused(lambda: fleet.eu.enable("new", {"us": "PLATFORM"}))
    with pytest.raises(KeyfoldError) as caught:
        await fleet.eu.enable("new", {"eu": "PLATFORM"})
    assert caught.value.reason == "INVALID_KEY_SPEC"


# --- what a process may open -----------------------------------------------------------


async def test_no_kek_of_another_region_comes_into_memory(fleet: Fleet) -> None:
    """After calls of every kind, sweeps and refreshes, memory has KEKs of the served region alone.

    The two clusters' regions share root keys, so that a proof for one region is one for the other.
    """
    await fleet.control.enable("shared", {"eu": "fake:one", "us": "fake:one"})
    await fleet.polled()
    blobs = {
        (cluster, region): await fleet.control.wrap(cluster, region)
        for cluster in ("acme", "shared")
        for region in ("eu", "us")
    }
    eu = fleet.eu
    for (cluster, region), blob in blobs.items():
        for work in _works(fleet, cluster, region, blob):
            with contextlib.suppress(WrongRegionError, RevokedError):
                await work()
            await fleet.polled()
            assert _in_memory(eu) <= {"eu"}
    calls = len(fleet.house.provider.calls)
    for _ in range(3):
        fleet.house.clock.advance(50)
        await fleet.polled()
        await eu.look()
        await eu.sweep()
        assert _in_memory(eu) <= {"eu"}
    bound = [call.binding for call in fleet.house.provider.calls[calls:]]
    assert {binding.region for binding in bound if binding is not None} == {"eu"}
    await eu.wrap(region="eu")
    assert _in_memory(eu) == {"eu"}
    await fleet.control.wrap(region="us")
    assert "us" in _in_memory(fleet.control)


def _works(
    fleet: Fleet, cluster: str, region: str, blob: bytes
) -> list[Callable[[], Awaitable[object]]]:
    """Returns calls of every kind at the replica of eu for a region of a cluster."""
    eu = fleet.eu
    return [
        lambda: eu.wrap(cluster, region),
        lambda: eu.unwrap(blob, cluster),
        lambda: eu.rewrap(blob, cluster=cluster),
        lambda: eu.rewrap(blob, Destination(None, "us", {}), cluster),
        lambda: eu.rotate({region: None}, cluster, new_generation=True),
        lambda: recheck(eu, cluster, (region,)),
        lambda: trial(eu, region),
        lambda: eu.status(cluster),
        lambda: eu.revoke(cluster),
        lambda: eu.restore(cluster),
        lambda: fleet.control.restore(cluster),
        lambda: eu.wrap(cluster, region),
    ]


def _in_memory(member: Member) -> set[str]:
    """Returns the regions whose KEKs are in a replica's memory."""
    cache = member.cache
    by_root = {opened.kek.region for root in cache.roots("") for opened in root.open}
    by_view = {opened.kek.region for view in cache._views.values() for opened in view.open.values()}
    return by_root | by_view
