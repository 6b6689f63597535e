"""Checks of the log: walks that name the first bad link, and anchors that show a rollback."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from builders import an_event
from callers import EVERYTHING
from fakes import FakeClock
from keyfold_server import telemetry
from keyfold_server.domain.errors import InvalidPageError, RowNotAuthenticError
from keyfold_server.domain.events import EventFilter
from keyfold_server.domain.ports import Store
from keyfold_server.service.events import anchors
from keyfold_server.service.events.alarm import LogAlarm
from keyfold_server.service.events.anchors import AnchorCheck, AnchorOutcome
from keyfold_server.service.events.log_checks import LogChecks
from keyfold_server.service.storage import Storage
from keyfold_server.service.upkeep.log_verification import LogVerification
from keyfold_server.store.opening import open_store
from replicas import House, Member, house_in


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a store and a KMS, without a replica yet."""
    async with house_in(tmp_path) as house:
        yield house


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica, and a log of five entries."""
    one = await house.replica()
    await one.enable()
    for _ in range(2):
        await one.revoke()
        await one.restore()
    return one


async def anchored(member: Member) -> str:
    """Returns an anchor for the log as it is."""
    return (await member.replica.log_checks.anchor(EVERYTHING)).line


async def held(member: Member, *lines: str) -> list[AnchorCheck]:
    """Holds the log against lines."""
    return list((await member.replica.log_checks.verify(EVERYTHING, "", lines)).anchors)


def edit(house: House, statement: str) -> None:
    """Edits the store with SQL, as its administrator can."""
    with closing(sqlite3.connect(house.file)) as file, file:
        file.execute(statement)


async def test_a_walk_goes_part_by_part(one: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a call is bounded; the next call goes on where the one before ended."""
    monkeypatch.setattr("keyfold_server.service.events.log_checks.CHECKED", 2)
    checks, token, parts = one.replica.log_checks, "", []
    while True:
        found = await checks.verify(EVERYTHING, token, ())
        parts.append((found.check.first, found.check.last.number))
        if not found.next_token:
            break
        token = found.next_token
    assert parts == [(1, 2), (3, 4), (5, 5)]
    for wrong in (token[:-2], token[:-8] + "AAAAAAAA", "x"):
        with pytest.raises(InvalidPageError, match="not one that this server gave out"):
            await checks.verify(EVERYTHING, wrong, ())
    with pytest.raises(InvalidPageError, match="at most 1,000 anchors"):
        await checks.verify(EVERYTHING, "", [""] * 1_001)


async def test_an_anchor_matches_a_log_that_went_on(one: Member) -> None:
    """A3: the log has what an anchor names, however much follows, until that is pruned."""
    first = await anchored(one)
    await one.revoke()
    second = await anchored(one)
    assert [each.outcome for each in await held(one, first, second)] == [
        AnchorOutcome.MATCHES,
        AnchorOutcome.MATCHES,
    ]
    await one.house.after(100)
    one.house.store.prune(int(one.house.clock.wall() * 1000), 1_000)
    [old, new] = await held(one, first, second)
    # Of the older entries the last one stays, so the checkpoint is the one before it.
    assert (old.outcome, new.outcome) == (AnchorOutcome.MATCHES, AnchorOutcome.MATCHES)
    await one.house.after(100)
    await one.restore()
    await one.house.after(100)
    one.house.store.prune(int(one.house.clock.wall() * 1000), 1_000)
    [old, new] = await held(one, first, second)
    assert old.outcome is AnchorOutcome.PRUNED
    assert "entry 5 was pruned" in old.message


async def test_an_anchor_shows_a_rollback(house: House, one: Member, tmp_path: Path) -> None:
    """A3: a whole old store verifies, and an anchor from later shows that it is old."""
    saved = tmp_path / "saved.db"
    with closing(sqlite3.connect(house.file)) as live, closing(sqlite3.connect(saved)) as old:
        live.backup(old)
    await one.revoke()
    line = await anchored(one)
    shutil.copy(tmp_path / "service.key", tmp_path / "key")
    back = open_store(f"sqlite:///{saved}", tmp_path / "key", clock=FakeClock())
    with closing(back) as store:
        storage = Storage(cast("Store", store))
        checks = LogChecks(storage, FakeClock(), LogAlarm(), check_fresh=lambda _: None)
        found = await checks.verify(EVERYTHING, "", [line])
        assert found.check.complete
        [shown] = found.anchors
        assert shown.outcome is AnchorOutcome.ROLLED_BACK
        assert "it had entry 6, and its log ends with entry 5" in shown.message
        # The store goes on from there, in another way than it had gone.
        house.clock.advance(1)
        store.issue_external_id("cluster:x", "id", an_event())
        [shown] = (await checks.verify(EVERYTHING, "", [line])).anchors
        assert shown.outcome is AnchorOutcome.ROLLED_BACK
        assert "entry 6 of its log is not the one that it had" in shown.message
        storage.close()


async def test_an_anchor_of_another_place_is_told_apart(one: Member, tmp_path: Path) -> None:
    """A3: a line of another deployment, a forged line and a line that was cut are told apart."""
    line = await anchored(one)
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    async with house_in(other_folder) as other:
        theirs = await anchored(await other.replica())
    said = anchors.parsed(line)
    assert said is not None
    forged = f"{replace(said, mark=replace(said.mark, number=99)).text} {said.signature.hex()}"
    renamed = line.replace(said.store_uid.hex(), "ab" * 16)
    # No protobuf Timestamp holds that time.
    late = line.replace(f" {said.time} ", f" {10**18 - 1} ")
    outcomes = [
        each.outcome for each in await held(one, theirs, renamed, forged, late, line[:-1], "")
    ]
    assert outcomes == [
        AnchorOutcome.OTHER_STORE,
        AnchorOutcome.OTHER_STORE,
        AnchorOutcome.FORGED,
        AnchorOutcome.FORGED,
        AnchorOutcome.FORGED,
        AnchorOutcome.FORGED,
    ]
    assert [each.outcome for each in await held(one, f"  {line}\r\n")] == [AnchorOutcome.MATCHES]


async def test_an_anchor_of_an_empty_log(house: House) -> None:
    """An anchor that was made before the first entry matches the log that follows."""
    one = await house.replica()
    line = await anchored(one)
    await one.enable()
    [shown] = await held(one, line)
    assert (shown.outcome, shown.anchor is not None) == (AnchorOutcome.MATCHES, True)


async def test_a_server_that_meets_a_broken_link_says_so(
    one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """A3: the background walk, and a list, tell of the first broken link in log and metric."""
    alarm = one.replica._alarm
    walk = LogVerification(one.replica._storage, alarm)
    for _ in range(2):
        await walk.turn()
    assert telemetry.LOG_BROKEN._value.get() == 0
    edit(one.house, _CHANGED)
    with pytest.raises(RowNotAuthenticError):
        await one.replica.events.page(EVERYTHING, EventFilter(), 0, "", newest_first=False)
    assert telemetry.LOG_BROKEN._value.get() == alarm.broken == 3
    assert "entry 3 of the log is missing, or is not the one that Keyfold wrote" in caplog.text
    told = caplog.text.count("entry 3 of the log")
    edit(one.house, _UNCHANGED)
    # Whoever found it broken walks again by itself, although the hour has not passed.
    for _ in range(200):
        await walk.turn()
    assert telemetry.LOG_BROKEN._value.get() == alarm.broken == 0
    assert caplog.text.count("entry 3 of the log") == told


async def test_a_poll_that_meets_a_broken_link_says_so(
    house: House, one: Member, caplog: pytest.LogCaptureFixture
) -> None:
    """A3: the poll, too, names the entry in log and metric, once; without any walk or list."""
    other = await house.replica()
    await other.poll()
    edit(house, "UPDATE log SET message = 'another' WHERE number = 5")
    assert telemetry.LOG_BROKEN._value.get() == 0
    for _ in range(3):
        await other.poll_once()
    assert telemetry.LOG_BROKEN._value.get() == other.replica._alarm.broken == 5
    assert caplog.text.count("entry 5 of the log is missing, or is not the one") == 1
    edit(house, "UPDATE log SET message = NULL WHERE number = 5")
    other.replica._alarm.clear()


async def test_one_replica_walks_the_log(house: House, one: Member) -> None:
    """The walk is bounded, and of all replicas one does it in an hour."""
    walks = [LogVerification(one.replica._storage, LogAlarm()) for _ in range(3)]
    before = one.line.counts["check_log"]
    for walk in walks:
        for _ in range(4):
            await walk.turn()
    assert one.line.counts["check_log"] == before + 1
    house.clock.advance(3_601)
    for _ in range(125):
        await walks[2].turn()
    assert one.line.counts["check_log"] == before + 2
    edit(house, _CHANGED)
    house.clock.advance(3_601)
    for _ in range(250):
        await walks[0].turn()
    assert walks[0]._alarm.broken == 3
    walks[0]._alarm.clear()


_CHANGED = "UPDATE log SET outcome = 'x' || outcome WHERE number = 3"
_UNCHANGED = "UPDATE log SET outcome = substr(outcome, 2) WHERE number = 3"
