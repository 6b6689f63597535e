"""WatchEvents of real servers on one PostgreSQL: killed, stopped, and asked again elsewhere."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
import pytest

from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from e2e.wire import refusal, spec
from keyfold.v1 import event_service_pb2 as pb
from keyfold.v1 import event_service_pb2_grpc as events
from keyfold.v1 import key_management_service_pb2 as keys
from keyfold.v1 import key_management_service_pb2_grpc as service

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
    made = [Replica(server) for server in shared_store.servers(start_server, 2)]
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
    for number in range(CLUSTERS):
        two.keys.Revoke(keys.RevokeRequest(cluster=f"c-{number:02}"), timeout=9)
        if number == CLUSTERS // 2:
            os.kill(one.server.pid, signal.SIGKILL)
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
