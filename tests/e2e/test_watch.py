"""WatchEvents of real servers on one PostgreSQL: killed, stopped, and asked again elsewhere."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

import postgres
from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from e2e.wire import refusal, spec
from keyfold.v1 import event_service_pb2 as pb
from keyfold.v1 import event_service_pb2_grpc as events
from keyfold.v1 import key_management_service_pb2 as keys
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res

CLUSTERS: Final = 20
WAIT: Final = 40.0


class Replica:
    """One server, and a connection to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.channel = grpc.insecure_channel(server.target)
        self.keys = service.KeyManagementServiceStub(self.channel)
        self.events = events.EventServiceStub(self.channel)

    def watch(self, **asked: Any) -> Iterator[pb.WatchEventsResponse]:
        """Begins a watch."""
        return iter(self.events.WatchEvents(pb.WatchEventsRequest(**asked), timeout=WAIT))


class Reader:
    """Reads a stream in a thread, and goes on elsewhere when it ends, as a client does.

    Attributes:
        got: The messages, each with the time at which it came.
        ends: What ended each stream.
    """

    def __init__(self, replicas: list[Replica], **asked: Any) -> None:
        self.got: list[tuple[float, pb.WatchEventsResponse]] = []
        self.ends: list[grpc.RpcError] = []
        self._replicas = itertools.cycle(replicas)
        self._asked = asked
        self._closed = False
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        token = ""
        while not self._closed:
            try:
                self._stream = next(self._replicas).watch(resume_token=token, **self._asked)
                for message in self._stream:
                    self.got.append((time.monotonic(), message))
                    token = message.resume_token
            except grpc.RpcError as error:
                self.ends.append(error)
                time.sleep(0.1)

    def of(self, kind: str) -> list[Any]:
        """The messages of one kind."""
        got = [message for _, message in self.got]
        return [getattr(m, kind) for m in got if m.WhichOneof("message") == kind]

    def move(self) -> None:
        """Ends the stream, so that the reader goes on at its next replica."""
        self._stream.cancel()

    def close(self) -> None:
        self._closed = True
        self._stream.cancel()
        self._thread.join()


def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def enable(replica: Replica, name: str) -> None:
    """Enables a cluster in region eu."""
    replica.keys.Enable(keys.EnableRequest(cluster=name, region_specs=[spec("eu")]), timeout=9)


@pytest.fixture
def replicas(start_server: StartServer, shared_store: SharedStore) -> Iterator[list[Replica]]:
    """Gives two servers on one PostgreSQL."""
    yield from two_replicas(start_server, shared_store)


@pytest.fixture
def replicas_alone(start_server: StartServer, tmp_path: Path) -> Iterator[list[Replica]]:
    """Gives two servers on a store of their own.

    On the store of all tests, Revoke waits for a replica that another test has killed.
    """
    yield from two_replicas(start_server, SharedStore(postgres.shared("15"), tmp_path))


def two_replicas(start_server: StartServer, store: SharedStore) -> Iterator[list[Replica]]:
    """Starts two servers on a store."""
    made = [Replica(server) for server in store.servers(start_server, 2)]
    yield made
    for each in made:
        each.channel.close()


@pytest.mark.timeout(180)
def test_nothing_is_lost_when_a_replica_is_killed(replicas: list[Replica]) -> None:
    """R8: a reader that goes on at another replica gets every event once more, in order."""
    one, two = replicas
    for number in range(CLUSTERS):
        enable(two, f"c-{number:02}")
    reader = Reader([one, two], states=True, events=True)
    until(lambda: bool(reader.of("heartbeat")))
    first = reader.of("heartbeat")[0].number

    def revoke(name: str) -> None:
        two.keys.Revoke(keys.RevokeRequest(cluster=name), timeout=30)

    half = CLUSTERS // 2
    for name in names()[:half]:
        revoke(name)
    os.kill(one.server.pid, signal.SIGKILL)
    # Side by side, since each waits some seconds for the replica that is dead.
    with ThreadPoolExecutor(half) as pool:
        list(pool.map(revoke, names()[half:]))
    until(lambda: {e.cluster for e in revocations(reader)} == set(names()))
    until(lambda: {s.cluster for s in reader.of("state") if s.epoch == 1} == set(names()))
    reader.close()
    numbers = [event.number for event in reader.of("event")]
    assert sorted(set(numbers)) == list(range(min(numbers), max(numbers) + 1))
    assert min(numbers) <= first + 1
    assert numbers == sorted(numbers)
    assert reader.ends


def names() -> list[str]:
    """The names of the clusters."""
    return [f"c-{number:02}" for number in range(CLUSTERS)]


def revocations(reader: Reader) -> list[pb.Event]:
    """The events of revocations that a reader has got."""
    return [event for event in reader.of("event") if event.action == "rpc:cluster:revoke"]


@pytest.mark.timeout(240)
def test_three_watchers_miss_none_of_200_revocations(replicas_alone: list[Replica]) -> None:
    """R8: each learns of every revocation, one of them although it goes on at another replica."""
    one, two = replicas_alone
    turns = itertools.cycle(replicas_alone)
    clusters = [f"many-{number:03}" for number in range(200)]
    half = len(clusters) // 2

    def revoke(replica: Replica, name: str) -> None:
        replica.keys.Revoke(keys.RevokeRequest(cluster=name), timeout=30)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enable, turns, clusters))
        moving = Reader([one, two], states=True)
        readers = [Reader([one], states=True), Reader([two], states=True), moving]
        until(lambda: all(each.of("snapshot_end") for each in readers))
        assert all(states_of(each, clusters) == {(0, res.STATE_ENABLED)} for each in readers)
        list(pool.map(revoke, turns, clusters[:half]))
        rest = pool.map(revoke, turns, clusters[half:])
        moving.move()
        list(rest)
    revoked = {(1, res.STATE_REVOKED)}
    until(lambda: all(states_of(each, clusters) == revoked for each in readers))
    for each in readers:
        each.close()
    assert grpc.StatusCode.CANCELLED in {error.code() for error in moving.ends}
    # It went on from its token: there was no second snapshot to learn the rest from.
    assert [len(each.of("snapshot_end")) for each in readers] == [1, 1, 1]


def states_of(reader: Reader, clusters: list[str]) -> set[tuple[int, int] | None]:
    """The epochs and states of the one region that a reader was last told of some clusters."""
    last = {
        state.cluster: (state.epoch, region.state)
        for state in reader.of("state")
        for region in state.regions
    }
    return {last.get(cluster) for cluster in clusters}


@pytest.mark.timeout(180)
def test_a_stopped_replica_sends_its_readers_elsewhere(replicas: list[Replica]) -> None:
    """R8: SIGTERM ends a watch at once, with a reason; the other replica goes on from there."""
    one, two = replicas
    enable(two, "acme")
    reader = Reader([one, two], states=True)
    until(lambda: bool(reader.of("heartbeat")))
    began = time.monotonic()
    os.kill(one.server.pid, signal.SIGTERM)
    until(lambda: bool(reader.ends))
    assert refusal(reader.ends[0]).reason == "DRAINING"
    assert time.monotonic() - began < 10  # Its grace is 30 seconds.
    two.keys.Revoke(keys.RevokeRequest(cluster="acme"), timeout=9)
    until(lambda: any(state.epoch == 1 for state in reader.of("state")))
    reader.close()


@pytest.mark.timeout(180)
def test_a_cursor_belongs_to_its_last_reader_on_any_replica(replicas: list[Replica]) -> None:
    """S0: the reader before is fenced off at once, and its stream ends within seconds."""
    one, two = replicas
    enable(one, "siem")
    first = one.watch(events=True, cursor="siem")
    began = next(first)
    second = two.watch(events=True, cursor="siem")
    session = next(second).cursor_session
    stale = pb.AdvanceCursorRequest(
        cursor="siem", session=began.cursor_session, resume_token=began.resume_token
    )
    with pytest.raises(grpc.RpcError) as caught:
        one.events.AdvanceCursor(stale, timeout=9)
    assert refusal(caught.value).reason == "CURSOR_TAKEN"
    with pytest.raises(grpc.RpcError) as caught:
        for _ in first:
            pass
    assert refusal(caught.value).reason == "CURSOR_TAKEN"
    moved = one.events.AdvanceCursor(
        pb.AdvanceCursorRequest(cursor="siem", session=session, resume_token=began.resume_token),
        timeout=9,
    )
    assert moved.cursor.name == "siem"
