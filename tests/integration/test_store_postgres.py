"""Several replicas' stores on one PostgreSQL, while sessions, replicas and the server fail."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

import postgres
from audit_chain import verified_events
from builders import (
    NOW,
    a_cluster,
    a_region,
    a_request,
    a_rotation,
    an_event,
    applied,
    enabled,
    enabling,
    record_of,
)
from fakes import FakeClock
from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    Decision,
    created,
    revoked,
    with_regions,
)
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    SetupError,
    StoreUnavailableError,
)
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import Attempt, EntryKind
from keyfold_server.domain.ports import UNKNOWN_REPLICA, Heartbeat, Notifies
from keyfold_server.store.opening import open_store
from keyfold_server.store.postgresql.address import Timeouts
from keyfold_server.store.sql.store import SqlStore
from lateness import in_time
from proxy import Proxy, Way

QUICK = Timeouts(statement=1.0, lock=0.6, idle=0.3, answer=1.5)
BEAT = Heartbeat("one", 0, b"", 120.0, NOW)

WRITER = """
import sys, threading
from pathlib import Path
from builders import enabled
from fakes import FakeClock
from keyfold_server.store.opening import open_store
url, key, password, name, threads, each = sys.argv[1:]
store = open_store(url, key, clock=FakeClock(), password_file=Path(password))
def write(thread):
    for i in range(int(each)):
        enabled(store, f"{name}-{thread}-{i}")
several = [threading.Thread(target=write, args=[t]) for t in range(int(threads))]
[t.start() for t in several]
[t.join() for t in several]
store.close()
"""
"""The program of a replica in its own process."""


class Bench:
    """One database, and any number of replicas' stores on it."""

    def __init__(self, server: postgres.Server, folder: Path, stack: ExitStack) -> None:
        self.server = server
        self.name = server.borrow()
        self.key = postgres.a_service_key(folder)
        self._stack = stack
        stack.callback(server.give_back, self.name)

    def open(self, timeouts: Timeouts | None = None, **options: Any) -> SqlStore:
        """Opens another replica's store."""
        store = self.server.open(self.name, self.key, timeouts=timeouts, **options)
        self._stack.callback(store.close)
        return store

    def session(self) -> psycopg.Connection[Any]:
        """Opens a session beside the stores'."""
        return self._stack.enter_context(self.server.connect(self.name))

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a statement in a session beside the stores'."""
        return self.server.run(statement, self.name)

    def sessions(self, where: str = "true") -> list[int]:
        """Returns the process ids of the stores' sessions."""
        rows = self.run(
            f"SELECT pid FROM pg_stat_activity WHERE datname = '{self.name}' "
            f"AND application_name = 'keyfold-server' AND {where}"
        )
        return [pid for (pid,) in rows]

    def end_sessions(self) -> int:
        """Ends every session of the stores, as a failing network or administrator does."""
        pids = self.sessions()
        for pid in pids:
            self.run(f"SELECT pg_terminate_backend({pid}, 5000)")
        return len(pids)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Gives a database on a server that tests share."""
    with ExitStack() as stack:
        yield Bench(postgres.shared("15"), tmp_path, stack)


def rotating(seen: Cluster, uri: str) -> Change:
    """Makes a rotation, decided on a cluster as somebody read it."""
    regions = [a_rotation(region, uri) for region in seen.regions]
    return Change(seen.name, with_regions(seen, regions, NOW + 1), an_event("rpc:cluster:rotate"))


def revoking(name: str = "acme") -> Change:
    """Makes a revocation."""
    return Change(name, revoked(name, (), NOW + 5), an_event("rpc:cluster:revoke"))


def told(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Returns whether a condition comes true in time."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def test_of_two_rotations_one_loses(bench: Bench) -> None:
    """S5: two replicas that saw the same cluster cannot both change it."""
    one, two = bench.open(), bench.open()
    seen = enabled(one)
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(
            lambda pair: pair[0].apply([rotating(seen, pair[1])])[0],
            [(one, "local:two"), (two, "local:three")],
        )
    assert {type(result) for result in both} == {CommittedChange, ConcurrentChangeError}
    assert one.cluster("acme") == two.cluster("acme")
    assert verified_events(two, "acme") == 2


def test_of_two_creations_one_loses(bench: Bench) -> None:
    """S8: of two changes that make one cluster without a row to lock, the later finds the first."""
    one, two = bench.open(), bench.open()
    for turn in range(10):
        name = f"c-{turn}"
        with ThreadPoolExecutor(2) as pool:
            both = pool.map(lambda s, n=name: s.apply([enabling(a_cluster(n))])[0], (one, two))
        assert {type(result) for result in both} == {CommittedChange, ConcurrentChangeError}
        assert verified_events(one, name) == 1


def test_revoke_wins_against_rotations_elsewhere(bench: Bench) -> None:
    """R1: whatever other replicas change meanwhile, a revocation happens and stays."""
    one, two = bench.open(), bench.open()
    for turn in range(8):
        name = f"c-{turn}"
        seen = enabled(one, name)
        start = threading.Barrier(3)

        def change(
            store: SqlStore, made: Change, barrier: threading.Barrier = start
        ) -> CommittedChange | Exception:
            barrier.wait()
            return store.apply([made])[0]

        with ThreadPoolExecutor(3) as pool:
            rotations = [
                pool.submit(change, two, rotating(seen, uri)) for uri in ("local:a", "local:b")
            ]
            revocation = pool.submit(change, one, revoking(name)).result()
            kinds = [type(r.result()) for r in rotations]
        assert isinstance(revocation, CommittedChange)
        assert set(kinds) <= {CommittedChange, ConcurrentChangeError}
        now = two.cluster(name)
        assert now is not None
        assert (now.epoch, {r.state for r in now.regions}) == (1, {State.REVOKED})
        assert verified_events(one, name) == 2 + kinds.count(CommittedChange)


def test_a_cluster_made_behind_the_lock_is_not_overwritten(bench: Bench) -> None:
    """R1: a change does not decide on a cluster that it could not lock, or a revoke is lost."""
    other = bench.open()
    made = itertools.count()

    def reach(mark: str) -> None:
        if mark == "apply:locked" and next(made) == 0:
            enabled(other)
            applied(other, revoking())

    def decide(current: Cluster | None) -> Decision:
        # Accepts whatever it is shown; a change that had read the cluster before would not.
        return (
            created(a_cluster())(None)
            if current is None
            else with_regions(current, [a_region("us")], NOW)(current)
        )

    one = bench.open(reach=reach)
    [result] = one.apply([Change("acme", decide, an_event())])
    assert isinstance(result, CommittedChange)
    now = other.cluster("acme")
    assert now is not None
    assert {r.name: r.state for r in now.regions}["eu"] is State.REVOKED
    assert now.version == 3
    assert verified_events(other, "acme") == 3


def test_groups_that_cross_do_not_deadlock(bench: Bench) -> None:
    """S8: batches lock clusters in sorted order, so two with the same clusters only wait."""
    one, two = bench.open(), bench.open()
    names = ["a", "b", "c", "d"]
    for name in names:
        enabled(one, name)
    groups = [[revoking(n) for n in names], [revoking(n) for n in reversed(names)]]
    with ThreadPoolExecutor(2) as pool:
        work = [
            pool.submit(s.apply, g)
            for _ in range(10)
            for s, g in zip((one, two), groups, strict=True)
        ]
        results = [r for w in work for r in w.result()]
    assert all(isinstance(r, CommittedChange) for r in results)
    assert sorted(r.number for r in results if isinstance(r, CommittedChange)) == list(range(5, 85))
    [(deadlocks,)] = bench.run(
        f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{bench.name}'"
    )
    assert deadlocks == 0


def test_numbers_are_seen_in_the_order_of_commits(bench: Bench) -> None:
    """S1: with eight writers in two processes, no reader sees a number before the one below."""
    bench.open()
    tests = str(Path(__file__).parents[1])
    place = (bench.server.url(bench.name), str(bench.key), str(bench.server.password_file))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, *place, name, "4", "20"],
            env={**os.environ, "PYTHONPATH": tests},
            stderr=subprocess.DEVNULL,
        )
        for name in ("p", "q")
    ]
    ended = threading.Event()
    looks = []

    def poll(name: str) -> int:
        store, beat, seen = bench.open(), Heartbeat(name, 0, b"", 120.0, NOW), 0
        while not ended.is_set() or seen < 160:
            noted = store.poll(beat)  # raises where one is missing
            assert [n.number for n in noted] == list(range(seen + 1, seen + 1 + len(noted)))
            if noted:
                seen = noted[-1].number
                beat = Heartbeat(name, seen, noted[-1].entry_id, 120.0, NOW)
        return seen

    def look() -> int:
        turns = 0
        with bench.server.connect(bench.name) as session:
            while not ended.is_set():
                row = session.execute("SELECT count(*), max(number) FROM log").fetchone()
                assert row is not None
                assert row[0] == (row[1] or 0)
                looks.append(row[0])
                turns += 1
        return turns

    with ThreadPoolExecutor(3) as pool:
        polls = [pool.submit(poll, name) for name in ("one", "two")]
        looking = pool.submit(look)
        try:
            assert [writer.wait(50) for writer in writers] == [0, 0]
        finally:
            ended.set()
            for writer in writers:
                writer.kill()
        assert [p.result() for p in polls] == [160, 160]
        assert looking.result() > 10
    assert looks == sorted(looks)


def test_the_log_is_read_in_one_moment(bench: Bench) -> None:
    """A3: a log of any length verifies while others add to it."""
    one, two = bench.open(), bench.open()
    enabled(one)
    ended = threading.Event()
    # As much for each look. Otherwise longer looks would make the log longer, and the other way.
    more = threading.Semaphore(0)

    def add() -> None:
        while more.acquire() and not ended.is_set():
            two.attempted([Attempt("acme", an_event())] * 200)

    def look() -> int:
        more.release(5)
        return verified_events(one, "acme")

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add)
        counts = [look() for _ in range(25)]
        ended.set()
        more.release()
        adding.result()
    assert counts == sorted(counts)
    assert counts[-1] > 1


def test_two_replicas_cannot_share_a_name(bench: Bench) -> None:
    """S4: a second replica of a name is refused, with what to do; the first goes on."""
    one, two = bench.open(), bench.open()
    one.register(BEAT)
    with pytest.raises(SetupError, match="another replica has the name one"):
        two.register(BEAT)
    assert one.poll(BEAT) == []
    one.leave("one")
    two.register(BEAT)
    assert [r.replica for r in one.replicas()] == ["one"]


def test_a_replica_that_registers_during_a_revocation(bench: Bench) -> None:
    """S4: a replica starts from the state that it reads, and polls the revocation afterwards."""
    holding, registered = threading.Event(), threading.Event()

    def reach(mark: str) -> None:
        if mark == "apply:before-commit" and holding.is_set():
            assert registered.wait(5)

    one, two = bench.open(reach=reach), bench.open()
    enabled(one)
    holding.set()
    with ThreadPoolExecutor(1) as pool:
        revocation = pool.submit(applied, one, revoking())
        beat = two.register(Heartbeat("two", 0, b"", 120.0, NOW))
        assert two.poll(beat) == []
        registered.set()
        number = revocation.result().number
    assert (beat.number, number) == (1, 2)
    assert [n.number for n in two.poll(beat)] == [2]
    assert [r.replica for r in one.replicas()] == ["two"]


def test_silence_is_told_by_the_databases_clock(bench: Bench) -> None:
    """S3: the replicas' own clocks do not matter."""
    bench.run("DELETE FROM test_time.now")
    bench.run(f"INSERT INTO test_time.now VALUES ({NOW + 5_000_000})")
    one = bench.open()
    one.register(BEAT)
    bench.run(f"UPDATE test_time.now SET ms = {NOW + 5_007_500}")
    [row] = bench.open().replicas()
    assert row.silent_for == 7.5


def test_a_step_of_the_databases_clock_hides_no_replica(bench: Bench) -> None:
    """R4: a replica that serves stays pending although the database's clock jumps an hour ahead."""
    clock = postgres.DatabaseClock(bench.server, bench.name)
    one, two = bench.open(clock=clock), bench.open(clock=clock)
    for store, name in ((one, "one"), (two, "two")):
        store.register(replace(BEAT, replica=name))
    clock.advance(1.0)
    clock.step_wall(3600.0)
    clock.set(clock.wall())
    # Before a heartbeat has recorded the step, and after it; then to those who came later.
    assert unknown(one) == 0.0
    one.poll(BEAT)
    assert unknown(one) == 0.0
    clock.advance(BEAT.max_staleness - 1)
    one.poll(BEAT)
    late = bench.open(clock=clock)
    assert unknown(late) == BEAT.max_staleness - 1
    clock.advance(2.0)
    assert unknown(late) is None


def test_time_that_passes_is_not_a_step_of_the_clock(bench: Bench) -> None:
    """R4: where as much time passes here as in the database, nothing counts as a takeover."""
    clock = postgres.DatabaseClock(bench.server, bench.name)
    one = bench.open(clock=clock)
    one.register(BEAT)
    for seconds in (0.5, 30.0, 3600.0):
        clock.advance(seconds)
        one.poll(BEAT)
        assert unknown(one) is None
    clock.step_wall(-3600.0)
    clock.set(clock.wall())
    one.poll(BEAT)
    assert unknown(one) is None


def unknown(store: SqlStore) -> float | None:
    """Returns for how long replicas that the store may hide were silent; None without such."""
    return next((r.silent_for for r in store.replicas() if r.replica == UNKNOWN_REPLICA), None)


def test_a_change_is_heard_of(bench: Bench) -> None:
    """S1: a replica is notified after a commit, and whenever it may have missed one."""
    one, two = bench.open(), bench.open()
    assert isinstance(two, Notifies)
    heard = threading.Semaphore(0)
    stop = two.listen(heard.release)
    assert heard.acquire(timeout=10)  # it listens from now on
    enabled(one)
    assert heard.acquire(timeout=10)
    one.refused("ab12", Observation("root:ab12", Health.KEY_DISABLED, NOW, NOW), "one")
    assert heard.acquire(timeout=10)
    assert bench.end_sessions() >= 2
    assert heard.acquire(timeout=10)  # it listens again
    enabled(one, "other")
    assert heard.acquire(timeout=10)
    stop()
    assert told(lambda: not bench.sessions("query LIKE 'LISTEN%'"))


def test_nobody_is_woken_for_nothing(bench: Bench) -> None:
    """S7: an observation, a heartbeat or an attempt wakes nobody."""
    one = bench.open()
    enabled(one)
    session = bench.session()
    session.execute("LISTEN keyfold")
    one.observe([Observation("root:ab12", Health.HEALTHY, NOW, NOW)])
    one.attempted([Attempt("acme", an_event())])
    one.poll(BEAT)
    assert list(session.notifies(timeout=0.3)) == []
    enabled(one, "other")
    assert [n.channel for n in session.notifies(timeout=5, stop_after=1)] == ["keyfold"]


def test_ended_sessions_are_replaced(bench: Bench) -> None:
    """No call fails after a lost session that wrote nothing: the store tries again."""
    store = bench.open()
    seen = enabled(store)
    store.poll(BEAT)
    for turn in range(3):
        # A poll whose session was lost has dropped the idle one, so this opens another.
        assert store.cluster("acme") == seen
        assert bench.end_sessions() >= 2
        assert store.cluster("acme") == seen
        bench.end_sessions()
        assert isinstance(enabled(store, f"c-{turn}"), Cluster)
        assert len(store.poll(BEAT)) == turn + 2


@pytest.mark.parametrize("last", ["apply:rows-written", "apply:before-commit"])
def test_a_session_that_ends_within_a_change(bench: Bench, last: str) -> None:
    """S8: the change is carried out once, on another session."""
    turns = itertools.count()

    def reach(mark: str) -> None:
        if mark == last and next(turns) == 0:
            bench.end_sessions()

    store = bench.open(reach=reach)
    change = enabling(a_cluster(), a_request())
    assert applied(store, change).number == 1
    assert next(turns) == 2
    assert verified_events(store, "acme") == 1


def test_an_answer_that_is_lost_is_not_repeated(bench: Bench) -> None:
    """R6: if a commit's outcome is unknown, the error says so, and the caller repeats its id."""

    def reach(mark: str) -> None:
        if mark == "apply:before-commit":
            proxy.set(Way.DROP)

    with Proxy(bench.server.port) as proxy:
        store = open_store(
            bench.server.url(bench.name).replace(str(bench.server.port), str(proxy.port)),
            bench.key,
            clock=FakeClock(),
            reach=reach,
            password_file=bench.server.password_file,
        )
        with closing(store), pytest.raises(StoreUnavailableError, match="same request_id"):
            store.apply([enabling(a_cluster(), a_request())])


def test_a_read_does_not_wait_on_a_connection_that_the_poll_found_lost(bench: Bench) -> None:
    """W3: after a network that swallowed everything, reads come back when the poll does."""
    # The answer may take longer than the test: a read that waits for it fails by the test's limit.
    slow = Timeouts(statement=90.0, answer=90.0, poll=0.5)
    with Proxy(bench.server.port) as proxy:
        store = open_store(
            bench.server.url(bench.name).replace(str(bench.server.port), str(proxy.port)),
            bench.key,
            clock=FakeClock(),
            timeouts=slow,
            password_file=bench.server.password_file,
        )
        with closing(store):
            enabled(store)
            beat = store.register(BEAT)
            proxy.set(Way.HALF_OPEN)
            with pytest.raises(StoreUnavailableError):
                store.poll(beat)
            proxy.set(Way.PASS)
            store.poll(beat)
            assert store.cluster("acme") is not None


def test_a_lock_is_not_waited_for_without_end(bench: Bench) -> None:
    """A session that holds the log's head delays a change, which fails in our words in the end."""
    store = bench.open(QUICK)
    enabled(store)
    other = bench.session()
    with other.transaction():
        other.execute("SELECT * FROM log_head FOR UPDATE")
        with (
            in_time(3.0),
            pytest.raises(StoreUnavailableError, match="too long") as caught,
        ):
            applied(store, revoking())
        assert store.poll(BEAT)  # a poll needs no lock of others
    assert "log_head" not in str(caught.value)
    assert isinstance(applied(store, revoking()), CommittedChange)


def test_a_statement_ends(bench: Bench) -> None:
    """The server stops a statement that takes too long, and the error is in our words."""
    store = bench.open(Timeouts(statement=0.4))
    other = bench.session()
    with other.transaction():
        other.execute("LOCK TABLE clusters IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailableError, match="took too long"):
            store.cluster("acme")
    assert store.cluster("acme") is None


def test_a_server_that_hangs(bench: Bench) -> None:
    """W3, S3: the store gives up a session without answers, and the next poll has another."""
    store = bench.open(QUICK)
    store.poll(BEAT)
    paused = bench.sessions()
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with in_time(4.0), pytest.raises(StoreUnavailableError, match="did not answer in time"):
            store.poll(BEAT)
        assert time.monotonic() - began > 1.0
        assert store.poll(BEAT) == []
    finally:
        for pid in paused:
            os.kill(pid, signal.SIGCONT)


def test_a_replica_that_is_paused_with_the_head_of_the_log(bench: Bench) -> None:
    """S8: a process that stops in a transaction holds up the others only for a moment."""
    inside, go_on, turns = threading.Event(), threading.Event(), itertools.count()

    def reach(mark: str) -> None:
        if mark == "apply:numbered" and next(turns) == 0:
            inside.set()
            assert go_on.wait(10)

    paused, other = bench.open(QUICK, reach=reach), bench.open(QUICK)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(applied, paused, enabling(a_cluster("held")))
        assert inside.wait(5)
        assert applied(other, enabling(a_cluster("acme"))).number == 1
        go_on.set()
        assert held.result().number == 2
    assert len(other.poll(BEAT)) == 2


def test_a_poll_does_not_wait_for_other_connections(bench: Bench) -> None:
    """W3: with every other connection taken, a healthy replica does not go stale."""
    store = bench.open()
    engine = store.parts[0].engine
    with ExitStack() as taken:
        for _ in range(12):
            taken.enter_context(engine.connect())
        with in_time(2.0):
            assert store.poll(BEAT) == []


def test_a_server_that_was_switched_to_reading(bench: Bench) -> None:
    """S2: a read-only server cannot be a store: the heartbeat fails, and the error says why."""
    store = bench.open()
    seen = enabled(store)
    bench.run(f"ALTER DATABASE {bench.name} SET default_transaction_read_only = on")
    try:
        bench.end_sessions()
        refused: list[Callable[[], object]] = [
            partial(store.poll, BEAT),
            partial(store.register, BEAT),
            partial(applied, store, revoking()),
        ]
        for work in refused:
            with pytest.raises(StoreUnavailableError, match="it is read-only"):
                work()
        assert store.cluster("acme") == seen
    finally:
        with bench.server.connect(bench.name) as session:
            session.execute("SET default_transaction_read_only = off")
            session.execute(
                f"ALTER DATABASE {bench.name} RESET default_transaction_read_only".encode()
            )
    # The store gave up its read-only sessions, so the next ones write.
    assert [n.number for n in store.poll(BEAT)] == [1]


def test_sessions_keep_nothing(bench: Bench) -> None:
    """A pooler may give each transaction another session: none keeps a setting.

    Only the poll's keeps statements.
    """
    store = bench.open()
    for turn in range(12):
        enabled(store, f"c-{turn}")
        store.poll(BEAT)
    database, _ = store.parts
    with database.engine.connect() as connection, connection.begin():
        prepared = connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements")
        assert prepared.scalar_one() == 0
        ask = connection.exec_driver_sql(
            "SELECT name FROM pg_settings WHERE source = 'session' AND right(name, 7) = 'timeout'"
        )
        # Set only for this transaction.
        assert set(ask.scalars()) == {"statement_timeout", "idle_in_transaction_session_timeout"}
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_a_poll_whose_session_lacks_its_statements(bench: Bench) -> None:
    """S3: as behind a pooler, the poll goes on at once without, and no heartbeat is missed."""
    store = bench.open()
    beat = store.register(BEAT)
    store.poll(beat)
    polling = store.parts[0]._polling
    ask = "SELECT count(*) > 5 FROM pg_prepared_statements"
    with polling.connect() as connection:
        assert connection.exec_driver_sql(ask).scalar_one()
        connection.exec_driver_sql("DEALLOCATE ALL")
    for _ in range(2):
        assert store.poll(beat) == []
    with polling.connect() as connection:
        assert not connection.exec_driver_sql(ask).scalar_one()


def test_a_pooler_in_between(bench: Bench) -> None:
    """PgBouncer's transaction mode: everything works except notifications."""
    with closing(postgres.Bouncer(bench.server)) as bouncer, ExitStack() as stack:
        url = bench.server.url(bench.name).replace(str(bench.server.port), str(bouncer.port))

        def opened() -> SqlStore:
            password = bench.server.password_file
            store = open_store(url, bench.key, clock=FakeClock(), password_file=password)
            stack.callback(store.close)
            return store

        one, two = opened(), opened()
        beat = one.register(BEAT)
        assert isinstance(one, Notifies)
        stop = one.listen(lambda: None)

        def work(thread: int) -> None:
            for turn in range(10):
                store = (one, two)[turn % 2]
                name = f"c-{thread}-{turn}"
                store.apply([enabling(a_cluster(name), a_request(name))])
                store.attempted([Attempt("c-0-0", an_event())])
                applied(store, revoking(name))
                assert store.cluster(name) is not None

        with ThreadPoolExecutor(6) as pool:
            several = [pool.submit(work, thread) for thread in range(6)]
            while not all(w.done() for w in several):
                noted = two.poll(replace(beat, replica="two"))
                assert [n.number for n in noted] == list(range(1, len(noted) + 1))
            for w in several:
                w.result()
        assert len([n for n in one.poll(beat) if n.kind is EntryKind.DECISION]) == 120
        stop()


def test_notifications_past_a_pooler(bench: Bench) -> None:
    """If the store's url leads to a pooler, the store listens on another url."""
    with closing(postgres.Bouncer(bench.server)) as bouncer, ExitStack() as stack:
        direct = bench.server.url(bench.name)
        store = open_store(
            direct.replace(str(bench.server.port), str(bouncer.port)),
            bench.key,
            clock=FakeClock(),
            password_file=bench.server.password_file,
            listen_url=direct,
        )
        stack.callback(store.close)
        assert isinstance(store, Notifies)
        heard = threading.Event()
        stack.callback(store.listen(heard.set))
        # The first call comes when it begins to listen.
        assert heard.wait(10)
        heard.clear()
        enabled(store)
        assert heard.wait(10)


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Gives a database on a durable server, which the tests stop."""
    server = postgres.Server("15")
    with closing(ServerEnd(server)), ExitStack() as stack:
        server.start()
        yield Bench(server, tmp_path_factory.mktemp("crashing"), stack)


class ServerEnd:
    """Destroys a server when it is closed."""

    def __init__(self, server: postgres.Server) -> None:
        self._server = server

    def close(self) -> None:
        self._server.destroy()


def test_notifications_come_again_with_the_first_poll_after_an_outage(
    crashing: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W3: whoever waited long for a new connection does not wait on once the store answers."""
    monkeypatch.setattr("keyfold_server.store.postgresql.notifications._SHORTEST", 3_600.0)
    store = crashing.open(QUICK)
    heard = threading.Event()
    assert isinstance(store, Notifies)
    store.listen(heard.set)
    beat = store.register(BEAT)
    assert heard.wait(10)
    heard.clear()
    crashing.server.stop()
    with pytest.raises(StoreUnavailableError):
        store.poll(beat)
    crashing.server.start()
    store.poll(beat)
    # The first call comes when it begins to listen.
    assert heard.wait(10)


def test_a_commit_that_no_standby_confirmed(
    crashing: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """S2: a commit that only the primary has, since somebody cancelled the wait, is an error.

    PostgreSQL answers such a commit with success and a warning.
    """
    store = crashing.open(QUICK)
    enabled(store)
    server = crashing.server
    server.run("ALTER SYSTEM SET synchronous_standby_names = 'nowhere'")
    server.run("SELECT pg_reload_conf()")
    try:
        assert told(lambda: server.run("SHOW synchronous_standby_names") == [("nowhere",)])
        with ThreadPoolExecutor(1) as pool:
            revocation = pool.submit(applied, store, revoking())
            waiting = "wait_event = 'SyncRep'"
            assert told(lambda: bool(crashing.sessions(waiting)))
            for pid in crashing.sessions(waiting):
                crashing.run(f"SELECT pg_cancel_backend({pid})")
            with pytest.raises(StoreUnavailableError, match="same request_id"):
                revocation.result()
        with pytest.raises(StoreUnavailableError):
            store.poll(BEAT)  # nor does a heartbeat count that no standby has
        caplog.clear()
        crashing.open()
        assert "replicate synchronously" not in caplog.text
    finally:
        server.run("ALTER SYSTEM RESET synchronous_standby_names")
        server.run("SELECT pg_reload_conf()")
    assert told(lambda: server.run("SHOW synchronous_standby_names") == [("",)])
    assert len(store.poll(BEAT)) == 2


def test_nobody_sees_a_change_that_waits_for_a_standby(crashing: Bench) -> None:
    """S2: no time limit ends the wait, or others would read what a failover may take back.

    A repetition with the same request_id would even say that the change was made.
    """
    store = crashing.open(QUICK)
    applied(store, enabling(a_cluster("waiting")))
    server = crashing.server
    server.run("ALTER SYSTEM SET synchronous_standby_names = 'nowhere'")
    server.run("SELECT pg_reload_conf()")
    try:
        assert told(lambda: server.run("SHOW synchronous_standby_names") == [("nowhere",)])
        with pytest.raises(StoreUnavailableError):
            applied(store, revoking("waiting"))
        time.sleep(QUICK.statement)
        seen = store.cluster("waiting")
        assert seen is not None
        assert {region.state for region in seen.regions} == {State.ENABLED}
        assert crashing.sessions("wait_event = 'SyncRep'")
    finally:
        server.run("ALTER SYSTEM RESET synchronous_standby_names")
        server.run("SELECT pg_reload_conf()")

    def is_revoked() -> bool:
        seen = store.cluster("waiting")
        return seen is not None and {r.state for r in seen.regions} == {State.REVOKED}

    # Its wait is over: it was a change all the while.
    assert told(is_revoked)


def test_the_server_crashes_during_changes(crashing: Bench) -> None:
    """S8, R6: after an immediate stop, each batch is there whole or not, and answers hold.

    Numbers follow each other without a gap, and every chain verifies.
    """
    stores = [crashing.open(), crashing.open()]
    first = stores[0].register(replace(BEAT, replica="crashing"))
    answered: set[str] = set()
    ended = threading.Event()
    count = itertools.count()

    def write(store: SqlStore) -> None:
        while not ended.is_set():
            turn = next(count)
            names = [f"c-{turn:05}-{part}" for part in "ab"]
            try:
                results = store.apply([enabling(a_cluster(n), a_request(n)) for n in names])
            except StoreUnavailableError:
                time.sleep(0.05)
                continue
            answered.update(r.cluster.name for r in results if isinstance(r, CommittedChange))

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, store) for store in stores * 2]
        for _ in range(3):
            before = len(answered)
            assert told(partial(lambda b: len(answered) > b + 20, before), 20)
            crashing.server.crash()
        ended.set()
        for writer in writers:
            writer.result()
    store = crashing.open()
    there = [f"c-{turn:05}-{part}" for turn in range(next(count)) for part in "ab"]
    found = {name for name in there if store.cluster(name) is not None}
    assert answered <= found
    halves = [{name[:-1] for name in found if name.endswith(part)} for part in "ab"]
    assert halves[0] == halves[1]
    assert all(verified_events(store, name) == 1 for name in found)
    assert all((record_of(store, a_request(n)) is not None) == (n in found) for n in there)
    assert [n.number for n in store.poll(first)] == [
        *range(first.number + 1, first.number + len(found) + 1)
    ]
