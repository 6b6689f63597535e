"""Generations: taken out of use one by one, and brought back (protocol R1, R4, S5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import spoilt_store
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    GenerationInUseError,
    GenerationNotFoundError,
    GenerationRetiredError,
    InvalidReasonError,
    RegionNotFoundError,
)
from keyfold_server.rpc.messages.replies import cluster_status
from keyfold_server.service.life.revocation import RetireGenerationRequest, RevokeResult
from replicas import House, Member, entered, house_in


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme, in region eu alone, under fake:one."""
    member = await house.replica()
    await member.enable(specs={"eu": "fake:one"})
    return member


async def retire(
    member: Member,
    generation: int = 1,
    *,
    back: bool = False,
    region: str = "eu",
    request_id: str = "",
    reason: str = "",
) -> RevokeResult:
    """Takes a generation out of use, or back."""
    request = RetireGenerationRequest("acme", region, generation, back, reason)
    call = member.asked("RetireGeneration", request, request_id)
    return await member.replica.revocation.retire(call)


async def test_a_retired_generation_opens_nothing(house: House, one: Member) -> None:
    """After the answer a retired generation's wrapped keys are refused; the newest one's open."""
    old = await one.wrap()
    await one.rotate(new_generation=True)
    new = await one.wrap()
    await one.unwrap(old)
    outcome = await retire(one)
    assert outcome.confirmed == (one.changes.replica,)
    with pytest.raises(GenerationRetiredError):
        await one.unwrap(old)
    with pytest.raises(GenerationRetiredError):
        await one.rewrap(old)
    assert (await one.unwrap(new)).generation == 2
    stored = house.store.cluster("acme")
    assert stored is not None
    first, second = stored.region("eu").generations
    assert first.retired_at is not None
    assert second.retired_at is None


async def test_a_retired_generation_is_brought_back(one: Member) -> None:
    """A retired generation can be brought back, and opens what it wrapped."""
    old = await one.wrap()
    await one.rotate(new_generation=True)
    await retire(one)
    await retire(one, back=True)
    assert (await one.unwrap(old)).generation == 1


async def test_a_retired_generation_moves_with_its_region(house: House, one: Member) -> None:
    """S5: rotations re-wrap a retired generation, so it outlives its old root key."""
    old = await one.wrap()
    await one.rotate(new_generation=True)
    await retire(one)
    await one.rotate({"eu": "fake:two"})
    house.provider.disable("fake:one")
    await retire(one, back=True)
    assert (await one.unwrap(old)).generation == 1


async def test_the_newest_generation_cannot_be_retired(one: Member) -> None:
    """The generation that wraps stays in use; an unknown region or generation is an error."""
    await one.wrap()
    with pytest.raises(GenerationInUseError):
        await retire(one)
    with pytest.raises(GenerationNotFoundError):
        await retire(one, 2)
    with pytest.raises(RegionNotFoundError):
        await retire(one, region="mars")
    with pytest.raises(InvalidReasonError):
        await retire(one, reason="x" * 1_025)
    assert one.serves()


async def test_other_replicas_stop_before_they_confirm(house: House, one: Member) -> None:
    """R4: a replica that has not applied it is pending; the others open nothing under it."""
    other = await house.replica()
    old = await one.wrap()
    await one.rotate(new_generation=True)
    await other.poll()
    await other.unwrap(old)
    outcome = await retire(one.hurry(), request_id="r1")
    assert [p.replica for p in outcome.pending] == [other.changes.replica]
    await other.poll()
    with pytest.raises(GenerationRetiredError):
        await other.unwrap(old)
    again = await retire(one, request_id="r1")
    assert other.changes.replica in again.confirmed
    assert again.pending == ()


async def test_a_rotation_that_began_before_is_not_committed_over_it(
    house: House, one: Member
) -> None:
    """R1: RetireGeneration loses no race; the rotation under way gets ABORTED."""
    await one.rotate(new_generation=True)
    hang = house.provider.hang("fake:two", ("wrap",))
    rotating = asyncio.ensure_future(one.rotate({"eu": "fake:two"}))
    await entered(hang)
    await retire(one)
    hang.release()
    with pytest.raises(ConcurrentChangeError):
        await rotating
    stored = house.store.cluster("acme")
    assert stored is not None
    assert stored.region("eu").generations[0].retired_at is not None


async def test_a_load_that_began_before_does_not_answer(house: House, one: Member) -> None:
    """R2: an unwrap under way when its generation is retired opens nothing."""
    old = await one.wrap()
    await one.rotate(new_generation=True)
    one.loads.invalidate("acme")
    hang = house.provider.hang("fake:one", ("unwrap",), answered=True)
    opening = asyncio.ensure_future(one.unwrap(old))
    await entered(hang)
    await retire(one)
    hang.release()
    with pytest.raises(GenerationRetiredError):
        await opening


async def test_retiring_again_keeps_the_first_time(house: House, one: Member) -> None:
    """R6: a repeated request changes nothing, with its request_id or without."""
    await one.rotate(new_generation=True)
    first = await retire(one, request_id="r1")
    times = [g.retired_at for g in first.mutation.cluster.region("eu").generations]
    await house.after(5)
    again = await retire(one, request_id="r1")
    assert again.mutation.replayed
    assert not again.mutation.superseded
    anew = await retire(one)
    assert [g.retired_at for g in anew.mutation.cluster.region("eu").generations] == times


async def test_nothing_of_a_retired_generation_is_loaded(house: House, one: Member) -> None:
    """R2: no call makes Keyfold unwrap a retired generation."""
    old = await one.wrap()
    await one.rotate(new_generation=True)
    await retire(one)
    before = len(house.provider.calls)
    for _ in range(3):
        with pytest.raises(GenerationRetiredError):
            await one.unwrap(old)
    assert len(house.provider.calls) == before


async def test_the_status_shows_every_wrapping(house: House, one: Member) -> None:
    """C6, S12: a status lists what ever wrapped a KEK, and no other call reads the history."""
    blob = await one.wrap()
    for uri in ("fake:two", "fake:one"):
        await one.rotate({"eu": uri}, new_generation=uri == "fake:two")
    await one.unwrap(blob)
    stored = house.store.cluster("acme")
    assert stored is not None
    changed = await one.replica.reports.report(stored, one.rights)
    assert one.line.counts["superseded_wraps"] == 0
    status = await one.replica.status.get(one.rights, "acme", house.clock.monotonic() + 5.0)
    assert one.line.counts["superseded_wraps"] == 1
    shown = cluster_status(status).regions[0].generations
    assert [[wrap.uri for wrap in each.wraps] for each in shown] == [
        ["fake:one", "fake:two", "fake:one"],
        ["fake:two", "fake:one"],
    ]
    for generation in shown:
        *old, current = generation.wraps
        assert not current.HasField("supersede_time")
        for wrap, after in zip(old, generation.wraps[1:], strict=True):
            assert wrap.supersede_time == after.create_time
    brief = cluster_status(changed).regions[0].generations
    assert [[wrap.uri for wrap in each.wraps] for each in brief] == [["fake:one"]] * 2


async def test_the_status_shows_the_wrappings_that_backups_may_need(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """C6: upkeep removes a superseded wrap once no backup holds it; use goes on, untouched."""
    blob = await one.wrap()
    for uri in ("fake:two", "fake:one"):
        house.clock.advance(20 * 86_400.0)
        await one.rotate({"eu": uri})
    house.clock.advance(20 * 86_400.0)
    await one.replica._pruning.prune()
    await one.poll()
    status = await one.replica.status.get(one.rights, "acme", house.clock.monotonic() + 5.0)
    [shown] = cluster_status(status).regions[0].generations
    assert [wrap.uri for wrap in shown.wraps] == ["fake:two", "fake:one"]
    await one.unwrap(blob)
    spoilt_store.edit(house.store, "UPDATE wrap_history SET root_uri = 'fake:three'")
    house.clock.advance(40 * 86_400.0)
    await one.replica._pruning.prune()
    assert "wraps of cluster acme is not authentic, and was not pruned" in caplog.text
