"""Gauges: which replica counts the regions in the store (protocol S12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

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
