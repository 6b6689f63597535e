"""A process that is killed at any point leaves everything of a mutation, or nothing."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest

import postgres
import store_crasher
from builders import NOW, a_request
from fakes import FakeClock
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import StoreRolledBackError
from keyfold_server.domain.ports import Applied, ClusterFilter
from keyfold_server.store.marks import MARKS
from store_crasher import Place

Kill = Callable[..., int]

POINTS = [
    (kind, mark)
    for kind in (*store_crasher.CHANGES, *store_crasher.OTHERS)
    for mark in MARKS
    if mark.startswith("apply:" if kind in store_crasher.CHANGES else f"{kind}:")
]


@pytest.fixture(scope="module")
def kill() -> Iterator[Kill]:
    """Gives a function that has a mutation killed and returns the signal that ended it."""
    program = subprocess.Popen(
        [sys.executable, store_crasher.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None

    def give(**order: str) -> int:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(order) + "\n")
        program.stdin.flush()
        return int(program.stdout.readline())

    yield give
    program.stdin.close()
    program.wait(10)
    program.stdout.close()


class Bench(Protocol):
    """A prepared store that can be put back as it was."""

    place: Place

    def fresh(self) -> Place:
        """Puts the store back as it was prepared."""
        ...

    def pass_time(self) -> None:
        """Makes everything old, by the store's own clock."""
        ...

    def close(self) -> None: ...


class Sqlite:
    """A store in a file."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template"
        self._template.mkdir()
        self._folder = folder / "store"
        self.place = Place.sqlite(self._folder)
        with closing(store_crasher.opened(Place.sqlite(self._template))) as store:
            store_crasher.prepare(store)

    def fresh(self) -> Place:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._template, self._folder)
        return self.place

    def pass_time(self) -> None:
        pass  # it has the process's clock

    def close(self) -> None:
        pass


class Postgres:
    """A store in a database of a real server that keeps what was committed."""

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
        self._server.save(self._name)

    def fresh(self) -> Place:
        self._clock.set(NOW / 1000)
        self._server.go_back(self._name)
        return self.place

    def pass_time(self) -> None:
        self._clock.set(store_crasher.LATER)

    def close(self) -> None:
        self._clock.close()
        self._server.destroy()


BENCHES: dict[str, Callable[[Path], Bench]] = {"sqlite": Sqlite, "postgresql-15": Postgres}


@pytest.fixture(scope="module", params=BENCHES)
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """Gives each kind of store in turn."""
    made = BENCHES[request.param](tmp_path_factory.mktemp("bench"))
    yield made
    made.close()


@dataclass(frozen=True)
class Picture:
    """All that a store tells, random ids aside."""

    clusters: list[object]
    events: list[int]
    numbers: list[object]
    requests: list[int | None]
    observed: bool
    replicas: list[str]


def shape(cluster: Cluster) -> object:
    """Returns what a cluster is, random ids aside."""
    return (
        (cluster.name, cluster.epoch, cluster.version),
        [
            (
                r.name,
                r.state,
                r.key_spec,
                [[w.ciphertext is None for w in g.wraps] for g in r.generations],
            )
            for r in cluster.regions
        ],
    )


def picture(place: Place) -> Picture:
    """Reads everything, which verifies every row, every chain and the numbers."""
    with closing(store_crasher.opened(place)) as store:
        clusters = [c for c in store.clusters(ClusterFilter(), "", 99) if isinstance(c, Cluster)]
        assert len(clusters) == len(store.clusters(ClusterFilter(), "", 99))
        replicas = [r.replica for r in store.replicas()]
        keys = [a_request(c, k) for c in ("acme", "fresh") for k in store_crasher.CHANGES]
        requests = [store.request(key) for key in keys]
        try:
            noted = store.poll(replace(store_crasher.BEAT, replica="reader"))
        except StoreRolledBackError:
            noted = []  # what came first was pruned
        return Picture(
            clusters=[shape(cluster) for cluster in clusters],
            events=[store.verify_audit(cluster.name) for cluster in clusters],
            numbers=[(n.number, n.cluster, n.root, n.replica) for n in noted],
            requests=[found.version if found is not None else None for found in requests],
            observed="root:ab12" in store.observations(["root:ab12"]),
            replicas=replicas,
        )


@pytest.fixture(scope="module")
def before(bench: Bench) -> Picture:
    """Gives the picture of an untouched store."""
    return picture(bench.fresh())


@pytest.fixture(scope="module")
def after(bench: Bench) -> dict[str, Picture]:
    """Gives the picture after each mutation that nothing interrupted."""
    pictures = {}
    for kind in (*store_crasher.CHANGES, *store_crasher.OTHERS):
        place = bench.fresh()
        clock = FakeClock()
        if kind == "prune":
            bench.pass_time()
            clock = FakeClock(store_crasher.LATER)
        with closing(store_crasher.opened(place, clock=clock)) as store:
            results = store_crasher.mutate(store, kind)
            assert all(isinstance(result, Applied) for result in results)
        pictures[kind] = picture(place)
    return pictures


@pytest.mark.parametrize(("kind", "mark"), POINTS)
def test_all_or_nothing(
    kind: str,
    mark: str,
    kill: Kill,
    bench: Bench,
    before: Picture,
    after: dict[str, Picture],
) -> None:
    """S8: a process killed at any mark leaves all of a group or nothing; what is there verifies.

    Rows, audit chain, numbers and the recorded request stand or fall together (R6: a request is
    recorded if and only if it was carried out).
    """
    expected = after[kind] if mark.endswith(":after-commit") else before
    place = bench.fresh()
    if kind == "prune":
        bench.pass_time()
    assert kill(**asdict(place), kind=kind, mark=mark) == signal.SIGKILL
    assert picture(place) == expected


def test_every_mark_is_tried(before: Picture, after: dict[str, Picture]) -> None:
    """No mark is left out, and each mutation but the poll shows in the picture."""
    assert {mark for _, mark in POINTS} == set(MARKS)
    assert [kind for kind, seen in after.items() if seen == before] == ["poll"]


def test_killed_at_any_moment(kill: Kill, bench: Bench) -> None:
    """S8: wherever a kill falls, exactly the requests that are recorded were carried out."""
    place = bench.fresh()
    times = random.Random(20_261)
    done = 0
    for _ in range(12):
        seconds = str(times.uniform(0.02, 0.15))
        order = {"kind": "storm", "seconds": seconds, "first": str(done)}
        assert kill(**asdict(place), **order) == signal.SIGKILL
        with closing(store_crasher.opened(place)) as store:
            [cluster] = store.clusters(ClusterFilter(), "", 99)
            assert isinstance(cluster, Cluster)
            done = cluster.version - 2
            keys = [a_request("acme", f"storm-{i}") for i in range(done + 1)]
            recorded = [store.request(key) for key in keys]
            assert [r and r.version for r in recorded] == [*range(3, done + 3), None]
            assert store.verify_audit("acme") == cluster.version
            noted = store.poll(store_crasher.BEAT)
            assert [n.number for n in noted] == list(range(1, cluster.version + 1))
    assert done > 12
