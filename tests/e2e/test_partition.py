"""A replica whose way to the database fails in each way that networks fail, looked at from outside.

Two real servers on one PostgreSQL. One reaches it directly; the other through a proxy that is the
network's failure. Times are this machine's monotonic clock, read before a call is made and after
an answer is there, so that a bound which holds for them holds for the server's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc
import pytest
from grpc_health.v1 import health_pb2

import postgres
from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from e2e.wire import Refusal, refusal, refused, spec, stubs, told_in_time
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold_server.rpc.probe import health
from lateness import Lateness, in_time
from proxy import Proxy, Way

STALENESS: Final = 3.0

POLL: Final = STALENESS / 4
"""Seconds from one look at the store to the next."""

HURRIED: Final = 0.5
"""Slack for a poll, a look at the health, and a thread of the test; the machine may add to it."""

RECOVERS: Final = 30.0
"""Seconds within which a replica serves again, at the longest: a connection whose other end is
gone without a word is given up after 20 s."""

CHANGE: Final = 1.0
"""Seconds for which a caller waits for a change."""

KEY: Final = b"k" * 32

Stub = service.KeyManagementServiceStub

WAYS: Final = {
    "drop": (Way.DROP, 0.0),
    "delay": (Way.DELAY, STALENESS),
    "black-hole": (Way.BLACK_HOLE, 0.0),
    "half-open": (Way.HALF_OPEN, 0.0),
}


@dataclass
class Pair:
    """A server with the store before it, and one with the proxy between."""

    near: Stub
    far: Stub
    server: Server
    proxy: Proxy


@pytest.fixture(scope="module")
def pair(start_module_server: StartServer, shared_store: SharedStore) -> Iterator[Pair]:
    """Gives both servers, with the keys local:eu and local:us."""
    port = postgres.shared("15").port
    shared_store.settings["KEYFOLD_STORE_MAX_STALENESS"] = f"{STALENESS}s"
    with Proxy(port) as proxy:
        near = shared_store.server(start_module_server)
        around = shared_store.url.replace(f":{port}/", f":{proxy.port}/")
        far = shared_store.server(start_module_server, KEYFOLD_STORE=around)
        with stubs(near.target) as one, stubs(far.target) as two:
            yield Pair(one, two, far, proxy)
        far.kill()


class Watch:
    """Calls of one replica, one after another, while a test does other things."""

    def __init__(self, stub: Stub, cluster: str) -> None:
        self._call = stub.Wrap
        self._asked = pb.WrapRequest(cluster=cluster, region="eu", plaintext=KEY)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.good: list[float] = []
        self.bad: list[tuple[float, Refusal]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.01):
            began = time.monotonic()
            try:
                self._call(self._asked, timeout=9)
            except grpc.RpcError as error:
                self.bad.append((began, refusal(error)))
            else:
                self.good.append(began)


def enable(stub: Stub, cluster: str, request_id: str = "", timeout: float = 9.0) -> Any:
    """Enables a cluster in region eu."""
    asked = pb.EnableRequest(cluster=cluster, region_specs=[spec("eu")], request_id=request_id)
    return stub.Enable(asked, timeout=timeout)


def wrap(stub: Stub, cluster: str) -> None:
    """Wraps a key."""
    stub.Wrap(pb.WrapRequest(cluster=cluster, region="eu", plaintext=KEY), timeout=9)


def until(done: Callable[[], object], within: float) -> None:
    """Makes a call until it is answered."""
    ends = time.monotonic() + within
    while True:
        try:
            done()
        except grpc.RpcError:
            assert time.monotonic() < ends
            time.sleep(0.02)
        else:
            return


def becomes(server: Server, status: int) -> None:
    """Waits until a server's health is as it should be, which it looks at twice a second."""
    wanted = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    with in_time(0.5 + HURRIED):
        while health(server.target, 5.0) != wanted:
            time.sleep(0.02)


def sleep_until(moment: float) -> None:
    """Waits for a moment."""
    time.sleep(max(0.0, moment - time.monotonic()))


@pytest.mark.parametrize("how", WAYS)
def test_a_partitioned_replica_fails_closed(pair: Pair, how: str) -> None:
    """S2, S3, R4: a replica without the store serves until its bound, and then refuses.

    It goes on with warm keys meanwhile, never past the bound with what was revoked elsewhere,
    says NOT_SERVING, changes nothing, and comes back by itself.
    """
    revoked, kept = f"revoked-{how}", f"kept-{how}"
    for cluster in (revoked, kept):
        enable(pair.near, cluster)
        wrap(pair.near, cluster)
    # A change that a poll reports takes the cluster out of memory. That is over once the replica
    # has confirmed a later change.
    enable(pair.near, f"polled-{how}")
    assert not pair.near.Revoke(pb.RevokeRequest(cluster=f"polled-{how}"), timeout=9).pending
    for cluster in (revoked, kept):
        wrap(pair.far, cluster)
    with (
        Lateness() as machine,
        Watch(pair.far, revoked) as gone,
        Watch(pair.far, kept) as stayed,
        ThreadPoolExecutor(1) as thread,
    ):
        before = time.monotonic()
        pair.proxy.set(*WAYS[how])
        cut = time.monotonic()
        # The last good poll began before the cut.
        bound = cut + STALENESS
        sleep_until(cut + 0.2)
        asked = pb.RevokeRequest(cluster=revoked)
        answer = told_in_time(lambda: pair.near.Revoke(asked, timeout=1.5))
        returned = time.monotonic()
        (pending,) = answer.pending
        stops = returned + pending.stops_within.ToMicroseconds() / 1e6
        assert f":{pair.server.pid}:" in pending.replica
        # Silence counts from the last heartbeat, which was before the cut.
        assert stops <= returned + STALENESS
        # A change that a caller asks of this replica is not made.
        changing = thread.submit(refused_enable, pair.far, f"late-{how}", bound)
        sleep_until(returned + CHANGE)
        assert status(pair.near, f"late-{how}").code is grpc.StatusCode.NOT_FOUND
        sleep_until(bound)
        becomes(pair.server, health_pb2.HealthCheckResponse.NOT_SERVING)
        sleep_until(bound + 1.0)
        changing.result()
        assert status(pair.near, f"late-{how}").code is grpc.StatusCode.NOT_FOUND
    serves_until = before + STALENESS - POLL - HURRIED - machine.late
    for watch in (gone, stayed):
        # Warm keys served for as long as the last poll before the cut allows.
        assert max(watch.good) > serves_until
        assert max(watch.good) <= bound
        assert not [bad for bad in watch.bad if bad[0] < serves_until]
        assert {bad.reason for _, bad in watch.bad} == {"STORE_STALE"}
    assert max(gone.good) <= stops
    with Watch(pair.far, revoked) as gone:
        pair.proxy.set(Way.PASS)
        until(lambda: wrap(pair.far, kept), RECOVERS)
        becomes(pair.server, health_pb2.HealthCheckResponse.SERVING)
        assert not gone.good
    assert {bad.reason for _, bad in gone.bad} <= {"STORE_STALE", "REVOKED"}
    # The caller can repeat the failed change, which is then made once.
    until(lambda: enable(pair.far, f"late-{how}", f"late-{how}"), RECOVERS)
    wrap(pair.near, f"late-{how}")
    wrap(pair.far, f"late-{how}")


def refused_enable(stub: Stub, cluster: str, bound: float) -> None:
    """Enables a cluster, which must fail with a reason; again if the machine was slow to say it.

    Args:
        stub: The replica without the store.
        cluster: The new cluster's name.
        bound: When the replica may know that it is stale.
    """
    asked = pb.EnableRequest(cluster=cluster, region_specs=[spec("eu")], request_id=cluster)
    error = refused(stub.Enable, asked, timeout=CHANGE)
    for _ in range(4):
        assert error.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        if error.reason:
            break
        error = refused(stub.Enable, asked, timeout=CHANGE)
    reasons = {"STORE_UNAVAILABLE", "DEADLINE_EXCEEDED"}
    if time.monotonic() > bound - POLL:
        reasons.add("STORE_STALE")
    assert error.reason in reasons


def status(stub: Stub, cluster: str) -> Refusal:
    """Reads the status of a cluster that does not exist; returns the refusal."""
    return refused(stub.GetStatus, pb.GetStatusRequest(cluster=cluster))
