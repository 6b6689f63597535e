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
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import store_crasher
from builders import a_request
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import StoreRolledBackError
from keyfold_server.domain.ports import Applied, ClusterFilter
from keyfold_server.store.marks import MARKS

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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives the folder of a store to copy."""
    folder = tmp_path_factory.mktemp("template")
    with closing(store_crasher.opened(folder)) as store:
        store_crasher.prepare(store)
    return folder


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


def picture(folder: Path) -> Picture:
    """Reads everything, which verifies every row, every chain and the numbers."""
    with closing(store_crasher.opened(folder)) as store:
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
def before(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Picture:
    """Gives the picture of an untouched store."""
    return picture(copied(template, tmp_path_factory.mktemp("before")))


@pytest.fixture(scope="module")
def after(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Picture]:
    """Gives the picture after each mutation that nothing interrupted."""
    pictures = {}
    for kind in (*store_crasher.CHANGES, *store_crasher.OTHERS):
        folder = copied(template, tmp_path_factory.mktemp(kind))
        with closing(store_crasher.opened(folder)) as store:
            if kind in store_crasher.CHANGES:
                results = store.apply(store_crasher.group(store, kind))
                assert all(isinstance(result, Applied) for result in results)
            else:
                store_crasher.OTHERS[kind](store)
        pictures[kind] = picture(folder)
    return pictures


def copied(template: Path, folder: Path) -> Path:
    """Copies a store."""
    for path in template.iterdir():
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize(("kind", "mark"), POINTS)
def test_all_or_nothing(
    kind: str,
    mark: str,
    kill: Kill,
    template: Path,
    tmp_path: Path,
    before: Picture,
    after: dict[str, Picture],
) -> None:
    """S8: a process killed at any mark leaves all of a group or nothing; what is there verifies.

    Rows, audit chain, numbers and the recorded request stand or fall together (R6: a request is
    recorded if and only if it was carried out).
    """
    folder = copied(template, tmp_path)
    assert kill(folder=str(folder), kind=kind, mark=mark) == signal.SIGKILL
    expected = after[kind] if mark.endswith(":after-commit") else before
    assert picture(folder) == expected


def test_every_mark_is_tried(before: Picture, after: dict[str, Picture]) -> None:
    """No mark is left out, and each mutation but the poll shows in the picture."""
    assert {mark for _, mark in POINTS} == set(MARKS)
    assert [kind for kind, seen in after.items() if seen == before] == ["poll"]


def test_killed_at_any_moment(kill: Kill, template: Path, tmp_path: Path) -> None:
    """S8: wherever a kill falls, exactly the requests that are recorded were carried out."""
    folder = copied(template, tmp_path)
    times = random.Random(20_261)
    done = 0
    for _ in range(12):
        seconds = str(times.uniform(0.02, 0.15))
        order = {"folder": str(folder), "kind": "storm", "seconds": seconds, "first": str(done)}
        assert kill(**order) == signal.SIGKILL
        with closing(store_crasher.opened(folder)) as store:
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
