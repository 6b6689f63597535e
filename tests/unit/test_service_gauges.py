"""The metrics that say how things stand: what they show, and on which replica (protocol S12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from builders import an_event
from keyfold_server import telemetry
from keyfold_server.domain.cursors import CursorKey
from keyfold_server.domain.errors import StoreUnavailableError
from keyfold_server.domain.health import Health, Observation, root_subject
from keyfold_server.domain.log import Position
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.service.upkeep.turns import SLOTS
from keyfold_server.service.watch.cursors import SHOWN
from replicas import House, Member, house_in


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


def shown() -> float | None:
    """Returns the number of enabled regions that `/metrics` would show."""
    labels = {"state": "ENABLED", "health": "HEALTHY"}
    return REGISTRY.get_sample_value("keyfold_regions", labels)


async def counted(member: Member) -> bool:
    """Takes a replica's turn, and says whether it counted."""
    before = member.line.counts["census"]
    await member.replica.gauges.count_regions()
    return member.line.counts["census"] > before


async def test_one_replica_counts_the_regions(house: House) -> None:
    """S12: of all replicas one counts, and shows the count; another follows when it stops."""
    one, two = await house.replica(), await house.replica()
    await one.enable("a")
    await one.replica._health.flush()
    assert await counted(one)
    assert shown() == 1.0
    # The replicas of this test share one registry.
    assert not await counted(two)
    assert shown() is None
    for _ in range(3):
        house.clock.advance(30.0)
        assert await counted(one)
        assert shown() == 1.0
        assert not await counted(two)
    house.clock.advance(30.0)
    assert await counted(two)
    assert shown() == 1.0
    assert not await counted(one)


async def test_the_sweeps_age_is_that_of_its_oldest_part(house: House) -> None:
    """F5: while one part of the root keys waits, the age grows, whatever the others do."""
    member = await house.replica()
    turns, sweep = member.replica.sweep.turns, member.replica.sweep
    house.clock.advance(100.0)
    assert turns.age >= 100.0
    for slot in range(1, SLOTS):
        await sweep.turn(slot)
    assert turns.age >= 100.0
    await sweep.turn(0)
    assert turns.age < 1.0
    member.line.fail("roots_in_use", StoreUnavailableError("gone"))
    house.clock.advance(100.0)
    for slot in range(SLOTS):
        await sweep.turn(slot)
    assert turns.age >= 100.0


async def test_the_oldest_failing_root_key_shows(house: House) -> None:
    """S12: an operator sees for how long a customer's key has failed, by what the KMS says."""
    member = await house.replica()
    await member.enable("a")
    since = int(house.clock.wall() * 1000) - 90_000
    cluster = house.store.cluster("a")
    assert cluster is not None
    subject = root_subject(cluster.regions[0].newest.current)
    house.store.observe([Observation(subject, Health.KEY_DISABLED, since, since)])
    await counted(member)
    labels = {"health": "KEY_DISABLED", "region": ""}
    found = REGISTRY.get_sample_value("keyfold_root_key_failing_seconds", labels)
    assert found == pytest.approx(90.0, abs=1.0)


async def test_a_revocation_that_waits_for_a_replica_shows(house: House) -> None:
    """R4: whoever is paged sees that a replica may still serve a revoked key."""
    one = await house.replica()
    await house.replica()
    await one.enable("a")

    def seen(outcome: str) -> float:
        name = "keyfold_revocation_confirm_seconds_count"
        return REGISTRY.get_sample_value(name, {"outcome": outcome}) or 0.0

    before = seen("confirmed"), seen("pending")
    await one.hurry().revoke("a")
    assert (seen("confirmed"), seen("pending")) == (before[0], before[1] + 1)


def test_made_up_regions_do_not_fill_prometheus() -> None:
    """Callers name root keys, and with them regions; beyond a number they share one label."""
    for number in range(telemetry.MOST_REGIONS + 10):
        with telemetry.kms_call("TEST", "wrap") as call:
            call.region = f"eu-made-up-{number}"
    [family] = [
        each for each in REGISTRY.collect() if each.name == "keyfold_kms_call_duration_seconds"
    ]
    regions = {sample.labels["region"] for sample in family.samples}
    assert telemetry.OTHER_REGION in regions
    assert len(regions) <= telemetry.MOST_REGIONS + 1


async def test_many_cursors_do_not_fill_prometheus(house: House) -> None:
    """Whoever may watch may make cursors; the metrics show a number of them."""
    member = await house.replica()
    await member.enable("a")
    newest = house.store.poll(Heartbeat("reader", 0, b"", 120.0, 0))[-1]
    begin = Position(newest.number, newest.entry_id)
    for number in range(SHOWN + 5):
        key = CursorKey(f"owner-{number}", "siem")
        house.store.take_cursor(key, b"1" * 16, b"scope", begin, an_event())
    await member.replica.watches.cursors.show()
    [family] = [each for each in REGISTRY.collect() if each.name == "keyfold_cursor_lag_entries"]
    assert len(family.samples) == SHOWN
