"""Declared regions: every region or nothing, without repeating them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_cluster, a_region, an_event, applied
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.changes import Change, deleted, undeleted
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    ClusterExistsError,
    KeyDeletedError,
    KeySpecMissingError,
    NotAllowedError,
    RegionMismatchError,
)
from keyfold_server.domain.rights import Identity
from replicas import House, Member, house_in

BOTH = {"eu": "fake:one", "us": "fake:two"}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica."""
    return await house.replica()


def stored(house: House) -> Cluster:
    """Returns cluster acme as the store has it."""
    cluster = house.store.cluster("acme")
    assert cluster is not None
    return cluster


async def test_the_declaration_persists(house: House, one: Member) -> None:
    """Enable stores what `regions` declares, and the status shows it; without it there is none."""
    await one.enable(specs=BOTH, regions=["us", "eu"])
    assert stored(house).declared == ("eu", "us")
    assert (await one.status()).declared == ("eu", "us")
    await one.enable("other", BOTH)
    assert (await one.status("other")).declared == ()


async def test_a_partial_enable_names_what_is_declared(house: House, one: Member) -> None:
    """A later Enable need not repeat the regions: a declared one without a spec is named."""
    await one.enable(specs=BOTH, regions=["eu", "us"])
    before = stored(house)
    with pytest.raises(KeySpecMissingError, match="no key spec for region us") as caught:
        await one.enable(specs={"eu": "fake:one"})
    assert caught.value.region == "us"
    with pytest.raises(KeySpecMissingError, match="us"):
        await one.enable(specs={"eu": "fake:one"}, regions=["eu"])
    with pytest.raises(ClusterExistsError):
        await one.enable(specs={**BOTH, "ap": "fake:one"})
    assert (await one.enable(specs=BOTH)).number is None
    assert stored(house) == before


async def test_add_regions_extends_it(house: House, one: Member) -> None:
    """Regions that have a key need no spec again; each other one that is listed does."""
    await one.enable(specs=BOTH, regions=["eu", "us"])
    asked = len(house.provider.calls)
    with pytest.raises(KeySpecMissingError, match="no key spec for region me;"):
        await one.add_regions({"ap": "fake:one"}, regions=["ap", "eu", "me", "us"])
    with pytest.raises(RegionMismatchError, match="ap"):
        await one.add_regions({"ap": "fake:one"}, regions=["eu", "us"])
    assert len(house.provider.calls) == asked
    await one.add_regions({"ap": "fake:one"}, regions=["ap", "eu"])
    assert stored(house).declared == ("ap", "eu", "us")
    # Existing and new, as CockroachDB's form has them.
    await one.add_regions({**BOTH, "me": "fake:one"}, regions=["ap", "eu", "me", "us"])
    assert stored(house).declared == ("ap", "eu", "me", "us")


async def test_an_added_region_belongs_to_it(house: House, one: Member) -> None:
    """To add a region is to declare it, if the cluster has declared its regions at all."""
    await one.enable(specs=BOTH, regions=["eu", "us"])
    await one.add_regions({"ap": "fake:one"})
    assert stored(house).declared == ("ap", "eu", "us")
    await one.enable("other", {"eu": "fake:one"})
    await one.add_regions({"ap": "fake:one"}, "other")
    assert (await one.status("other")).declared == ()


async def test_a_cluster_declares_later(house: House, one: Member) -> None:
    """A call that adds nothing may declare; it needs no KMS, and is the same twice."""
    await one.enable(specs=BOTH)
    await one.revoke()
    asked = len(house.provider.calls)
    with pytest.raises(KeySpecMissingError, match="ap"):
        await one.add_regions({}, regions=["ap", "eu", "us"])
    await one.add_regions({}, regions=["eu"])
    assert stored(house).declared == ("eu", "us")
    assert (await one.add_regions({}, regions=["eu"])).number is None
    tried = await one.add_regions({"eu": "fake:one"}, regions=["eu"], validate_only=True)
    assert tried.number is None
    assert len(house.provider.calls) == asked


async def test_rotate_takes_any_subset(house: House, one: Member) -> None:
    """The declaration holds nothing back that changes keys which are there."""
    await one.enable(specs=BOTH, regions=["eu", "us"])
    await one.rotate({"eu": "fake:two"})
    assert stored(house).declared == ("eu", "us")


async def test_a_deleted_region_leaves_it(house: House, one: Member) -> None:
    """While the deletion can be taken back, the region comes back to the declaration with it."""
    await one.enable(specs=BOTH, regions=["eu", "us"])
    await one.revoke(regions=["us"])
    applied(house.store, Change("acme", deleted("acme", ["us"], 1_000), an_event()))
    assert (await one.status()).declared == ("eu",)
    with pytest.raises(KeyDeletedError):
        await one.add_regions({"ap": "fake:one"}, regions=["ap", "us"])
    await one.add_regions({"ap": "fake:one"}, regions=["ap"])
    assert (await one.status()).declared == ("ap", "eu")
    applied(house.store, Change("acme", undeleted("acme", ["us"], 1), an_event()))
    assert (await one.status()).declared == ("ap", "eu", "us")


@given(st.lists(st.sampled_from("abcd"), unique=True), st.sets(st.sampled_from("abcd")))
def test_what_is_gone_leaves_nothing_behind(names: list[str], gone: set[str]) -> None:
    """D5: neither the declaration nor a replica speaks of a region that the cluster lost."""
    source = names[0] if names else ""
    regions = [a_region(name) for name in names]
    others = [replace(r, replica_of=source) for r in regions if r.name != source]
    cluster = a_cluster(regions=[*(r for r in regions if r.name == source), *others])
    cluster = replace(cluster, declared=tuple(sorted(names)))
    left = cluster.without(gone)
    assert [region.name for region in left.regions] == sorted(set(names) - gone)
    assert left.declared == tuple(sorted(set(names) - gone))
    for region in left.regions:
        assert region.replica_of in {"", *(set(names) - gone)}
        if source not in gone and region.name != source:
            assert region.replica_of == source


async def test_a_reader_of_some_regions_sees_those(house: House, one: Member) -> None:
    """C7: the declaration names no region that the caller may not read, nor does an error."""
    await one.enable(specs=BOTH, regions=["eu", "us"])
    text = """
        [[grant]]
        callers = ["dns:app.example"]
        roles = ["operator"]
        regions = ["eu"]
        keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]
    """
    one.rights = parse(text, "p.toml").rights(Identity(("dns:app.example",), "certificate"))
    assert (await one.status()).declared == ("eu",)
    with pytest.raises(NotAllowedError):
        await one.add_regions({}, regions=["eu", "us"])
    # What the caller cannot see neither differs nor lacks a key.
    assert (await one.enable(specs={"eu": "fake:one"})).number is None
    with pytest.raises(ClusterExistsError) as caught:
        await one.enable(specs={"eu": "fake:two"})
    assert "region eu;" in caught.value.message
