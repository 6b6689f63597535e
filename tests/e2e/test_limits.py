"""Every bound, exceeded over the wire: a clear refusal, and the server goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import callers
from e2e.conftest import StartServer
from e2e.half_open import HELLO, HalfOpen, flood, frame
from e2e.server import Server
from e2e.wire import Refusal, raw, refusal, refused, spec, stubs
from in_process import TRANSPORT, InProcess, grpc_alone, serving
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.bootstrap import bounds
from keyfold_server.domain.bounds import Bounds, Rates
from keyfold_server.domain.rights import Credential, NeedsKeysError
from keyfold_server.domain.timing import Timing
from keyfold_server.rpc import server as rpc_server
from keyfold_server.rpc.incoming import callers as rpc_callers
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.messages.sizes import MAX_BATCH, MAX_REQUEST
from keyfold_server.service.clock import SystemClock
from keyfold_server.settings import Settings

TIMING = Timing(provider_budget=1.0, store_poll=0.2)


@contextmanager
def bounded(
    folder: Path, timing: Timing = TIMING, /, **bounds: Any
) -> Iterator[tuple[InProcess, Any]]:
    """Yields a server with bounds, cluster prod of organization acme, and its stubs."""
    folder.mkdir(exist_ok=True)
    with serving(folder, timing=timing, bounds=Bounds(**bounds)) as server:
        server.provider.create_key("eu")
        with stubs(server.target) as stub:
            asked = pb.EnableRequest(
                cluster="prod", organization="acme", region_specs=[spec("eu", "fake:eu", "FAKE")]
            )
            stub.Enable(asked, timeout=5)
            yield server, stub


def wrap(stub: service.KeyManagementServiceStub, **fields: Any) -> pb.WrapResponse:
    """Wraps a key in prod."""
    asked = pb.WrapRequest(**({"cluster": "prod", "region": "eu", "plaintext": b"k"} | fields))
    return stub.Wrap(asked, timeout=5)


def over(stub: service.KeyManagementServiceStub, **fields: Any) -> Refusal:
    """Wraps a key in prod, which must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        wrap(stub, **fields)
    return refusal(caught.value)


def test_sizes(tmp_path: Path) -> None:
    """A message, batch, context or name past its bound is refused; the error says the bound."""
    with bounded(tmp_path) as (server, stub):
        wrap(stub, context={"k": "v" * 4_095})
        told = over(stub, context={"k": "v" * 4_096})
        assert (told.reason, told.code) == ("INVALID_CONTEXT", grpc.StatusCode.INVALID_ARGUMENT)
        assert "4096 bytes" in told.message

        def batch(count: int) -> pb.BatchWrapRequest:
            items = [pb.BatchWrapItem(region="eu", plaintext=b"k")] * count
            return pb.BatchWrapRequest(cluster="prod", items=items)

        assert len(stub.BatchWrap(batch(1_000), timeout=5).results) == 1_000
        assert refused(stub.BatchWrap, batch(1_001)).reason == "INVALID_BATCH"
        # Its answer is larger than the request: it would not fit.
        large = [pb.BatchWrapItem(region="eu", plaintext=b"k" * 4_096)] * 1_000
        much = pb.BatchWrapRequest(cluster="prod", items=large)
        assert much.ByteSize() < MAX_BATCH
        assert "4,194,304" in refused(stub.BatchWrap, much).message
        with raw(server.target) as call:
            for method, most in (
                ("Wrap", MAX_REQUEST),
                ("BatchWrap", MAX_BATCH),
                ("Enable", MAX_REQUEST),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(method, bytes(most + 1))
                told = refusal(caught.value)
                assert told.code is grpc.StatusCode.INVALID_ARGUMENT
                assert f"{most:,}" in told.message
        for name, reason in (("n" * 129, "INVALID_NAME"), ("n" * 128, None)):
            named = pb.EnableRequest(cluster=name, region_specs=[spec("eu", "fake:eu", "FAKE")])
            if reason is None:
                assert stub.Enable(named, timeout=5).status.cluster == name
            else:
                assert refused(stub.Enable, named).reason == reason


def test_no_request_makes_others_wait(tmp_path: Path) -> None:
    """W5: two million empty items, or what else is small and many, hold up no event loop.

    The test fails if the loop watch of the server sees that one did.
    """
    kinds = {"BatchWrap": 4, "BatchUnwrap": 3, "BatchRewrap": 3}
    with bounded(tmp_path) as (server, _), raw(server.target) as call:
        for method, field in kinds.items():
            told = _refused(call, method, bytes([field << 3 | 2, 0]) * (MAX_BATCH // 2))
            assert told.reason == "INVALID_BATCH"
            assert "1 to 1,000" in told.message
        for method, field in (("Enable", 4), ("AddRegions", 4), ("Rotate", 2), ("Revoke", 2)):
            told = _refused(call, method, bytes([field << 3 | 2, 0]) * (MAX_REQUEST // 2))
            assert told.reason == "TOO_MANY_REGIONS"
        pairs = b"".join(b"\x1a\x06\x0a\x04%04x" % number for number in range(MAX_REQUEST // 8))
        told = _refused(call, "BatchWrap", pairs)
        assert (told.reason, "besides its items" in told.message) == ("INVALID_BATCH", True)
        with grpc.insecure_channel(server.target) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            with pytest.raises(grpc.RpcError) as caught:
                check(bytes([0x0A, 0]) * (MAX_REQUEST // 2 + 1), timeout=10)
            assert refusal(caught.value).reason == "MALFORMED_REQUEST"


def _refused(call: Any, method: str, data: bytes) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call(method, data)
    return refusal(caught.value)


def test_rates_count_the_items_of_batches(tmp_path: Path) -> None:
    """W5: a batch passes where a call would, and its items then count as calls."""
    items = [pb.BatchWrapItem(region="eu", plaintext=b"k")] * 400
    batch = pb.BatchWrapRequest(cluster="prod", items=items)
    with bounded(tmp_path / "caller", rate_per_caller=100) as (_, stub):
        assert len(stub.BatchWrap(batch, timeout=5).results) == 400
        told = over(stub)
        assert (told.reason, told.metadata["source"]) == ("RATE_LIMITED", "keyfold")
        assert "each item of a batch counts as one" in told.message
        assert told.retry_after is not None
        assert told.retry_after > 1
    with bounded(tmp_path / "organization", rate_per_organization=100) as (_, stub):
        # The second of its parts finds the rate used up.
        results = stub.BatchWrap(batch, timeout=5).results
        assert [result.HasField("error") for result in results] == [False] * 200 + [True] * 200
        assert over(stub).reason == "RATE_LIMITED"


def test_headers_past_their_bound(tmp_path: Path) -> None:
    """Metadata past its bound is refused, and the connection's next call works."""
    with bounded(tmp_path, header_bytes=4 * 1024) as (_, stub):
        asked = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k")
        stub.Wrap(asked, timeout=5, metadata=(("x-small", "a" * 1_000),))
        # A row of docs/transports.md: beyond four times the bound, h2corn answers with HTTP's 431.
        far = {"grpc": grpc.StatusCode.RESOURCE_EXHAUSTED, "asgi": grpc.StatusCode.UNKNOWN}
        for size, code in ((8_000, grpc.StatusCode.RESOURCE_EXHAUSTED), (17_000, far[TRANSPORT])):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Wrap(asked, timeout=5, metadata=(("x-large", "a" * size),))
            assert caught.value.code() is code
            wrap(stub)


def test_a_call_without_a_deadline_gets_one(tmp_path: Path) -> None:
    """A call waits no longer than the default, or than the longest, whatever it asks for."""
    with (
        serving(
            tmp_path,
            timing=Timing(provider_budget=30.0),
            bounds=Bounds(default_deadline=0.5, longest_deadline=1.0),
        ) as server,
        stubs(server.target) as stub,
    ):
        server.provider.create_key("eu")
        server.provider.hang()
        asked = pb.EnableRequest(cluster="c", region_specs=[spec("eu", "fake:eu", "FAKE")])
        for timeout in (None, 60.0):
            began = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                stub.Enable(asked, timeout=timeout)
            assert refusal(caught.value).reason == "DEADLINE_EXCEEDED"
            assert time.monotonic() - began < 20


@pytest.mark.parametrize("bound", ["calls_per_caller", "calls_per_organization"])
def test_calls_at_once(tmp_path: Path, bound: str) -> None:
    """One caller, and one organization, may have only so many calls wait at once."""
    with (
        bounded(tmp_path, **{bound: 1}) as (server, stub),
        ThreadPoolExecutor(1) as threads,
    ):
        hang = server.provider.hang()
        first = threads.submit(wrap, stub)
        hang.wait_entered()
        told = over(stub)
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert told.retry_after
        assert told.metadata["source"] == "keyfold"
        server.provider.mend()
        assert first.result().wrapped_key


def test_no_bound_of_a_caller_or_organization_refuses_revoke(tmp_path: Path) -> None:
    """R9: every rate and room is used up, and Revoke after Revoke goes through."""
    rates = {"rate_per_caller": 3, "rate_per_organization": 3}
    rooms = {"calls": 1, "calls_per_caller": 1, "calls_per_organization": 1}
    with (
        bounded(tmp_path, **rates, **rooms) as (server, stub),
        ThreadPoolExecutor(1) as threads,
    ):
        hang = server.provider.hang()
        rotate = pb.RotateRequest(cluster="prod", region_specs=[res.RegionSpec(region="eu")])
        rotating = threads.submit(refused, stub.Rotate, rotate, timeout=5)
        hang.wait_entered()
        asked = pb.GetStatusRequest(cluster="prod")
        reasons = {refused(stub.GetStatus, asked).reason for _ in range(10)}
        assert reasons == {"OVERLOADED", "RATE_LIMITED"}
        for number in range(10):
            regions = ["eu"] if number % 2 else []
            assert stub.Revoke(pb.RevokeRequest(cluster="prod", regions=regions), timeout=5)
        newest = pb.RetireGenerationRequest(cluster="prod", region="eu", generation=1)
        assert refused(stub.RetireGeneration, newest).reason == "GENERATION_IN_USE"
        server.provider.mend()
        rotating.result()


def test_a_change_given_up_keeps_its_callers_place(tmp_path: Path) -> None:
    """R9: a call that its deadline ended counts until what it began has ended."""
    patient = Timing(provider_budget=60.0, store_poll=0.2)
    with bounded(tmp_path, patient, calls_per_caller=1) as (server, stub):
        hang = server.provider.hang()
        rotate = pb.RotateRequest(cluster="prod", region_specs=[res.RegionSpec(region="eu")])
        # The server's answer to the deadline and the client's own may overtake each other.
        ended = refused(stub.Rotate, rotate, timeout=2)
        assert ended.code is grpc.StatusCode.DEADLINE_EXCEEDED
        hang.wait_entered()
        asked = pb.GetStatusRequest(cluster="prod")
        assert refused(stub.GetStatus, asked).reason == "OVERLOADED"
        server.provider.mend()
        ends = time.monotonic() + 10
        while server.replica.limits.callers.of("local").room.empty is False:
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert stub.GetStatus(asked, timeout=5).status.cluster == "prod"


def test_requests_that_do_not_arrive_hold_up_no_revoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: slow requests take all room, and as many calls as gRPC's bound leaves to others."""
    monkeypatch.setattr(rpc_server, "_BEYOND", 20)
    narrow = {"request_bytes_per_caller": 16 * 1024 * 1024, "receive_timeout": 300.0}
    with bounded(tmp_path, calls=10, **narrow) as (server, stub):
        slow = [HalfOpen(server.target, "BatchWrap", 50) for _ in range(2)]
        try:
            flood(slow, quiet=0.5)
            assert over(stub).message.startswith("too many calls")
            for _ in range(3):
                assert stub.Revoke(pb.RevokeRequest(cluster="prod"), timeout=5).confirmed
        finally:
            for client in slow:
                client.close()


class SlowIssuer:
    """Knows no key, and does not tell any."""

    def verify(
        self, token: str, now: float, claims: frozenset[str], *, final: bool = False
    ) -> Credential:
        raise NeedsKeysError

    async def refresh(self) -> None:
        """Never ends."""
        await asyncio.Event().wait()


def test_calls_of_unknown_callers_hold_up_no_revoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: of the calls whose tokens nobody can verify yet only so many wait, Revokes included."""
    monkeypatch.setattr(rpc_callers, "_WAITING", 2)
    who = Callers(callers.POLICIES, callers.LOCAL, SystemClock(), None, SlowIssuer())
    with (
        serving(tmp_path, timing=TIMING, who=who) as server,
        stubs(server.target) as stub,
    ):
        server.provider.create_key("eu")
        enable = pb.EnableRequest(cluster="prod", region_specs=[spec("eu", "fake:eu", "FAKE")])
        stub.Enable(enable, timeout=5)
        asked, token = pb.RevokeRequest(cluster="prod"), (("authorization", "Bearer x"),)
        waiting = [stub.Revoke.future(asked, timeout=60, metadata=token) for _ in range(2)]
        ends = time.monotonic() + 10
        while (told := _told(stub, asked, token)) == "" and time.monotonic() < ends:
            pass
        assert told == "OVERLOADED"
        assert stub.Revoke(asked, timeout=5).confirmed
        for call in waiting:
            call.cancel()


def _told(stub: Any, asked: pb.RevokeRequest, token: tuple[tuple[str, str], ...]) -> str:
    """Returns the reason of a refused Revoke; empty if its own deadline came first."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Revoke(asked, timeout=0.5, metadata=token)
    return refusal(caught.value).reason


def test_revokes_of_one_caller_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R9: a caller's Revokes use up its own part of the lane, and no other caller's."""
    with bounded(tmp_path) as (server, stub):
        room = server.replica.limits.urgent
        monkeypatch.setattr(room, "_free", 4)
        for caller in ("local", "local", "somebody"):
            server.on_loop(partial(room.occupy, caller))
        told = refused(stub.Revoke, pb.RevokeRequest(cluster="prod"))
        assert (told.reason, told.code) == ("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED)
        for _ in range(2):
            server.on_loop(partial(room.vacate, "local"))
        assert stub.Revoke(pb.RevokeRequest(cluster="prod"), timeout=5).confirmed


def test_the_narrow_place_is_named(tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED says whether Keyfold or the customer's KMS is the bottleneck."""
    with bounded(tmp_path / "kms", rate_per_organization=1) as (server, stub):
        server.provider.throttle(retry_after=7.0)
        told = over(stub)
        assert (told.reason, told.metadata["source"]) == ("THROTTLED", "kms")
        assert told.retry_after
        server.provider.mend()
    with bounded(tmp_path / "keyfold", rate_per_organization=1) as (_, stub):
        for _ in range(3):
            try:
                wrap(stub)
            except grpc.RpcError as error:
                told = refusal(error)
        assert (told.reason, told.metadata["source"]) == ("RATE_LIMITED", "keyfold")
        assert told.retry_after


def test_streams_of_one_caller(tmp_path: Path) -> None:
    """A caller may have only so many streams open; one that ends makes room."""
    with (
        bounded(tmp_path, streams_per_caller=2) as (server, _),
        grpc.insecure_channel(server.target) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(2)]
        for stream in watching:
            next(stream)
        with pytest.raises(grpc.RpcError) as caught:
            next(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
        assert refusal(caught.value).reason == "OVERLOADED"
        watching[0].cancel()
        ends = time.monotonic() + 10
        while time.monotonic() < ends:
            try:
                next(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
                break
            except grpc.RpcError:
                time.sleep(0.05)
        else:
            pytest.fail("no room was made")


def test_an_old_connection_is_made_anew(start_server: StartServer) -> None:
    """The server ends a connection past its age; the client's next call opens another."""
    server = start_server(keys=("eu",), KEYFOLD_MAX_CONNECTION_AGE="1s")
    server.enable("prod", ["eu"])
    ends = time.monotonic() + 20
    with server.client() as client:
        while time.monotonic() < ends:
            client.wrap("prod", "eu", b"k")
            lines = [line for line in server.log().splitlines() if '"method":"Wrap"' in line]
            if len({json.loads(line)["address"] for line in lines}) > 1:
                break
            time.sleep(0.05)
        else:
            pytest.fail("the connection grew old")


@grpc_alone
def test_a_flood_of_pings_is_cut_off(tmp_path: Path) -> None:
    """The server disconnects a client that pings too often, and goes on to serve others."""
    with bounded(tmp_path, ping_interval=60.0) as (server, stub):
        host, _, port = server.target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as abuser:
            abuser.sendall(HELLO)
            seen = b""
            with contextlib.suppress(OSError):
                for _ in range(50):
                    abuser.sendall(frame(6, 0, b"pingping"))
                    seen += abuser.recv(65_536)
                    if b"too_many_pings" in seen:
                        break
        assert b"too_many_pings" in seen
        wrap(stub)


def _rss(server: Server) -> int:
    """Returns a server's memory in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("method", ["BatchWrap", "Wrap", "/grpc.health.v1.Health/Check"])
def test_slow_and_silent_clients_cost_bounded_memory(
    start_server: StartServer, method: str
) -> None:
    """Requests that stop halfway take only their caller's room, and others go on."""
    room = 16 * 1024 * 1024
    server = start_server(
        keys=("eu",),
        KEYFOLD_MAX_REQUEST_BYTES_PER_CALLER=str(room),
        KEYFOLD_RECEIVE_TIMEOUT="5m",
    )
    server.enable("prod", ["eu"])
    before = _rss(server)
    clients = [HalfOpen(server.target, method, 50) for _ in range(2)]
    try:
        flood(clients, quiet=1.0)
        # 100 calls with 195 MB; of each, gRPC takes 16 KiB before Keyfold reads.
        unasked = 100 * 16 * 1024
        assert room / 4 < sum(client.sent for client in clients) < room + unasked
        assert _rss(server) - before < room + unasked + 16 * 1024 * 1024
        assert not any(client.reset for client in clients)
    finally:
        for client in clients:
            client.close()
    # The server gives back what it held for them.
    with server.client() as caller:
        caller.wrap("prod", "eu", b"k")


def test_strangers_who_send_nothing_keep_no_probe_waiting(tmp_path: Path) -> None:
    """Health probes have no credential; older calls without a credential make way for them."""
    narrow = Bounds(request_bytes_per_caller=16 * 1024 * 1024, receive_timeout=300.0)
    nobody = Callers(callers.POLICIES, None, SystemClock())
    with serving(tmp_path, bounds=narrow, who=nobody) as server:
        slow = [HalfOpen(server.target, "/grpc.health.v1.Health/Check", 50) for _ in range(2)]
        try:
            flood(slow, quiet=0.5)
            with grpc.insecure_channel(server.target) as channel:
                probe: Any = health_pb2_grpc.HealthStub(channel)
                for _ in range(5):
                    asked = health_pb2.HealthCheckRequest()
                    assert (
                        probe.Check(asked, timeout=5).status
                        == health_pb2.HealthCheckResponse.SERVING
                    )
        finally:
            for client in slow:
                client.close()


def test_a_request_that_does_not_arrive_is_given_up(start_server: StartServer) -> None:
    """A request that is not whole in time gives its room back; the error says why."""
    server = start_server(
        keys=("eu",),
        KEYFOLD_MAX_REQUEST_BYTES_PER_CALLER=str(16 * 1024 * 1024),
        KEYFOLD_RECEIVE_TIMEOUT="1s",
    )
    server.enable("prod", ["eu"])
    slow = HalfOpen(server.target, "BatchWrap", 50)
    try:
        # Later than all of them by more than the time between two looks for late requests, so that
        # a busy machine does not take this one for late together with them.
        flood([slow], quiet=0.6)
        with server.client() as client:
            # The same caller: it waits for its own requests, and no longer than they may take.
            client.wrap("prod", "eu", b"k")
        ends = time.monotonic() + 20
        while len(slow.reset) < 50 and time.monotonic() < ends:
            slow.listen(0.1)
        assert len(slow.reset) == 50
    finally:
        slow.close()
    # The reason says whether the bytes were late, or other requests left no room.
    told: set[str | None] = set()
    ends = time.monotonic() + 20
    while not {"DEADLINE_EXCEEDED", "OVERLOADED"} <= told and time.monotonic() < ends:
        # The last line may still be written.
        whole = server.log().rpartition("\n")[0]
        told = {json.loads(line).get("reason") for line in whole.splitlines()}
    assert {"DEADLINE_EXCEEDED", "OVERLOADED"} <= told


def test_calls_of_one_connection(tmp_path: Path) -> None:
    """A connection may have only so many calls under way; gRPC itself refuses further ones."""
    with bounded(tmp_path, calls_per_connection=10) as (server, stub):
        client = HalfOpen(server.target, "Wrap", 15)
        try:
            flood([client], quiet=0.5)
            # REFUSED_STREAM, or ENHANCE_YOUR_CALM to a client that does not know the limit yet.
            assert len(client.reset) == 5
            assert set(client.reset.values()) <= {7, 11}
        finally:
            client.close()
        wrap(stub)


def test_connections(tmp_path: Path) -> None:
    """Connections beyond the bound are closed by gRPC itself, until another one ends."""
    with bounded(tmp_path, connections=3) as (server, stub):
        wrap(stub)  # Over one of the three.
        clients = [HalfOpen(server.target, "Wrap", 1) for _ in range(3)]
        try:
            flood(clients, quiet=0.5)
            # A row of docs/transports.md: h2corn leaves the third in the line of the kernel.
            assert [client.closed for client in clients] == [False, False, TRANSPORT == "grpc"]
            clients[0].close()
            ends = time.monotonic() + 20
            while time.monotonic() < ends:
                clients.append(HalfOpen(server.target, "Wrap", 1))
                flood(clients[-1:], quiet=0.2)
                if not clients[-1].closed:
                    break
            else:
                pytest.fail("no room was made")
        finally:
            for client in clients:
                client.close()
        wrap(stub)


_GREEDY = """
import collections, sys, time
from keyfold.v1 import key_management_service_pb2 as pb, key_management_service_pb2_grpc as service
import grpc

options = [("grpc.max_receive_message_length", 8 << 20)]
stub = service.KeyManagementServiceStub(grpc.insecure_channel(sys.argv[1], options=options))
items = [pb.BatchWrapItem(plaintext=b"x" * 3_000) for _ in range(1_000)]
asked = pb.BatchWrapRequest(cluster="prod", region="eu", items=items)
stub.BatchWrap(asked, timeout=20)
calls = collections.deque(stub.BatchWrap.future(asked, timeout=60) for _ in range(60))
while True:
    try:
        calls.popleft().result()
        print("answered", flush=True)
    except grpc.RpcError:
        # Turned away: the server answers faster than this reads. It goes on until it is stopped.
        time.sleep(0.01)
    calls.append(stub.BatchWrap.future(asked, timeout=60))
"""


@pytest.mark.stalls
def test_replies_that_nobody_reads_are_bounded(start_server: StartServer) -> None:
    """A caller that stops reading gets no further batches until the unread bytes are gone."""
    # Without a rate, so that only the unread bytes bound the caller.
    server = start_server(
        keys=("eu",), KEYFOLD_MAX_UNREAD_BYTES="1048576", KEYFOLD_RATE_PER_CALLER="1000000"
    )
    server.enable("prod", ["eu"])
    item = pb.BatchWrapItem(region="eu", plaintext=b"k")
    asked = pb.BatchWrapRequest(cluster="prod", items=[item])
    with stubs(server.target) as stub:
        arguments = [sys.executable, "-c", _GREEDY, server.target]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as greedy:
            try:
                assert greedy.stdout is not None
                told = None
                ends = time.monotonic() + 40
                while told is None and time.monotonic() < ends:
                    # On a busy machine the server may have answered all that the caller had sent
                    # whole when it was stopped. Then it goes on until its next answer.
                    greedy.send_signal(signal.SIGCONT)
                    assert greedy.stdout.readline() == b"answered\n"
                    greedy.send_signal(signal.SIGSTOP)
                    time.sleep(0.1)
                    try:
                        # Longer than the receive timeout, within which the stopped caller's
                        # halves of requests may keep this one waiting.
                        stub.BatchWrap(asked, timeout=20)
                    except grpc.RpcError as error:
                        told = refusal(error)
                assert told is not None
                assert (told.reason, told.metadata["source"]) == ("OVERLOADED", "keyfold")
                assert told.retry_after
                # What has small replies goes on: a flood of batches is not in Revoke's way.
                wrap(stub)
            finally:
                greedy.kill()
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            try:
                assert len(stub.BatchWrap(asked, timeout=10).results) == 1
                break
            except grpc.RpcError:
                time.sleep(0.05)
        else:
            pytest.fail("the bytes of a caller that is gone were not given back")


def test_each_bound_has_a_setting() -> None:
    """Every bound comes from a setting of its own, which has the bound's default."""
    assert bounds(Settings()) == Bounds()
    changed = Settings(
        cache_clusters=3,
        max_header_bytes=5_000,
        default_deadline=1,
        max_deadline=2,
        max_concurrent_calls=7,
        max_calls_per_caller=8,
        max_calls_per_organization=9,
        max_streams_per_caller=10,
        max_calls_per_connection=18,
        max_connections=19,
        max_request_bytes=20_000_000,
        max_request_bytes_per_caller=21_000_000,
        receive_timeout=22,
        max_unread_bytes=2_000_000,
        rate_per_caller=11,
        rate_per_organization=12,
        max_connection_age=13,
        min_ping_interval=14,
        kms_rate_per_key=15,
        kms_rate_per_account=16,
        kms_rate_per_provider=17,
    )
    made = bounds(changed)
    assert made.kms_rates == Rates(15, 16, 17)
    assert all(
        getattr(made, name) != getattr(Bounds(), name) for name in Bounds.__dataclass_fields__
    )
    assert json.loads(json.dumps(changed.shown()))["max_unread_bytes"] == 2_000_000
