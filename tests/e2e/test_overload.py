"""Ten times as many calls at once as a server takes, all for customers whose KMS hangs."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from e2e.conftest import StartServer
from e2e.odd_provider import installed
from e2e.server import Server
from e2e.wire import refusal, spec, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service

LIMIT: Final = 100
SMALL: Final = 2 * LIMIT
LARGE: Final = 10 * LIMIT

CLUSTERS: Final = 10
CONNECTIONS: Final = 4
WITHIN: Final = 30.0

UNASKED: Final = 16 * 1024
"""Bytes of a call that gRPC itself reads, and keeps until it has sent the refusal."""

SLACK: Final = 4 * 1024 * 1024
"""Bytes by which the allocator may round up."""


@pytest.mark.stalls  # Thousands of calls arrive in the same turn of the loop.
def test_every_call_that_is_shed_hears_when_to_come_again(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Each call beyond the limit is OVERLOADED with a RetryInfo, and costs little memory.

    The server then serves on.
    """
    odd = installed(tmp_path / "odd")
    hang = Path(odd["ODD_HANG"])
    server = start_server(keys=(), ready=False)
    server.settings |= odd | {"KEYFOLD_MAX_CONCURRENT_CALLS": str(LIMIT)}
    server.start()
    with ExitStack() as stack:
        connections = [stack.enter_context(stubs(server.target)) for _ in range(CONNECTIONS)]
        asked = [enabled(connections[0], f"tenant-{n}") for n in range(CLUSTERS)]
        flood(connections, asked, SMALL, hang)
        before = peak(server)
        ended = flood(connections, asked, LARGE, hang)
        let_in = ended["served"] + ended["UNREACHABLE"]
        assert 0 < let_in <= LIMIT
        assert ended["OVERLOADED"] == LARGE - let_in
        assert peak(server) - before < (LARGE - SMALL) * UNASKED + SLACK
        assert connections[0].Unwrap(asked[0], timeout=WITHIN).plaintext == b"k"


def enabled(stub: service.KeyManagementServiceStub, name: str) -> pb.UnwrapRequest:
    """Makes a cluster whose every call goes to its KMS; returns such a call."""
    region = spec("eu", f"odd:hang-{name}", "ODD")
    region.policy.cache_ttl.FromSeconds(0)
    stub.Enable(pb.EnableRequest(cluster=name, region_specs=[region]), timeout=WITHIN)
    wrap = pb.WrapRequest(cluster=name, region="eu", plaintext=b"k")
    return pb.UnwrapRequest(cluster=name, wrapped_key=stub.Wrap(wrap, timeout=WITHIN).wrapped_key)


def flood(
    connections: list[service.KeyManagementServiceStub],
    asked: list[pb.UnwrapRequest],
    count: int,
    hang: Path,
) -> Counter[str]:
    """Makes calls at once while the KMS hangs; returns how many ended with which reason."""
    hang.touch()
    turns = zip(itertools.cycle(connections), itertools.cycle(asked), strict=False)
    calls = [
        stub.Unwrap.future(request, timeout=WITHIN)
        for stub, request in itertools.islice(turns, count)
    ]
    ends = time.monotonic() + WITHIN
    while sum(call.done() for call in calls) < count - LIMIT and time.monotonic() < ends:
        time.sleep(0.02)
    hang.unlink()
    return Counter(outcome(call) for call in calls)


def outcome(call: Any) -> str:
    """Returns the reason of a call that was refused; a call that was shed must name a pause."""
    try:
        call.result()
    except grpc.RpcError as error:
        told = refusal(error)
        if told.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert told.retry_after
            assert told.metadata["source"] == "keyfold"
        return told.reason or told.code.name
    return "served"


def peak(server: Server) -> int:
    """Returns the most bytes that a server ever had in memory."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
