"""The sweep region by region (protocol F5): whose turn it is, and what it never touches."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import REGISTRY

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    KeyDisabledError,
    StoreUnavailableError,
    WrongRegionError,
)
from keyfold_server.domain.health import Health, Observation, kek_subject, own_subject, root_subject
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.provider import Unwrapped
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.service.loading import announcements
from keyfold_server.service.upkeep import auto_rotation, unserved
from replicas import House, Member, house_in, under

INTERVAL: Final = 600
KEYS: Final = {"eu": "fake:of-eu", "us": "fake:of-us", "ap": "fake:of-ap"}
BEAT: Final = Heartbeat("test", 0, b"", 120.0, 0)
ONCE: Final = {"wrap": 1, "unwrap": 1, "describe": 1}
"""The calls about a root key of one region in one sweep."""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a house whose KMS has a key for each region, and one that all regions may share."""
    async with house_in(tmp_path) as built:
        for uri in (*KEYS.values(), "fake:shared"):
            built.provider.create_key(uri.removeprefix("fake:"))
        yield built


async def serving(house: House, *regions: str) -> Member:
    """Starts a replica that serves some regions; none named: all."""
    return await house.replica(served=ServedRegions.of(regions or ("*",), {}))


async def enabled(house: House, keys: dict[str, str] = KEYS, count: int = 2) -> None:
    """Enables clusters in each region by a control replica, which then leaves."""
    control = await serving(house)
    for number in range(count):
        await control.enable(f"c{number}", keys)
    await control.stop()


def keys_asked(house: House, since: int) -> dict[str, dict[str, int]]:
    """Counts the calls to the KMS by key and operation."""
    found: dict[str, Counter[str]] = {}
    for call in house.provider.calls[since:]:
        found.setdefault(call.uri, Counter())[call.operation] += 1
    return {uri: dict(counts) for uri, counts in found.items()}


def regions_asked(house: House, since: int) -> set[str]:
    """Returns the regions to which what the KMS wrapped or opened was bound."""
    return {call.binding.region for call in house.provider.calls[since:] if call.binding}


def known(house: House, region: str, cluster: str = "c0") -> dict[str, Observation]:
    """Reads what the store knows of a region's key and KEK from the region's own replicas."""
    stored = house.store.cluster(cluster)
    assert stored is not None
    newest = stored.region(region).newest
    subjects = [root_subject(newest.current), kek_subject(newest)]
    return house.store.observations([own_subject(subject, region) for subject in subjects])


async def swept(house: House, *members: Member, after: float = INTERVAL) -> int:
    """Lets an interval pass and has replicas sweep; returns how many KMS calls were before."""
    await house.after(after)
    before = len(house.provider.calls)
    await asyncio.gather(*(member.sweep() for member in members))
    return before


def reported() -> dict[str, float]:
    """Returns the regions that `/metrics` would show as unserved, with their clusters."""
    [family] = [one for one in REGISTRY.collect() if one.name == "keyfold_regions_unserved"]
    return {sample.labels["region"]: sample.value for sample in family.samples}


def failing() -> dict[tuple[str, str], float]:
    """Returns for how long `/metrics` would show root keys as failing, by health and region."""
    [family] = [one for one in REGISTRY.collect() if one.name == "keyfold_root_key_failing_seconds"]
    return {(one.labels["health"], one.labels["region"]): one.value for one in family.samples}


def refuse_region(house: House, region: str) -> set[str]:
    """Makes the customer's policy refuse a region's replicas; what is in the result it permits."""
    provider, unwrap = house.provider, type(house.provider).unwrap
    permitted: set[str] = set()

    def refusing(
        key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        answer = unwrap(provider, key, key_version, ciphertext, binding, budget=budget)
        if binding.region == region and region not in permitted:
            raise AccessDeniedError("the policy permits another identity")
        return answer

    provider.unwrap = refusing  # type: ignore[method-assign]
    return permitted


# --- turns -----------------------------------------------------------------------------


async def test_a_replica_sweeps_the_regions_that_it_serves(house: House) -> None:
    """F5: it asks about the root keys of its regions, and about no other's."""
    await enabled(house)
    both = await serving(house, "eu", "ap")
    for _ in range(2):
        before = await swept(house, both)
        assert keys_asked(house, before) == {KEYS["eu"]: ONCE, KEYS["ap"]: ONCE}
        assert regions_asked(house, before) == {"eu", "ap"}


async def test_a_sweep_in_one_region_leaves_the_health_of_others_alone(house: House) -> None:
    """F5: whatever a region's replica meets, what is known of other regions' keys stays as it is.

    Its own KMS may refuse or be away, and those of the others, too: it does not learn of that.
    """
    await enabled(house, count=1)
    us, eu = await serving(house, "us", "ap"), await serving(house, "eu")
    await swept(house, us, eu)
    others = {region: known(house, region) for region in ("us", "ap")}
    assert all(len(seen) == 2 for seen in others.values())
    for uri in (KEYS["us"], KEYS["ap"]):
        house.provider.disable(uri)
    expected: list[tuple[Callable[[], object], Health]] = [
        (lambda: house.provider.disable(KEYS["eu"]), Health.KEY_DISABLED),
        (lambda: house.provider.enable(KEYS["eu"]), Health.HEALTHY),
        (lambda: house.provider.disconnect(KEYS["eu"]), Health.UNREACHABLE),
    ]
    for happens, health in expected:
        happens()
        before = await swept(house, eu)
        assert regions_asked(house, before) <= {"eu"}
        assert keys_asked(house, before).keys() == {KEYS["eu"]}
        seen = known(house, "eu")
        assert {one.health for name, one in seen.items() if name.startswith("root:")} == {health}
        assert {region: known(house, region) for region in others} == others
    entries = [entry.root for entry in house.store.poll(us.changes.beat()) if entry.root]
    roots = {name.split(":")[1] for seen in others.values() for name in seen}
    assert not roots & set(entries)


async def test_no_sweep_calls_the_kms_of_a_region_that_is_not_served(house: House) -> None:
    """F5: if the store handed out another region's KEK, the door to the KMS would stay shut."""
    await enabled(house)
    eu = await serving(house, "eu")
    samples = [one for slot in range(256) for one in house.store.samples(f"{slot:02x}")]
    us = [one for one in samples if one.region == "us"]
    seen = known(house, "us")
    before = len(house.provider.calls)
    with pytest.raises(WrongRegionError):
        await eu.replica.sweep._ask(us[0], wrap=True)
    await eu.replica.sweep._root(us)
    await eu.replica._health.flush()
    assert house.provider.calls[before:] == []
    assert known(house, "us") == seen


async def test_one_replica_of_each_region_asks(house: House) -> None:
    """F5: of the replicas of a region one asks; another takes over if that one is gone."""
    await enabled(house)
    first, second, us = [await serving(house, name) for name in ("eu", "eu", "us")]
    for _ in range(3):
        before = await swept(house, first, second, us)
        assert keys_asked(house, before) == {KEYS["eu"]: ONCE, KEYS["us"]: ONCE}
    await first.stop()
    before = await swept(house, second, us)
    assert keys_asked(house, before) == {KEYS["eu"]: ONCE, KEYS["us"]: ONCE}


async def test_a_control_replica_takes_its_turns_beside_the_regions_own(house: House) -> None:
    """F5: the region's own replicas and the control replicas ask once each.

    Neither's way to the KMS says anything about the others'.
    """
    await enabled(house)
    control, other, eu = await serving(house), await serving(house), await serving(house, "eu")
    for order in ((control, eu, other), (eu, other, control)):
        await house.after(INTERVAL)
        before = len(house.provider.calls)
        for member in order:
            await member.sweep()
        twice = dict.fromkeys(ONCE, 2)
        assert keys_asked(house, before) == {
            **dict.fromkeys(KEYS.values(), ONCE),
            KEYS["eu"]: twice,
        }


async def test_a_shared_root_key_is_asked_about_in_each_region(house: House) -> None:
    """F5: another region's credential and way to the KMS say nothing about this one's."""
    await enabled(house, dict.fromkeys(KEYS, "fake:shared"))
    members = [await serving(house, name) for name in KEYS]
    before = await swept(house, *members)
    assert keys_asked(house, before) == {"fake:shared": dict.fromkeys(ONCE, 3)}
    assert regions_asked(house, before) == set(KEYS)
    [one, *_] = members
    one.line.counts.clear()
    for member in members:
        await member.stop()
    control = await serving(house)
    before = await swept(house, control)
    assert keys_asked(house, before) == {"fake:shared": dict.fromkeys(ONCE, 3)}
    # The claims of a slot's regions are one statement.
    assert control.line.counts["claim"] == 1


async def test_a_kms_that_is_away_is_not_asked_for_each_region(house: House) -> None:
    """W2: callers name regions. A key that many use takes no more of the sweep when it hangs."""
    await enabled(house, {f"region-{n}": "fake:shared" for n in range(20)}, count=1)
    control = await serving(house)
    house.provider.disconnect("fake:shared")
    before = await swept(house, control)
    assert keys_asked(house, before) == {"fake:shared": {"wrap": 1, "unwrap": 1}}
    house.provider.mend()
    before = await swept(house, control)
    assert keys_asked(house, before) == {"fake:shared": dict.fromkeys(ONCE, 20)}


async def test_a_replica_that_is_cut_off_steps_back_in_its_region_alone(house: House) -> None:
    """F5: who cannot ask in one region leaves its key to others, and goes on in the rest."""
    await enabled(house)
    control, eu = await serving(house), await serving(house, "eu")
    house.provider.disconnect(KEYS["eu"])
    await swept(house, control)
    house.provider.mend()
    await house.after(INTERVAL - 100)
    before = len(house.provider.calls)
    await control.sweep()
    # Its own claim in eu does not count, since it could not ask. The others hold it to its turn.
    assert KEYS["us"] in keys_asked(house, before)
    await house.after(100)
    before = len(house.provider.calls)
    await eu.sweep()
    assert keys_asked(house, before) == {KEYS["eu"]: ONCE}


async def test_stepping_back_concerns_one_region(house: House) -> None:
    """F5: who could not ask about a root key in eu waits longer for eu's turn, and not for us's."""
    await enabled(house, {"eu": "fake:shared", "us": "fake:shared"})
    one, two = await serving(house), await serving(house)
    stored = house.store.cluster("c0")
    assert stored is not None
    prefix = stored.region("eu").newest.current.root_id[:2]
    turns = one.replica.sweep.turns

    async def claimed(member: Member) -> list[str]:
        return [sample.region for sample in await member.replica.sweep.turns.claim(prefix)]

    assert await claimed(two) == ["eu", "us"]
    assert await claimed(one) == []
    [eu, _] = house.store.samples(prefix)
    turns.could_not_ask(eu)
    house.clock.advance(0.8 * INTERVAL)
    assert await claimed(one) == ["us"]
    house.clock.advance(0.16 * INTERVAL)
    assert await claimed(one) == ["eu"]
    # Once it could ask, it claims as the others do.
    turns.could_not_ask(eu)
    turns.could_ask(eu)
    house.clock.advance(0.8 * INTERVAL)
    assert await claimed(one) == ["eu", "us"]


async def test_an_outage_of_one_region_has_no_break(house: House) -> None:
    """F5: eu's replicas lose their way to a shared key. Nobody else's answers hide that.

    The gauge counts on, and the status shows the outage of eu at every replica, and who does reach
    the key; us stays healthy.
    """
    await enabled(house, {"eu": "fake:shared", "us": "fake:shared"}, count=1)
    eu, us, control = await serving(house, "eu"), await serving(house, "us"), await serving(house)
    await swept(house, eu, us, control)
    eu.cut_off()
    began = house.clock.wall() + INTERVAL
    for _ in range(4):
        await swept(house, eu)
        await swept(house, us, control, after=1)
        for member in (us, control):
            await member.poll()
            shown = {each.region.name: each for each in (await member.status("c0")).regions}
            health = {name: each.seen.health for name, each in shown.items() if each.seen}
            assert health == {"eu": Health.UNREACHABLE, "us": Health.HEALTHY}
            assert any("replicas that serve every region used" in n for n in shown["eu"].notices)
            # Whatever a control replica has just asked for a status, it asks nothing again.
            before = len(house.provider.calls)
            await member.status("c0")
            assert len(house.provider.calls) == before
        await control.replica.gauges.count_regions()
        assert failing() == {
            ("UNREACHABLE", "eu"): pytest.approx(house.clock.wall() - began, abs=1)
        }
    eu.cut_off(cut=False)
    await swept(house, eu)
    await control.poll()
    await control.replica.gauges.count_regions()
    assert failing() == {}


async def test_what_control_replicas_cannot_reach_shows_beside(house: House) -> None:
    """F5: a key that its region's own replicas use is healthy, and a notice names who cannot."""
    await enabled(house, {"eu": "fake:shared"}, count=1)
    eu, control = await serving(house, "eu"), await serving(house)
    control.cut_off()
    await swept(house, eu, control)
    [region] = (await eu.status("c0")).regions
    assert region.seen is not None
    assert region.seen.health is Health.HEALTHY
    [notice] = region.notices
    assert "replicas that serve every region do not get the key: UNREACHABLE since" in notice
    await control.replica.gauges.count_regions()
    assert failing() == {}
    # Where the region's own replicas have been silent for three sweeps, the others decide.
    await eu.stop()
    for _ in range(4):
        await swept(house, control)
    await control.replica.gauges.count_regions()
    assert failing().keys() == {("UNREACHABLE", "")}


async def test_a_refusal_in_one_region_is_no_refusal_in_another(house: House) -> None:
    """F2, F2b: a policy permits eu and refuses us. Both statuses are steady, and eu serves.

    Each refusal that us tells has eu prove the key at once, and it tells one in 30 seconds.
    """
    await enabled(house, {"eu": "fake:shared", "us": "fake:shared"}, count=1)
    eu, us = await serving(house, "eu"), await serving(house, "us")
    await eu.wrap("c0", "eu")
    permits = refuse_region(house, "us")
    told: list[float] = []
    for _ in range(30):
        await house.after(10)
        with pytest.raises(AccessDeniedError):
            await us.wrap("c0", "us")
        await us.settle()
        here = eu.serves("c0", "eu")
        await eu.poll()
        if here and not eu.serves("c0", "eu"):
            told.append(house.clock.monotonic())
        await eu.wrap("c0", "eu")
    for member in (eu, us):
        await member.replica._health.flush()
    assert {one.health for one in known(house, "eu").values()} == {Health.HEALTHY}
    assert {one.health for one in known(house, "us").values()} == {Health.ACCESS_DENIED}
    conditions = [n for n in house.store.poll(BEAT) if n.kind is EntryKind.HEALTH]
    assert conditions == []
    pauses = [later - earlier for earlier, later in itertools.pairwise(told)]
    assert set(pauses) == {announcements.ANNOUNCE_AGAIN}
    # When it has ended, the next refusal is told at once.
    permits.add("us")
    await house.after(10)
    await us.wrap("c0", "us")
    await house.after(40)
    late = await serving(house, "eu")
    await late.wrap("c0", "eu")
    house.provider.disable("fake:shared")
    await house.after(21)
    with pytest.raises(KeyDisabledError):
        await us.wrap("c0", "us")
    await us.settle()
    assert late.serves("c0", "eu")
    await late.poll()
    assert not late.serves("c0", "eu")


async def test_regions_follow_their_root_key_by_their_own_replicas(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Auto-rotation rotates the regions that the replica serves, though all share one root key."""
    monkeypatch.setattr(auto_rotation, "_PAUSE", 0.0)
    control = await serving(house)
    follows = under("fake:shared", auto_rotate=True)
    for name in ("a", "b"):
        await control.enable(name, {region: replace(follows, region=region) for region in KEYS})
    await control.stop()
    house.provider.new_version("fake:shared")

    def versions() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name in ("a", "b"):
            cluster = house.store.cluster(name)
            assert cluster is not None
            for region in cluster.regions:
                found.setdefault(region.name, set()).add(region.newest.current.key_version)
        return found

    eu = await serving(house, "eu")
    before = await swept(house, eu)
    assert versions() == {"eu": {"2"}, "us": {"1"}, "ap": {"1"}}
    assert regions_asked(house, before) == {"eu"}
    others = await serving(house, "us", "ap")
    await swept(house, others)
    assert versions() == {region: {"2"} for region in KEYS}


# --- regions that nobody serves --------------------------------------------------------


async def test_a_region_that_nobody_serves_is_neither_swept_nor_forgotten(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """When eu's replica dies, us's does not sweep its keys, and reports it until one serves eu."""
    caplog.set_level(logging.WARNING, unserved.__name__)
    await enabled(house, {"eu": KEYS["eu"], "us": KEYS["us"]}, count=3)
    eu, us = await serving(house, "eu"), await serving(house, "us")
    await us.replica.gauges.count_regions()
    assert reported() == {}
    await eu.stop()
    before = await swept(house, us)
    assert keys_asked(house, before) == {KEYS["us"]: ONCE}
    await us.replica.gauges.count_regions()
    assert reported() == {"eu": 3.0}
    [begins] = caplog.messages
    assert "eu (enabled for 3 clusters)" in begins
    # It says so once.
    house.clock.advance(30)
    await us.poll()
    await us.replica.gauges.count_regions()
    assert len(caplog.messages) == 1
    report = await us.status("c0")
    notices = {each.region.name: each.notices for each in report.regions}
    assert [notice for notice in notices["eu"] if "no live replica serves" in notice]
    assert not [notice for notice in notices["us"] if "no live replica serves" in notice]
    control = await serving(house)
    before = await swept(house, control)
    assert keys_asked(house, before)[KEYS["eu"]] == ONCE
    await us.replica.gauges.count_regions()
    assert reported() == {}
    assert len(caplog.messages) == 2
    assert "no more" in caplog.messages[1]
    report = await us.status("c0")
    assert not any("no live replica" in one for each in report.regions for one in each.notices)


async def test_a_replica_that_was_killed_serves_until_it_must_have_stopped(house: House) -> None:
    """A heartbeat that is late takes nothing from a replica; one that is too old does."""
    await enabled(house, {"eu": KEYS["eu"]}, count=1)
    eu, us = await serving(house, "eu"), await serving(house, "us")
    eu.changes.poll.stop()
    eu.line.let_poll()
    await asyncio.to_thread(eu.changes.poll.join)
    house.clock.advance(100)
    await us.poll()
    await us.replica.gauges.count_regions()
    assert reported() == {}
    house.clock.advance(30)
    await us.poll()
    await us.replica.gauges.count_regions()
    assert reported() == {"eu": 1.0}


async def test_what_is_revoked_is_not_missed(house: House) -> None:
    """A region in which nothing is enabled needs no replica."""
    await enabled(house, {"eu": KEYS["eu"]}, count=2)
    us = await serving(house, "us")
    await us.replica.gauges.count_regions()
    assert reported() == {"eu": 2.0}
    for name in ("c0", "c1"):
        await us.revoke(name)
    house.clock.advance(30)
    await us.poll()
    await us.replica.gauges.count_regions()
    assert reported() == {}


async def test_nobody_reports_what_it_does_not_know(house: House) -> None:
    """A store that does not answer, or a replica that does not count, leaves no old report."""
    await enabled(house, {"eu": KEYS["eu"]}, count=1)
    us, ap = await serving(house, "us"), await serving(house, "ap")
    await us.replica.gauges.count_regions()
    assert reported() == {"eu": 1.0}
    # The replicas of this test share one registry.
    await ap.replica.gauges.count_regions()
    assert reported() == {}
    house.clock.advance(30)
    await us.poll()
    await us.replica.gauges.count_regions()
    us.line.fail("unserved", StoreUnavailableError("gone"))
    house.clock.advance(30)
    await us.poll()
    await us.replica.gauges.count_regions()
    assert reported() == {}


async def test_made_up_regions_do_not_fill_the_report(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers name regions: the report has those with the most clusters, and a line names few."""
    caplog.set_level(logging.WARNING, unserved.__name__)
    monkeypatch.setattr(unserved, "SHOWN", 15)
    control = await serving(house)
    for number in range(20):
        await control.enable(f"c{number}", {f"region-{number:02}": "fake:shared"})
    await control.enable("more", {"region-19": "fake:shared"})
    await control.stop()
    us = await serving(house, "us")
    await us.replica.gauges.count_regions()
    assert len(reported()) == 15
    assert reported()["region-19"] == 2.0
    [line] = caplog.messages
    assert line.count("enabled for") == 10
    assert "and 5 more" in line


async def test_a_fleet_of_control_replicas_reads_no_regions(house: House) -> None:
    """S12: where a control replica lives, the report costs no look at the regions."""
    control, _ = await serving(house), await serving(house, "us")
    await control.enable("a", {"eu": KEYS["eu"]})
    await control.replica.gauges.count_regions()
    assert control.line.counts["census"] == 1
    assert control.line.counts["unserved"] == 0
    assert reported() == {}


async def test_an_edited_heartbeat_takes_nothing_else_from_a_status(house: House) -> None:
    """A2: who edits what a replica serves hides nothing that the status knows of the keys."""
    await enabled(house, {"eu": KEYS["eu"]}, count=1)
    eu = await serving(house, "eu")
    await swept(house, eu)
    with closing(sqlite3.connect(house.file)) as file, file:
        file.execute("UPDATE replicas SET serves = 'us'")
    before = len(house.provider.calls)
    [region] = (await eu.status("c0")).regions
    assert region.seen is not None
    assert (region.seen.health, region.notices) == (Health.HEALTHY, ())
    assert house.provider.calls[before:] == []
