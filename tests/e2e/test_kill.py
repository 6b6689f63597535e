"""kill -9 in the middle of changes, under load, again and again, on one file.

Four threads enable, add regions, rotate, revoke, restore and wrap, each on clusters of its own and
one step after the other, so that a model knows how each cluster must be, except for the one step
whose answer was lost.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import pytest

from audit_chain import verified_events
from e2e.conftest import StartServer
from e2e.server import Server
from e2e.wire import Refusal, refusal, spec, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import open_store

KILLS: Final = 15
THREADS: Final = 4

_ids = itertools.count()


@dataclass
class Cluster:
    """A cluster as it must be, according to the answers so far.

    Attributes:
        states: The state of each region.
        generations: The number of generations of each region.
        wrapped: The region, wrapped key and plaintext of every Wrap that was answered.
        changes: The number of changes that were made, each of them an event in the chain.
    """

    name: str
    states: dict[str, int] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    wrapped: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    changes: int = 0


@dataclass
class Step:
    """A change, and what it does to the model."""

    method: str
    asked: Any
    cluster: Cluster
    states: dict[str, int]
    generations: dict[str, int] = field(default_factory=dict)

    def done(self) -> None:
        """Notes that it was carried out."""
        self.cluster.states |= self.states
        self.cluster.generations |= self.generations
        self.cluster.changes += 1


def request_id() -> str:
    """Returns an id that no other request has."""
    return f"request-{next(_ids)}"


def life(cluster: Cluster) -> Iterator[Step]:
    """Yields the steps of a cluster's life."""
    name, on, off = cluster.name, res.STATE_ENABLED, res.STATE_REVOKED
    first, later = ("eu", "us", "ap"), ("r1", "r2")
    yield Step(
        "Enable",
        pb.EnableRequest(
            cluster=name, region_specs=[spec(r) for r in first], request_id=request_id()
        ),
        cluster,
        dict.fromkeys(first, on),
        dict.fromkeys(first, 1),
    )
    yield Step(
        "AddRegions",
        pb.AddRegionsRequest(
            cluster=name, region_specs=[spec(r, "local:eu") for r in later], request_id=request_id()
        ),
        cluster,
        dict.fromkeys(later, on),
        dict.fromkeys(later, 1),
    )
    for generation in (2, 3):
        yield Step(
            "Rotate",
            pb.RotateRequest(
                cluster=name,
                region_specs=[spec("eu", "local:us"), res.RegionSpec(region="us")],
                new_generation=True,
                request_id=request_id(),
            ),
            cluster,
            {},
            {"eu": generation, "us": generation},
        )
        revoke = pb.RevokeRequest(cluster=name, regions=["eu", "r1"], request_id=request_id())
        yield Step("Revoke", revoke, cluster, {"eu": off, "r1": off})
        restore = pb.RestoreRequest(cluster=name, regions=["eu"], request_id=request_id())
        yield Step("Restore", restore, cluster, {"eu": on})
        restore = pb.RestoreRequest(cluster=name, request_id=request_id())
        yield Step("Restore", restore, cluster, {"r1": on})
    yield Step(
        "Revoke",
        pb.RevokeRequest(cluster=name, request_id=request_id()),
        cluster,
        dict.fromkeys((*first, *later), off),
    )


class Worker:
    """One thread's clusters, and the step whose answer it still waits for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.clusters: list[Cluster] = []
        self.lost: Step | None = None
        self._steps: Iterator[Step] = iter(())

    def work(self, stub: service.KeyManagementServiceStub) -> None:
        """Goes on until the server is gone."""
        try:
            while True:
                step = next(self._steps, None)
                if step is None:
                    self.clusters.append(Cluster(f"w{self.number}-{len(self.clusters)}"))
                    self._steps = life(self.clusters[-1])
                    continue
                self.lost = step
                getattr(stub, step.method)(step.asked, timeout=10)
                self.lost = None
                step.done()
                self._wrap(stub, step.cluster)
        except grpc.RpcError as error:
            gone = refusal(error)
            assert (gone.code, gone.reason) == (grpc.StatusCode.UNAVAILABLE, ""), gone

    def _wrap(self, stub: service.KeyManagementServiceStub, cluster: Cluster) -> None:
        for region, state in cluster.states.items():
            if state == res.STATE_ENABLED:
                plaintext = random.randbytes(32)
                asked = pb.WrapRequest(cluster=cluster.name, region=region, plaintext=plaintext)
                blob = stub.Wrap(asked, timeout=10).wrapped_key
                cluster.wrapped.append((region, blob, plaintext))

    def look(self, stub: service.KeyManagementServiceStub) -> bool:
        """Checks that the lost step was done whole or not at all, and repeats it.

        Returns:
            Whether the step had been carried out.
        """
        step, self.lost = self.lost, None
        if step is None:
            return False
        found = shown(stub, step.cluster.name)
        before = (step.cluster.states, step.cluster.generations)
        after = (before[0] | step.states, before[1] | step.generations)
        assert found in (before, after), (step.method, found, before, after)
        carried_out = found == after
        answer = getattr(stub, step.method)(step.asked, timeout=10)
        # A Revoke of what is revoked and a Restore of what is in service look the same.
        assert answer.replayed == carried_out or before == after
        assert not answer.superseded
        step.done()
        assert shown(stub, step.cluster.name) == after
        return carried_out


def shown(
    stub: service.KeyManagementServiceStub, name: str
) -> tuple[dict[str, int], dict[str, int]]:
    """Returns a cluster's states and generations by region; both empty for an unknown cluster."""
    try:
        status = stub.GetStatus(pb.GetStatusRequest(cluster=name), timeout=10).status
    except grpc.RpcError as error:
        if refusal(error).reason != "CLUSTER_NOT_FOUND":
            raise
        return {}, {}
    numbers = {r.region: [g.generation for g in r.generations] for r in status.regions}
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())
    return {r.region: r.state for r in status.regions}, {r: len(n) for r, n in numbers.items()}


def check(stub: service.KeyManagementServiceStub, cluster: Cluster) -> None:
    """Checks that a cluster is as the model says, and every wrapped key with it."""
    if not cluster.changes:
        return
    assert shown(stub, cluster.name) == (cluster.states, cluster.generations)
    if not cluster.wrapped:
        return
    items = [pb.BatchUnwrapItem(wrapped_key=blob) for _, blob, _ in cluster.wrapped]
    asked = pb.BatchUnwrapRequest(cluster=cluster.name, items=items)
    results = stub.BatchUnwrap(asked, timeout=10).results
    for (region, _, plaintext), result in zip(cluster.wrapped, results, strict=True):
        if cluster.states[region] == res.STATE_ENABLED:
            assert result.answer.plaintext == plaintext
        else:
            assert Refusal.of(result.error).reason == "REVOKED"


def loaded(workers: list[Worker], server: Server, kill: Callable[[], None]) -> None:
    """Puts the server under load, kills it, and waits for everybody to notice."""
    failures: list[BaseException] = []

    def run(worker: Worker) -> None:
        try:
            with stubs(server.target) as stub:
                worker.work(stub)
        except BaseException as error:  # noqa: BLE001  it is raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    kill()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


@pytest.mark.timeout(180)
def test_kill_in_the_middle_of_changes(start_server: StartServer) -> None:
    """Whenever it is killed: nothing answered is lost, nothing is half done or done twice."""
    server = start_server(keys=("eu", "us", "ap"))
    workers = [Worker(number) for number in range(THREADS)]

    def kill() -> None:
        time.sleep(random.uniform(0.05, 0.35))
        server.kill()

    carried_out = 0
    for _ in range(KILLS):
        loaded(workers, server, kill)
        server.restart()
        with stubs(server.target) as stub:
            carried_out += sum(worker.look(stub) for worker in workers)
            for worker in workers:
                for cluster in worker.clusters[-2:]:
                    check(stub, cluster)
    clusters = [cluster for worker in workers for cluster in worker.clusters if cluster.changes]
    assert len(clusters) > THREADS
    with stubs(server.target) as stub:
        for cluster in clusters:
            check(stub, cluster)
    assert server.stop() == 0

    with closing(sqlite3.connect(server.store)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        events = database.execute(
            # A first use is an event, too, and no change that a caller asked for (D6).
            "SELECT cluster, count(*), sum(outcome = 'done' AND action <> 'server:cluster:use') "
            "FROM log WHERE cluster IS NOT NULL GROUP BY cluster"
        ).fetchall()
    # One event for each change that was carried out; a mere repetition has another outcome.
    assert {name: done for name, _, done in events} == {c.name: c.changes for c in clusters}
    store = open_store(
        f"sqlite:///{server.store}", f"{server.store}.service-key", clock=SystemClock()
    )
    try:
        for name, count, _ in events:
            assert verified_events(store, name) == count
    finally:
        store.close()
