"""Bans in the store: entries of the log that need no row of their cluster (A6)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

import spoilt_store
from builders import (
    NOW,
    a_cluster,
    a_region,
    a_request,
    an_event,
    applied,
    enabled,
    enabling,
    record_of,
)
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.changes import Change, revoked
from keyfold_server.domain.errors import (
    ClusterBannedError,
    ClusterNotFoundError,
    RowNotAuthenticError,
)
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import ClusterFilter, Heartbeat
from keyfold_server.store.sql.store import SqlStore
from spoilt_store import GONE, SPOIL, STORES, OpenStore, edit

DAY: Final = 24 * 60 * 60 * 1000


@pytest.fixture(params=STORES)
def open_it(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Gives a function that opens one store of each kind, again and again."""
    with spoilt_store.opener(request.param, tmp_path) as opener:
        yield opener


BAN: Final = Ban("acme", an_event("rpc:cluster:revoke"))


def ban(store: SqlStore, wanted: Ban = BAN) -> int:
    """Bans, and returns the number of the ban's entry."""
    made = store.ban(wanted)
    assert made is not None
    return made.number


@pytest.mark.parametrize("damage", [(SPOIL,), GONE], ids=["spoilt", "gone"])
def test_a_ban_comes_before_any_row(open_it: OpenStore, damage: tuple[str, ...]) -> None:
    """A6: after a ban, reads and changes of the name are refused, and so after a restart."""
    store = open_it()
    enabled(store)
    edit(store, *damage)
    enabled(store, "other")
    number = ban(store)
    assert number == 3
    for again in (store, open_it()):
        with pytest.raises(ClusterBannedError):
            again.cluster("acme")
        for change in (
            Change("acme", revoked("acme", (), NOW), an_event()),
            enabling(a_cluster("acme")),
        ):
            refused, fine = again.apply(
                [change, Change("other", revoked("other", (), NOW), an_event())]
            )
            assert isinstance(refused, ClusterBannedError)
            assert not isinstance(fine, Exception)
        listed = again.clusters(ClusterFilter(), "", 9)
        bad = [each for each in listed if isinstance(each, Exception)]
        assert all(isinstance(each, ClusterBannedError) for each in bad)
        assert len(bad) == 1
        repeated = again.ban(BAN)
        assert repeated is not None
        assert (repeated.number, repeated.repeated) == (number, True)


def test_a_poll_tells_of_a_ban(open_it: OpenStore) -> None:
    """A6: the entry tells replicas to drop the cluster, with the floor of the last decision."""
    store = open_it()
    seen = enabled(store)
    store.register(Heartbeat("one", 0, b"", 120.0, NOW))
    edit(store, SPOIL)
    ban(store)
    [_, entry] = store.poll(Heartbeat("one", 0, b"", 120.0, NOW))
    assert entry.is_news
    assert (entry.kind, entry.cluster) == (EntryKind.BAN, "acme")
    assert entry.floor is not None
    assert entry.floor.banned
    assert (entry.floor.uid, entry.floor.version, entry.floor.epoch) == (seen.uid, 1, 0)


def test_authentic_rows_are_not_banned(open_it: OpenStore) -> None:
    """A6: a ban is only for rows that cannot be believed."""
    store = open_it()
    seen = enabled(store)
    assert store.ban(BAN) is None
    assert store.cluster("acme") == seen
    with pytest.raises(ClusterNotFoundError):
        store.ban(Ban("nobody", an_event()))
    assert ban(store, Ban("ghost", an_event(), a_cluster("ghost"))) == 2
    with pytest.raises(ClusterBannedError):
        store.cluster("ghost")


def test_pruning_carries_a_ban_forward(open_it: OpenStore) -> None:
    """A6, S11: pruning removes the entry of a ban only once another has it."""
    store = open_it()
    enabled(store)
    edit(store, SPOIL)
    ban(store)
    for _ in range(3):
        enabled(store, f"later-{_}")
    edit(store, "DELETE FROM replicas")
    store.prune(NOW + 3 * DAY, -2 * DAY)
    again = open_it()
    kinds = again.parts[0].read(
        lambda c: c.execute(text("SELECT kind FROM log WHERE cluster = 'acme'")).scalars().all()
    )
    assert kinds == ["BAN"]
    with pytest.raises(ClusterBannedError):
        again.cluster("acme")


def test_a_forged_ban_is_not_believed(open_it: OpenStore) -> None:
    """A2, A6: an entry that somebody else wrote bans nobody, and makes the rows unauthentic."""
    store = open_it()
    enabled(store)
    edit(store, "UPDATE log SET kind = 'BAN' WHERE number = 1")
    with pytest.raises(RowNotAuthenticError):
        store.cluster("acme")


def test_a_request_is_recorded_with_its_ban(open_it: OpenStore) -> None:
    """R6, A6: the request_id of a ban is recorded in its transaction, once."""
    store = open_it()
    enabled(store)
    edit(store, SPOIL)
    wanted = Ban("acme", an_event(), None, a_request("acme"))
    number = ban(store, wanted)
    assert ban(store, wanted) == number
    recorded = record_of(store, a_request("acme"))
    assert recorded is not None
    assert recorded.version == 1


def test_no_cluster_is_made_over_a_ban(open_it: OpenStore) -> None:
    """A6: an Enable that began before a ban of its name cannot be committed after it."""
    first = open_it()
    enabled(first)
    edit(first, *GONE)
    if first.parts[0].dialect.one_process:
        return  # SQLite has one transaction at a time.
    reached, banned = threading.Event(), threading.Event()

    def reach(point: str) -> None:
        if point == "apply:decided" and not reached.is_set():
            reached.set()
            assert banned.wait(20)

    second = open_it(reach)
    results: list[object] = []
    change = enabling(a_cluster("acme", [a_region("us")]))
    thread = threading.Thread(target=lambda: results.extend(second.apply([change])))
    thread.start()
    assert reached.wait(20)
    ban(first)
    banned.set()
    thread.join(20)
    assert isinstance(results[0], ClusterBannedError)
    with pytest.raises(ClusterBannedError):
        first.cluster("acme")
    assert applied(first, enabling(a_cluster("other"))).cluster.name == "other"
