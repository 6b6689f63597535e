"""One multi-Region key for all regions of a geo."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from callers import EVERYTHING
from fakes import FakeProvider
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    AccessDeniedError,
    DuplicateRegionError,
    InvalidKeySpecError,
    KeyfoldError,
    KeyNotGrantedError,
    TooManyRegionsError,
    UnknownGeoError,
)
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.keyspec import KeySpec, RegionSpec
from keyfold_server.domain.residency import Table
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.rpc.messages import replies, requests
from keyfold_server.service.root_keys.geo_trials import GeoTrialResult
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from regional import RegionalHouse
from replicas import Member, Spec

TABLE: Final[Table] = {
    "frankfurt": {"FAKE": ("eu-central-1",)},
    "ireland": {"FAKE": ("eu-west-1",)},
    "stockholm": {"FAKE": ("eu-north-1",)},
}
EU: Final = ("frankfurt", "ireland")
GEOS: Final = {"AP": ("ap-south-1",), "EU": EU}
MRK: Final = "fake:eu-central-1.mrk-one"
IRELAND: Final = "fake:eu-west-1.mrk-one"
STOCKHOLM: Final = "fake:eu-north-1.mrk-one"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RegionalHouse]:
    """A house with a multi-Region key in Frankfurt, which has a replica in Ireland."""
    built = RegionalHouse(tmp_path)
    for uri in (MRK, IRELAND):
        built.provider.create_key(uri.removeprefix("fake:"))
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
async def one(house: RegionalHouse) -> Member:
    """A replica whose settings have two geos."""
    return await house.with_regions(TABLE, geos=GEOS)


def of_geo(
    key: str = MRK, geo: str = "EU", geos: Mapping[str, tuple[str, ...]] = GEOS
) -> dict[str, Spec]:
    """Returns the specs of a geo's regions, as `requests.region_specs` makes them."""
    message = res.RegionSpec(geo=geo, key_spec=res.KeySpec(type="FAKE", uri=key))
    specs = requests.region_specs([message], Geos(geos))
    return {spec.region: spec for spec in specs}


def stored(house: RegionalHouse) -> Cluster:
    """Returns cluster acme as the store has it."""
    cluster = house.store.cluster("acme")
    assert cluster is not None
    return cluster


async def test_every_region_of_the_geo_gets_its_replica(house: RegionalHouse, one: Member) -> None:
    """The key's own region uses the key, and each other one its replica of it."""
    await one.enable(specs=of_geo())
    found = [(r.name, r.key_spec.uri, r.replica_of, r.geo) for r in stored(house).regions]
    assert found == [("frankfurt", MRK, "", "EU"), ("ireland", IRELAND, "frankfurt", "")]
    assert {call.uri for call in house.provider.calls if call.operation == "unwrap"} == {
        MRK,
        IRELAND,
    }
    assert (await one.enable(specs=of_geo())).number is None
    status = replies.cluster_status(await one.status())
    assert [(geo.geo, list(geo.missing_regions)) for geo in status.geos] == [("EU", [])]
    assert [(r.replica_of, r.geo) for r in status.regions] == [("", "EU"), ("frankfurt", "")]


async def test_any_replica_may_be_named(house: RegionalHouse, one: Member) -> None:
    """Whichever replica the customer names, the geo's regions use the same keys."""
    await one.enable(specs=of_geo(IRELAND))
    found = [(r.name, r.key_spec.uri, r.replica_of, r.geo) for r in stored(house).regions]
    assert found == [("frankfurt", MRK, "ireland", ""), ("ireland", IRELAND, "", "EU")]


async def test_each_missing_replica_is_named(house: RegionalHouse) -> None:
    """Enable names every region of the geo without a usable replica, and stores nothing."""
    geos = {"EU": (*EU, "stockholm")}
    one = await house.with_regions(TABLE, geos=geos)
    house.provider.deny(IRELAND, "wrap")
    with pytest.raises(AccessDeniedError) as caught:
        await one.enable(specs=of_geo(geos=geos))
    assert "region ireland: the replica fake:eu-west-1.mrk-one of" in caught.value.message
    assert "a replica has a policy of its own" in caught.value.message
    assert f"region stockholm: there is no replica of region frankfurt's key at {STOCKHOLM}" in (
        caught.value.message
    )
    assert house.store.cluster("acme") is None


async def test_a_geo_gains_a_region(house: RegionalHouse, one: Member) -> None:
    """The status then says which clusters lack it; AddRegions with the geo and its key adds it."""
    await one.enable(specs=of_geo())
    await one.enable("other", {"frankfurt": MRK, "ireland": "fake:one"})
    geos = {"EU": (*EU, "stockholm")}
    later = await house.with_regions(TABLE, geos=geos)
    assert (await later.status()).geos == {"EU": ("stockholm",)}
    assert (await later.status("other")).geos == {}
    with pytest.raises(KeyfoldError, match="region stockholm: there is no replica"):
        await later.add_regions(of_geo(geos=geos))
    house.provider.create_key(STOCKHOLM.removeprefix("fake:"))
    await later.add_regions(of_geo(geos=geos))
    assert stored(house).region("stockholm").replica_of == "frankfurt"
    assert (await later.status()).geos == {"EU": ()}
    assert (await later.add_regions(of_geo(geos=geos))).number is None


async def test_a_cluster_learns_of_its_geo_later(house: RegionalHouse, one: Member) -> None:
    """AddRegions of what is there already, now as a geo, notes the geo and nothing else."""
    await one.enable(specs={"frankfurt": MRK, "ireland": IRELAND})
    asked = len(house.provider.calls)
    await one.add_regions(of_geo())
    assert [r.geo for r in stored(house).regions] == ["EU", ""]
    assert len(house.provider.calls) == asked


async def test_a_geos_key_moves_as_a_whole(house: RegionalHouse, one: Member) -> None:
    """The geo stays with the key while its replicas follow, and goes when they do not."""
    await one.enable(specs=of_geo())
    for uri in ("fake:eu-central-1.mrk-two", "fake:eu-west-1.mrk-two"):
        house.provider.create_key(uri.removeprefix("fake:"))
    await one.rotate({"frankfurt": "fake:eu-central-1.mrk-two"})
    assert [r.geo for r in stored(house).regions] == ["EU", ""]
    await one.rotate(of_geo())
    assert [r.key_spec.uri for r in stored(house).regions] == [MRK, IRELAND]
    await one.rotate({"frankfurt": "fake:one"}, only_named_regions=True)
    assert [r.geo for r in stored(house).regions] == ["", ""]


async def test_a_geo_that_left_the_settings(house: RegionalHouse, one: Member) -> None:
    """A cluster then lacks none of its regions, and serves on."""
    await one.enable(specs=of_geo())
    later = await house.with_regions(TABLE)
    assert (await later.status()).geos == {"EU": ()}
    await later.wrap(region="ireland")


@pytest.mark.parametrize(
    ("spec", "error", "told", "field"),
    [
        ({"geo": "EMEA"}, UnknownGeoError, "there is no geo EMEA", "region_specs[0].geo"),
        ({"geo": "EU", "region": "eu"}, InvalidKeySpecError, "both a geo", "region_specs[0].geo"),
        (
            {"geo": "EU", "replica_of": "eu"},
            InvalidKeySpecError,
            "both a geo",
            "region_specs[0].geo",
        ),
    ],
)
def test_a_spec_that_cannot_be_meant(
    spec: Mapping[str, str], error: type[KeyfoldError], told: str, field: str
) -> None:
    """The error comes before anything is looked at, and names the field."""
    message = res.RegionSpec(**spec)  # type: ignore[arg-type]  # the fields are strings
    with pytest.raises(error, match=told) as caught:
        requests.region_specs([message], Geos(GEOS))
    assert caught.value.field == field


def test_a_geo_counts_as_its_regions() -> None:
    """A request names no more regions than a cluster has, however few specs it has (W5)."""
    geos = Geos.of({f"r-{i}": ["BIG"] for i in range(60)})
    message = res.RegionSpec(geo="BIG", key_spec=res.KeySpec(type="FAKE", uri=MRK))
    with pytest.raises(TooManyRegionsError):
        requests.region_specs([message] * 64, geos)


@pytest.mark.parametrize(
    ("key", "geo", "told"),
    [
        (KeySpec("FAKE", "fake:eu-central-1.single"), "EU", "is no multi-Region key"),
        (KeySpec("FAKE", "fake:us-east-1.mrk-one"), "EU", "where geo EU has no region"),
        (KeySpec("PLATFORM"), "EU", "PLATFORM stands for a key of one region"),
        (KeySpec("FAKE", "nonsense"), "EU", "must be fake:NAME"),
    ],
)
async def test_a_key_that_cannot_serve_a_geo(
    house: RegionalHouse, one: Member, key: KeySpec, geo: str, told: str
) -> None:
    """The error comes before any KMS call and says what to do; TestKey says the same."""
    specs: dict[str, Spec] = {name: RegionSpec(name, key, geo=geo) for name in GEOS[geo]}
    with pytest.raises(InvalidKeySpecError, match=told) as caught:
        await one.enable(specs=specs)
    assert (caught.value.field or "").startswith("key_spec")
    asked = pb.EnableRequest(region_specs=[res.RegionSpec(geo=geo)])
    assert (requests.placed(caught.value, asked).field or "").startswith("region_specs[0].key_spec")
    with pytest.raises(InvalidKeySpecError, match=told):
        await tried(one, key, geo)
    assert house.provider.calls == []


async def test_a_provider_without_replicas(
    house: RegionalHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one key cannot serve several regions, the error names the geo's regions."""
    monkeypatch.setattr(house, "provider_of", lambda _: FakeProvider())
    one = await house.with_regions(TABLE, geos=GEOS)
    with pytest.raises(InvalidKeySpecError, match="key_spec: frankfurt, ireland"):
        await one.enable(specs=of_geo("fake:one"))


async def test_a_region_is_named_once(one: Member) -> None:
    """A region by itself and in a geo of the same request is named twice."""
    specs = tuple(requests.region_specs([res.RegionSpec(geo="EU")], Geos(GEOS)))
    with pytest.raises(DuplicateRegionError):
        await one.enable(specs={"a": specs[0], "b": specs[1], "c": RegionSpec("ireland")})


# Trials


async def tried(
    one: Member, key: KeySpec, geo: str = "EU", rights: Rights = EVERYTHING
) -> GeoTrialResult:
    """Tries a geo's key for cluster acme."""
    wanted = TestKeyRequest(key, Scope("acme", "", None), geo)
    return await one.replica.geo_trials.test(Caller(rights), wanted)


async def test_a_trial_tries_every_replica(house: RegionalHouse, one: Member) -> None:
    """Each replica is tried in its own region, and stores nothing but an entry of the log."""
    done = await tried(one, KeySpec("FAKE", MRK))
    assert done.accessible
    assert "every region of geo EU: frankfurt, ireland" in done.summary
    assert {c.binding.region for c in house.provider.calls if c.binding} == set(EU)
    reply = replies.tested_in_geo(done)
    assert [(r.region, r.key_spec.uri, r.accessible) for r in reply.replicas] == [
        ("frankfurt", MRK, True),
        ("ireland", IRELAND, True),
    ]
    assert reply.steps == reply.replicas[0].steps
    assert house.store.cluster("acme") is None


async def test_a_trial_names_each_region_with_what_is_wrong(house: RegionalHouse) -> None:
    """A missing replica, another policy and a disabled one are told apart, region by region."""
    geos = {"EU": (*EU, "stockholm")}
    one = await house.with_regions(TABLE, geos=geos)
    house.provider.deny(IRELAND, "unwrap")
    done = await tried(one, KeySpec("FAKE", MRK))
    assert not done.accessible
    assert [each.reason for each in done.replicas] == ["", "ACCESS_DENIED", "KEY_NOT_FOUND"]
    assert "region ireland: Keyfold cannot use this key" in done.summary
    assert "a replica has a policy of its own, and a missing one may look the same" in done.summary
    assert f"region stockholm: there is no replica of region frankfurt's key at {STOCKHOLM}" in (
        done.summary
    )
    reply = replies.tested_in_geo(done)
    assert (reply.accessible, reply.summary) == (False, done.summary)
    assert [each.reason for each in reply.replicas] == ["", "ACCESS_DENIED", "KEY_NOT_FOUND"]


async def test_a_trial_needs_a_grant_for_every_replica(house: RegionalHouse, one: Member) -> None:
    """No replica is tried before all are allowed (protocol C1)."""
    text = f"""
        [[grant]]
        callers = ["dns:app.example"]
        roles = ["operator"]
        keys = [{{ type = "FAKE", uri = "{MRK}", principal = "ambient" }}]
    """
    rights = parse(text, "policy.toml").rights(Identity(("dns:app.example",), "certificate"))
    with pytest.raises(KeyNotGrantedError, match=IRELAND):
        await tried(one, KeySpec("FAKE", MRK), rights=rights)
    assert house.provider.calls == []


def test_a_request_for_both_a_region_and_a_geo() -> None:
    """TestKey takes a region or a geo."""
    asked = pb.TestKeyRequest(key_spec=res.KeySpec(type="FAKE", uri=MRK), region="eu", geo="EU")
    with pytest.raises(InvalidKeySpecError, match="give one of them"):
        requests.test_key_request(asked)
