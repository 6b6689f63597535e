"""Refused attempts go into the log in groups, behind Revoke (protocol R5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyfold_server import telemetry
from keyfold_server.domain.errors import RevokedError, StoreUnavailableError
from keyfold_server.service.life import attempts
from replicas import House, Member, house_in, until


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a house whose replicas tests start."""
    async with house_in(tmp_path) as made:
        yield made


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica that refuses to rotate its cluster, which is revoked."""
    made = await house.replica()
    await made.enable()
    await made.enable("other")
    await made.revoke()
    return made


async def refused(one: Member) -> None:
    """Makes an attempt that the state refuses."""
    with pytest.raises(RevokedError):
        await one.rotate({"eu": None}, within=30)


def recorded(house: House) -> int:
    """Counts the refused attempts in the log."""
    return house.trail("acme").count(("local", "rpc:cluster:rotate", "REVOKED"))


async def test_attempts_collect_while_a_group_is_on_its_way(house: House, one: Member) -> None:
    """R5: a flood makes few transactions, and each answer comes after its entry."""
    held = one.line.hold("attempted")
    first = asyncio.create_task(refused(one))
    await held.reached()
    others = [asyncio.create_task(refused(one)) for _ in range(40)]
    await until(lambda: len(one.replica._attempts._waiting) == 40)
    assert not any(task.done() for task in (first, *others))
    one.line.let_go("attempted")
    await first
    await asyncio.gather(*others)
    assert one.line.counts["attempted"] == 2
    assert recorded(house) == 41


async def test_an_entry_precedes_its_answer(house: House, one: Member) -> None:
    """R5: whoever has the answer finds the attempt in the log."""
    for number in range(1, 4):
        await refused(one)
        assert recorded(house) == number


async def test_a_flood_of_attempts_holds_up_no_revoke(house: House, one: Member) -> None:
    """R5, R9: Revoke goes ahead, however many attempts wait for the log."""
    held = one.line.hold("attempted")
    flood = [asyncio.create_task(refused(one)) for _ in range(20)]
    await held.reached()
    assert (await asyncio.wait_for(one.revoke("other"), 10)).mutation.number is not None
    one.line.let_go("attempted")
    await asyncio.gather(*flood)
    assert recorded(house) == 20


async def test_a_store_that_takes_no_attempt_changes_no_answer(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """R5: the caller hears why it was refused, and the server's log says what is missing."""
    one.line.fail("attempted", StoreUnavailableError("the disk is full"))
    await refused(one)
    assert "did not record 1 attempts" in caplog.text
    one.line.mend()
    await refused(one)
    assert recorded(house) == 1


async def test_attempts_beyond_the_queue_are_dropped_and_counted(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R5: a flood fills neither memory nor the log, and what is missing is counted."""
    monkeypatch.setattr(attempts, "_WAITING", 3)
    caplog.set_level(logging.WARNING)
    before = telemetry.ATTEMPTS_DROPPED._value.get()
    held = one.line.hold("attempted")
    first = asyncio.create_task(refused(one))
    await held.reached()
    waiting = [asyncio.create_task(refused(one)) for _ in range(3)]
    await until(lambda: len(one.replica._attempts._waiting) == 3)
    await refused(one)  # Answered at once.
    assert telemetry.ATTEMPTS_DROPPED._value.get() == before + 1
    one.line.let_go("attempted")
    await asyncio.gather(first, *waiting)
    assert recorded(house) == 4
    assert "which lacks 1" in caplog.text


async def test_groups_have_a_pace(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5: groups are bounded, and each waits for its turn."""
    monkeypatch.setattr(attempts, "_GROUP", 5)
    turns: list[float] = []

    def take() -> float:
        turns.append(0.0)
        return 0.0

    monkeypatch.setattr(one.replica._attempts._pace, "take", take)
    held = one.line.hold("attempted")
    first = asyncio.create_task(refused(one))
    await held.reached()
    others = [asyncio.create_task(refused(one)) for _ in range(12)]
    await until(lambda: len(one.replica._attempts._waiting) == 12)
    one.line.let_go("attempted")
    await asyncio.gather(first, *others)
    assert one.line.counts["attempted"] == len(turns) == 1 + 3
    assert recorded(house) == 13
