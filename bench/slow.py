"""`slow`: the memory that one caller takes who reads no replies, or sends half of each request.

The case uses two clients. One is gRPC's own: it sends batches of 3.9 MB at once, and is then
stopped. The other speaks HTTP/2 itself: it begins calls of that size and never ends them. Each
client has a fresh server with default settings. The figure is the growth of the server's peak
memory.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Final

import grpc

from bench import cases, servers
from bench.goals import Figure, Plan
from bench.processes import Server
from e2e.half_open import HalfOpen, flood
from keyfold.v1 import key_management_service_pb2_grpc as stubs
from keyfold_server.domain.bounds import Bounds
from keyfold_server.rpc.messages.sizes import UNASKED

CALLS: Final = 150
"""Number of calls on each connection."""

CONNECTIONS: Final = (1, 8)

_CALLS_QUICK: Final = 20
_MIB: Final = 1024 * 1024

_QUIET: Final = 2.0
"""Seconds without growth after which the case ends."""

_WITHIN: Final = 60.0
"""Seconds after which the case ends although the server still grows."""

_SENDER: Final = f"""
import sys, time
import grpc
from keyfold.v1 import key_management_service_pb2 as pb, key_management_service_pb2_grpc as service

options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
stubs = [
    service.KeyManagementServiceStub(grpc.insecure_channel(sys.argv[1], options=options))
    for _ in range(int(sys.argv[2]))
]
items = [pb.BatchWrapItem(plaintext=b"x" * 3_900) for _ in range(1_000)]
asked = pb.BatchWrapRequest(cluster="{cases.CLUSTER}", region="{cases.REGION}", items=items)
for stub in stubs:
    stub.BatchWrap(asked, timeout=60)
calls = [s.BatchWrap.future(asked, timeout=600) for _ in range(int(sys.argv[3])) for s in stubs]
print("asking", flush=True)
time.sleep(600)
"""

Case = Callable[[Server, int, int], None]
"""Attacks a server. The numbers are those of the connections, and of the calls on each."""


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    calls = _CALLS_QUICK if plan.quick else CALLS
    bounds = Bounds()
    figures = []
    what: dict[str, tuple[Case, int]] = {
        "half requests": (_halves, 0),
        "whole requests, by a client that is then stopped": (_stopped, bounds.unread_bytes),
    }
    for name, (case, unread) in what.items():
        for connections in CONNECTIONS:
            folder = plan.folder / f"{case.__name__}-{connections}"
            folder.mkdir()
            grown = _grown(plan, folder.name, case, connections, calls)
            # The caller's requests, two copies of its replies (ours and gRPC's), and what gRPC
            # receives of each call before the server asks for it.
            room = bounds.request_bytes_per_caller + 2 * unread + connections * calls * UNASKED
            of = f"{connections} x {calls} calls of 3.9 MB, {name}"
            figures.append(Figure("slow", of, grown, "MiB", 1, room / _MIB))
    return figures


def _grown(plan: Plan, folder: str, case: Case, connections: int, calls: int) -> float:
    with servers.one(plan.folder / folder) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = stubs.KeyManagementServiceStub(channel)
            stub.Enable(cases.enabling(), timeout=cases.CALL_WITHIN)
        before = server.memory().peak
        case(server, connections, calls)
        return server.memory().peak - before


def _halves(server: Server, connections: int, calls: int) -> None:
    with ExitStack() as stack:
        clients = [
            stack.enter_context(closing(HalfOpen(server.address, "BatchWrap", calls)))
            for _ in range(connections)
        ]
        flood(clients, quiet=_QUIET)


def _stopped(server: Server, connections: int, calls: int) -> None:
    arguments = [sys.executable, "-c", _SENDER, server.address, str(connections), str(calls)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as sender:
        try:
            assert sender.stdout is not None  # noqa: S101  Popen makes the pipe
            sender.stdout.readline()
            time.sleep(0.1 * connections)  # The worst moment is while it sends.
            sender.send_signal(signal.SIGSTOP)
            _settle(server)
        finally:
            sender.kill()


def _settle(server: Server) -> None:
    peak, since = server.memory().peak, time.monotonic()
    ends = since + _WITHIN
    while time.monotonic() < min(ends, since + _QUIET):
        time.sleep(0.1)
        if server.memory().peak > peak:
            peak, since = server.memory().peak, time.monotonic()
