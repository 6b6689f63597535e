"""Revocation and replicas (protocol): R1 to R4, S1, S3, W1 for changes."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sqlite3
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from keyfold_server import telemetry
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ConcurrentChangeError,
    DeadlineError,
    KeyfoldError,
    RegionNotFoundError,
    RevokedError,
    RowNotAuthenticError,
    StoreRolledBackError,
    StoreStaleError,
    StoreUnavailableError,
    UnreachableError,
)
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import UNKNOWN_REPLICA, ReplicaRow
from keyfold_server.service.data import data_plane
from keyfold_server.service.fleet.confirmations import PendingReplica
from keyfold_server.service.fleet.staleness import NEVER
from replicas import LONG, House, Member, entered, house_in, in_service, spin, until


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives an empty house."""
    async with house_in(tmp_path) as built:
        yield built


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with cluster acme in regions eu and us under fake:one, in use."""
    member = await house.replica()
    await member.enable(specs={"eu": "fake:one", "us": "fake:one"})
    await member.wrap()
    return member


def states(house: House, cluster: str = "acme") -> dict[str, State]:
    """Reads the states that the store has."""
    found = house.store.cluster(cluster)
    assert found is not None
    return {region.name: region.state for region in found.regions}


async def test_revoke_stops_use_at_once(house: House, one: Member) -> None:
    """R1: Revoke is one change for all regions without a KMS; after its answer calls fail."""
    house.provider.disconnect()
    before = len(house.provider.calls)
    outcome = await one.revoke()
    assert outcome.confirmed == (one.changes.replica,)
    assert outcome.pending == ()
    assert set(states(house).values()) == {State.REVOKED}
    assert len(house.provider.calls) == before
    for region in ("eu", "us"):
        with pytest.raises(RevokedError):
            await one.wrap(region=region)
    view = one.cache.view("acme")
    assert view is None or not view.open


async def test_revoke_of_some_regions_leaves_the_others(house: House, one: Member) -> None:
    """R1: only the named regions stop; an unknown one is refused and stops nothing."""
    await one.revoke(regions=["us"])
    await one.wrap(region="eu")
    with pytest.raises(RevokedError):
        await one.wrap(region="us")
    with pytest.raises(RegionNotFoundError):
        await one.revoke(regions=["eu", "mars"])
    await one.wrap(region="eu")
    with pytest.raises(ClusterNotFoundError):
        await one.revoke("nobody")


Change = Callable[[Member], Awaitable[object]]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.rotate({"eu": None, "us": None}), id="rotate"),
        pytest.param(lambda m: m.rotate({"eu": "fake:two"}), id="rotate-move"),
        pytest.param(lambda m: m.add_regions({"ap": "fake:one"}), id="add"),
        pytest.param(
            lambda m: m.add_regions({"ap": "fake:one"}, into_revoked=True), id="add-into-revoked"
        ),
    ],
)
async def test_a_change_proven_meanwhile_is_not_inserted_enabled(
    house: House, one: Member, change: Change
) -> None:
    """R1: a mutation that was proving a key while Revoke came loses; Revoke never does."""
    hang = house.provider.hang(operations=("wrap",), answered=True)
    changing = asyncio.ensure_future(change(one))
    await entered(hang)
    await one.revoke()
    house.provider.mend()
    with pytest.raises(ConcurrentChangeError):
        await changing
    assert set(states(house)) == {"eu", "us"}
    assert set(states(house).values()) == {State.REVOKED}


async def test_a_restore_does_not_undo_a_later_revoke(house: House, one: Member) -> None:
    """R1, R7: a Restore whose proof began before another Revoke commits nothing."""
    await one.revoke()
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    restoring = asyncio.create_task(one.restore())
    await entered(hang)
    await one.revoke()
    house.provider.mend()
    with pytest.raises(ConcurrentChangeError):
        await restoring
    assert set(states(house).values()) == {State.REVOKED}


async def test_many_revokes_and_rotations_at_once(house: House, one: Member) -> None:
    """R1: among concurrent changes every Revoke succeeds, and the cluster ends revoked."""
    two = await house.replica()
    jobs: list[Awaitable[object]] = []
    for _ in range(5):
        jobs += [one.rotate(), two.rotate({"us": None})]
        jobs += [one.hurry().revoke(), two.hurry().revoke()]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for index, result in enumerate(results):
        if index % 4 in (2, 3):
            assert not isinstance(result, BaseException), result
        elif isinstance(result, BaseException):
            assert isinstance(result, ConcurrentChangeError | RevokedError), result
    assert set(states(house).values()) == {State.REVOKED}


# What is in flight while keys are taken away


async def overtake(house: House, one: Member, change: Change) -> asyncio.Task[bytes]:
    """Has a change happen while an unwrap's answer is on its way; returns the waiting call."""
    one.loads.drop_all()
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    call = asyncio.create_task(one.wrap(within=30))
    await entered(hang)
    house.provider._faults.clear()
    await change(one)
    hang.release()
    return call


async def test_a_load_in_flight_across_revoke_serves_nobody(house: House, one: Member) -> None:
    """R2: an overtaken load neither enters memory nor answers those who wait for it."""
    call = await overtake(house, one, lambda m: m.revoke())
    with pytest.raises(RevokedError):
        await call
    view = one.cache.view("acme")
    assert view is None or not view.open


async def test_a_load_in_flight_across_rotate_serves_nobody(house: House, one: Member) -> None:
    """R2, S5: the call waits for the new wrap and throws the old version's answer away."""
    house.provider.new_version("fake:one")
    call = await overtake(house, one, lambda m: m.rotate({"eu": None, "us": None}))
    await call
    assert house.provider.counts["unwrap", "fake:one", "2"] >= 3
    view = one.cache.view("acme")
    assert view is not None
    [opened] = view.open.values()
    [generation] = view.regions["eu"].region.generations
    assert opened.root.root_id == generation.current.root_id


async def test_a_load_in_flight_across_revoke_at_ttl_0(house: House) -> None:
    """R2, R3: at TTL 0 too, a call cannot use after a Revoke what it fetched before it."""
    one = await house.replica(cache_ttl=0)
    await one.enable()
    call = await overtake(house, one, lambda m: m.revoke())
    with pytest.raises(RevokedError):
        await call


async def test_a_read_in_flight_across_revoke_is_not_kept(house: House, one: Member) -> None:
    """R2: a cluster read from the store before a Revoke does not come into memory after it."""
    one.loads.invalidate("acme")
    held = one.line.hold("cluster", answered=True)
    call = asyncio.create_task(one.wrap(within=30))
    await held.reached()
    one.line._held.clear()
    await one.revoke()
    held.release()
    with pytest.raises(RevokedError):
        await call


async def test_a_rotation_does_not_disturb_calls(house: House, one: Member) -> None:
    """S5: calls during and after a rotation all succeed, under old and new wraps."""
    blob = await one.wrap()
    stop = asyncio.Event()
    opened = 0

    async def caller() -> None:
        nonlocal opened
        while not stop.is_set():
            assert (await one.unwrap(blob)).plaintext == b"k" * 32
            opened += 1
            # A real pause: callers that spin would starve the store's threads on a busy machine.
            await asyncio.sleep(0.001)

    callers = [asyncio.create_task(caller()) for _ in range(3)]
    for _ in range(3):
        house.provider.new_version("fake:one")
        await one.rotate({"eu": None, "us": None})
    stop.set()
    await asyncio.gather(*callers)
    assert opened > 3


# R3: the shape


def test_the_core_never_waits() -> None:
    """R3: no method of the core awaits, starts a thread or sleeps; all are plain functions."""
    assert inspect.isclass(data_plane.DataPlane)
    for name, member in inspect.getmembers(data_plane.DataPlane, inspect.isfunction):
        assert not inspect.iscoroutinefunction(member), name
        assert not inspect.isgeneratorfunction(member), name
    tree = ast.parse(textwrap.dedent(inspect.getsource(data_plane)))
    waiting = ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Yield
    assert not [node for node in ast.walk(tree) if isinstance(node, waiting)]
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert imported.isdisjoint({"asyncio", "threading", "concurrent", "time", "socket"})


# R4: who has confirmed


async def test_revoke_waits_for_the_other_replica(house: House, one: Member) -> None:
    """R4: a replica is confirmed when it has dropped the KEKs, and not before."""
    two = await house.replica()
    await two.wrap()
    revoking = asyncio.create_task(one.revoke())
    await until(lambda: one.line.counts["replicas"] > 1)
    assert not revoking.done()
    assert two.serves()
    await two.poll_once()
    await two.poll_once()
    outcome = await revoking
    assert not two.serves()
    assert set(outcome.confirmed) == {one.changes.replica, two.changes.replica}
    assert outcome.confirmed[0] == one.changes.replica
    assert outcome.pending == ()


async def test_what_is_reported_as_applied_is_gone_from_memory(house: House, one: Member) -> None:
    """R4: whenever the store says that a replica has applied a change, its KEKs are gone."""
    two = await house.replica()
    await two.wrap()
    outcome = await one.hurry().revoke()
    number = outcome.mutation.number
    assert number is not None
    [pending] = outcome.pending
    assert pending.replica == two.changes.replica
    for _ in range(4):
        rows = {row.replica: row.applied for row in house.store.replicas()}
        assert not (rows[two.changes.replica] >= number and two.serves())
        await two.poll_once()
    assert not two.serves()


async def test_a_pending_replica_stops_by_the_time_given(house: House, one: Member) -> None:
    """R4, S3: Revoke names a replica without the store, which stops by the time it gives."""
    two = await house.replica(store_max_staleness=30)
    await two.wrap()
    house.clock.advance(10)
    await one.poll()
    revoking = asyncio.create_task(one.revoke())
    await until(lambda: one.line.counts["replicas"] > 1)
    house.clock.advance(5)
    outcome = await revoking
    [pending] = outcome.pending
    assert pending.replica == two.changes.replica
    assert 0 < pending.stops_within <= 30
    assert two.serves()
    house.clock.advance(pending.stops_within + 0.001)
    assert not two.serves()
    with pytest.raises(StoreStaleError):
        await two.wrap()


async def test_revoke_answers_before_its_callers_deadline(house: House, one: Member) -> None:
    """R4: with a second left Revoke waits half a second, then names who is pending."""
    await house.replica()
    revoking = asyncio.create_task(one.revoke(within=1.0))
    await until(lambda: one.line.counts["replicas"] > 1)
    assert not revoking.done()
    house.clock.advance(0.5)
    assert len((await revoking).pending) == 1


async def test_a_silent_replica_ages_out(house: House, one: Member) -> None:
    """S4: Revoke waits for a replica that died until its staleness has passed."""
    await house.replica()
    house.clock.advance(121)
    await one.poll()
    outcome = await one.revoke()
    assert outcome.pending == ()
    assert outcome.confirmed == (one.changes.replica,)


async def test_a_repeated_revoke_confirms_only_who_has_dropped_the_keys(
    house: House, one: Member
) -> None:
    """R4, R6: a Revoke repeated at a replica that has not read of it holds there too."""
    two, three = await house.replica(), await house.replica()
    await two.wrap()
    await three.wrap()
    await one.hurry().revoke(request_id="r")
    outcome = await two.hurry().revoke(request_id="r")
    assert outcome.mutation.replayed
    assert two.changes.replica in outcome.confirmed
    assert not two.serves()
    assert three.serves()
    assert three.changes.replica in [p.replica for p in outcome.pending]


async def test_a_revoke_that_is_committed_is_not_reported_as_failed(
    house: House, one: Member
) -> None:
    """R4: if the store does not say who has confirmed, the answer is still a revocation."""
    one.line.fail("replicas", StoreUnavailableError("away"))
    outcome = await one.hurry().revoke()
    assert outcome.confirmed == (one.changes.replica,)
    [pending] = outcome.pending
    assert pending.stops_within == 120


async def test_a_rotate_that_is_committed_is_not_reported_as_failed(
    house: House, one: Member
) -> None:
    """S5: an error of Rotate is true, since a customer who reads it keeps the old key."""
    one.line.fail("replicas", StoreUnavailableError("away"))
    assert (await one.rotate({"eu": "fake:two"})).mutation.number is not None


# W1 for changes


async def test_a_cancelled_callers_change_is_carried_out(house: House, one: Member) -> None:
    """W1: a caller that goes away cancels no commit, and no invalidation that follows one."""
    held = one.line.hold("apply", answered=True)
    calling = asyncio.create_task(one.revoke())
    await held.reached()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    one.line.let_go("apply")
    await one.settle()
    assert set(states(house).values()) == {State.REVOKED}
    assert not one.serves()


async def test_a_change_outlives_its_callers_deadline(house: House, one: Member) -> None:
    """W1: at the deadline the caller gets an error; the change goes on and is committed."""
    hang = house.provider.hang(operations=("wrap",))
    with pytest.raises(DeadlineError):
        await one.rotate({"eu": "fake:two"}, within=0.05)
    await entered(hang)
    house.provider.mend()
    await one.settle()
    found = house.store.cluster("acme")
    assert found is not None
    assert found.region("eu").key_spec.uri == "fake:two"


async def test_a_flood_of_reads_does_not_get_in_revokes_way(house: House, one: Member) -> None:
    """R1, R5: Revoke commits while all threads for reads of the store are taken."""
    held = one.line.hold("cluster", threads="store_")
    flood = [asyncio.create_task(one.wrap(f"c-{i}", within=30)) for i in range(1_100)]
    await held.reached()
    await spin()
    outcome = await asyncio.wait_for(one.revoke(), 10)
    assert outcome.mutation.number is not None
    assert not one.serves()
    one.line.let_go("cluster")
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert all(isinstance(r, KeyfoldError) for r in results)


# S1, S3, S5


@pytest.mark.parametrize("clock", ["monotonic", "wall"])
async def test_a_stale_replica_refuses_and_recovers(house: House, one: Member, clock: str) -> None:
    """S3: a replica without the store for too long, by either clock, refuses until it polls."""
    if clock == "monotonic":
        house.clock.advance(120)
        house.clock.step_wall(-120)  # Only one clock has gone on.
    else:
        house.clock.step_wall(120)
    assert in_service(one.replica)
    if clock == "monotonic":
        house.clock.advance(0.1)
        house.clock.step_wall(-0.1)
    else:
        house.clock.step_wall(0.1)
    assert not in_service(one.replica)
    with pytest.raises(StoreStaleError):
        await one.wrap()
    with pytest.raises(StoreStaleError):
        await one.status()
    await one.poll()
    await one.wrap()
    await one.status()


async def test_a_restore_that_moves_nothing_is_told_by_a_store_that_takes_writes(
    house: House, one: Member
) -> None:
    """S2: no replica believes a deposed primary, which can still be read."""
    assert (await one.restore()).regions == ()
    assert (await one.restore(regions=["eu"])).regions == ("eu",)
    for method in ("apply", "attempted"):
        one.line.fail(method, StoreUnavailableError("the store takes no writes"))
    with pytest.raises(StoreUnavailableError):
        await one.restore(regions=["eu"])
    with pytest.raises(StoreUnavailableError):
        await one.restore()


async def test_a_stale_replica_refuses_no_change_by_a_state_that_may_be_past(
    house: House, one: Member
) -> None:
    """S2: no replica tells a caller what a deposed primary still shows; Revoke goes on counting."""
    await one.revoke()
    with pytest.raises(RevokedError):
        await one.rotate({"eu": None})
    for method in ("apply", "attempted"):
        one.line.fail(method, StoreUnavailableError("the store takes no writes"))
    house.clock.advance(121)
    for refused in (one.rotate({"eu": None}), one.rotate({"nowhere": None})):
        with pytest.raises(StoreStaleError):
            await refused
    one.line.mend()
    assert (await one.revoke()).mutation.number is not None


async def test_a_clock_set_back_does_not_make_a_replica_fresh(house: House, one: Member) -> None:
    """S3: the larger of the two spans counts."""
    house.clock.advance(121)
    house.clock.step_wall(-1_000_000)
    with pytest.raises(StoreStaleError):
        await one.wrap()


async def test_staleness_counts_from_when_the_last_good_poll_began(
    house: House, one: Member
) -> None:
    """S3: a poll that hangs on its way back counts from when it began."""
    await one.poll()
    await until(lambda: one.line.asked > one.line.counts["poll"])
    house.clock.advance(100)
    await one.poll_once()  # It had begun before those 100 seconds.
    house.clock.advance(30)
    assert not in_service(one.replica)


async def test_a_failing_poll_makes_a_replica_stale_and_a_good_one_ends_it(
    house: House, one: Member
) -> None:
    """S3: a poll that the store answers with an error does not count."""
    one.line.fail("poll", StoreUnavailableError("away"))
    house.clock.advance(121)
    await one.poll_once()
    assert not in_service(one.replica)
    one.line.mend()
    await one.poll()
    await one.poll()
    assert in_service(one.replica)


async def test_a_rolled_back_store_is_refused(house: House, one: Member) -> None:
    """S1: if the store lacks a change that a replica saw, it drops everything and refuses."""
    counted = telemetry.STORE_CALLS.labels("poll", "STORE_ROLLED_BACK")
    before = next(s.value for s in counted._samples() if s.name == "_count")
    one.line.fail("poll", StoreRolledBackError("gone"), times=1)
    await one.poll_once()
    await until(lambda: one.changes.rolled_back)
    assert not any(root.open for root in one.cache._roots.values())
    # What docs/operations.md has an alert on.
    assert next(s.value for s in counted._samples() if s.name == "_count") == before + 1
    with pytest.raises(StoreRolledBackError):
        await one.wrap()
    one.line.mend()
    one.line.let_poll()
    await spin()
    with pytest.raises(StoreRolledBackError):
        await one.wrap()


async def test_a_reconciled_store_is_served_from_again(house: House, one: Member) -> None:
    """S1: once an operator has decided, a replica starts from the store as it is, by itself."""
    await one.poll()
    one.line.fail("poll", StoreRolledBackError("gone"), times=1)
    await one.poll_once()
    await until(lambda: one.changes.rolled_back)
    looks = one.line.counts["reconciled"]
    await until(lambda: one.line.counts["reconciled"] > looks)
    assert one.changes.rolled_back
    with pytest.raises(StoreRolledBackError):
        await one.revoke()
    house.store.reconcile("the standby lagged")
    await until(lambda: not one.changes.rolled_back)
    await one.poll()
    await one.wrap()
    assert (await one.revoke()).confirmed == (one.changes.replica,)


async def test_a_change_in_flight_ends_before_a_replica_begins_anew(house: House) -> None:
    """S1, S5: a change that was decided on a lost store is not committed in the next one."""
    # A budget longer than all waits of this test together: only `mend` ends the hang.
    one = await house.replica(provider_budget=5 * LONG)
    await one.enable(specs={"eu": "fake:one", "us": "fake:one"})
    await one.wrap()
    hang = house.provider.hang("fake:one", ("unwrap",))
    rotating = asyncio.create_task(one.rotate({"eu": "fake:two"}, within=30))
    await entered(hang)
    one.line.fail("poll", StoreRolledBackError("gone"), times=1)
    await one.poll_once()
    await until(lambda: one.changes.rolled_back)
    held = one.line.hold("register")
    house.store.reconcile("the standby lagged")
    await until(lambda: one.changes.staleness.last_poll == NEVER)
    await spin()
    assert not held.entered.is_set()
    house.provider.mend()
    await held.reached()
    assert rotating.done()
    one.line.let_go("register")
    await until(lambda: not one.changes.rolled_back)
    await rotating


async def test_a_store_that_fails_while_a_replica_begins_anew(house: House, one: Member) -> None:
    """S1: a replica that cannot register yet goes on trying, and serves nothing."""
    one.line.fail("poll", StoreRolledBackError("gone"), times=1)
    await one.poll_once()
    await until(lambda: one.changes.rolled_back)
    one.line.fail("register", StoreUnavailableError("away"), times=2)
    house.store.reconcile("the standby lagged")
    await until(lambda: one.line.counts["register"] > 2)
    await until(lambda: not one.changes.rolled_back)


async def test_a_revoke_that_the_store_drops_is_not_answered_as_done(
    house: House, one: Member
) -> None:
    """S10, R4: no replica confirms a revocation that the database did not keep."""
    with closing(sqlite3.connect(house.file)) as file:
        file.execute("CREATE TRIGGER t BEFORE UPDATE ON regions BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(RowNotAuthenticError, match="did not take a row of regions"):
        await one.revoke()


async def test_a_revoke_that_the_store_undoes_stops_use_everywhere(
    house: House, one: Member
) -> None:
    """S10: where a trigger puts the old rows back, every replica refuses them."""
    two = await house.replica()
    await two.wrap()
    columns = {
        "clusters": ("updated_at", "epoch", "version", "children"),
        "regions": ("state", "state_since"),
    }
    back = " ".join(
        f"UPDATE {table} SET {name} = (SELECT {name} FROM kept_{table} AS k WHERE "
        f"k.name = {table}.name);"
        for table, names in columns.items()
        for name in (*names, "mac")
    )
    with closing(sqlite3.connect(house.file)) as file:
        for table in ("clusters", "regions"):
            file.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
        file.execute(f"CREATE TRIGGER t AFTER INSERT ON log BEGIN {back} END")
    await one.hurry().revoke()
    await two.poll()
    for member in (one, two):
        with pytest.raises(RowNotAuthenticError):
            await member.wrap()


DAY = 24 * 60 * 60


def prune(house: House) -> None:
    """Prunes the store as a replica does every hour."""
    house.store.prune(int(house.clock.wall() * 1000), DAY * 1000)


async def test_a_quiet_day_is_not_a_rollback(house: House, one: Member) -> None:
    """S11: after a day without a change, the first one and a pruning stop no replica."""
    two, three = [await house.replica() for _ in range(2)]
    await house.after(0.0)
    for _ in range(26):
        await house.after(3600.0)
        prune(house)
    await two.hurry().revoke()
    for _ in range(2):
        prune(house)
        for member in (one, two, three):
            await member.poll()
    for member in (one, two, three):
        assert in_service(member.replica)
        with pytest.raises(RevokedError):
            await member.wrap()


async def test_the_log_is_kept_as_long_as_the_settings_say(house: House) -> None:
    """S11: entries go once they are older than that, not before; the newest one stays."""
    one = await house.replica(log_retention=3 * DAY)
    await one.enable()
    await one.revoke()
    await one.restore()
    for days in range(1, 5):
        await house.after(DAY + 1)
        await one.replica._pruning.prune()
        with closing(sqlite3.connect(house.file)) as file:
            [(oldest,)] = file.execute("SELECT min(number) FROM log")
        assert oldest == (3 if days >= 3 else 1)
    await one.wrap()


async def test_a_replica_that_pruning_passed_begins_anew(house: House, one: Member) -> None:
    """S11, R4: such a replica drops everything, then starts from the store as it is, by itself."""
    two = await house.replica()
    await two.wrap()
    await house.after(0.0)
    one.hurry()
    held = two.line.hold("register")
    await one.revoke()
    await one.restore()
    house.clock.advance(DAY + 1)
    await one.poll()
    await one.revoke()
    await one.poll()
    prune(house)
    two.line.let_poll()
    await held.reached()
    assert not any(root.open for root in two.cache._roots.values())
    assert not in_service(two.replica)
    with pytest.raises(StoreStaleError):
        await two.wrap()
    two.line.let_go("register")
    await until(lambda: in_service(two.replica))
    assert not two.changes.rolled_back
    with pytest.raises(RevokedError):
        await two.wrap()


async def test_revoke_names_those_that_a_failover_may_have_lost(
    house: House, one: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: Revoke does not claim that all have confirmed while the store may have lost some."""
    real = house.store.replicas
    lost = ReplicaRow(UNKNOWN_REPLICA, -1, 120.0, 20.0)
    monkeypatch.setattr(house.store, "replicas", lambda: [*real(), lost])
    outcome = await one.hurry().revoke()
    assert outcome.confirmed == (one.changes.replica,)
    # The staleness is stretched for a clock that runs slow.
    assert lost.stops_within == pytest.approx(100.12)
    assert outcome.pending == (PendingReplica(UNKNOWN_REPLICA, lost.stops_within),)


async def test_an_own_change_that_a_failover_lost_is_a_rollback(house: House) -> None:
    """S1, R4: a replica whose own commit is gone refuses, and confirms nothing under its number."""
    one = await house.replica()
    await one.enable()
    await one.wrap()
    await one.poll()
    two = await house.replica()
    # What one committed last was lost with the old primary; one had applied it ahead of its poll.
    one.changes.applied_here(one.changes._applied[0] + 1, bytes(16), "acme")
    await one.wrap()
    two.hurry()
    await two.poll()
    revoked = await two.revoke()  # It takes the lost change's number.
    assert one.changes.replica not in revoked.confirmed
    await one.poll_once()
    assert not one.serves()
    assert one.changes.rolled_back
    [row] = [r for r in house.store.replicas() if r.replica == one.changes.replica]
    assert row.applied < one.changes._applied[0] + 1


async def test_a_load_in_flight_across_a_rollback_serves_nobody(house: House, one: Member) -> None:
    """S1, R2: a load that was under way when the store changed is dropped too."""
    one.loads.drop_all()
    hang = house.provider.hang(operations=("unwrap",), answered=True)
    call = asyncio.create_task(one.wrap(within=30))
    await entered(hang)
    one.line.fail("poll", StoreRolledBackError("gone"), times=1)
    await one.poll_once()
    await until(lambda: one.changes.rolled_back)
    house.provider.mend()
    with pytest.raises(StoreRolledBackError):
        await call
    assert not any(root.open for root in one.cache._roots.values())


async def test_rotate_names_replicas_that_are_behind(house: House, one: Member) -> None:
    """S5: Rotate names the replicas that have not applied it; they read again in time (F3)."""
    two = await house.replica()
    blob = await two.wrap()
    rotated = await one.rotate({"eu": "fake:two"})
    assert [p.replica for p in rotated.pending] == [two.changes.replica]
    house.provider.disable("fake:one")
    house.clock.advance(60)
    assert (await two.unwrap(blob)).plaintext == b"k" * 32


async def test_a_new_replica_starts_from_what_it_reads(house: House, one: Member) -> None:
    """S4: a replica that registers after a revocation has nothing to confirm or serve."""
    await one.revoke()
    two = await house.replica()
    with pytest.raises(RevokedError):
        await two.wrap()
    assert two.changes._applied[0] == 3  # Those of Enable, of the first use, and of Revoke.


async def test_one_that_stops_is_not_waited_for(house: House, one: Member) -> None:
    """S4: a replica that signed off is neither pending nor confirmed."""
    two = await house.replica()
    await two.stop()
    outcome = await one.revoke()
    assert outcome.confirmed == (one.changes.replica,)
    assert outcome.pending == ()


# R7


async def test_restore_goes_region_by_region(house: House, one: Member) -> None:
    """R7: Restore takes back the proven regions, and names the others with their errors."""
    house.provider.create_key("us-key")
    await one.rotate({"us": "fake:us-key"})
    await one.revoke()
    house.provider.disconnect("fake:us-key")
    outcome = await one.restore()
    assert outcome.regions == ("eu",)
    assert isinstance(outcome.failed["us"], UnreachableError)
    assert states(house) == {"eu": State.ENABLED, "us": State.REVOKED}
    await one.wrap(region="eu")
    with pytest.raises(RevokedError):
        await one.wrap(region="us")
    house.provider.mend()
    assert (await one.restore()).regions == ("us",)
    await one.wrap(region="us")


async def test_restore_of_nothing_that_can_be_proven_changes_nothing(
    house: House, one: Member
) -> None:
    """R7: Restore commits nothing without a proof."""
    await one.revoke()
    before = house.store.cluster("acme")
    house.provider.disable("fake:one")
    outcome = await one.restore()
    assert outcome.regions == ()
    assert set(outcome.failed) == {"eu", "us"}
    assert house.store.cluster("acme") == before
