"""Every store begins and ends the move of a key link together with its operation, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest

import store_vector
from builders import NOW, a_cluster, a_region, an_event, applied, enabling
from keyfold_server.domain.changes import CommittedChange
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    KeyLinkMovingError,
    OperationExistsError,
    OperationNotFoundError,
)
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.key_links import KeyLink, KeyUse, Move
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.operations import (
    ActionKind,
    OperationChange,
    OperationKey,
    Starter,
    Work,
    ended,
    full_name,
    started,
    taken,
)
from keyfold_server.domain.organization_changes import (
    DecideOrganization,
    link_deleted,
    link_moved,
    link_moving,
    link_updated,
)
from keyfold_server.domain.reliance import Reliance
from keyfold_server.domain.rights import Identity
from keyfold_server.store.sql.store import SqlStore
from organization_builders import a_change, organized, using

ONE: Final = KeySpec("LOCAL", "local:one")
TWO: Final = KeySpec("LOCAL", "local:two", "", (("a", "b"),))
KEY: Final = OperationKey("0123456789abcdef", "op")
WORK: Final = Work(ActionKind.MOVE_LINK, organization="org", key_link="main", key_spec=TWO)
STARTER: Final = Starter(Identity(("local",), "loopback"))
EVERY: Final = EventQuery(None, newest_first=False, limit=1_000)


@pytest.fixture(params=store_vector.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A new store with an organization and its link."""
    with store_vector.a_place(request.param, tmp_path) as place:
        place.migrate()
        with closing(place.open()) as store:
            organized(store)
            yield store


def link_of(store: SqlStore) -> KeyLink:
    """Returns the link as the store has it."""
    return store.organization("org").organization.link("main")


def begun(
    store: SqlStore, key: OperationKey = KEY, spec: KeySpec = TWO, seen: KeyLink | None = None
) -> None:
    """Begins a move."""
    work = replace(WORK, key_spec=spec)
    decide = link_moving(
        "main", (spec, ("eu",)), full_name(key), NOW + 1, seen=seen or link_of(store)
    )
    together(store, decide, started(key, key.name.encode().ljust(16), work, STARTER))


def together(store: SqlStore, decide: DecideOrganization, operation: OperationChange) -> None:
    """Changes the organization and the operation in one transaction."""
    change = replace(operation, event=an_event("rpc:operation:start"))
    store.change_organization(replace(a_change(decide), operation=change))


def finished(store: SqlStore, holder: str = "one/a", key: OperationKey = KEY) -> None:
    """Ends a move."""
    change = ended(key, holder, "done", "", an_event("server:operation:end"))
    together(store, link_moved("main", full_name(key), NOW + 2), change)


def test_a_move_is_read_as_it_was_written(store: SqlStore) -> None:
    """The link has the new key, the one before and the operation, which began with it."""
    before = link_of(store)
    begun(store)
    link = link_of(store)
    assert link == replace(
        before,
        key_spec=TWO,
        move=Move(ONE, "operations/0123456789abcdef/op"),
        revision=2,
        updated_at=NOW + 1,
    )
    operation = store.operation(KEY)
    assert operation is not None
    assert (operation.work, operation.ended) == (WORK, False)
    store.change_operation(taken(KEY, "one/a", 60.0))
    finished(store)
    link = link_of(store)
    assert link.move is not None
    assert (link.move.open, link.key_spec, link.revision) == (False, TWO, 3)
    operation = store.operation(KEY)
    assert operation is not None
    assert operation.outcome == "done"


def test_both_are_entries_of_the_log(store: SqlStore) -> None:
    """A decision about the organization, and the operation's own entry after it."""
    first = len(store.events(EVERY).events)
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    finished(store)
    entries = store.events(EVERY).events[first:]
    kinds = [EntryKind.DECISION, EntryKind.OPERATION]
    assert [each.kind for each in entries] == kinds + kinds
    for entry, is_open in ((entries[0], True), (entries[2], False)):
        assert entry.decision is not None
        assert entry.decision["links"]["main"]["move"] == {
            "open": is_open,
            "operation": full_name(KEY),
            "previous": {"principal": "", "type": "LOCAL", "uri": "local:one"},
        }
    assert store.organization("org").organization.version == 4


def test_neither_is_stored_without_the_other(store: SqlStore) -> None:
    """An operation of that name, a lost lease or a link that changed: nothing of it happens."""
    seen = link_of(store)
    another = started(KEY, b"u" * 16, Work(ActionKind.TEST, organization="org"), STARTER)
    store.change_operation(replace(another, event=an_event()))
    with pytest.raises(OperationExistsError):
        begun(store)
    assert link_of(store) == seen
    other = OperationKey(KEY.owner, "other")
    changed = link_updated("main", "", NOW, seen=seen, description="new", key=None)
    store.change_organization(a_change(changed))
    with pytest.raises(ConcurrentChangeError):
        begun(store, other, seen=seen)
    assert store.operation(other) is None
    begun(store, other)
    store.change_operation(taken(other, "one/a", 60.0))
    with pytest.raises(ConcurrentChangeError):
        finished(store, "two/b", other)
    move = link_of(store).move
    assert move is not None
    assert move.open
    with pytest.raises(OperationNotFoundError):
        together(store, link_deleted("main", "", NOW), taken(KEY._replace(name="no"), "x", 1.0))


def test_a_start_that_comes_again_changes_nothing(store: SqlStore) -> None:
    """Open or ended, the operation stays as it is, and so does the link."""
    begun(store)
    once = link_of(store), store.operation(KEY)
    begun(store)
    assert (link_of(store), store.operation(KEY)) == once
    store.change_operation(taken(KEY, "one/a", 60.0))
    finished(store)
    once = link_of(store), store.operation(KEY)
    begun(store)
    assert (link_of(store), store.operation(KEY)) == once


def test_nothing_else_changes_a_link_that_moves(store: SqlStore) -> None:
    """The error names the operation; once it has ended, the link can change again."""
    begun(store)
    seen = link_of(store)
    second = OperationKey(KEY.owner, "second")
    with pytest.raises(KeyLinkMovingError, match=full_name(KEY)):
        begun(store, second, ONE)
    changes = (
        link_deleted("main", "", NOW),
        link_updated("main", "", NOW, seen=seen, description="x", key=None),
        link_updated("main", "", NOW, seen=seen, description=None, key=(TWO, ("eu",))),
    )
    for decide in changes:
        with pytest.raises(KeyLinkMovingError, match=full_name(KEY)):
            store.change_organization(a_change(decide))
    store.change_operation(taken(KEY, "one/a", 60.0))
    finished(store)
    begun(store, second, ONE)
    move = link_of(store).move
    assert move is not None
    assert (move.previous, move.operation) == (TWO, full_name(second))


def test_one_that_goes_on_keeps_the_key_before(store: SqlStore) -> None:
    """A second operation with the same key still says which key the users had at first."""
    begun(store)
    store.change_operation(taken(KEY, "one/a", 60.0))
    finished(store)
    second = OperationKey(KEY.owner, "second")
    begun(store, second)
    assert link_of(store).move == Move(ONE, full_name(second))


def test_the_keys_of_a_links_users_are_counted(store: SqlStore) -> None:
    """By region and key, without those that are deleted; the operator sees how many are left."""
    for name, spec in (("a", ONE), ("b", TWO), ("c", TWO)):
        region = replace(using(a_region("eu")), key_spec=spec)
        gone = replace(using(a_region("us")), state=State.DELETED, purge_time=NOW + 9)
        regions = [region, gone] if name == "c" else [region]
        applied(store, enabling(a_cluster(name, regions, organization="org")))
    use = store.organization("org", link="main", users=1).use("main")
    assert use.count == 4
    assert use.keys == (KeyUse("eu", ONE, 1), KeyUse("eu", TWO, 2))
    assert use.unmoved({"eu": TWO}) == 1
    assert use.unmoved({"eu": ONE}) == 2
    assert use.unmoved({}) == 3


def test_a_cluster_takes_the_old_key_before_the_move_or_not_at_all(store: SqlStore) -> None:
    """Of an Enable under the old key and the start of a move, at once, none is lost."""
    for round_ in range(5):
        spec = TWO if round_ % 2 == 0 else ONE
        key, seen = OperationKey(KEY.owner, f"op-{round_}"), link_of(store)
        start = Barrier(2)

        def take(seen: KeyLink = seen, start: Barrier = start, name: str = key.name) -> object:
            region = replace(using(a_region("eu")), key_spec=seen.key_spec)
            cluster = a_cluster(name, [region], organization="org")
            start.wait(30)
            return store.apply([replace(enabling(cluster), reliance=Reliance("org", (seen,)))])[0]

        def move(
            key: OperationKey = key,
            spec: KeySpec = spec,
            seen: KeyLink = seen,
            start: Barrier = start,
        ) -> None:
            start.wait(30)
            begun(store, key, spec, seen)

        with ThreadPoolExecutor(2) as pool:
            taking, moving = pool.submit(take), pool.submit(move)
            moving.result()
        use = store.organization("org", link="main", users=1).use("main")
        taken_before = isinstance(taking.result(), CommittedChange)
        assert taken_before or isinstance(taking.result(), ConcurrentChangeError)
        assert (store.cluster(key.name) is not None) is taken_before
        assert use.unmoved({"eu": seen.key_spec}) + use.unmoved({"eu": spec}) == sum(
            each.count for each in use.keys
        )
        store.change_operation(taken(key, "one/a", 60.0))
        finished(store, key=key)
