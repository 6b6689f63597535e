"""Connections that lead to another server: one that is behind, rolled back, or a new primary."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, select

import postgres
from audit_chain import verified_events
from builders import NOW, an_event, applied, enabled
from fakes import FakeClock
from keyfold_server.domain.changes import Change, restored, revoked
from keyfold_server.domain.errors import (
    StoreRolledBackError,
    StoreStaleError,
    StoreUnavailableError,
)
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import UNKNOWN_REPLICA, Heartbeat, ReplicaRow
from keyfold_server.store import reconciliation
from keyfold_server.store.opening import open_store
from keyfold_server.store.postgresql.address import Timeouts
from keyfold_server.store.schema import clusters
from keyfold_server.store.sql.store import SqlStore

STALENESS = 120.0
BEAT = Heartbeat("one", 0, b"", STALENESS, NOW)


class Bench:
    """A database that goes back to an earlier state while replicas' stores are open on it."""

    def __init__(self, server: postgres.Server, folder: Path, stack: ExitStack) -> None:
        self._server = server
        self._name = server.borrow()
        self._key = postgres.a_service_key(folder)
        self._stack = stack
        stack.callback(server.give_back, self._name)

    def open(self) -> SqlStore:
        """Opens another replica's store."""
        store = self._server.open(self._name, self._key)
        self._stack.callback(store.close)
        return store

    def save(self) -> None:
        """Saves the database's state."""
        self._server.save(self._name)

    def go_back(self) -> None:
        """Restores the saved state, as a failover to a lagging standby does."""
        self._server.go_back(self._name)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Gives a database on a server that tests share."""
    with ExitStack() as stack:
        yield Bench(postgres.shared("15"), tmp_path, stack)


def revoking() -> Change:
    """Makes a revocation."""
    return Change("acme", revoked("acme", (), NOW), an_event("rpc:cluster:revoke"))


def test_a_server_that_lacks_what_was_seen_is_not_believed(bench: Bench) -> None:
    """S1, S2: a replica neither reads on nor commits in another history than it has read."""
    one, two = bench.open(), bench.open()
    one.register(BEAT)
    first = enabled(one)
    bench.save()
    seen = applied(one, revoking()).cluster
    bench.go_back()
    restoring = Change("acme", restored(seen, ["eu"], NOW + 1), an_event())
    asked: list[Callable[[], object]] = [
        lambda: one.cluster("acme"),
        lambda: one.apply([restoring]),
        one.replicas,
    ]
    for ask in asked:
        with pytest.raises(StoreUnavailableError, match="lacks changes that this replica has seen"):
            ask()
    # The same cluster, version, epoch and number, in another history.
    other = applied(two, revoking()).cluster
    assert (other.uid, other.version, other.epoch) == (seen.uid, seen.version, seen.epoch)
    with pytest.raises(StoreUnavailableError, match="lacks changes that this replica has seen"):
        one.apply([restoring])
    enabled(two, "later")
    with pytest.raises(StoreUnavailableError, match="lacks changes that this replica has seen"):
        one.apply([restoring])
    with pytest.raises(StoreRolledBackError):
        one.poll(BEAT)
    assert two.cluster("acme") == other != first


def test_a_reconciled_store_is_read_and_changed_again(bench: Bench) -> None:
    """S1: a replica that registers again starts from there, whatever it saw before."""
    one, two = bench.open(), bench.open()
    one.register(BEAT)
    bench.save()
    enabled(one)
    bench.go_back()
    two.reconcile("the standby lagged")
    assert one.reconciled()
    one.register(replace(BEAT, replica="anew"))
    assert one.cluster("acme") is None
    assert enabled(one).version == 1


def test_a_decision_from_before_an_own_change_does_not_answer_for_its_loss(bench: Bench) -> None:
    """S1: a replica that no poll has told of a reconciliation learns of it as it commits."""
    one, two = bench.open(), bench.open()
    one.register(BEAT)
    two.reconcile("the standby lagged")
    bench.save()
    enabled(one)
    bench.go_back()
    with pytest.raises(StoreRolledBackError):
        one.poll(BEAT)
    assert not one.reconciled()
    two.reconcile("so did the next one")
    assert one.reconciled()


def test_a_decision_just_before_a_commit_does_not_answer_for_its_loss(bench: Bench) -> None:
    """S1: the reconciliation may come after the transaction has looked, and before it commits."""
    two = bench.open()

    def reconcile(mark: str) -> None:
        if mark == "apply:locked":
            two.reconcile("the standby lagged")
            bench.save()

    one = bench._server.open(bench._name, bench._key, reach=reconcile)
    with closing(one):
        one.register(BEAT)
        enabled(one)
        bench.go_back()
        with pytest.raises(StoreRolledBackError):
            one.poll(BEAT)
        assert not one.reconciled()


def test_a_decision_between_two_others_is_known_too(bench: Bench) -> None:
    """S1: a store rolled back to an older reconciliation than the one seen asks the operator."""
    one, two = bench.open(), bench.open()
    one.register(BEAT)
    two.reconcile("the standby lagged")
    bench.save()
    two.reconcile("once more")
    enabled(one)
    bench.go_back()
    with pytest.raises(StoreRolledBackError):
        one.poll(BEAT)
    assert not one.reconciled()


def test_a_poll_notices_that_a_read_saw_more(bench: Bench) -> None:
    """S1: the poll's server must have every change that another connection has shown."""
    one, two = bench.open(), bench.open()
    one.register(BEAT)
    bench.save()
    enabled(two)
    assert one.cluster("acme") is not None
    bench.go_back()
    with pytest.raises(StoreRolledBackError, match="which this replica has seen"):
        one.poll(BEAT)


def test_a_read_that_began_before_a_change_is_believed(bench: Bench) -> None:
    """S1: a change that a read cannot have seen yet does not count against its server."""
    one, two = bench.open(), bench.open()
    enabled(two, "b")
    one.register(BEAT)
    began, over = threading.Event(), threading.Event()

    def slowly(connection: Connection) -> int:
        began.set()
        assert over.wait(10)
        count: int = connection.execute(select(func.count()).select_from(clusters)).scalar_one()
        return count

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(one._transactions.read, slowly)
        assert began.wait(10)
        enabled(one, "a")
        over.set()
        assert reading.result() == 1
    assert one.cluster("a") is not None


def test_a_connection_to_a_server_that_is_behind_is_given_up(bench: Bench) -> None:
    """S1: one connection of several that leads to another server fails no call for long."""
    one = bench.open()
    one.register(BEAT)
    bench.save()
    enabled(one)
    bench.go_back()
    used: list[Any] = []
    event.listen(one.parts[0].engine, "checkout", lambda driver, *_: used.append(driver))
    with pytest.raises(StoreUnavailableError):
        one.cluster("acme")
    # The store tried another connection too.
    assert len(used) == 2
    assert all(driver.closed for driver in used)


def test_a_replica_that_pruning_passed_neither_reads_nor_commits(bench: Bench) -> None:
    """S11: such a replica takes nothing from a store that it cannot check, until it begins anew."""
    one, two = bench.open(), bench.open()
    one.register(BEAT)
    first = enabled(one)
    for number in range(3):
        enabled(two, f"later-{number}")
    clock = postgres.DatabaseClock(bench._server, bench._name)
    clock.set(NOW / 1000 + 10 * 24 * 3600)
    two.prune(NOW + 10 * 24 * 3600 * 1000, 24 * 3600 * 1000)
    asked: list[Callable[[], object]] = [
        lambda: one.cluster("acme"),
        lambda: one.apply([revoking()]),
        lambda: one.poll(BEAT),
    ]
    for ask in asked:
        with pytest.raises(StoreStaleError, match="begins anew"):
            ask()
    # Four changes, and the entries of pruning: three floors and the pruning itself.
    assert one.register(BEAT).number == 8
    assert one.cluster("acme") == first
    assert applied(one, revoking()).number == 9


def test_a_quiet_day_is_no_other_history(bench: Bench) -> None:
    """S11: the change that a process has seen last may be the last that pruning removed."""
    one, two = bench.open(), bench.open()
    one.register(BEAT)
    first = enabled(one)
    enabled(two, "later")
    clock = postgres.DatabaseClock(bench._server, bench._name)
    clock.set(NOW / 1000 + 10 * 24 * 3600)
    two.prune(NOW + 10 * 24 * 3600 * 1000, 24 * 3600 * 1000)
    assert one.cluster("acme") == first
    assert one.cluster("later") is not None


def test_an_unfinished_change_is_not_counted_as_seen(bench: Bench) -> None:
    """S1: after a failed commit, no replica expects the store to have its change."""

    def die(mark: str) -> None:
        if mark == "apply:before-commit":
            raise StoreUnavailableError("the test ends this")

    one = bench._server.open(bench._name, bench._key, reach=die)
    with closing(one):
        one.register(BEAT)
        with pytest.raises(StoreUnavailableError, match="the test ends this"):
            enabled(one)
        assert one.cluster("acme") is None
        assert one.poll(BEAT) == []


def test_a_decision_stands_in_the_log(bench: Bench) -> None:
    """S1, R5: the log has the reconciliation once, whatever became of the clusters."""
    store = bench.open()
    for name in ("acme", "edited", "other"):
        enabled(store, name)
    bench._server.run("UPDATE clusters SET epoch = epoch + 1 WHERE name = 'edited'", bench._name)
    newest = reconciliation.newest(store)
    assert (newest.number, newest.made_at is not None) == (3, True)
    accepted = store.reconcile("the standby lagged")
    assert (accepted.number, accepted.entry_id) == (newest.number, newest.entry_id)
    [told] = bench._server.run(
        "SELECT caller, action, outcome, detail, cluster FROM log WHERE number = 4", bench._name
    )
    assert told[:3] == ("local", "command:store:reconcile", "done")
    assert json.loads(told[3]) == {
        "entry": 3,
        "entry_id": newest.entry_id.hex(),
        "reason": "the standby lagged",
    }
    # It changed no cluster, so no replica drops one.
    *_, noted = store.poll(BEAT)
    assert (noted.kind, noted.cluster, noted.is_news) == (EntryKind.RECONCILIATION, None, False)
    assert verified_events(store, "acme") == 1


# Failover


class Failover:
    """A primary, and a standby that follows it until the standby takes over."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._key = postgres.a_service_key(folder)
        self.primary = postgres.Server("15", durable=False)
        stack.callback(self.primary.destroy)
        self.primary.start()
        self._name = self.primary.create(self.primary.migrated)
        self.standby: postgres.Server | None = None

    def follow(self) -> None:
        """Makes the standby with everything that the primary has, and cuts it off."""
        self.standby = self.primary.standby()
        self._stack.callback(self.standby.destroy)
        self.standby.stop()

    def take_over(self) -> postgres.DatabaseClock:
        """Ends the primary and promotes the standby; the test sets the standby's clock."""
        assert self.standby is not None
        self.primary.stop()
        self.standby.start()
        self.standby.promote()
        return postgres.DatabaseClock(self.standby, self._name)

    def succeed(self) -> SqlStore:
        """Promotes the standby, of which nobody tells the primary; opens a store on it."""
        assert self.standby is not None
        self.standby.start()
        self.standby.promote()
        return self.open(self.standby)

    def open(
        self, server: postgres.Server | None = None, clock: FakeClock | None = None
    ) -> SqlStore:
        """Opens a replica's store on a server."""
        store = (server or self.primary).open(self._name, self._key, clock)
        self._stack.callback(store.close)
        return store

    def open_both(self) -> SqlStore:
        """Opens a replica's store on whichever of the two takes writes."""
        assert self.standby is not None
        hosts = "&".join(f"host=127.0.0.1:{each.port}" for each in (self.primary, self.standby))
        store = open_store(
            f"postgresql://{postgres.USER}@/{self._name}?{hosts}",
            self._key,
            clock=FakeClock(),
            password_file=self.primary.password_file,
            timeouts=Timeouts(statement=1.0, lock=0.6, idle=0.3, answer=1.5),
        )
        self._stack.callback(store.close)
        return store

    def take_no_more(self) -> None:
        """Has the primary take no new sessions that write; those that are open go on."""
        self.primary.run(f"ALTER DATABASE {self._name} SET default_transaction_read_only = on")


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[Failover]:
    """Gives a pair of servers."""
    with ExitStack() as stack:
        yield Failover(tmp_path, stack)


def unheard(store: SqlStore) -> list[ReplicaRow]:
    """Returns the rows for replicas that the failover may have lost."""
    return [row for row in store.replicas() if row.replica == UNKNOWN_REPLICA]


def test_a_lost_registration_is_missed(failover: Failover) -> None:
    """R4: for a while after a failover, no call reports that every replica has confirmed."""
    store = failover.open()
    store.register(BEAT)
    assert unheard(store) == []
    failover.follow()
    store.register(replace(BEAT, replica="two", max_staleness=60.0))
    clock = failover.take_over()
    after = failover.open(failover.standby, clock)
    rows = after.replicas()
    # The second replica serves on and has no row, even before another replica polls.
    assert [row.replica for row in rows] == ["one", UNKNOWN_REPLICA]
    assert rows[-1].applied < 0
    assert (rows[-1].max_staleness, rows[-1].silent_for) == (STALENESS, 0.0)
    after.poll(BEAT)
    clock.advance(STALENESS - 1)
    after.poll(BEAT)
    [row] = unheard(after)
    assert row.silent_for == STALENESS - 1
    clock.advance(2)
    assert unheard(after) == []
    after.poll(BEAT)
    assert unheard(after) == []


def test_a_poll_leaves_a_primary_that_lacks_what_its_successor_told(failover: Failover) -> None:
    """S1: one server that lacks changes is no rollback while another one has them."""
    failover.follow()
    store = failover.open_both()
    beat = store.register(BEAT)
    assert store.poll(beat) == []
    enabled(failover.succeed())
    failover.take_no_more()
    store.parts[0].engine.dispose()
    assert store.cluster("acme") is not None
    # Its connection leads to the primary, which lacks what the store has just read.
    assert [entry.cluster for entry in store.poll(beat)] == ["acme"]


def test_a_poll_looks_for_the_successor_of_a_primary_that_confirms_nothing(
    failover: Failover,
) -> None:
    """S2: a poll that waits for the one before it leaves the server, whose limits do not end it."""
    failover.follow()
    store = failover.open_both()
    beat = store.register(BEAT)
    failover.primary.run("ALTER SYSTEM SET synchronous_standby_names = 'nowhere'")
    failover.primary.run("SELECT pg_reload_conf()")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            store.poll(beat)
    enabled(failover.succeed())
    assert [entry.cluster for entry in store.poll(beat)] == ["acme"]


def test_a_server_that_does_not_tell_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R4: a server that would not notice a failover warns of it at its start."""
    server = postgres.shared("15")
    name = server.create(server.migrated)
    key = postgres.a_service_key(tmp_path)
    server.run(f"CREATE ROLE careful LOGIN PASSWORD '{server.password}'")
    try:
        server.run("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public", name)
        server.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO careful", name)
        server.run("GRANT USAGE ON SCHEMA test_time TO careful", name)
        server.run("GRANT SELECT ON ALL TABLES IN SCHEMA test_time TO careful", name)
        with caplog.at_level(logging.WARNING):
            store = open_store(
                server.url(name).replace(postgres.USER, "careful", 1),
                key,
                clock=FakeClock(),
                password_file=server.password_file,
            )
        with closing(store):
            assert "may miss replicas whose registration was lost" in caplog.text
            store.register(BEAT)
            assert store.poll(BEAT) == []
            assert [row.replica for row in store.replicas()] == ["one"]
    finally:
        server.drop(name)
        server.run("DROP ROLE careful")
