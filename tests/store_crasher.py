"""Carries out mutations of a store in processes that die at a given failpoint.

This is a program. It reads one order per line, forks for each, and answers how that process ended.
It has imported everything before it forks, so that a death costs milliseconds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import compiled_statements
from builders import (
    NOW,
    a_cluster,
    a_region,
    a_request,
    a_rotation,
    an_event,
    applied,
    enabling,
)
from fakes import FakeClock
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    Decision,
    deleted,
    restored,
    revoked,
    unchanged,
    undeleted,
    used,
    with_regions,
)
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.cursors import CursorKey
from keyfold_server.domain.erasure import Due, at_once, erased, without
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.log import Attempt, Position
from keyfold_server.domain.operations import ActionKind, OperationKey, Starter, Work, started
from keyfold_server.domain.organization_changes import link_created
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.rights import Identity
from keyfold_server.domain.transitions import Condition, Transition
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore
from organization_builders import a_change, a_link, organized


@dataclass(frozen=True)
class Place:
    """The place of a store, in a form that an order can carry.

    Attributes:
        url: The store's url.
        key: The service key's file.
        password: The file of the database's password, empty for SQLite.
    """

    url: str
    key: str
    password: str = ""

    @classmethod
    def sqlite(cls, folder: Path) -> Place:
        """Returns the place of a store in a folder."""
        return cls(f"sqlite:///{folder / 'keyfold.db'}", str(folder / "service.key"))


BEAT = Heartbeat("one", 0, b"", 120.0, NOW)
SEEN = Observation("root:ab12", Health.KEY_DISABLED, NOW, NOW)
LOST = Transition("ab12", Condition.CANNOT_WRAP, Condition.HEALTHY, SEEN)
USED = b"u" * 16
"""The KEK whose last use the mutation `use` writes."""

KEY = CursorKey("local", "siem")
SESSION, SCOPE = b"s" * 16, b"d" * 16
OPERATION = OperationKey("0123456789abcdef", "op")
WORK = Work(ActionKind.RECHECK, organization="org")
STARTER = Starter(Identity(("local",), "loopback"))

DAY = 24 * 60 * 60 * 1000
LATER = (NOW + 2 * DAY) / 1000
"""Seconds of Unix time at which everything that the tests made is old."""
LATE = {"prune", "history", "expire", "turn"}
"""The mutations that happen at that time."""


def opened(
    place: Place,
    reach: Callable[[str], None] = lambda _failpoint: None,
    clock: FakeClock | None = None,
) -> SqlStore:
    """Opens the store of a place."""
    return open_store(
        place.url,
        place.key,
        clock=clock or FakeClock(),
        reach=reach,
        password_file=Path(place.password) if place.password else None,
    )


def _cluster(store: SqlStore) -> Cluster:
    cluster = store.cluster("acme")
    assert cluster is not None
    return cluster


def prepare(store: SqlStore) -> None:
    """Makes the clusters, organization, replica and cursor that the mutations below change."""
    unused = replace(a_cluster("acme", [a_region("eu"), a_region("us")]), first_use=0)
    made = applied(store, enabling(unused)).cluster
    moved = [a_rotation(region, "local:moved") for region in made.regions]
    applied(store, Change("acme", with_regions(made, moved, NOW), an_event()))
    applied(store, Change("acme", revoked("acme", ["us"], NOW), an_event()))
    organized(store)
    store.register(BEAT)
    store.take_cursor(KEY, SESSION, SCOPE, _position(store, 1), an_event())


def prepare_ends(store: SqlStore) -> None:
    """Makes a cluster of which one region is erased, one deleted and due, and one revoked."""
    store.erasure_turn(0)
    doomed = a_cluster("doomed", [a_region(name) for name in ("ap", "eu", "us")])
    applied(store, enabling(doomed, a_request("doomed")))
    applied(store, Change("doomed", revoked("doomed", (), NOW), an_event()))
    for region in ("ap", "us"):
        applied(store, Change("doomed", deleted("doomed", [region], 0), an_event()))
        if region == "ap":
            applied(store, _erased(region))


def _erased(region: str) -> Change:
    return Change("doomed", erased(Due("doomed", (region,)), 1 << 50), an_event())


def _ended(_store: SqlStore) -> Change:
    def decide(current: Cluster | None) -> Decision:
        assert current is not None
        return without(current, ("eu", "us"), NOW)

    return Change("doomed", decide, an_event())


def _position(store: SqlStore, number: int) -> Position:
    """Returns the position of an entry."""
    noted = store.poll(replace(BEAT, replica="looker"))
    store.leave("looker")
    return next(Position(n.number, n.entry_id) for n in noted if n.number == number)


def _with_regions(store: SqlStore) -> Change:
    return Change("acme", with_regions(_cluster(store), [a_region("ap")], NOW), an_event())


def _restored(store: SqlStore) -> Change:
    return Change("acme", restored(_cluster(store), ["us"], NOW), an_event())


def _rotated(store: SqlStore) -> Change:
    seen = _cluster(store)
    moved = [a_rotation(region, "local:two", fresh=True) for region in seen.regions]
    return Change("acme", with_regions(seen, moved, NOW), an_event())


CHANGES: dict[str, Callable[[SqlStore], Change]] = {
    "created": lambda _store: enabling(a_cluster("fresh", [a_region("eu"), a_region("us")])),
    "with_regions": _with_regions,
    "revoked": lambda _store: Change("acme", revoked("acme", (), NOW), an_event()),
    "restored": _restored,
    "rotated": _rotated,
    "deleted": lambda _store: Change("doomed", deleted("doomed", ["eu"], DAY), an_event()),
    "undeleted": lambda _store: Change("doomed", undeleted("doomed", (), NOW), an_event()),
    "erased": lambda _store: _erased("us"),
    "ended": _ended,
    "used": lambda store: Change("acme", used(_cluster(store)), an_event()),
    "at_once": lambda store: Change("acme", at_once(_cluster(store), ()), an_event()),
    "unchanged": lambda store: Change("acme", unchanged(_cluster(store)), an_event()),
}
"""Every kind of change, by name."""


def group(store: SqlStore, kind: str) -> list[Change]:
    """Makes a batch: the change of a kind, with a request, between two others."""
    change = CHANGES[kind](store)
    request = a_request(change.cluster, kind)
    return [
        enabling(a_cluster("before")),
        Change(change.cluster, change.decide, change.event, request),
        enabling(a_cluster("behind")),
    ]


OTHERS: dict[str, Callable[[SqlStore], object]] = {
    "organization": lambda store: store.change_organization(
        a_change(link_created(a_link("other", "us"), NOW))
    ),
    "operation": lambda store: store.change_operation(
        replace(started(OPERATION, b"u" * 16, WORK, STARTER), event=an_event())
    ),
    "attempt": lambda store: store.attempted([Attempt("acme", an_event())] * 2),
    "ban": lambda store: store.ban(
        Ban("ghost", an_event(), a_cluster("ghost"), a_request("ghost"))
    ),
    "turn": lambda store: store.erasure_turn(0),
    "cleared": lambda store: store.clear_traces(),
    "refused": lambda store: store.refused("ab12", SEEN, "one"),
    "register": lambda store: store.register(Heartbeat("two", 0, b"", 120.0, NOW)),
    "poll": lambda store: store.poll(BEAT),
    "leave": lambda store: store.leave("one"),
    "observe": lambda store: store.observe([SEEN], [LOST]),
    "issue": lambda store: store.issue_external_id("acme", "issued", an_event()),
    "use": lambda store: store.used({USED: NOW}),
    "prune": lambda store: store.prune(NOW + 2 * DAY, DAY),
    "history": lambda store: store.prune_history(NOW + 2 * DAY, DAY),
    "reconcile": lambda store: store.reconcile("a drill"),
    "cursor": lambda store: store.take_cursor(
        CursorKey("local", "another"), SESSION, SCOPE, _position(store, 2), an_event()
    ),
    "advance": lambda store: store.advance_cursor(KEY, SESSION, SCOPE, _position(store, 2)),
    "drop": lambda store: store.drop_cursor(KEY, an_event()),
    "expire": lambda store: store.expire_cursors(NOW + 2 * DAY, DAY),
}
"""Every other mutation, by name."""


def mutate(store: SqlStore, kind: str) -> list[CommittedChange | Exception]:
    """Carries out a mutation."""
    if kind in CHANGES:
        return store.apply(group(store, kind))
    OTHERS[kind](store)
    return []


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _mutate(place: Place, kind: str, failpoint: str) -> None:
    def reach(reached: str) -> None:
        if reached == failpoint:
            _die()

    mutate(opened(place, reach, FakeClock(LATER if kind in LATE else NOW / 1000)), kind)


def storm_id(client: int, number: int) -> str:
    """Returns the request_id of one change of a client of a storm."""
    return f"storm-{client}-{number}"


def _storm(place: Place, clients: int, first: int, told: str, begun: int) -> None:
    """Lets clients revoke and restore one cluster at once, with numbered requests, without end.

    Each client writes a line to a file when it begins a request, and another when it has the
    answer. The storm has begun with the first answer, however slow the machine is.
    """
    store = opened(place)
    tell = os.open(told, os.O_WRONLY | os.O_APPEND)
    raging = threading.Event()

    def client(which: int) -> None:
        for number in range(first, sys.maxsize):
            os.write(tell, f"begun {which} {number}\n".encode())
            seen = _cluster(store)
            decide = restored(seen, ["eu"], NOW) if number % 2 else revoked("acme", ["eu"], NOW)
            request = a_request("acme", storm_id(which, number))
            (result,) = store.apply([Change("acme", decide, an_event(), request)])
            if isinstance(result, CommittedChange):
                os.write(tell, f"done {which} {number} {result.cluster.version}\n".encode())
                if not raging.is_set():
                    raging.set()
                    os.write(begun, b".")

    threads = [threading.Thread(target=client, args=(which,)) for which in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _carry_out(order: dict[str, str]) -> int:
    """Forks, lets the child do the work, and returns its wait status."""
    place = Place(order["url"], order["key"], order["password"])
    begun, to_begin = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if order["kind"] == "storm":
                _storm(place, int(order["clients"]), int(order["first"]), order["told"], to_begin)
            else:
                _mutate(place, order["kind"], order["mark"])
        finally:
            os._exit(1)  # It should have died before.
    os.close(to_begin)
    if order["kind"] == "storm":
        os.read(begun, 1)
        time.sleep(float(order["seconds"]))
        os.kill(child, signal.SIGKILL)
    os.close(begun)
    return os.waitpid(child, 0)[1]


def _warm() -> None:
    """Compiles the statements of all mutations, so that no child does, and keeps what is imported.

    A collection in a child would copy every page of it. What fails here fails in a child, too,
    which tells of it.
    """
    compiled_statements.keep()
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(Exception):
        place = Place.sqlite(Path(name))
        with closing(opened(place)) as store:
            prepare(store)
            prepare_ends(store)
            for kind in (*CHANGES, *OTHERS):
                mutate(store, kind)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _warm()
    for line in sys.stdin:
        sys.stdout.write(f"{_carry_out(json.loads(line))}\n")
        sys.stdout.flush()
