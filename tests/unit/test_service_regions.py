"""The place of a new key, and `replica_of`: both are settled before any KMS call."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from callers import EVERYTHING
from fakes import FakeProvider
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.errors import (
    AccessDeniedError,
    InvalidKeySpecError,
    KeyDisabledError,
    KeyElsewhereError,
    KeyNotFoundError,
    KeyNotGrantedError,
    NotAllowedError,
    RegionExistsError,
    RegionNotFoundError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionSpec, RootKey
from keyfold_server.domain.residency import ResidencyReport, Table
from keyfold_server.domain.rights import Caller, Identity, Rights
from keyfold_server.service.root_keys.scope import Scope
from keyfold_server.service.root_keys.trials import TestKeyRequest
from regional import RegionalHouse
from replicas import Spec

EAST: Final = "fake:us-east-1.mrk-one"
WEST: Final = "fake:eu-west-1.mrk-one"

TABLE: Final[Table] = {"eu": {"FAKE": ("eu-west-1",)}, "us": {"FAKE": ("us-east-1", "us-east-2")}}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RegionalHouse]:
    """A house with one multi-Region key, which has a replica."""
    built = RegionalHouse(tmp_path)
    for uri in (WEST, EAST):
        built.provider.create_key(uri.removeprefix("fake:"))
    try:
        yield built
    finally:
        await built.close()


def replica_of(region: str, source: str) -> RegionSpec:
    """Returns the spec of a region whose key is a replica of another region's key."""
    return RegionSpec(region, replica_of=source)


def rights(*grants: str) -> Rights:
    """Returns the rights of a caller; each grant is written without its callers."""
    text = "".join(f'[[grant]]\ncallers = ["dns:app.example"]\n{grant}\n' for grant in grants)
    return parse(text, "policy.toml").rights(Identity(("dns:app.example",), "certificate"))


async def uri_of(house: RegionalHouse, region: str) -> str:
    """Returns the key that the store has for a region of cluster acme."""
    cluster = house.store.cluster("acme")
    assert cluster is not None
    return cluster.region(region).key_spec.uri


# Residency


@pytest.mark.parametrize("kind", ["own", "platform"])
async def test_a_key_elsewhere_is_refused_before_any_call(house: RegionalHouse, kind: str) -> None:
    """With residency demanded, Enable refuses a key elsewhere, and stores no region."""
    one = await house.with_regions(TABLE, required=True)
    house.platform["us"] = RootKey("FAKE", WEST)
    spec = "PLATFORM" if kind == "platform" else WEST
    with pytest.raises(KeyElsewhereError) as caught:
        await one.enable(specs={"eu": WEST, "us": spec})
    assert (caught.value.cluster, caught.value.region) == ("acme", "us")
    assert "us-east-1 or us-east-2" in caught.value.message
    assert house.provider.calls == []
    assert house.store.cluster("acme") is None
    await one.enable(specs={"eu": WEST})
    asked = len(house.provider.calls)
    with pytest.raises(KeyElsewhereError):
        await one.add_regions({"us": spec})
    with pytest.raises(KeyElsewhereError):
        await one.rotate({"eu": EAST})
    assert len(house.provider.calls) == asked
    await one.add_regions({"us": EAST})


async def test_a_forbidden_key_is_not_told_to_be_elsewhere(house: RegionalHouse) -> None:
    """A caller that may not name a key learns nothing of it (protocol C1)."""
    one = await house.with_regions(TABLE, required=True)
    one.rights = rights(
        f'roles = ["operator"]\nkeys = [{{ type = "FAKE", uri = "{WEST}", principal = "ambient" }}]'
    )
    with pytest.raises(KeyNotGrantedError):
        await one.enable(specs={"eu": EAST})
    with pytest.raises(KeyElsewhereError):
        await one.enable(specs={"us": WEST})


async def test_keys_in_use_stay_in_use(house: RegionalHouse) -> None:
    """Residency that the settings demand later does not stop rotation to a newer version."""
    one = await house.with_regions(TABLE)
    await one.enable(specs={"us": WEST})
    blob = await one.wrap(region="us")
    later = await house.with_regions(TABLE, required=True)
    house.provider.new_version(WEST)
    await later.rotate({"us": None})
    await later.rotate({"us": WEST}, new_generation=True)
    assert (await later.unwrap(blob)).region == "us"


async def test_a_changed_platform_key_counts_as_new(house: RegionalHouse) -> None:
    """A rotation that moves a region to another key of the vendor's checks its place."""
    one = await house.with_regions(TABLE, required=True)
    house.platform[""] = RootKey("FAKE", WEST)
    await one.enable(specs={"eu": "PLATFORM"})
    house.platform[""] = RootKey("FAKE", EAST)
    with pytest.raises(KeyElsewhereError):
        await one.rotate()


async def test_a_key_elsewhere_is_pointed_out(
    house: RegionalHouse, caplog: pytest.LogCaptureFixture
) -> None:
    """A key elsewhere is allowed; the log and the status point it out."""
    caplog.set_level(logging.WARNING)
    one = await house.with_regions(TABLE)
    await one.enable(specs={"eu": WEST, "us": WEST})
    lines = [record.getMessage() for record in caplog.records]
    said = "the root key is in eu-west-1, and region us in us-east-1 or us-east-2"
    assert lines == [f"cluster acme, region us: {said}"]
    await one.rotate()
    assert len(caplog.records) == 1
    await one.rotate({"eu": EAST})
    assert len(caplog.records) == 2
    [eu, us] = (await one.status()).regions
    assert (eu.key_region, us.key_region) == ("us-east-1", "eu-west-1")
    assert us.notices == (said,)


async def test_a_trial_tells_where_the_key_is(house: RegionalHouse) -> None:
    """TestKey stores nothing and refuses no key for its place: it says what Enable would say."""
    one = await house.with_regions(TABLE, required=True)

    async def place(spec: KeySpec, region: str) -> ResidencyReport:
        wanted = TestKeyRequest(spec, Scope("acme", region, None))
        tried = await one.replica.trials.test(Caller(EVERYTHING), wanted)
        assert tried.accessible
        assert tried.place.refused in tried.summary
        return tried.place

    assert await place(KeySpec("FAKE", EAST), "us") == ResidencyReport("us-east-1")
    assert await place(KeySpec("FAKE", EAST), "") == ResidencyReport("us-east-1")
    told = await place(KeySpec("FAKE", WEST), "us")
    with pytest.raises(KeyElsewhereError) as caught:
        await one.enable(specs={"us": WEST})
    assert told == ResidencyReport("eu-west-1", (caught.value.message,), caught.value.message)


async def test_a_key_whose_provider_is_gone_is_nowhere(house: RegionalHouse) -> None:
    """A status needs no provider: the place of such a key is unknown."""
    one = await house.with_regions(TABLE)
    residency = one.replica.reports._residency
    assert await residency.report(RootKey("GONE", "gone:x"), "us") == ResidencyReport()


# Replicas


async def test_enable_takes_the_replica_of_a_region_of_the_request(house: RegionalHouse) -> None:
    """Keyfold proves the derived key like any other and stores it as an ordinary key spec."""
    one = await house.with_regions(TABLE)
    specs: dict[str, Spec] = {"us": replica_of("us", "eu"), "eu": KeySpec("FAKE", WEST)}
    await one.enable(specs=specs)
    assert await uri_of(house, "us") == EAST
    assert {call.uri for call in house.provider.calls if call.operation == "unwrap"} == {WEST, EAST}
    assert (await one.enable(specs=specs)).number is None
    assert (await one.enable(specs={"eu": WEST, "us": EAST})).number is None
    await one.wrap(region="us")


async def test_add_regions_takes_the_replica_of_a_region_of_the_cluster(
    house: RegionalHouse,
) -> None:
    """Without a table the provider's region has the region's name; a repetition is no change."""
    one = await house.replica()
    await one.enable(specs={"eu": WEST})
    await one.add_regions({"us-east-1": replica_of("us-east-1", "eu")}, request_id="r")
    assert await uri_of(house, "us-east-1") == EAST
    again = await one.add_regions({"us-east-1": replica_of("us-east-1", "eu")})
    assert again.number is None
    repeated = await one.add_regions({"us-east-1": replica_of("us-east-1", "eu")}, request_id="r")
    assert repeated.replayed
    await one.rotate({"eu": "fake:two"}, only_named_regions=True)
    with pytest.raises(InvalidKeySpecError, match="no multi-Region key"):
        await one.add_regions({"us-east-1": replica_of("us-east-1", "eu")})
    await one.rotate({"eu": WEST, "us-east-1": "fake:two"})
    with pytest.raises(RegionExistsError):
        await one.add_regions({"us-east-1": replica_of("us-east-1", "eu")})


async def test_rotate_moves_a_region_to_a_replica(house: RegionalHouse) -> None:
    """The source is the key that the other region gets in this request, or has; old blobs open."""
    one = await house.with_regions(TABLE)
    await one.enable(specs={"eu": "fake:one", "us": "fake:two"})
    blob = await one.wrap(region="us")
    await one.rotate({"us": replica_of("us", "eu"), "eu": WEST})
    assert await uri_of(house, "us") == EAST
    house.provider.delete("fake:two")
    assert (await one.unwrap(blob)).generation == 1
    await one.rotate({"us": replica_of("us", "eu")})


async def test_a_replica_that_is_not_there_is_said_so(house: RegionalHouse) -> None:
    """If a replica is missing or denies, the error names its source, and nothing is stored."""
    one = await house.with_regions(TABLE)
    specs: dict[str, Spec] = {"eu": WEST, "us": replica_of("us", "eu")}
    house.provider.deny(EAST, "unwrap")
    with pytest.raises(AccessDeniedError) as denied:
        await one.enable(specs=specs)
    assert f"the replica {EAST} of region eu's key: " in denied.value.message
    assert "a replica has a policy of its own" in denied.value.message
    house.provider.delete(EAST)
    with pytest.raises(KeyNotFoundError) as missing:
        await one.enable(specs=specs)
    assert f"no replica of region eu's key at {EAST}; replicate" in missing.value.message
    assert missing.value.region == "us"
    assert house.store.cluster("acme") is None


async def test_a_rotation_tells_the_old_key_from_the_replica(house: RegionalHouse) -> None:
    """An error of the region's old key is not reported as one of the replica."""
    one = await house.with_regions(TABLE)
    await one.enable(specs={"eu": WEST, "us": "fake:two"})
    house.provider.disable("fake:two")
    with pytest.raises(KeyDisabledError) as old:
        await one.rotate({"us": replica_of("us", "eu")})
    assert "replica" not in old.value.message
    house.provider.enable("fake:two")
    house.provider.delete(EAST)
    with pytest.raises(KeyNotFoundError, match="no replica of region eu's key"):
        await one.rotate({"us": replica_of("us", "eu")})
    assert await uri_of(house, "us") == "fake:two"


@pytest.mark.parametrize(
    ("specs", "told", "field"),
    [
        (
            {"eu": WEST, "us": RegionSpec("us", KeySpec("FAKE", EAST), replica_of="eu")},
            "both a key_spec and replica_of",
            "region_specs[1].replica_of",
        ),
        ({"us": replica_of("us", "us")}, "replica of itself", "region_specs[0].replica_of"),
        ({"us": replica_of("us", "eu")}, "no key spec for region eu", "region_specs[0].replica_of"),
        (
            {"eu": WEST, "us": replica_of("us", "eu"), "ap": replica_of("ap", "us")},
            "region us is itself a replica of eu",
            "region_specs[2].replica_of",
        ),
        (
            {"eu": "PLATFORM", "us": replica_of("us", "eu")},
            "the vendor's own key",
            "region_specs[1].replica_of",
        ),
        (
            {"eu": "fake:one", "us": replica_of("us", "eu")},
            "no multi-Region key",
            "region_specs[1].replica_of",
        ),
        (
            {"eu": WEST, "ap": replica_of("ap", "eu")},
            'where region ap is: have FAKE = "…" added to their table [regions."ap"]',
            "region_specs[1].replica_of",
        ),
        (
            {"eu": KeySpec("FAKE", "nonsense"), "us": replica_of("us", "eu")},
            "must be fake:NAME",
            "region_specs[1].replica_of",
        ),
    ],
)
async def test_a_replica_that_cannot_be_meant(
    house: RegionalHouse, specs: dict[str, Spec], told: str, field: str
) -> None:
    """The error comes before any KMS call, says what to do, and names the field."""
    one = await house.with_regions(TABLE)
    with pytest.raises(InvalidKeySpecError) as caught:
        await one.enable(specs=specs)
    assert told in caught.value.message
    assert caught.value.field == field
    assert house.provider.calls == []


async def test_a_provider_may_have_no_replicas(
    house: RegionalHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most providers have no replicas, and the error says so."""
    monkeypatch.setattr(house, "provider_of", lambda _: FakeProvider())
    one = await house.replica()
    with pytest.raises(InvalidKeySpecError, match="have no replicas"):
        await one.enable(specs={"eu": "fake:one", "us": replica_of("us", "eu")})


async def test_a_derived_key_is_granted_like_any_other(house: RegionalHouse) -> None:
    """A caller cannot use `replica_of` to get at a key that it may not name (protocol C1)."""
    one = await house.with_regions(TABLE)
    keys = f'keys = [{{ type = "FAKE", uri = "{WEST}", principal = "ambient" }}]'
    one.rights = rights(f'roles = ["operator"]\n{keys}')
    with pytest.raises(KeyNotGrantedError, match=EAST):
        await one.enable(specs={"eu": WEST, "us": replica_of("us", "eu")})
    assert house.provider.calls == []


async def test_a_hidden_regions_key_is_nobodys_source(house: RegionalHouse) -> None:
    """What a caller may not see looks the same as what does not exist (protocol C7)."""
    one = await house.with_regions(TABLE)
    await one.enable(specs={"eu": WEST, "ap": "fake:one"})
    keys = 'keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]'
    one.rights = rights(f'roles = ["operator"]\nregions = ["us", "ap"]\n{keys}')
    told = []
    for source in ("eu", "mars"):
        with pytest.raises(RegionNotFoundError) as caught:
            await one.add_regions({"us": replica_of("us", source)})
        told.append(caught.value.message.replace(source, "…"))
    assert told[0] == told[1]
    one.rights = rights(
        f'roles = ["operator"]\nregions = ["us"]\n{keys}', 'roles = ["crypto"]\nregions = ["eu"]'
    )
    with pytest.raises(NotAllowedError):
        await one.add_regions({"us": replica_of("us", "eu")})
