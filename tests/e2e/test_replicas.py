"""Three servers on one PostgreSQL: a change that one of them makes holds for all of them.

Real processes, looked at from outside. What a server does after an answer is judged by calls that
began after that answer was there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import grpc
import pytest

from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from e2e.wire import Refusal, refusal, refused, spec, stubs, told_in_time
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from lateness import in_time

COUNT: Final = 3
STALENESS: Final = 4.0
KEY: Final = b"k" * 32

T = TypeVar("T")
Stub = service.KeyManagementServiceStub


@dataclass
class Fleet:
    """Servers on one store, with a connection to each.

    Attributes:
        stubs: A connection to each.
        more: A function that starts one more server on the same store.
    """

    servers: list[Server]
    stubs: list[Stub]
    more: Callable[[StartServer], Server]


@dataclass
class Answered:
    """A server's answers to calls that followed one another.

    Attributes:
        good: The beginning of each call that was answered.
        bad: The beginning of each call that was refused, with the refusal.
    """

    good: list[float] = field(default_factory=list)
    bad: list[tuple[float, Refusal]] = field(default_factory=list)

    def after(self, moment: float) -> int:
        """Counts the answered calls that began after a moment."""
        return sum(began > moment for began in self.good)

    def reasons(self, moment: float = 0.0) -> set[str]:
        """Returns the reasons of the refused calls that began after a moment."""
        return {how.reason or how.code.name for began, how in self.bad if began > moment}


@pytest.fixture(scope="module")
def fleet(start_module_server: StartServer, shared_store: SharedStore) -> Iterator[Fleet]:
    """Gives three servers with the keys local:eu and local:us."""
    shared_store.settings["KEYFOLD_STORE_MAX_STALENESS"] = f"{STALENESS}s"
    servers = shared_store.servers(start_module_server, COUNT)
    with (
        stubs(servers[0].target) as a,
        stubs(servers[1].target) as b,
        stubs(servers[2].target) as c,
    ):
        yield Fleet(servers, [a, b, c], shared_store.server)


def enable(stub: Stub, cluster: str, *, request_id: str = "", ttl: float | None = None) -> Any:
    """Enables a cluster in region eu under local:eu."""
    region = spec("eu")
    if ttl is not None:
        region.policy.cache_ttl.FromMicroseconds(int(ttl * 1e6))
    asked = pb.EnableRequest(cluster=cluster, region_specs=[region], request_id=request_id)
    return stub.Enable(asked, timeout=9)


def wrap(stub: Stub, cluster: str) -> bytes:
    """Wraps a key."""
    asked = pb.WrapRequest(cluster=cluster, region="eu", plaintext=KEY)
    blob: bytes = stub.Wrap(asked, timeout=9).wrapped_key
    return blob


def unwrap(stub: Stub, cluster: str, blob: bytes) -> bytes:
    """Opens a wrapped key."""
    asked = pb.UnwrapRequest(cluster=cluster, wrapped_key=blob)
    plaintext: bytes = stub.Unwrap(asked, timeout=9).plaintext
    return plaintext


def revoke(stub: Stub, cluster: str, timeout: float = 9.0) -> Any:
    """Revokes a cluster."""
    return stub.Revoke(pb.RevokeRequest(cluster=cluster), timeout=timeout)


def outcome(call: Callable[[], T]) -> T | str:
    """Makes a call; returns its answer, or the reason of its refusal."""
    try:
        return call()
    except grpc.RpcError as error:
        return refusal(error).reason


@contextmanager
def hammering(*calls: Callable[[], object]) -> Iterator[list[Answered]]:
    """Makes each call again and again, each in a thread of its own, until the end."""
    over = threading.Event()
    answers = [Answered() for _ in calls]

    def hammer(call: Callable[[], object], answered: Answered) -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                call()
            except grpc.RpcError as error:
                answered.bad.append((began, refusal(error)))
            else:
                answered.good.append(began)

    with ThreadPoolExecutor(len(calls)) as pool:
        under_way = [pool.submit(hammer, *pair) for pair in zip(calls, answers, strict=True)]
        try:
            yield answers
        finally:
            over.set()
        for hammered in under_way:
            hammered.result()


def comes_true(condition: Callable[[], bool]) -> None:
    """Waits for what other threads make true, for no longer than the test may take."""
    while not condition():
        time.sleep(0.02)


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """Holds a process by SIGSTOP."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def names(server: Server) -> str:
    """Returns the part of a replica's name that is known from outside: its process id."""
    return f":{server.pid}:"


def seconds(replica: res.PendingReplica) -> float:
    """Returns how long a replica may still serve."""
    return replica.stops_within.ToMicroseconds() / 1e6


def test_what_one_made_all_use_at_once(fleet: Fleet) -> None:
    """S1, S4: a cluster and a region that one replica made serve on the others without waiting."""
    one, two, three = fleet.stubs
    enable(one, "made")
    blob = wrap(two, "made")
    assert unwrap(three, "made", blob) == unwrap(one, "made", blob) == KEY
    two.AddRegions(pb.AddRegionsRequest(cluster="made", region_specs=[spec("us")]), timeout=9)
    for stub in fleet.stubs:
        stub.Wrap(pb.WrapRequest(cluster="made", region="us", plaintext=KEY), timeout=9)


@pytest.mark.parametrize("through", range(COUNT))
def test_no_replica_serves_after_revoke_returned(fleet: Fleet, through: int) -> None:
    """R3, R4: Revoke confirms all replicas, and no call that begins after its answer is served."""
    cluster = f"hammered-{through}"
    enable(fleet.stubs[0], cluster)
    blob = wrap(fleet.stubs[0], cluster)
    calls = [
        call
        for stub in fleet.stubs
        for call in (
            lambda stub=stub: wrap(stub, cluster),
            lambda stub=stub: unwrap(stub, cluster, blob),
        )
    ]
    with hammering(*calls) as answers:
        comes_true(lambda: all(answered.good for answered in answers))
        answer = revoke(fleet.stubs[through], cluster)
        returned = time.monotonic()
        comes_true(lambda: all(answered.reasons(returned) for answered in answers))
        time.sleep(0.5)
    assert not answer.pending
    assert len(answer.confirmed) == COUNT
    assert all(any(names(s) in name for name in answer.confirmed) for s in fleet.servers)
    assert all(answered.good for answered in answers)
    assert [answered.after(returned) for answered in answers] == [0] * len(calls)
    assert {reason for answered in answers for reason in answered.reasons()} == {"REVOKED"}
    assert all(answered.reasons(returned) for answered in answers)


def test_a_paused_replica_is_named_and_wakes_up_refusing(fleet: Fleet) -> None:
    """R4, S3: Revoke names a paused replica and when it stops; woken after that it serves nothing.

    Calls wait in its socket while it is paused, and are the first that it sees.
    """
    cluster, last = "paused", fleet.servers[2]
    asked = pb.WrapRequest(cluster=cluster, region="eu", plaintext=KEY)
    enable(fleet.stubs[0], cluster)
    for stub in fleet.stubs:
        wrap(stub, cluster)
    with ThreadPoolExecutor(4) as pool:
        with paused(last):
            time.sleep(0.2)  # Its last sign of life is recent then.
            answer = told_in_time(lambda: revoke(fleet.stubs[0], cluster, timeout=1.5))
            returned = time.monotonic()
            (pending,) = answer.pending
            assert names(last) in pending.replica
            assert 0 < seconds(pending) <= STALENESS
            assert len(answer.confirmed) == COUNT - 1
            for stub in fleet.stubs[:2]:
                assert refused(stub.Wrap, asked).reason == "REVOKED"
            time.sleep(max(0.0, returned + seconds(pending) - time.monotonic()))
            waiting = [pool.submit(refused, fleet.stubs[2].Wrap, asked) for _ in range(4)]
            time.sleep(0.2)
        reasons = {call.result().reason for call in waiting}
    assert reasons <= {"STORE_STALE", "REVOKED"}
    assert refused(fleet.stubs[2].Wrap, asked).reason in {"STORE_STALE", "REVOKED"}
    # It comes back by itself, for what is not revoked.
    enable(fleet.stubs[0], "woken")
    until(lambda: wrap(fleet.stubs[2], "woken"))
    assert not revoke(fleet.stubs[0], "woken").pending


def test_a_killed_replica_ages_out(fleet: Fleet, start_server: StartServer) -> None:
    """S4: a replica that died is pending until it would have stopped by itself, then forgotten."""
    lost = fleet.more(start_server)
    for cluster in ("killed-1", "killed-2", "killed-3"):
        enable(fleet.stubs[0], cluster)
    with stubs(lost.target) as stub:
        wrap(stub, "killed-1")
    lost.kill()
    with in_time(STALENESS + 1.0):
        answer = told_in_time(lambda: revoke(fleet.stubs[0], "killed-1", timeout=1.5))
        (pending,) = answer.pending
        assert names(lost) in pending.replica
        assert 0 < seconds(pending) <= STALENESS
        # A Revoke that may wait longer waits until no replica is pending.
        answer = revoke(fleet.stubs[1], "killed-2")
        assert not answer.pending
        assert len(answer.confirmed) == COUNT
    with in_time(2.0):
        assert not revoke(fleet.stubs[0], "killed-3").pending


def until(done: Callable[[], object], within: float = 10.0) -> float:
    """Makes a call until it is answered; returns how long that took."""
    began = time.monotonic()
    while True:
        try:
            done()
        except grpc.RpcError:
            assert time.monotonic() - began < within
            time.sleep(0.02)
        else:
            return time.monotonic() - began


def test_a_request_repeated_elsewhere_is_not_carried_out_again(fleet: Fleet) -> None:
    """R6: a replica answers a request_id that another carried out from the present state."""
    one, two, three = fleet.stubs
    assert not enable(one, "repeated", request_id="enable-1").replayed
    assert enable(two, "repeated", request_id="enable-1").replayed
    asked = pb.RotateRequest(
        cluster="repeated",
        region_specs=[res.RegionSpec(region="eu")],
        new_generation=True,
        request_id="rotate-1",
    )
    first = two.Rotate(asked, timeout=9)
    again = three.Rotate(asked, timeout=9)
    assert (first.replayed, again.replayed) == (False, True)
    assert generations(first.status) == generations(again.status) == 2
    asked.new_generation = False
    assert refused(one.Rotate, asked).reason == "REQUEST_ID_REUSED"


def generations(status: res.ClusterStatus) -> int:
    """Counts the generations of a cluster's only region."""
    (region,) = status.regions
    return len(region.generations)


def test_twins_at_two_replicas_are_one(fleet: Fleet) -> None:
    """R6: one request at all replicas at the same time is carried out once; losers may repeat."""
    enable(fleet.stubs[0], "twins")
    rounds = 5
    with ThreadPoolExecutor(COUNT) as pool:
        for number in range(rounds):
            asked = pb.RotateRequest(
                cluster="twins",
                region_specs=[res.RegionSpec(region="eu")],
                new_generation=True,
                request_id=f"twin-{number}",
            )
            together = threading.Barrier(COUNT)

            def rotate(
                stub: Stub,
                asked: pb.RotateRequest = asked,
                together: threading.Barrier = together,
            ) -> pb.RotateResponse | grpc.StatusCode:
                together.wait()
                try:
                    answer: pb.RotateResponse = stub.Rotate(asked, timeout=9)
                except grpc.RpcError as error:
                    code: grpc.StatusCode = error.code()
                    return code
                return answer

            answers = list(pool.map(rotate, fleet.stubs))
            done = [a.replayed for a in answers if isinstance(a, pb.RotateResponse)]
            assert done.count(False) == 1
            lost = {a for a in answers if isinstance(a, grpc.StatusCode)}
            assert lost <= {grpc.StatusCode.ABORTED}
            assert all(fleet.stubs[i].Rotate(asked, timeout=9).replayed for i in range(COUNT))
    status = fleet.stubs[0].GetStatus(pb.GetStatusRequest(cluster="twins"), timeout=9).status
    assert generations(status) == 1 + rounds


def test_rotate_fails_no_call(fleet: Fleet) -> None:
    """S5: while one replica rotates and moves a key, every call on every replica is answered."""
    cluster = "rotated"
    enable(fleet.stubs[0], cluster)
    blob = wrap(fleet.stubs[0], cluster)
    calls = [
        call
        for stub in fleet.stubs
        for call in (
            lambda stub=stub: wrap(stub, cluster),
            lambda stub=stub: unwrap(stub, cluster, blob),
        )
    ]
    with hammering(*calls) as answers:
        for number in range(10):
            uri = "local:us" if number % 2 == 0 else "local:eu"
            asked = pb.RotateRequest(
                cluster=cluster, region_specs=[spec("eu", uri)], new_generation=number % 3 == 0
            )
            fleet.stubs[number % COUNT].Rotate(asked, timeout=9)
            time.sleep(0.1)
    assert [answered.bad for answered in answers] == [[]] * len(calls)
    assert all(answered.good for answered in answers)


def test_a_recheck_makes_a_disabled_key_effective_on_every_replica(fleet: Fleet) -> None:
    """F2: after a Recheck that confirms a refusal, no replica serves the key, whatever the TTL."""
    fleet.servers[0].dev_keys("create", "checked")
    region = spec("eu", "local:checked")
    region.policy.cache_ttl.FromSeconds(600)
    ask = pb.EnableRequest(cluster="checked", region_specs=[region])
    fleet.stubs[0].Enable(ask, timeout=9)
    blob = wrap(fleet.stubs[0], "checked")
    # That first use changed the cluster (D6), so the others load it anew once they have read of it.
    # Whoever confirms a later decision has.
    fleet.stubs[0].Enable(
        pb.EnableRequest(cluster="later", region_specs=[spec("eu", "local:checked")]), timeout=9
    )
    later = fleet.stubs[0].Revoke(pb.RevokeRequest(cluster="later"), timeout=9)
    assert len(later.confirmed) == COUNT
    for stub in fleet.stubs:
        assert unwrap(stub, "checked", blob) == KEY
    fleet.servers[0].dev_keys("disable", "checked")
    for stub in fleet.stubs:
        assert unwrap(stub, "checked", blob) == KEY
    answer = fleet.stubs[1].Recheck(pb.RecheckRequest(key_uri="local:checked"), timeout=9)
    assert [each.health for each in answer.results] == [res.HEALTH_KEY_DISABLED]
    assert len(answer.confirmed) == COUNT
    assert not answer.pending
    for stub in fleet.stubs:
        assert outcome(partial(unwrap, stub, "checked", blob)) == "KEY_DISABLED"


@pytest.mark.parametrize("ttl", [0.0, 0.1])
def test_a_replica_behind_a_rotation_believes_no_refusal(fleet: Fleet, ttl: float) -> None:
    """F3: a replica that has not seen a rotation does not take the old version for revoked.

    It sleeps while the key gets a new version, the cluster moves to it and the customer disables
    the old version. The calls that wait for the replica are the first that it sees.
    """
    first, last = fleet.servers[0], fleet.servers[2]
    cluster = f"behind-{ttl:g}"
    key = f"key{ttl:g}".replace(".", "-")
    first.dev_keys("create", key)
    region = spec("eu", f"local:{key}")
    region.policy.cache_ttl.FromMicroseconds(int(ttl * 1e6))
    fleet.stubs[0].Enable(pb.EnableRequest(cluster=cluster, region_specs=[region]), timeout=9)
    blob = wrap(fleet.stubs[2], cluster)
    with ThreadPoolExecutor(4) as pool:
        for version in range(1, 4):
            assert unwrap(fleet.stubs[2], cluster, blob) == KEY
            with paused(last):
                first.dev_keys("rotate", key)
                asked = pb.RotateRequest(
                    cluster=cluster, region_specs=[res.RegionSpec(region="eu")]
                )
                fleet.stubs[0].Rotate(asked, timeout=9)
                first.dev_keys("disable", key, "--version", str(version))
                waiting = [
                    pool.submit(outcome, lambda: unwrap(fleet.stubs[2], cluster, blob))
                    for _ in range(4)
                ]
                time.sleep(0.1)
            # After a longer pause, the replica must not serve before its next poll.
            assert {call.result() for call in waiting} <= {KEY, "STORE_STALE"}
            until(lambda: unwrap(fleet.stubs[2], cluster, blob))
    assert f"the KMS refuses {cluster}/" not in last.log()
