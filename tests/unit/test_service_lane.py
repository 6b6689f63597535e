"""The lane of Revoke and RetireGeneration (protocol R9): nothing but the store holds them up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import callers
from keyfold_server.access.policy.file import parse
from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    DeadlineError,
    OverloadedError,
)
from keyfold_server.service.fleet.confirmations import PendingReplica
from keyfold_server.service.life.revocation import RetireGenerationRequest
from keyfold_server.service.shared_room import SharedRoom
from replicas import House, Member, entered, house_in, spin, until


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


async def test_an_organizations_full_room_and_rate_hold_up_no_revoke(house: House) -> None:
    """R9: a customer whose KMS hangs fills its own room; its operator still revokes and retires."""
    one = await house.replica(bounds=Bounds(calls_per_organization=1, rate_per_organization=4))
    await one.enable(organization="customer")
    await one.rotate(new_generation=True)
    hang = house.provider.hang()
    rotating = asyncio.create_task(one.rotate())
    await entered(hang)
    with pytest.raises(OverloadedError):
        await one.rotate()
    for _ in range(10):
        retire = RetireGenerationRequest("acme", "eu", 1, bring_back=False, reason="")
        await one.replica.revocation.retire(one.asked("RetireGeneration", retire))
        assert (await one.revoke()).mutation.number is not None
    house.provider.mend()
    await asyncio.gather(rotating, return_exceptions=True)


async def test_the_threads_of_other_changes_hold_up_no_revoke(house: House) -> None:
    """R9: Revoke commits while every thread for other changes is taken, and more of them wait."""
    one = await house.replica()
    await one.enable()
    held = one.line.hold("cluster", threads="store-decisions")
    flood = [asyncio.create_task(one.rotate(within=30)) for _ in range(50)]
    await held.reached()
    await spin()
    outcome = await asyncio.wait_for(one.revoke(request_id="r"), 10)
    assert outcome.mutation.number is not None
    assert (await asyncio.wait_for(one.revoke(request_id="r"), 10)).mutation.replayed
    one.line.let_go("cluster")
    await asyncio.gather(*flood, return_exceptions=True)


async def test_a_change_that_its_caller_gave_up_keeps_its_places(house: House) -> None:
    """R9: an abandoned change keeps its places until its task has ended, which bounds the queue."""
    one = await house.replica()
    await one.enable(organization="customer")
    hang = house.provider.hang()
    with pytest.raises(DeadlineError):
        await one.rotate(within=0.0)
    cancelled = asyncio.create_task(one.rotate())
    await entered(hang)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    limits = one.replica.limits
    rooms = (
        limits.room,
        limits.callers.of("local").room,
        limits.organizations.of("customer").room,
    )
    assert not any(room.empty for room in rooms)
    house.provider.mend()
    await one.settle()
    assert all(room.empty for room in rooms)


async def test_a_flood_of_one_callers_revokes_holds_up_no_others(house: House) -> None:
    """R9: callers take turns in the lane, and one caller gets only a part of its threads."""
    one = await house.replica()
    await one.enable()
    await one.enable("other")
    held = one.line.hold("apply", threads="revocations")
    flood = [asyncio.create_task(one.revoke(caller="mallory", within=30)) for _ in range(50)]
    await held.reached()
    await until(lambda: one.line.counts["apply"] == 2 + 2)
    one.line._held.clear()
    assert (await asyncio.wait_for(one.revoke("other"), 10)).mutation.number is not None
    assert not any(task.done() for task in flood)
    held.release()
    await asyncio.gather(*flood)


async def test_a_call_without_rights_costs_no_turn(house: House) -> None:
    """R9: a Revoke that its names alone forbid never comes into the lane."""
    one = await house.replica()
    await one.enable()
    before = one.line.counts.copy()
    grant = '[[grant]]\ncallers = ["local"]\nroles = ["operator"]\nclusters = ["mine"]'
    one.rights = parse(grant, "policy.toml").rights(callers.LOCAL)
    with pytest.raises(ClusterNotFoundError):
        await one.revoke()
    assert one.line.counts["cluster"] == before["cluster"]


def test_no_caller_takes_every_place() -> None:
    """R9: a caller gets half of the free places at most; another one still finds a place."""
    room = SharedRoom(8, "revocations")
    for _ in range(4):
        room.occupy("mallory")
    with pytest.raises(OverloadedError, match="of this caller"), room.place("mallory"):
        pass
    with room.place("alice") as share:
        assert share.places == 1
        with room.place("alice"):
            assert share.places == 2
    room.vacate("mallory")
    with room.place("mallory") as share:
        assert share.places == 4


# One reader of confirmations


def waiting(one: Member, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that gets each change whose confirmation is waited for, which is committed."""
    numbers: list[int] = []
    confirmations = one.replica._confirmations
    wait = confirmations.wait

    async def noted(number: int, ends: float) -> tuple[list[str], list[PendingReplica]]:
        numbers.append(number)
        return await wait(number, ends)

    monkeypatch.setattr(confirmations, "wait", noted)
    return numbers


async def test_waiting_revokes_share_one_reader(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: the store is read as often for thirty waiting Revokes as for one."""
    one = await house.replica()
    two = await house.replica()
    await one.enable()
    numbers = waiting(one, monkeypatch)
    held = one.line.hold("replicas")
    revoking = [asyncio.create_task(one.revoke(within=60)) for _ in range(30)]
    await until(lambda: len(numbers) == 30)
    await held.reached()
    await two.poll()
    await two.poll()
    assert one.line.counts["replicas"] == 1
    one.line.let_go("replicas")
    for outcome in await asyncio.gather(*revoking):
        assert set(outcome.confirmed) == {one.changes.replica, two.changes.replica}
    # The first read serves the first Revoke; the next one serves all that came meanwhile.
    assert one.line.counts["replicas"] <= 3


async def test_a_read_from_before_a_change_does_not_confirm_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4, R9: a replica that has registered since that read is waited for."""
    one = await house.replica()
    await one.enable()
    await one.enable("other")
    held = one.line.hold("replicas", answered=True)
    first = asyncio.create_task(one.revoke())
    await held.reached()
    two = await house.replica()
    await two.wrap("other")
    numbers = waiting(one, monkeypatch)
    second = asyncio.create_task(one.revoke("other"))
    await until(lambda: len(numbers) == 1)
    one.line.let_go("replicas")
    await first
    await two.poll()
    await two.poll()
    assert two.changes.replica in (await second).confirmed
    assert not two.serves("other")
