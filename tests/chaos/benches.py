"""Stores that a test can put back as they were, and a picture of all that a store holds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import select

import postgres
import store_crasher
from audit_chain import verified_events
from builders import NOW, a_request, record_of
from chaos.fleet import POSTGRESQL, SQLITE
from keyfold_server.domain.changes import RequestKey
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import StoreStaleError
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.store.schema import requests
from keyfold_server.store.sql.store import SqlStore
from store_crasher import Place

_GONE: Final = 20.0
_SESSIONS: Final = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'keyfold-server'"
)


class Bench(Protocol):
    """A prepared store that a test can put back as it was."""

    place: Place

    def fresh(self) -> Place:
        """Puts the store back as it was prepared and returns its place."""
        ...

    def pass_time(self) -> None:
        """Makes everything in the store old, by the store's own clock."""
        ...

    def settle(self) -> None:
        """Returns when no process works in the store any more."""
        ...

    def close(self) -> None:
        """Ends the store's server, if it has one."""
        ...


class Sqlite:
    """A store in a file."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template"
        self._template.mkdir()
        self._folder = folder / "store"
        self.place = Place.sqlite(self._folder)
        with closing(store_crasher.opened(Place.sqlite(self._template))) as store:
            store_crasher.prepare(store)
            store_crasher.prepare_ends(store)

    def fresh(self) -> Place:
        """Copies the store's files."""
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._template, self._folder)
        return self.place

    def pass_time(self) -> None:
        """Does nothing: the store uses the process's clock."""

    def settle(self) -> None:
        """Does nothing: a killed process is gone at once."""

    def close(self) -> None:
        """Does nothing: whoever made the folder removes the files."""


class Postgres:
    """A store in a database of a real PostgreSQL server, which keeps what was committed."""

    def __init__(self, folder: Path) -> None:
        self._server = postgres.Server("15")
        self._server.start()
        self._name = self._server.create(self._server.migrated)
        self._clock = postgres.DatabaseClock(self._server, self._name)
        key = postgres.a_service_key(folder)
        password = str(self._server.password_file)
        self.place = Place(self._server.url(self._name), str(key), password)
        with closing(store_crasher.opened(self.place)) as store:
            store_crasher.prepare(store)
            store_crasher.prepare_ends(store)
        self._server.save(self._name)

    def fresh(self) -> Place:
        """Puts the rows back."""
        self._clock.set(NOW / 1000)
        self._server.go_back(self._name)
        return self.place

    def pass_time(self) -> None:
        """Sets the server's clock forward."""
        self._clock.set(store_crasher.LATER)

    def settle(self) -> None:
        """Waits until the server has noticed who is gone; until then it may still commit."""
        ends = time.monotonic() + _GONE
        asking = self._server.session(self._name)
        while asking.execute(_SESSIONS).fetchone() != (0,):
            assert time.monotonic() < ends
            time.sleep(0.002)

    def close(self) -> None:
        """Ends the server."""
        self._server.destroy()


BENCHES: Final[dict[str, Callable[[Path], Bench]]] = {SQLITE: Sqlite, POSTGRESQL: Postgres}


@dataclass(frozen=True)
class Picture:
    """Everything that a store holds, without its random ids."""

    clusters: list[object]
    superseded: list[object]
    events: list[int]
    numbers: list[object]
    requests: list[int | None]
    observed: bool
    replicas: list[str]
    cursors: list[object]


def shape(cluster: Cluster) -> object:
    """Returns what a cluster is, without its random ids."""
    return (
        (cluster.name, cluster.epoch, cluster.version, cluster.first_use),
        [
            (
                r.name,
                r.state,
                r.key_spec,
                [g.current.number for g in r.generations],
            )
            for r in cluster.regions
        ],
    )


def _identity(key: RequestKey) -> tuple[str, ...]:
    """Returns what a request's row is found by."""
    return (key.caller, key.rpc, key.cluster, key.request_id)


def _recorded(store: SqlStore) -> set[tuple[str, ...]]:
    asked = select(requests.c.caller, requests.c.rpc, requests.c.cluster, requests.c.request_id)
    return store.parts[0].read(lambda c: {tuple(row) for row in c.execute(asked)})


def picture(place: Place) -> Picture:
    """Reads everything, which verifies every row, every chain and the numbers."""
    with closing(store_crasher.opened(place)) as store:
        listed = store.clusters(ClusterFilter(), "", 99)
        clusters = [each for each in listed if isinstance(each, Cluster)]
        replicas = [r.replica for r in store.replicas()]
        keys = [a_request(c, k) for c in ("acme", "fresh", "doomed") for k in store_crasher.CHANGES]
        # One look tells which are there: what a picture takes is what the database plans.
        there = _recorded(store)
        asked = [record_of(store, key) if _identity(key) in there else None for key in keys]
        try:
            noted = store.poll(replace(store_crasher.BEAT, replica="reader"))
        except StoreStaleError:
            noted = []  # The earlier entries were pruned.
        return Picture(
            clusters=[
                shape(c) if isinstance(c, Cluster) else (c.cluster, c.reason) for c in listed
            ],
            superseded=[
                (cluster.name, old.number, old.root.uri)
                for cluster in clusters
                for old in store.superseded_wraps(cluster.name)
            ],
            events=[verified_events(store, cluster.name) for cluster in clusters],
            numbers=[(n.number, n.kind, n.cluster, n.root, n.replica) for n in noted],
            requests=[found.version if found is not None else None for found in asked],
            observed="root:ab12" in store.observations(["root:ab12"]),
            replicas=replicas,
            cursors=[
                (r.cursor.key.name, r.cursor.position.number, r.cursor.expired_at is not None)
                for r in store.cursors()
            ],
        )
