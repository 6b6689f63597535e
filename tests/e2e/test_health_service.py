"""gRPC's health service: strangers, who need no credential, cannot starve it or freeze it."""

from __future__ import annotations

import socket
import struct
import threading
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
from e2e.half_open import frame
from e2e.wire import refusal
from in_process import InProcess, serving
from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.errors import OverloadedError
from keyfold_server.rpc import standard_services
from keyfold_server.rpc.health import Health
from keyfold_server.rpc.incoming import door
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.service.clock import SystemClock

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ASKED = health_pb2.HealthCheckRequest()


@contextmanager
def strangers(folder: Path, **bounds: Any) -> Iterator[tuple[InProcess, Any]]:
    """Yields a server to which every caller is a stranger, and the stubs of its health service."""
    nobody = Callers(callers.POLICIES, None, SystemClock())
    with (
        serving(folder, who=nobody, bounds=Bounds(**bounds)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        yield server, health_pb2_grpc.HealthStub(channel)


def source(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes all further calls come from one source."""
    monkeypatch.setattr(standard_services, "source_of", lambda _: name)


def reason(call: Any) -> str:
    """Returns why a call was refused; empty if it was answered."""
    try:
        call()
    except grpc.RpcError as error:
        return refusal(error).reason
    return ""


def test_a_stranger_who_floods_is_bounded_by_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address gets 100 checks a second; a probe from another one is answered all the while."""
    monkeypatch.setattr(standard_services, "_PER_SOURCE", 20)
    with strangers(tmp_path) as (_, health):
        source(monkeypatch, "192.0.2.1")

        def check(_: int) -> str:
            return reason(lambda: health.Check(ASKED, timeout=10))

        with ThreadPoolExecutor(8) as pool:
            # Faster than the rate, however slow the machine is: 20 at once, and 20 a second.
            ends, refused = time.monotonic() + 30, set[str]()
            while refused != {"", "RATE_LIMITED"} and time.monotonic() < ends:
                refused = set(pool.map(check, range(200)))
        assert refused == {"", "RATE_LIMITED"}
        source(monkeypatch, "192.0.2.2")
        assert health.Check(ASKED, timeout=10).status == SERVING


def test_other_calls_of_strangers_take_nothing_from_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers who watch get at most half of their places each, and none of Check's."""
    monkeypatch.setattr(standard_services, "_STRANGERS", 6)
    with strangers(tmp_path) as (_, health):
        source(monkeypatch, "192.0.2.1")
        streams = [health.Watch(ASKED, timeout=20) for _ in range(3)]
        for stream in streams:
            assert next(stream).status == SERVING
        assert reason(lambda: next(health.Watch(ASKED, timeout=10))) == "OVERLOADED"
        assert health.Check(ASKED, timeout=10).status == SERVING
        source(monkeypatch, "192.0.2.2")
        stream = health.Watch(ASKED, timeout=20)
        assert next(stream).status == SERVING


def test_check_passes_a_full_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that turns calls away is not taken for dead: Check has places of its own."""

    def full(_: door.Door) -> None:
        raise OverloadedError("too many calls are under way; try again", retry_after=1.0)

    with strangers(tmp_path) as (_, health):
        monkeypatch.setattr(door.Door, "enter", full)
        monkeypatch.setattr(door.Door, "leave", lambda _: None)
        assert reason(lambda: next(health.Watch(ASKED, timeout=10))) == "OVERLOADED"
        assert health.Check(ASKED, timeout=10).status == SERVING


def test_a_known_caller_whose_rate_is_used_up_gets_its_check(tmp_path: Path) -> None:
    """What a caller's other calls use up, they do not take from its health checks."""
    with (
        serving(tmp_path, bounds=Bounds(rate_per_caller=1)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watches = {reason(lambda: next(health.Watch(ASKED, timeout=10))) for _ in range(20)}
        assert "RATE_LIMITED" in watches
        for _ in range(5):
            assert health.Check(ASKED, timeout=10).status == SERVING


def _deaf(target: str) -> socket.socket:
    """Begins a Watch of which nothing is ever read: the client's window for it is empty."""
    host, _, port = target.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=10)
    settings = frame(4, 0, struct.pack(">HI", 4, 0))
    client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Watch",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(
        b"\0" + bytes((len(k),)) + k.encode() + bytes((len(v),)) + v.encode()
        for k, v in fields.items()
    )
    client.sendall(frame(1, 4, block, 1) + frame(0, 1, bytes(5), 1))
    return client


def test_a_watcher_who_reads_nothing_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another watcher, nor Check, nor the server's stop waits for one who does not read."""
    began = threading.Event()
    watch = Health.watch

    async def noted(self: Health, service: str, write: Any) -> None:
        began.set()
        await watch(self, service, write)

    monkeypatch.setattr(Health, "watch", noted)
    with strangers(tmp_path) as (server, health):
        deaf = _deaf(server.target)
        assert began.wait(20)
        watching = health.Watch(ASKED, timeout=30)
        assert next(watching).status == SERVING
        for rolled_back, status in ((True, NOT_SERVING), (False, SERVING)):
            work = partial(setattr, server.replica.changes, "rolled_back", rolled_back)
            server.on_loop(work)
            assert next(watching).status == status
            assert health.Check(ASKED, timeout=10).status == status
    # The block's end has stopped the server, which the deaf client would have held up for ever.
    deaf.close()


def test_what_health_answers(tmp_path: Path) -> None:
    """Check, List and Watch give one answer, and say which services there are."""
    with strangers(tmp_path) as (_, health):
        listed = health.List(health_pb2.HealthListRequest(), timeout=10).statuses  # type: ignore[attr-defined]
        assert {name: each.status for name, each in listed.items()} == {
            "": SERVING,
            "google.longrunning.Operations": SERVING,
            "keyfold.v1.EventService": SERVING,
            "keyfold.v1.KeyManagementService": SERVING,
            "keyfold.v1.OrganizationService": SERVING,
        }
        for name in listed:
            asked = health_pb2.HealthCheckRequest(service=name)
            assert health.Check(asked, timeout=10).status == SERVING
        unknown = health_pb2.HealthCheckRequest(service="nope")
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(unknown, timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watching = health.Watch(unknown, timeout=10)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
