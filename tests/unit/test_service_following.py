"""Replicas that rotate with the region whose key they are replicas of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from builders import an_event, applied
from callers import EVERYTHING
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.changes import Change, deleted
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    AccessDeniedError,
    InvalidKeySpecError,
    KeyfoldError,
    KeyNotFoundError,
    KeyNotGrantedError,
    NotAllowedError,
    RevokedError,
    UnreachableError,
)
from keyfold_server.domain.events import EventFilter
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RegionSpec
from keyfold_server.domain.residency import Table
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.rpc.messages import events
from regional import RegionalHouse
from replicas import Member, Spec

TABLE: Final[Table] = {
    "ap": {"FAKE": ("ap-south-1",)},
    "eu": {"FAKE": ("eu-west-1",)},
    "us": {"FAKE": ("us-east-1",)},
}
PLACES: Final = {"ap": "ap-south-1", "eu": "eu-west-1", "us": "us-east-1"}


def key(region: str, name: str = "one") -> str:
    """Returns the uri of a multi-Region key's replica in one of the vendor's regions."""
    return f"fake:{PLACES[region]}.mrk-{name}"


def replica_of(region: str, source: str = "eu") -> RegionSpec:
    """Returns the spec of a region whose key is a replica of another region's key."""
    return RegionSpec(region, replica_of=source)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RegionalHouse]:
    """A house with two multi-Region keys, each replicated in all three regions."""
    built = RegionalHouse(tmp_path)
    for name in ("one", "two"):
        for region in PLACES:
            built.provider.create_key(key(region, name).removeprefix("fake:"))
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
async def one(house: RegionalHouse) -> Member:
    """A replica with cluster acme: a key in eu, and its replicas in us and ap."""
    member = await house.with_regions(TABLE)
    await member.enable(specs={"eu": key("eu"), "us": replica_of("us"), "ap": replica_of("ap")})
    return member


def stored(house: RegionalHouse) -> Cluster:
    """Returns cluster acme as the store has it."""
    cluster = house.store.cluster("acme")
    assert cluster is not None
    return cluster


def relations(house: RegionalHouse) -> dict[str, tuple[str, str]]:
    """Returns the key and the source of each region of acme."""
    return {r.name: (r.key_spec.uri, r.replica_of) for r in stored(house).regions}


def on(name: str, **others: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Returns what `relations` returns if all regions use one key, but for those that are given."""
    expected = {region: (key(region, name), "eu") for region in ("ap", "us")}
    return {"eu": (key("eu", name), ""), **expected, **others}


async def test_replicas_are_remembered(house: RegionalHouse, one: Member) -> None:
    """The status says whose replica a key is; an explicit key of the same uri changes nothing."""
    assert relations(house) == on("one")
    report = await one.status()
    assert [each.replica_of for each in report.regions] == ["eu", "", "eu"]
    assert (await one.add_regions({"us": key("us")})).number is None
    assert relations(house) == on("one")


async def test_a_key_takes_its_replicas_along(house: RegionalHouse, one: Member) -> None:
    """Rotate of the primary moves every replica in the same change; nothing needs the old key."""
    blobs = [await one.wrap(region=region) for region in ("ap", "eu", "us")]
    version = stored(house).version
    await one.rotate({"eu": key("eu", "two")})
    assert relations(house) == on("two")
    assert stored(house).version == version + 1
    for region in PLACES:
        house.provider.delete(key(region))
    assert [(await one.unwrap(blob)).region for blob in blobs] == ["ap", "eu", "us"]


async def test_the_same_key_is_wrapped_anew_everywhere(house: RegionalHouse, one: Member) -> None:
    """The replicas of a multi-Region key have one key material, so all move to the newest."""
    for region in PLACES:
        house.provider.new_version(key(region))
    await one.rotate({"eu": None}, new_generation=True)
    for each in stored(house).regions:
        assert [g.current.key_version for g in each.generations] == ["2", "2"]
    await one.rotate({"us": None})
    assert [len(r.generations) for r in stored(house).regions] == [2, 2, 2]


async def test_a_rotation_by_itself_takes_none_along(house: RegionalHouse, one: Member) -> None:
    """Each region's own policy says whether it rotates by itself."""
    policy = RegionSpec("eu", policy=RegionPolicy(auto_rotate=True))
    await one.rotate({"eu": policy})
    for region in PLACES:
        house.provider.new_version(key(region))
    await house.after(600)
    await one.sweep()
    versions = {r.name: r.newest.current.key_version for r in stored(house).regions}
    assert versions == {"ap": "1", "eu": "2", "us": "1"}
    assert relations(house) == on("one")


def missing(house: RegionalHouse) -> None:
    """Removes two replicas of the second key."""
    for region in ("ap", "us"):
        house.provider.delete(key(region, "two"))


def denied(house: RegionalHouse) -> None:
    """Gives a replica of the second key another policy."""
    house.provider.deny(key("us", "two"), "unwrap")


def unreachable(house: RegionalHouse) -> None:
    """Cuts the network to a replica of the first key."""
    house.provider.disconnect(key("us"))


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (missing, KeyNotFoundError, ["region ap: there is no replica of", "; region us: there is"]),
        (denied, AccessDeniedError, ["region us: ", "a replica has a policy of its own"]),
        (unreachable, UnreachableError, ["region us: "]),
    ],
)
async def test_a_replica_that_cannot_move_is_named(
    house: RegionalHouse, one: Member, spoil: object, error: type[KeyfoldError], told: list[str]
) -> None:
    """If a replica cannot follow, the error names it and says what is wrong; nothing changes."""
    assert callable(spoil)
    spoil(house)
    before = stored(house)
    with pytest.raises(error) as caught:
        await one.rotate({"eu": key("eu", "two")})
    for part in (*told, "it rotates with region eu, whose replica it is"):
        assert part in caught.value.message
    assert caught.value.region in {"ap", "us"}
    assert stored(house) == before
    await one.rotate({"eu": key("eu", "two")}, only_named_regions=True)
    assert relations(house) == on("two", ap=(key("ap"), ""), us=(key("us"), ""))


async def test_a_key_without_replicas_names_all_of_them(house: RegionalHouse, one: Member) -> None:
    """A move to a key of one region, or to the vendor's own, names each replica that it loses."""
    for spec in (KeySpec("FAKE", "fake:one"), KeySpec("PLATFORM")):
        asked = len(house.provider.calls)
        with pytest.raises(InvalidKeySpecError) as caught:
            await one.rotate({"eu": spec})
        assert "region ap: " in caught.value.message
        assert "region us: " in caught.value.message
        assert len(house.provider.calls) == asked
    assert relations(house) == on("one")


async def test_a_region_leaves_with_a_key_of_its_own(house: RegionalHouse, one: Member) -> None:
    """A named region is rotated as its spec says, whatever becomes of its source."""
    await one.rotate({"us": "fake:two"})
    assert relations(house) == on("one", us=("fake:two", ""))
    # The same key, written out, is a key of its own, too.
    await one.rotate({"ap": key("ap")})
    assert relations(house) == on("one", us=("fake:two", ""), ap=(key("ap"), ""))
    await one.rotate({"eu": "fake:one"})
    assert relations(house)["ap"] == (key("ap"), "")


async def test_a_replica_named_beside_its_source(house: RegionalHouse, one: Member) -> None:
    """One that is named without a key stays with its key, and so is no replica any more."""
    await one.rotate({"eu": None, "us": None})
    assert relations(house) == on("one")
    await one.rotate({"eu": key("eu", "two"), "us": None})
    assert relations(house) == on("two", us=(key("us"), ""))
    await one.rotate({"us": replica_of("us")})
    assert relations(house) == on("two")


async def test_replicas_change_their_source(house: RegionalHouse, one: Member) -> None:
    """A source that becomes a replica takes its own replicas along, so that no chain remains."""
    specs: dict[str, Spec] = {"us": key("us", "two"), "eu": replica_of("eu", "us")}
    await one.rotate(specs)
    assert relations(house) == {
        "ap": (key("ap", "two"), "us"),
        "eu": (key("eu", "two"), "us"),
        "us": (key("us", "two"), ""),
    }
    with pytest.raises(InvalidKeySpecError, match="region ap is itself a replica of us"):
        await one.rotate({"us": replica_of("us", "ap")})


async def test_a_revoked_replica_is_named(house: RegionalHouse, one: Member) -> None:
    """It holds up a key that moves, since Restore would need the old one; not a newer version."""
    await one.revoke(regions=["us"])
    with pytest.raises(RevokedError, match=r"region us: .*call Restore.*only_named_regions"):
        await one.rotate({"eu": key("eu", "two")})
    await one.rotate({"eu": None})
    assert relations(house) == on("one")
    await one.rotate({"eu": key("eu", "two")}, only_named_regions=True)
    assert relations(house)["us"] == (key("us"), "")
    await one.restore(regions=["us"])


async def test_a_deleted_replica_holds_up_nothing(house: RegionalHouse, one: Member) -> None:
    """Its key is on its way out; taken back, it is a region with a key of its own."""
    await one.revoke(regions=["us"])
    applied(house.store, Change("acme", deleted("acme", ["us"], 1_000), an_event()))
    await one.rotate({"eu": key("eu", "two")})
    assert relations(house) == on("two", us=(key("us"), ""))


async def test_validate_only_tries_the_replicas_too(house: RegionalHouse, one: Member) -> None:
    """A trial of a rotation shows what would move, and stores nothing."""
    before = stored(house)
    tried = await one.rotate({"eu": key("eu", "two")}, validate_only=True)
    assert {r.key_spec.uri for r in tried.mutation.cluster.regions} == {
        key(region, "two") for region in PLACES
    }
    assert stored(house) == before
    house.provider.deny(key("ap", "two"))
    with pytest.raises(AccessDeniedError, match="region ap"):
        await one.rotate({"eu": key("eu", "two")}, validate_only=True)


def rights(regions: str, keys: str = "fake:*") -> Rights:
    """Returns the rights of an operator of some regions who may name some keys."""
    text = f"""
        [[grant]]
        callers = ["dns:app.example"]
        roles = ["operator"]
        regions = {regions}
        keys = [{{ type = "FAKE", uri = "{keys}", principal = "ambient" }}]
    """
    return parse(text, "policy.toml").rights(Identity(("dns:app.example",), "certificate"))


async def test_a_caller_rotates_no_replica_that_it_may_not(
    house: RegionalHouse, one: Member
) -> None:
    """Whose grants do not cover every replica cannot move the key, and learns no names (C7)."""
    one.rights = rights('["eu", "us"]')
    with pytest.raises(NotAllowedError) as caught:
        await one.rotate({"eu": key("eu", "two")})
    assert "ap" not in caught.value.message.split()
    assert caught.value.region is None
    assert relations(house) == on("one")
    await one.rotate({"eu": None}, only_named_regions=True)
    report = await one.status()
    assert [each.replica_of for each in report.regions] == ["", "eu"]
    one.rights = rights('["ap"]')
    assert [each.replica_of for each in (await one.status()).regions] == [""]


async def test_a_replica_is_granted_like_any_other_key(house: RegionalHouse, one: Member) -> None:
    """A rotation gives no region a key that the caller may not name there (protocol C1)."""
    one.rights = rights('["*"]', key("eu", "two"))
    with pytest.raises(KeyNotGrantedError):
        await one.rotate({"eu": key("eu", "two")})
    assert relations(house) == on("one")


async def test_an_auditor_of_some_regions_reads_of_those(house: RegionalHouse, one: Member) -> None:
    """C7: neither a decision nor a message names a replica or a source that the caller may not see.

    Who may see all regions reads whose replica a key is, and why a rotation failed.
    """
    house.provider.deny(key("us", "two"))
    with pytest.raises(AccessDeniedError):
        await one.rotate({"eu": key("eu", "two")})
    await one.add_regions({}, regions=["eu"])

    async def told(regions: str) -> tuple[str, list[tuple[str, ...]]]:
        text = f"""
            [[grant]]
            callers = ["dns:auditor.example"]
            roles = ["auditor"]
            regions = {regions}
        """
        who = parse(text, "p.toml").rights(Identity(("dns:auditor.example",), "certificate"))
        page = await one.replica.events.page(who, EventFilter(), 0, "", newest_first=False)
        shown = [events.event(each) for each in page.events]
        return "".join(map(str, shown)), [each.regions for each in page.events]

    some, named = await told('["eu"]')
    for hidden in ("ap", "us"):
        assert f'"{hidden}"' not in some
        assert f"region {hidden}" not in some
    assert named == [("eu",)] * 3
    some, _ = await told('["us"]')
    assert '"eu"' not in some
    every, named = await told('["ap", "eu", "us"]')
    assert "replica_of" in every
    assert named[0] == named[-1] == ("ap", "eu", "us")
    whole = await one.replica.events.page(EVERYTHING, EventFilter(), 0, "", newest_first=True)
    refused = next(each.event for each in whole.events if each.event.outcome == "ACCESS_DENIED")
    assert "region us: " in refused.message
    declared = whole.events[0].event.decision
    assert declared is not None
    assert {name: each["declared"] for name, each in declared["regions"].items()} == {
        "ap": True,
        "eu": True,
        "us": True,
    }
