"""What a replica does with many changes, and with many things to write (protocol S12)."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyfold_server.domain.errors import StoreStaleError, StoreUnavailableError
from keyfold_server.domain.health import Health, Observation
from keyfold_server.service.fleet import pace, poll
from keyfold_server.service.observed import health, uses
from keyfold_server.store.tables import log_polling
from replicas import House, Member, house_in, in_service, spin, until

STALENESS = 120.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme in use."""
    member = await house.replica()
    await member.enable()
    await member.wrap()
    await member.poll()
    return member


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Makes a page hold 3 changes."""
    monkeypatch.setattr(poll, "POLL_PAGE", 3)
    monkeypatch.setattr(log_polling, "POLL_PAGE", 3)
    return 3


async def read_page(member: Member) -> None:
    """Lets one poll go on, and returns once the next one waits."""
    await until(lambda: member.line.asked > member.line.counts["poll"])
    asked = member.line.asked
    member.line.let_poll()
    await until(lambda: member.line.asked > asked)


def applied(house: House, member: Member) -> int:
    """Returns the last change that a replica has reported as applied."""
    rows = {row.replica: row.applied for row in house.store.replicas()}
    return rows[member.changes.replica]


@pytest.mark.usefixtures("pages")
async def test_each_page_is_applied_before_the_next_is_read(house: House, one: Member) -> None:
    """S12, R4: a replica reports page by page what it has dropped."""
    two = (await house.replica()).hurry()
    await two.wrap()
    at = applied(house, one)
    for number in range(7):
        await two.enable(f"c-{number}")
    reported = [applied(house, one)]
    while reported[-1] < at + 7:
        await read_page(one)
        reported.append(applied(house, one))
    assert reported[0] == at
    assert sorted(set(reported)) == [at, at + 3, at + 6, at + 7]


@pytest.mark.usefixtures("pages")
async def test_a_replica_that_catches_up_is_fresh_at_the_end(house: House, one: Member) -> None:
    """S3, S12: only a poll that reads the newest change makes a replica fresh."""
    two = (await house.replica()).hurry()
    for number in range(7):
        await two.enable(f"c-{number}")
    await read_page(one)
    assert in_service(one.replica)
    house.clock.advance(STALENESS + 1)
    assert not in_service(one.replica)
    await read_page(one)
    assert not in_service(one.replica)
    with pytest.raises(StoreStaleError):
        await one.wrap()
    await one.poll()
    assert in_service(one.replica)
    assert not one.changes.rolled_back
    await one.wrap()


@pytest.mark.usefixtures("pages")
async def test_an_own_change_in_a_later_page_is_not_lost(house: House, one: Member) -> None:
    """S1, S12: a first page without a change of this replica's own is not a rollback."""
    two = (await house.replica()).hurry()
    for number in range(5):
        await two.enable(f"c-{number}")
    await one.hurry().revoke()
    for _ in range(4):
        await read_page(one)
    assert not one.changes.rolled_back
    assert in_service(one.replica)
    assert not one.changes.ours


async def test_an_own_change_hastens_no_poll(house: House, one: Member) -> None:
    """S12: no replica waits for this one to report its own change, and it reads that in time."""
    one.changes.poll.soon.clear()
    await one.hurry().revoke()
    assert not one.changes.poll.soon.is_set()
    two = await house.replica()
    two.changes.apply([], {}, two.changes.staleness.last_poll, threading.Event(), complete=True)
    assert not two.changes.poll.soon.is_set()


def test_hastened_polls_are_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """S12: two polls come at once, to read and to report; more of them come at intervals."""
    now = [100.0]
    monkeypatch.setattr(pace, "monotonic", lambda: now[0])
    paced = pace.Pace(0.1)
    assert [paced.take() for _ in range(4)] == pytest.approx([0.0, 0.0, 0.1, 0.2])
    now[0] += 10.0
    assert [paced.take() for _ in range(3)] == pytest.approx([0.0, 0.0, 0.1])
    # Ten changes a second, each a hint to read and a hint to report, are ten polls a second.
    now[0] += 10.0
    begun: list[float] = []
    while len(begun) < 101:
        now[0] += paced.take()
        begun.append(now[0])
    assert begun[-1] - begun[0] == pytest.approx(9.9)


async def test_what_the_store_does_not_take_is_bounded(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S12: while the store is away, the newest observations of each subject stay, up to a bound."""
    monkeypatch.setattr(health, "_MOST", 3)
    monkeypatch.setattr(uses, "_MOST", 2)
    recorder = one.replica._health
    await recorder.flush()
    for at, name in enumerate(("a", "b", "a", "c", "d"), 1):
        recorder._record(Observation(f"root:{name}", Health.HEALTHY, at, at))
    assert [(o.subject, o.last_check) for o in recorder._new.values()] == [
        ("root:a", 3),
        ("root:c", 4),
        ("root:d", 5),
    ]
    for name in ("x", "y", "z"):
        await one.enable(name)
        house.clock.advance(1.0)
        await one.wrap(name)
    one.line.fail("used", StoreUnavailableError("away"), times=1)
    with pytest.raises(StoreUnavailableError):
        await one.flush_uses()
    assert len(one.replica._uses._new) == 2


async def test_a_flush_goes_in_parts(one: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """S12: what one part of a flush has written is not kept when a later part fails."""
    monkeypatch.setattr(health, "_AT_ONCE", 2)
    recorder = one.replica._health
    await recorder.flush()
    for at in range(5):
        recorder._record(Observation(f"root:{at}", Health.HEALTHY, at, at))
    before = one.line.counts["observe"]
    one.line._faults["observe"] = [StoreUnavailableError("away"), None]
    with pytest.raises(StoreUnavailableError):
        await recorder.flush()
    assert sorted(recorder._new) == ["root:2", "root:3", "root:4"]
    await recorder.flush()
    assert not recorder.pending
    assert one.line.counts["observe"] == before + 4
    await spin()
