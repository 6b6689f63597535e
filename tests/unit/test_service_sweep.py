"""The sweep (protocol F4, F5) also checks keys that no caller uses."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from fakes import Call
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    KeyDisabledError,
    StoreUnavailableError,
    UnreachableError,
)
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.log import Entry, EntryKind
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.provider import Unwrapped
from keyfold_server.rpc.messages.replies import cluster_status
from keyfold_server.service.loading import announcements
from keyfold_server.service.upkeep import sweep as sweeping
from replicas import House, Member, entered, house_in, under, until

INTERVAL = 600


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with clusters a and b in region eu, both under fake:one and in use."""
    member = await house.replica()
    for name in ("a", "b"):
        await member.enable(name)
        await member.wrap(name)
    return member


def condemn(house: House, cluster: str) -> Callable[[], None]:
    """Makes the KMS refuse one cluster's context; returns a function that ends that."""
    unwrap = house.provider.unwrap

    def refusing(
        key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        if binding.cluster == cluster:
            house.provider._enter("unwrap", key.uri, key_version, binding)
            raise AccessDeniedError("the policy refuses this context")
        return unwrap(key, key_version, ciphertext, binding, budget=budget)

    house.provider.unwrap = refusing  # type: ignore[method-assign]

    def end() -> None:
        house.provider.unwrap = unwrap  # type: ignore[method-assign]

    return end


def asked(house: House, since: int = 0) -> list[Call]:
    """Lists the calls to the KMS."""
    return house.provider.calls[since:]


def opened(house: House, since: int) -> list[str]:
    """Lists the clusters whose KEKs the KMS had to open."""
    calls = [c for c in asked(house, since) if c.operation == "unwrap"]
    return sorted(c.binding.cluster for c in calls if c.binding is not None)


async def described(member: Member) -> tuple[bool | None, tuple[str, ...]]:
    """Reads whether a cluster's root key can be described, and the notices of its region."""
    stored = member.house.store.cluster("a")
    assert stored is not None
    report = await member.replica.reports.report(stored, member.rights)
    [status] = cluster_status(report).regions
    can = status.can_describe if status.HasField("can_describe") else None
    return can, tuple(status.notices)


async def seen(member: Member, cluster: str = "a") -> Observation:
    """Reads what is known of a cluster's key, without a KMS call."""
    stored = member.house.store.cluster(cluster)
    assert stored is not None
    report = await member.replica.reports.report(stored, member.rights)
    observation = report.regions[0].seen
    assert observation is not None
    return observation


def refusals(house: House) -> list[Entry]:
    """Reads the entries of the log that report refusals."""
    noted = house.store.poll(Heartbeat("reader", 0, b"", 120, 0))
    return [n for n in noted if n.kind is EntryKind.REFUSAL]


async def test_each_kek_in_use_is_proven_by_itself(house: House, one: Member) -> None:
    """F4: the sweep ends a KEK whose context the KMS refuses, though neighbours are proven."""
    end = condemn(house, "a")
    await house.after(40)
    await one.look()
    await one.wrap("b")
    # Whichever KEK the root key was proven by, it was not a's.
    assert one.serves("b")
    one.line.fail("samples", StoreUnavailableError("not by the store's choice"))
    await one.sweep()
    one.line.mend()
    with pytest.raises(AccessDeniedError):
        await one.wrap("a")
    await one.wrap("b")
    end()
    await house.after(6)
    await one.wrap("a")


async def test_a_kek_that_was_not_used_is_left_alone(house: House, one: Member) -> None:
    """F4: a KEK that was not used since the last sweep costs the KMS no call of its own."""
    await one.sweep()
    await house.after(30)
    await one.wrap("a")
    before = len(asked(house))
    for slot in range(256):
        for root in one.cache.roots(f"{slot:02x}"):
            await one.replica.sweep._in_memory(root)
    assert opened(house, before) == ["a"]


async def test_a_proof_of_the_sweep_keeps_a_root_key_in_use(house: House, one: Member) -> None:
    """F1, F4: a KEK that the sweep proved is still refreshed ahead of its expiry."""
    await one.sweep()
    await house.after(50)
    before = len(asked(house))
    await one.look()
    assert len(opened(house, before)) == 1


async def test_a_condemned_kek_flushes_its_neighbours_once(house: House, one: Member) -> None:
    """F4: further refusals of one KEK flush nothing, and no replica reports them."""
    two = await house.replica()
    condemn(house, "a")
    await one.sweep()
    # Two calls of this sweep may have met the refusal; the second one's turn comes in 30 seconds.
    await house.after(announcements.ANNOUNCE_AGAIN)
    await one.settle()
    told = len(refusals(house))
    assert told
    for member in (one, two):
        await member.poll()
        await member.wrap("b")
    for _ in range(3):
        await house.after(INTERVAL)
        for member in (one, two):
            await member.wrap("b")
        for member in (one, two):
            await member.sweep()
        assert one.serves("b")
        assert two.serves("b")
    assert len(refusals(house)) == told
    assert (await seen(one, "a")).health is Health.ACCESS_DENIED
    assert (await seen(one, "b")).health is Health.HEALTHY


async def test_a_refusal_of_the_sweep_ends_use_on_every_replica(house: House, one: Member) -> None:
    """F2, F5: a refusal that the sweep meets counts as any other."""
    two = await house.replica()
    await two.wrap("a")
    house.provider.disable("fake:one")
    await one.sweep()
    assert not one.serves("a")
    assert not one.serves("b")
    await two.poll()
    assert not two.serves("a")


async def test_an_idle_root_key_is_asked_once_by_one_replica(house: House, one: Member) -> None:
    """F5: each interval one replica has each idle root key wrap and unwrap, and no other does."""
    two = await house.replica()
    await one.enable("c", {"eu": "fake:two"})
    await one.sweep()
    for _ in range(3):
        await house.after(INTERVAL)
        before = len(asked(house))
        await asyncio.gather(one.sweep(), two.sweep())
        calls = [c.operation for c in asked(house, before) if c.uri == "fake:two"]
        assert sorted(calls) == ["describe", "unwrap", "wrap"]
    await house.after(INTERVAL / 3)
    before = len(asked(house))
    await two.sweep()
    assert asked(house, before) == []


async def test_another_replica_takes_over(house: House, one: Member) -> None:
    """F5: if the replica that asked is gone, another one asks within an interval."""
    two = await house.replica()
    await one.sweep()
    await one.stop()
    await house.after(INTERVAL)
    before = len(asked(house))
    await two.sweep()
    assert {c.operation for c in asked(house, before)} == {"wrap", "unwrap", "describe"}


async def test_a_replica_that_is_cut_off_is_not_the_one_that_asks(
    house: House, one: Member
) -> None:
    """F5: a replica that cannot ask about a root key leaves it to one that can, and stays away."""
    two = await house.replica()
    await one.enable("c", {"eu": "fake:two"})
    await house.after(INTERVAL)
    one.cut_off()
    for turn in range(4):
        before = len(asked(house))
        # Its turn always comes first, and the other's too early to take an idle claim.
        await house.after(INTERVAL - 100)
        await one.sweep()
        if turn > 0:
            assert (await seen(two, "c")).health is Health.HEALTHY
        await house.after(100)
        await two.sweep()
        calls = [c.operation for c in asked(house, before) if c.uri == "fake:two"]
        assert sorted(calls) == ["describe", "unwrap", "wrap"]
        assert (await seen(two, "c")).health is Health.HEALTHY
    await two.stop()
    one.cut_off(cut=False)
    before = len(asked(house))
    await house.after(INTERVAL - 10)
    await one.sweep()
    assert "c" in opened(house, before)


async def test_a_replica_that_is_alone_goes_on_asking(house: House, one: Member) -> None:
    """F5: a single replica tries an unreachable KMS again in each sweep."""
    await one.enable("c", {"eu": "fake:two"})
    house.provider.disconnect("fake:two")
    for _ in range(6):
        await house.after(INTERVAL)
        before = len(asked(house))
        await one.sweep()
        assert "c" in opened(house, before)
        assert (await seen(one, "c")).health is Health.UNREACHABLE
    house.provider.mend()
    await house.after(INTERVAL)
    await one.sweep()
    assert (await seen(one, "c")).health is Health.HEALTHY


async def test_a_dead_kms_is_not_passed_round_for_ever(house: House, one: Member) -> None:
    """F5: each replica tries a KMS that none can reach, then one of them in each interval."""
    two = await house.replica()
    await one.enable("c", {"eu": "fake:two"})
    house.provider.disconnect("fake:two")
    turns = []
    for _ in range(3):
        for member in (one, two):
            await house.after(INTERVAL / 2)
            before = len(asked(house))
            await member.sweep()
            turns.append("c" in opened(house, before))
    assert turns[:2] == [True, True]
    assert sum(turns[2:]) == 2


async def test_every_idle_kek_has_its_turn(house: House, one: Member) -> None:
    """F4: of many KEKs under an idle root key, each sweep opens the one opened longest ago."""
    names = ["c", "d", "e"]
    for name in names:
        await one.enable(name, {"eu": "fake:two"})
    turns = []
    for _ in range(6):
        await house.after(INTERVAL)
        before = len(asked(house))
        await one.sweep()
        turns += [n for n in opened(house, before) if n in names]
    assert sorted(turns) == sorted(names * 2)


async def test_a_cluster_whose_rows_were_changed_takes_no_turn_of_others(
    house: House, one: Member
) -> None:
    """F5, A1: a row that is not authentic does not keep the sweep from other root keys."""
    await one.enable("c", {"eu": "fake:two"})
    await house.after(1)
    await one.enable("d", {"eu": "fake:two"})
    # The store's observations decide which KEK has its turn.
    await one.replica._health.flush()
    with closing(sqlite3.connect(house.file)) as file, file:
        file.execute("UPDATE clusters SET epoch = 7 WHERE name = 'c'")
    turns = []
    for _ in range(3):
        await house.after(INTERVAL)
        before = len(asked(house))
        await one.sweep()
        turns.append([c.operation for c in asked(house, before) if c.uri == "fake:two"])
    assert turns[1:] == [["wrap", "unwrap", "describe"]] * 2


async def test_a_condemned_kek_does_not_colour_its_root_key(house: House, one: Member) -> None:
    """F4: an idle KEK is shown as HEALTHY beside one whose own context the KMS refuses."""
    for name in ("c", "d"):
        await one.enable(name, {"eu": "fake:two"})
    condemn(house, "c")
    for _ in range(3):
        await house.after(INTERVAL)
        await one.sweep()
    assert (await seen(one, "c")).health is Health.ACCESS_DENIED
    assert (await seen(one, "d")).health is Health.HEALTHY


async def test_an_idle_key_that_is_refused_and_comes_back_shows(house: House, one: Member) -> None:
    """The status of a key that nobody uses changes within the sweep, both ways."""
    await one.enable("c", {"eu": "fake:two"})
    house.provider.disable("fake:two")
    await house.after(INTERVAL)
    await one.sweep()
    assert (await seen(one, "c")).health is Health.KEY_DISABLED
    house.provider.enable("fake:two")
    await house.after(INTERVAL)
    await one.sweep()
    back = await seen(one, "c")
    assert (back.health, back.can_wrap, back.can_unwrap) == (Health.HEALTHY, True, True)


async def test_a_revoked_region_is_never_asked(house: House, one: Member) -> None:
    """The sweep does not call the KMS of a revoked region."""
    for name in ("a", "b"):
        await one.revoke(name)
    await house.after(INTERVAL)
    before = len(asked(house))
    await one.sweep()
    assert asked(house, before) == []


async def test_a_missing_wrap_permission_shows_within_the_sweep(house: House, one: Member) -> None:
    """F5: can_wrap false alone is HEALTHY, the permission named; a refresh does not hide it."""
    denied = AccessDeniedError("no", missing_permission="kms:Encrypt")
    house.provider.fail(denied, "fake:one", ("wrap",))
    await one.sweep()
    for later in (0, 50):
        await house.after(later)
        await one.look()  # Then the root key is refreshed.
        found = await seen(one, "a")
        assert (found.health, found.can_wrap, found.can_unwrap) == (Health.HEALTHY, False, True)
        assert (found.reason, found.message) == ("ACCESS_DENIED", "no")
        assert found.missing_permission == "kms:Encrypt"
    assert one.serves("a")
    assert house.store.cannot_wrap(0) == 2
    house.provider.mend()
    await house.after(INTERVAL)
    await one.sweep()
    found = await seen(one, "a")
    assert (found.can_wrap, found.reason, found.message) == (True, "", "")
    assert found.missing_permission == ""
    assert house.store.cannot_wrap(0) == 0


async def test_a_missing_permission_to_describe_shows_within_the_sweep(
    house: House, one: Member
) -> None:
    """F5: every missing action is named; one that Keyfold can do without spoils nothing else."""
    await one.sweep()
    assert await described(one) == (True, ())
    denied = AccessDeniedError("AWS denies it", missing_permission="kms:DescribeKey")
    house.provider.fail(denied, "fake:one", ("describe",))
    await house.after(INTERVAL)
    await one.sweep()
    can, notices = await described(one)
    assert can is False
    [notice] = notices
    assert "AWS denies it; missing permission: kms:DescribeKey" in notice
    found = await seen(one)
    assert (found.health, found.can_wrap, found.reason) == (Health.HEALTHY, True, "")
    # Another replica reads it in the store, and no outage takes it back.
    two = await house.replica()
    await one.replica._health.flush()
    house.provider.mend()
    house.provider.fail(UnreachableError("gone"), "fake:one", ("describe",))
    await house.after(INTERVAL)
    await two.sweep()
    assert await described(two) == (can, notices)
    house.provider.mend()
    # Whoever disables the key has not taken the permission away.
    house.provider.fail(KeyDisabledError("off"), "fake:one", ("describe",))
    await house.after(INTERVAL)
    await two.sweep()
    assert await described(two) == (True, ())


async def test_a_refusal_to_unwrap_is_the_one_to_read(house: House, one: Member) -> None:
    """F5: if a root key neither wraps nor unwraps, the status says why it does not unwrap."""
    for operation in ("wrap", "unwrap"):
        lacking = AccessDeniedError(f"no {operation}", missing_permission=f"to {operation}")
        house.provider.fail(lacking, "fake:one", (operation,))
    await one.sweep()
    found = await seen(one)
    assert (found.health, found.can_wrap, found.can_unwrap) == (Health.ACCESS_DENIED, False, False)
    assert (found.reason, found.message) == ("ACCESS_DENIED", "no unwrap")
    assert found.missing_permission == "to unwrap"


async def test_a_key_that_wraps_alone_is_no_healthy_one(house: House, one: Member) -> None:
    """F5: some providers wrap under a disabled key; the sweep believes the unwrap."""
    house.provider.deny("fake:one", "unwrap")
    await one.sweep()
    found = await seen(one)
    assert (found.health, found.can_unwrap) == (Health.ACCESS_DENIED, False)
    house.provider.deny("fake:one")
    await house.after(INTERVAL)
    await one.sweep()
    assert (await seen(one)).message == "no permission to unwrap with fake:one"


async def test_an_outage_during_the_sweep_drops_nothing(house: House, one: Member) -> None:
    """F1, F6: an unreachable KMS ends no use, and the sweep does not try every KEK."""
    house.provider.disconnect()
    before = len(asked(house))
    await one.sweep()
    assert one.serves("a")
    assert one.serves("b")
    assert len(opened(house, before)) == 2  # One for memory, one for the store.
    assert (await seen(one)).health is Health.UNREACHABLE
    house.provider.mend()
    await house.after(INTERVAL)
    await one.sweep()
    assert (await seen(one)).health is Health.HEALTHY


async def test_a_hanging_kms_keeps_no_other_from_its_turn(house: House, one: Member) -> None:
    """W2: while one customer's KMS hangs, the sweep goes on with the others' root keys."""
    await one.enable("c", {"eu": "fake:two"})
    await house.after(INTERVAL)
    before = len(asked(house))
    hang = house.provider.hang("fake:one")
    turns = [asyncio.create_task(one.replica.sweep.turn(slot)) for slot in range(256)]
    await entered(hang)
    await until(lambda: "c" in opened(house, before))
    house.provider.mend()
    await asyncio.gather(*turns)


async def test_a_replica_that_must_not_serve_asks_nobody(house: House, one: Member) -> None:
    """S3: a stale replica skips its turns."""
    house.clock.advance(INTERVAL)
    before = len(asked(house))
    await one.sweep()
    assert asked(house, before) == []


async def test_the_sweep_survives_the_store(house: House, one: Member) -> None:
    """S7: if the store does not answer, the sweep proves what is in memory anyway."""
    one.line.fail("samples", StoreUnavailableError("away"))
    before = len(asked(house))
    await one.sweep()
    one.line.mend()
    assert opened(house, before) == ["a", "b"]


async def test_turns_do_not_pile_up_at_a_slow_store(house: House, one: Member) -> None:
    """W5: callers wait behind one read of the sweep at most, and what is in memory is proven."""
    before = len(asked(house))
    first = one.line.counts["roots_in_use"]
    held = one.line.hold("roots_in_use")
    turns = [asyncio.create_task(one.replica.sweep.turn(slot % 256)) for slot in range(3 * 256)]
    await held.reached()
    await until(lambda: opened(house, before) == ["a", "b"])
    assert one.line.counts["roots_in_use"] == first + 1
    one.line.let_go("roots_in_use")
    await asyncio.gather(*turns)
    # A slot whose turn still waits takes no second one.
    assert one.line.counts["roots_in_use"] == first + 256
    assert one.replica.sweep.turns.age == 0.0


async def test_slots_have_their_turns_one_after_the_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: the keeper gives each slot one turn in each interval."""
    one = await house.replica(sweep=0.256)
    turns: list[int] = []

    async def noted(slot: int) -> None:
        turns.append(slot)

    monkeypatch.setattr(one.replica.sweep, "turn", noted)
    keeper = one.replica.sweep.start(one.replica.supervisor)
    await until(lambda: len(turns) >= 300)
    keeper.cancel()
    assert len(set(turns[:256])) == 256
    assert turns[256] == turns[0]


async def test_a_key_that_is_followed_keeps_no_other_from_its_turn(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4, F5: re-wrapping many regions may take hours; their slot has its turns all the same."""
    one = await house.replica(sweep=0.256)
    await one.enable("a", {"eu": under("fake:one", auto_rotate=True)})
    sweep = one.replica.sweep
    followed: list[str] = []

    async def follow(_region: str, root: RootKey, newest: str) -> None:
        followed.append(f"{root.uri} {newest}")
        await asyncio.Event().wait()

    turns: list[int] = []
    turn = sweep.turn

    async def noted(slot: int) -> None:
        if followed:
            turns.append(slot)
        await turn(slot)

    monkeypatch.setattr(sweep._auto_rotation, "follow", follow)
    monkeypatch.setattr(sweep, "turn", noted)
    found = house.store.cluster("a")
    assert found is not None
    slot = int(found.regions[0].newest.current.root_id[:2], 16)
    keeper = sweep.start(one.replica.supervisor)
    await until(lambda: turns.count(slot) >= 2)
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    await sweep.stop()
    # No second turn does the same work.
    assert followed == ["fake:one 1"]


async def test_a_root_key_of_many_keks_leaves_the_others_their_places(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: proving many KEKs one after the other keeps no place from another root key between."""
    monkeypatch.setattr(sweeping, "_PAUSE", 3_600.0)
    one.replica.sweep._at_once = asyncio.Semaphore(1)
    await one.enable("c", {"eu": "fake:two"})
    await one.wrap("c")
    before = len(asked(house))
    tasks = [
        asyncio.create_task(one.replica.sweep._in_memory(root)) for root in one.cache.roots("")
    ]
    await until(lambda: "c" in opened(house, before) and len(opened(house, before)) == 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await one.settle()
