"""WatchEvents in the service: what readers are told, and what they cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from keyfold_server.domain.errors import (
    CallerCredentialError,
    DrainingError,
    NotAllowedError,
    OverloadedError,
    ResumeTokenExpiredError,
    ResumeTokenInvalidError,
    StoreStaleError,
    WatchTooSlowError,
)
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.watching import WatchRequest
from keyfold_server.service.watch.messages import SnapshotEnd
from replicas import House, house_in, spin, until
from watching import EVENTS, STATES, Reader, reader, settled


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives replicas on one store."""
    async with house_in(tmp_path) as made:
        yield made


async def test_a_reader_gets_a_snapshot_and_then_what_changes(house: House) -> None:
    """R8: first every cluster, then each change; a replica's own commit is told at once."""
    one = await house.replica()
    await one.enable("acme")
    await one.enable("other")
    async with reader(one, STATES) as each:
        await each.snapshot()
        assert each.names() == [("acme", True), ("other", True)]
        assert isinstance(each.messages[2], SnapshotEnd)
        await one.hurry().revoke("acme")
        await settled(one)  # No poll has gone on.
        told = each.last("acme")
        assert told.look.cluster is not None
        assert (told.look.cluster.epoch, each.state("acme").region.state) == (1, State.REVOKED)
        assert len(each.states) == 3


async def test_a_reader_hears_of_what_another_replica_changed(house: House) -> None:
    """R8: once this replica has polled."""
    one, two = await house.replica(), await house.replica()
    await one.enable("acme")
    await two.poll()
    async with reader(two, WatchRequest(frozenset({"acme"}), states=True)) as each:
        await each.snapshot()
        await one.hurry().revoke("acme")
        await two.poll_once()
        await settled(two)
        assert each.state("acme").region.state is State.REVOKED


async def test_a_reader_hears_of_a_deletion_and_that_it_is_taken_back(house: House) -> None:
    """D2, R8: a deleted region is told as DELETED, with another epoch, and as REVOKED after it."""
    one = (await house.replica()).hurry()
    await one.enable("acme")
    async with reader(one, STATES) as each:
        await each.snapshot()
        await one.revoke("acme")
        await one.delete("acme")
        await settled(one)
        assert each.state("acme").region.state is State.DELETED
        deleted = each.last("acme").look.cluster
        assert deleted is not None
        assert deleted.epoch == 2
        await one.undelete("acme")
        await settled(one)
        assert each.state("acme").region.state is State.REVOKED


async def test_states_merge_and_the_last_is_told(house: House) -> None:
    """R8: a reader that reads nothing for a while gets the last state of each cluster, once."""
    one = (await house.replica()).hurry()
    await one.enable("acme")
    await one.enable("other")
    async with reader(one, STATES) as each:
        await each.snapshot()
        each.read(on=False)
        for _ in range(5):
            await one.revoke("acme")
            await settled(one)
            await one.restore("acme")
            await settled(one)
        await one.revoke("other")
        await settled(one)
        before = len(each.states)
        each.read()
        await settled(one)
        # One state was on its way when it stopped to read.
        assert [t.look.name for t in each.states[before + 1 :]] == ["acme", "other"]
        assert each.state("acme").region.state is State.ENABLED
        epoch = each.last("acme").look.cluster
        # What came in between shows by the epoch.
        assert epoch is not None
        assert epoch.epoch == 5


async def test_a_refusal_shows_although_the_key_is_back(house: House) -> None:
    """F2, R8: the number of the newest refusal tells of one that is over."""
    one = await house.replica()
    await one.enable("acme")
    await one.wrap()
    async with reader(one, WatchRequest(frozenset({"acme"}), states=True)) as each:
        await each.snapshot()
        assert each.state("acme").refusal == 0
        house.provider.disable("fake:one")
        house.clock.advance(61)
        with pytest.raises(Exception, match="disabled"):
            await one.wrap()
        await one.settle()
        await one.poll()
        await settled(one)
        first = each.state("acme").refusal
        assert first > 0
        assert each.state("acme").seen.health.name == "KEY_DISABLED"
        house.provider.enable("fake:one")
        house.clock.advance(6)
        await one.wrap()
        await one.settle()
        await one.replica._health.flush()
        await one.poll()
        await settled(one)
        assert each.state("acme").seen.health.name == "HEALTHY"
        assert each.state("acme").refusal == first


async def test_events_come_in_order_and_none_is_missing(house: House) -> None:
    """R8: every entry from the beginning of the stream on, and nothing before."""
    one, two = (await house.replica()).hurry(), (await house.replica()).hurry()
    await one.enable("acme")
    await one.poll()
    async with reader(one, EVENTS) as each:
        await each.begun()
        assert each.beats[0].number == 1
        for _ in range(3):
            await two.revoke("acme")
            await one.restore("acme")
            await one.poll()
            await two.poll()
        await settled(one)
        assert each.numbers == [2, 3, 4, 5, 6, 7]
        assert [e.event.action for e in each.events[:2]] == [
            "rpc:cluster:revoke",
            "rpc:cluster:restore",
        ]


async def test_events_go_on_from_a_token_on_another_replica(house: House) -> None:
    """R8: nothing is lost, and nothing comes twice, from the feed or from the store."""
    one, two = (await house.replica()).hurry(), (await house.replica()).hurry()
    await one.enable("acme")
    await one.poll()
    async with reader(one, EVENTS) as first:
        await first.begun()
        await one.revoke("acme")
        await one.poll()
        await settled(one)
        token = first.token
    await two.revoke("acme")
    await two.poll()
    late = await house.replica()  # Its feed begins after all of this.
    request = replace(EVENTS, resume_token=token)
    async with reader(two, request) as from_feed, reader(late, request) as from_store:
        for each in (from_feed, from_store):
            await each.begun()
            await settled(two)
            await until(lambda each=each: bool(each.numbers))  # type: ignore[misc]
            assert each.numbers == [3]
        await two.revoke("acme")
        for member, each in ((two, from_feed), (late, from_store)):
            await member.poll()
            await settled(member)
            assert each.numbers == [3, 4]


async def test_states_go_on_from_a_token(house: House) -> None:
    """R8: only what has changed since is told, and no SnapshotEnd comes."""
    one, two = (await house.replica()).hurry(), (await house.replica()).hurry()
    for name in ("a", "b", "c"):
        await one.enable(name)
    await one.poll()
    async with reader(one, STATES) as first:
        await first.snapshot()
        token = first.token
    await one.revoke("b")
    await two.poll()
    late = await house.replica()
    for member in (one, two, late):
        await member.poll()
        async with reader(member, replace(STATES, resume_token=token)) as each:
            await each.begun()
            assert each.names() == [("b", True)]
            assert not any(isinstance(m, SnapshotEnd) for m in each.messages)


async def test_who_goes_on_at_a_replica_that_is_ahead_of_its_poll_misses_nothing(
    house: House,
) -> None:
    """R8: a replica that has told of its own commit tells of it again, to whoever came since."""
    one, two = await house.replica(), (await house.replica()).hurry()
    await one.enable("acme")
    await one.poll()
    await two.poll()
    async with reader(one, STATES) as first:
        await first.snapshot()
        token = first.token
    async with reader(two, STATES) as before:
        await before.snapshot()
        await two.revoke("acme")
        await settled(two)  # No poll has gone on, so the log does not tell of it there.
        assert before.state("acme").region.state is State.REVOKED
        async with reader(two, replace(STATES, resume_token=token)) as late:
            await late.begun()
            await two.poll()
            await settled(two)
            assert late.state("acme").region.state is State.REVOKED
        told = len(before.states)
        await two.enable("other")
        await settled(two)
        await two.poll()
        await settled(two)
        assert len(before.states) == told + 1  # Nobody has come since, so once is enough.


async def test_a_token_within_a_snapshot_begins_it_again(house: House) -> None:
    """R8: a token stands for no state that its holder has not been told."""
    one = await house.replica()
    for name in ("a", "b"):
        await one.enable(name)
    await one.poll()
    async with reader(one, STATES) as first:
        await first.snapshot()
        [_, token, _] = first.got[0]
    async with reader(one, replace(STATES, resume_token=token)) as each:
        await each.snapshot()
        assert each.names() == [("a", True), ("b", True)]


@pytest.mark.parametrize(
    "other",
    [
        replace(STATES, clusters=frozenset({"acme"})),
        replace(STATES, events=True),
        replace(EVENTS, clusters=frozenset({"acme"})),
        replace(STATES, organization="acme"),
    ],
)
async def test_a_token_of_another_scope_is_refused(house: House, other: WatchRequest) -> None:
    """R8: a token of a wider or narrower request does not serve for this one."""
    one = await house.replica()
    await one.enable("acme")
    await one.poll()
    async with reader(one, STATES) as first:
        await first.snapshot()
        token = first.token
    async with reader(one, replace(other, resume_token=token)) as each:
        assert isinstance(await each.end(), ResumeTokenInvalidError)


@pytest.mark.parametrize("token", ["garbage", "é", "A" * 120, "A" * 100_000])
async def test_garbage_is_no_token(house: House, token: str) -> None:
    """R8: what the server did not make is refused with a reason."""
    one = await house.replica()
    async with reader(one, replace(EVENTS, resume_token=token)) as each:
        error = await each.end()
        assert isinstance(error, ResumeTokenInvalidError)
        assert error.field == "resume_token"


async def test_a_token_of_another_store_is_refused(house: House, tmp_path: Path) -> None:
    """R8: even under the same service key."""
    one = await house.replica()
    async with reader(one, EVENTS) as first:
        await first.begun()
        token = first.token
    (tmp_path / "b").mkdir()
    async with house_in(tmp_path / "b") as another:
        there = await another.replica()
        async with reader(there, replace(EVENTS, resume_token=token)) as each:
            assert isinstance(await each.end(), ResumeTokenInvalidError)


async def test_a_token_of_the_future_is_refused(house: House) -> None:
    """S1: after a rollback, a token of what was lost serves nobody."""
    one = await house.replica()
    await one.enable("acme")
    await one.poll()
    before = house.file.read_bytes()
    await one.enable("other")
    await one.poll()
    async with reader(one, EVENTS) as first:
        await first.begun()
        token = first.token
    await one.stop()
    house.store.close()
    for ending in ("-wal", "-shm"):
        house.file.with_name(house.file.name + ending).unlink(missing_ok=True)
    house.file.write_bytes(before)
    house.store = house.a_store(house.file.parent)
    two = await house.replica()
    async with reader(two, replace(EVENTS, resume_token=token)) as each:
        assert isinstance(await each.end(), ResumeTokenInvalidError)
    # Another entry in its place is another history.
    await two.enable("yet-another")
    await two.poll()
    async with reader(two, replace(EVENTS, resume_token=token)) as each:
        assert isinstance(await each.end(), ResumeTokenInvalidError)


@pytest.mark.parametrize("request_", [EVENTS, STATES])
async def test_a_token_whose_place_was_pruned_has_expired(
    house: House, request_: WatchRequest
) -> None:
    """S11: the reader hears that something is gone, instead of missing it."""
    one = (await house.replica()).hurry()
    await one.enable("acme")
    await one.poll()
    async with reader(one, request_) as first:
        await first.begun()
        token = first.token
    for _ in range(3):
        await one.revoke("acme")
    await one.poll()
    house.clock.advance(100.0)
    await one.poll()
    house.store.prune(int(house.clock.wall() * 1000) + 1, 1)
    late = await house.replica()
    async with reader(late, replace(request_, resume_token=token)) as each:
        assert isinstance(await each.end(), ResumeTokenExpiredError)


async def test_heartbeats_tell_the_age_of_the_poll(house: House) -> None:
    """R8: every few seconds, and the age counts from when the last good poll began."""
    one = await house.replica()
    await one.poll()
    async with reader(one, STATES) as each:
        await each.snapshot()
        for seconds in (2.0, 2.0, 2.0):
            house.clock.advance(seconds)
            await one.replica.watches.tick()
            await spin()
        assert [beat.age for beat in each.beats] == [0.0, 6.0]
        assert [beat.stream for beat in each.beats] == [0.0, 6.0]
        assert each.beats[0].most == 120.0
        house.clock.advance(5.0)
        await one.poll()
        await one.replica.watches.tick()
        await spin()
        assert each.beats[-1].age == 0.0


async def test_a_reader_that_is_behind_has_an_older_age(house: House) -> None:
    """R8: the age counts from the last poll of which the reader has been told everything."""
    one = (await house.replica()).hurry()
    await one.enable("acme")
    await one.poll()
    async with reader(one, STATES) as each:
        await each.snapshot()
        held = one.line.hold("named")
        await one.revoke("acme")
        await held.reached()
        for _ in range(2):
            house.clock.advance(6.0)
            await one.poll()  # The replica is fresh, but cannot read what has changed.
            await one.replica.watches.tick()
            await spin()
        assert [beat.age for beat in each.beats] == [0.0, 6.0, 12.0]
        one.line.let_go("named")
        await settled(one)
        house.clock.advance(6.0)
        await one.poll()
        await one.replica.watches.tick()
        await spin()
        assert each.beats[-1].age == 0.0
        assert each.state("acme").region.state is State.REVOKED


async def test_a_stale_replica_ends_its_watches(house: House) -> None:
    """R8: whoever reads from it must not take silence for news that there are none."""
    one = await house.replica()
    async with reader(one, STATES) as each, reader(one, EVENTS) as other:
        await each.snapshot()
        await other.begun()
        house.clock.advance(121.0)
        await one.replica.watches.tick()
        assert isinstance(await each.end(), StoreStaleError)
        assert isinstance(await other.end(), StoreStaleError)
    async with reader(one, STATES) as late:
        assert isinstance(await late.end(), StoreStaleError)


async def test_a_replica_that_stops_ends_its_watches(house: House) -> None:
    """R8: with a reason that says to go on elsewhere, even to a reader that reads nothing."""
    one = await house.replica()
    await one.enable("acme")
    async with reader(one, STATES) as each, reader(one, EVENTS) as stuck:
        await each.snapshot()
        await stuck.begun()
        stuck.read(on=False)
        await one.hurry().revoke("acme")
        await one.poll()
        await until(lambda: stuck.writing == 1)
        one.replica.watches.drain()
        for one_of in (each, stuck):
            assert isinstance(await one_of.end(), DrainingError)
    async with reader(one, STATES) as late:
        assert isinstance(await late.end(), DrainingError)


async def test_a_reader_that_is_too_slow_is_told_to_resume(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: nothing is kept for it alone; with its token it loses nothing."""
    one = (await house.replica()).hurry()
    await one.enable("acme")
    await one.poll()
    monkeypatch.setattr(one.replica.watches._sources.feed, "_most", 3)
    async with reader(one, EVENTS) as slow, reader(one, EVENTS) as quick:
        await slow.begun()
        await quick.begun()
        slow.read(on=False)
        for _ in range(6):
            await one.revoke("acme")
            await one.poll()
            await spin(20)
        assert quick.numbers == [2, 3, 4, 5, 6, 7]
        slow.read()
        assert isinstance(await slow.end(), WatchTooSlowError)
        token, had = slow.token, slow.numbers
    async with reader(one, replace(EVENTS, resume_token=token)) as again:
        await until(lambda: had + again.numbers == [2, 3, 4, 5, 6, 7])


async def test_a_thousand_readers_cost_no_poll_and_one_read(house: House) -> None:
    """R8: whatever their number, a change is polled once and its cluster is read once."""
    one, two = await house.replica(), (await house.replica()).hurry()
    await two.enable("acme")
    await one.poll()
    request = WatchRequest(frozenset({"acme"}), states=True, events=True)
    many = [Reader(one, request) for _ in range(1_000)]
    for each in many:
        await each.snapshot()
    await one.poll()
    before = one.line.counts.copy()
    await two.revoke("acme")
    await one.poll_once()
    await settled(one)
    await until(lambda: all(len(each.events) == 1 for each in many))
    await until(lambda: all(each.state("acme").region.state is State.REVOKED for each in many))
    spent = one.line.counts - before
    assert spent == {"poll": 1, "named": 1, "last_refusals": 1, "observations": 1}
    for each in many:
        await each.close()


async def test_watches_are_bounded(house: House) -> None:
    """W5: a caller has a bounded number of watches, and gets one back when one has ended."""
    one = await house.replica()
    one.replica.watches._most_per_caller = 2
    async with reader(one, STATES) as first, reader(one, STATES) as second:
        await first.snapshot()
        await second.snapshot()
        async with reader(one, STATES) as third:
            assert isinstance(await third.end(), OverloadedError)
        await first.close()
        async with reader(one, STATES) as third:
            await third.snapshot()


async def test_a_credential_that_is_no_longer_valid_ends_the_watch(house: House) -> None:
    """R8: a token's end ends what it began, at the next heartbeat."""
    one = await house.replica()
    async with reader(one, STATES) as each:
        await each.snapshot()
        each.refused = CallerCredentialError("the token has expired; get a new one")
        house.clock.advance(6.0)
        await one.poll()
        await one.replica.watches.tick()
        assert isinstance(await each.end(), CallerCredentialError)


async def test_a_store_that_does_not_answer_delays_and_loses_nothing(house: House) -> None:
    """R8: a read of what changed that fails is made again."""
    one = (await house.replica()).hurry()
    await one.enable("acme")
    async with reader(one, STATES) as each:
        await each.snapshot()
        one.line.fail("named", StoreStaleError("no answer"), times=2)
        await one.revoke("acme")
        await until(lambda: len(each.states) > 1)
        assert each.state("acme").region.state is State.REVOKED


async def test_a_request_for_nothing_is_refused(house: House) -> None:
    """What a watch is to tell must be said; a cursor is a place among events."""
    one = await house.replica()
    for wrong in (WatchRequest(), replace(STATES, cursor="siem")):
        async with reader(one, wrong) as each:
            assert (await each.end()).reason == "MALFORMED_REQUEST"  # type: ignore[attr-defined]


def test_nobody_without_a_grant_watches() -> None:
    """C7: without any role, there is nothing to watch."""
    assert NotAllowedError.reason == "NOT_ALLOWED"
