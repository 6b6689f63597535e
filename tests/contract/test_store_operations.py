"""Every store keeps operations: whole, sealed, one replica's at a time, and their failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest
from sqlalchemy import Connection, delete, insert, select, text

import store_vector
from builders import NOW, an_event
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    OperationEndedError,
    OperationExistsError,
    OperationNotFoundError,
    OperationRunningError,
    RowNotAuthenticError,
)
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.operations import (
    LISTED,
    ActionKind,
    Census,
    Failure,
    Operation,
    OperationChange,
    OperationKey,
    Place,
    Progress,
    Starter,
    Work,
    advanced,
    cancelled,
    deleted,
    ended,
    started,
    taken,
)
from keyfold_server.domain.rights import Claim, Identity
from keyfold_server.store import schema
from keyfold_server.store.sql.store import SqlStore

KEY: Final = OperationKey("0123456789abcdef", "op")
WORK: Final = Work(ActionKind.ROTATE, organization="org", reason="why")
CLAIMS: Final = (Claim("org", "acme"), Claim("tenant", "", "is a list, and not a string"))

STARTER: Final = Starter(Identity(("local", "dns:x"), "token", CLAIMS), "ipv4:1", "somebody")


@pytest.fixture(params=store_vector.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A new store."""
    with store_vector.a_place(request.param, tmp_path) as place:
        place.migrate()
        with closing(place.open()) as store:
            yield store


def begun(store: SqlStore, key: OperationKey = KEY) -> Operation:
    """Starts an operation."""
    uid = b"u" * 16 if key == KEY else sha256(repr(key).encode()).digest()[:16]
    change = replace(started(key, uid, WORK, STARTER), event=an_event())
    made = store.change_operation(change)
    assert made is not None
    return made


def failures(count: int) -> tuple[Failure, ...]:
    """Returns failures on some clusters."""
    return tuple(Failure(f"c{n}", "eu", "REVOKED", "it is revoked") for n in range(count))


def test_an_operation_is_read_as_it_was_written(store: SqlStore) -> None:
    """Everything of it comes back, and the store's clock says when it began."""
    assert store.operation(KEY) is None
    made = begun(store)
    assert store.operation(KEY) == made
    assert (made.work, made.starter, made.uid) == (WORK, STARTER, b"u" * 16)
    assert made.created_at == made.updated_at > 0
    again = store.change_operation(started(KEY, b"v" * 16, WORK, STARTER))
    assert again == made
    with pytest.raises(OperationExistsError):
        store.change_operation(started(KEY, b"v" * 16, replace(WORK, at_once=2), STARTER))


def test_progress_needs_the_lease(store: SqlStore) -> None:
    """Only the replica that holds an operation writes its progress."""
    begun(store)
    first = store.change_operation(taken(KEY, "one/a", 0.0))
    assert first is not None
    assert first.holder == "one/a"
    second = store.change_operation(taken(KEY, "two/b", 60.0))
    assert second is not None
    assert second.holder == "two/b"
    third = store.change_operation(taken(KEY, "three/c", 60.0))
    assert third is not None
    assert third.holder == "two/b"
    progress = Progress(Place("c", "eu"), 5, 2, 1)
    with pytest.raises(ConcurrentChangeError):
        store.change_operation(advanced(KEY, "one/a", 60.0, progress=progress))
    census = Census(9, 2, 27, 1.5)
    done = store.change_operation(
        advanced(KEY, "two/b", 60.0, census=census, progress=progress, failures=failures(2))
    )
    assert done is not None
    assert done.census == census
    assert done.progress == replace(progress, listed=2)
    assert store.operation(KEY) == done
    listed = store.operation_failures(b"u" * 16)
    assert [replace(each, time=0) for each in listed] == list(failures(2))
    assert all(each.time > 0 for each in listed)


def test_the_list_of_failures_is_bounded(store: SqlStore) -> None:
    """It has the first 1,000, in their order, however many come."""
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    for count in (LISTED - 1, 3, 2):
        operation = store.operation(KEY)
        assert operation is not None
        progress = replace(operation.progress, failed=operation.progress.failed + count)
        store.change_operation(
            advanced(KEY, "one/a", 60.0, progress=progress, failures=failures(count))
        )
    operation = store.operation(KEY)
    assert operation is not None
    assert (operation.progress.failed, operation.progress.listed) == (LISTED + 4, LISTED)
    listed = store.operation_failures(b"u" * 16)
    assert [each.cluster for each in listed] == [f"c{n}" for n in range(LISTED - 1)] + ["c0"]


def test_an_operation_ends_once(store: SqlStore) -> None:
    """It is cancelled while it runs, ends by its holder, and is deleted only then."""
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    with pytest.raises(OperationRunningError):
        store.change_operation(deleted(KEY))
    store.change_operation(replace(cancelled(KEY), event=an_event()))
    known = store.operation(KEY)
    assert known is not None
    assert known.cancelled_at is not None
    assert store.change_operation(cancelled(KEY)) == known
    store.change_operation(ended(KEY, "one/a", "cancelled", "why", an_event()))
    with pytest.raises(OperationEndedError):
        store.change_operation(cancelled(KEY))
    assert store.open_operations(10) == []
    assert store.change_operation(replace(deleted(KEY), event=an_event())) is None
    assert store.operation(KEY) is None
    with pytest.raises(OperationNotFoundError):
        store.change_operation(cancelled(KEY))


def test_decisions_are_in_the_log_and_progress_is_not(store: SqlStore) -> None:
    """Start, cancelling, end and deletion are entries; what changes nothing has none (S0, S7)."""
    begun(store)
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    store.change_operation(advanced(KEY, "one/a", 60.0, progress=Progress(done=1)))
    store.change_operation(ended(KEY, "one/a", "done", "", an_event()))
    page = store.events(EventQuery(None, newest_first=False, limit=100))
    assert [event.kind for event in page.events] == [EntryKind.OPERATION] * 2


def test_operations_are_listed_in_their_order(store: SqlStore) -> None:
    """Pages are by owner and name; the open ones come oldest first."""
    keys = [OperationKey("b" * 16, "a"), OperationKey("a" * 16, "z"), OperationKey("a" * 16, "b")]
    for number, key in enumerate(keys):
        change = started(key, bytes([number]) * 16, WORK, STARTER)
        store.change_operation(replace(change, event=an_event()))
    every = store.operations(OperationKey("", ""), 10)
    assert [each.key for each in every] == sorted(keys)
    after = store.operations(every[0].key, 1)
    assert [each.key for each in after] == [every[1].key]
    assert {each.key for each in store.open_operations(10)} == set(keys)


def test_an_operation_without_a_lease_is_free(store: SqlStore) -> None:
    """A replica finds those that none runs: not yet, no longer, or given back; all are open."""
    begun(store)
    assert [each.key for each in store.free_operations(10)] == [KEY]
    store.change_operation(taken(KEY, "one/a", 60.0))
    assert store.free_operations(10) == []
    assert [each.key for each in store.open_operations(10)] == [KEY]
    store.change_operation(advanced(KEY, "one/a", 0.0))
    assert [each.key for each in store.free_operations(10)] == [KEY]
    store.change_operation(ended(KEY, "one/a", "done", "", an_event()))
    assert store.free_operations(10) == []


def test_one_replica_wins_the_race_for_the_lease(store: SqlStore) -> None:
    """Of many replicas that take an operation at once, one holds it."""
    begun(store)
    barrier = Barrier(4)

    def take(number: int) -> str:
        barrier.wait()
        got = store.change_operation(taken(KEY, f"replica/{number}", 60.0))
        assert got is not None
        return got.holder

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(take, range(4)))) == 1


def test_one_of_two_starts_makes_it(store: SqlStore) -> None:
    """Two requests of one name at once make one operation."""
    barrier = Barrier(3)

    def make(number: int) -> bytes:
        barrier.wait()
        change = started(KEY, bytes([number]) * 16, WORK, STARTER)
        made = store.change_operation(replace(change, event=an_event()))
        assert made is not None
        return made.uid

    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(make, range(3)))) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE operations SET place_cluster = 'z'",
        "UPDATE operations SET work = replace(work, 'ROTATE', 'TEST')",
        "UPDATE operations SET cancelled_at = 1",
        "UPDATE operations SET holder = ''",
    ],
)
def test_an_edited_operation_is_refused(store: SqlStore, statement: str) -> None:
    """Whoever edits an operation's row gets none of its work done (A1, A2)."""
    begun(store)
    store.change_operation(taken(KEY, "one/a", 0.0))

    def edit(connection: Connection) -> None:
        connection.execute(text(statement))

    store.parts[0].write(edit)
    with pytest.raises(RowNotAuthenticError):
        store.operation(KEY)
    with pytest.raises(RowNotAuthenticError):
        store.change_operation(taken(KEY, "two/b", 60.0))


NEWER: Final = {
    "another kind of work": '{"kind":"SHRED"}',
    "another field": '{"kind":"TEST","depth":3}',
    "a field that is gone": "{}",
}
"""What the release after this one might write of an operation's work."""


@pytest.mark.parametrize("work", NEWER.values(), ids=NEWER)
def test_an_operation_of_a_newer_release(store: SqlStore, work: str) -> None:
    """S6: servers of this release leave it to the newer ones, and go on with their own."""
    begun(store)
    table, seal = schema.operations, store._transactions.seal
    names = table.columns.keys()
    [row] = store.parts[0].read(lambda c: c.execute(select(*table.c)).all())
    newer = dict(zip(names, row, strict=True)) | {"name": "newer", "uid": b"n" * 16, "work": work}
    del newer["mac"]
    cells = seal.sealed(table.name, tuple(newer.values()))
    added = dict(zip(names, cells, strict=True))
    store.parts[0].write(lambda c: c.execute(insert(table), [added]))
    assert [each.key for each in store.free_operations(10)] == [KEY]
    assert store.operation(KEY) is not None
    with pytest.raises(RowNotAuthenticError, match="a newer release started the operation newer"):
        store.operation(KEY._replace(name="newer"))


Put = Callable[[], None]


def kept_row(store: SqlStore) -> Put:
    """Reads the row of an operation, and returns what puts it back as it is now."""
    table = schema.operations
    [row] = store.parts[0].read(lambda c: c.execute(select(*table.c)).all())
    old = dict(zip(table.columns.keys(), row, strict=True))

    def put() -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(table))
            connection.execute(insert(table), [old])

        store.parts[0].write(work)

    return put


@pytest.mark.parametrize("what", ["cancelled", "ended", "deleted"])
def test_a_decision_is_not_undone_by_an_older_row(store: SqlStore, what: str) -> None:
    """S10: the log tells what was decided, also to a process that never saw the operation."""
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    put = kept_row(store)
    if what == "cancelled":
        store.change_operation(replace(cancelled(KEY), event=an_event()))
    else:
        store.change_operation(ended(KEY, "one/a", "done", "", an_event()))
    if what == "deleted":
        put = kept_row(store)
        store.change_operation(replace(deleted(KEY), event=an_event()))
    put()
    store._versions.clear()
    for read in (
        lambda: store.operation(KEY),
        lambda: store.operations(OperationKey("", ""), 10),
        lambda: store.change_operation(taken(KEY, "two/b", 60.0)),
    ):
        with pytest.raises(RowNotAuthenticError, match="an older one"):
            read()


def test_progress_that_this_process_saw_is_not_undone(store: SqlStore) -> None:
    """S10: whoever puts older progress back cannot have regions taken again that were done."""
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    put = kept_row(store)
    store.change_operation(advanced(KEY, "one/a", 60.0, progress=Progress(done=5)))
    put()
    with pytest.raises(RowNotAuthenticError, match="an older one"):
        store.operation(KEY)
    with pytest.raises(RowNotAuthenticError, match="an older one"):
        store.change_operation(advanced(KEY, "one/a", 60.0))


def test_a_name_can_be_used_again(store: SqlStore) -> None:
    """An operation of the name of a deleted one is another one, which begins anew."""
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    store.change_operation(ended(KEY, "one/a", "done", "", an_event()))
    store.change_operation(replace(deleted(KEY), event=an_event()))
    again = started(KEY, b"v" * 16, WORK, STARTER)
    store.change_operation(replace(again, event=an_event()))
    found = store.operation(KEY)
    assert found is not None
    assert found.uid == b"v" * 16


def test_pruning_keeps_the_decisions_about_open_operations(store: SqlStore) -> None:
    """S10, S11: an operation that goes on longer than the log is kept stays authentic."""
    begun(store)
    put = kept_row(store)
    store.change_operation(replace(cancelled(KEY), event=an_event()))
    store.prune(1 << 50, -60_000)
    assert store.operation(KEY) is not None
    put()
    store._versions.clear()
    with pytest.raises(RowNotAuthenticError):
        store.operation(KEY)


def test_an_edited_failure_is_refused(store: SqlStore) -> None:
    """Nobody can hide a failure from whoever reads the list by editing it (A1)."""
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    store.change_operation(
        advanced(KEY, "one/a", 60.0, progress=Progress(failed=1), failures=failures(1))
    )
    store.parts[0].write(lambda c: c.execute(text("UPDATE operation_failures SET cluster = 'z'")))
    with pytest.raises(RowNotAuthenticError):
        store.operation_failures(b"u" * 16)


def test_old_operations_are_pruned(store: SqlStore) -> None:
    """One that ended as long ago as the log is kept goes, with its list; an open one stays."""
    other = OperationKey(KEY.owner, "open")
    begun(store)
    begun(store, other)
    store.change_operation(taken(KEY, "one/a", 60.0))
    store.change_operation(
        advanced(KEY, "one/a", 60.0, progress=Progress(failed=1), failures=failures(1))
    )
    store.change_operation(ended(KEY, "one/a", "done", "", an_event()))
    store.prune(NOW, 60_000)
    assert store.operation(KEY) is not None
    store.prune(1 << 50, -60_000)
    assert store.operation(KEY) is None
    assert store.operation_failures(b"u" * 16) == []
    assert store.operation(other) is not None


def test_a_change_that_raises_changes_nothing(store: SqlStore) -> None:
    """A decision that refuses leaves the operation as it was."""
    made = begun(store)

    def refuse(current: Operation | None, now: int) -> Operation | None:
        del current, now
        raise OperationEndedError("no", field="name")

    with pytest.raises(OperationEndedError):
        store.change_operation(OperationChange(KEY, refuse, an_event()))
    assert store.operation(KEY) == made
