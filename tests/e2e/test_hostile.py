"""Hostile clients of HTTP/2: floods, bombs, garbage, and clients that stall.

What each test promises is a bound: of the server's memory, and of what other callers notice. The
server is a process of its own. Both transports run all of this. docs/transports.md says how much
computing a flood costs, and which floods the server itself cuts off.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
import pytest
from hyperframe.frame import HeadersFrame

from e2e.conftest import StartServer
from e2e.half_open import frame
from e2e.hostile import FLOODS, NO_MESSAGE, PREFACE, Hostile, begun, block, garbage, head
from e2e.server import Server
from e2e.wire import stubs
from in_process import TRANSPORT
from keyfold.v1 import key_management_service_pb2 as pb

# A flood is a burst of many short calls, which the loop watch cannot tell from a long one.
pytestmark = pytest.mark.stalls

FLOOD: Final = 0.5
"""Seconds of a flood, if the server does not end it earlier."""

MEMORY: Final = 192 * 1024 * 1024
"""Bytes that the server may grow by under a flood of one connection. On a quiet machine it is some
20 MiB. Where its threads wait for a processor, the transport reads further ahead of them: up to 142
MiB were seen on a machine with six other busy programs, and no more after floods of 20 seconds."""

WRAP: Final = "/keyfold.v1.KeyManagementService/Wrap"

CUT_OFF: Final = {
    "grpc": {"ping", "settings acks", "empty data", "empty continuations"},
    "asgi": {"rapid reset", "continuations"},
}
"""The floods that a transport ends by itself."""


@pytest.fixture(scope="module")
def server(start_module_server: StartServer) -> Server:
    """A server with cluster prod."""
    server = start_module_server(keys=("eu",), KEYFOLD_RECEIVE_TIMEOUT="1s")
    server.enable("prod", ["eu"])
    return server


def memory(server: Server) -> int:
    """Returns the server's memory in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@contextmanager
def unharmed(server: Server, most: int = MEMORY) -> Iterator[None]:
    """Checks that the server answers others during and after the block, and stays in its memory."""
    before = memory(server)
    asked = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k" * 32)
    over = threading.Event()
    faults: list[grpc.RpcError] = []
    answered = [0]

    def call() -> None:
        with stubs(server.target) as stub:
            while not over.is_set() or not answered[0]:
                try:
                    stub.Wrap(asked, timeout=20)
                    answered[0] += 1
                except grpc.RpcError as error:
                    faults.append(error)
                    return

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join()
    assert not faults
    with stubs(server.target) as stub:
        assert stub.Wrap(asked, timeout=20).wrapped_key
    assert memory(server) - before < most
    log = server.log()
    assert "Traceback" not in log
    assert "panicked" not in log


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "deaf"])
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood(server: Server, name: str, reads: bool) -> None:  # noqa: FBT001
    """A flood costs bounded memory and stops nobody, whether its client reads the answers or not.

    The transport ends some floods by itself: those that the table here has.
    """
    with unharmed(server), Hostile(server.target) as client:
        client.flood(FLOODS[name](), FLOOD, reads=reads)
        if reads and name in CUT_OFF[TRANSPORT]:
            assert client.listen(10, lambda: client.goaway is not None)


def test_garbage(server: Server) -> None:
    """Malformed frames end at most their own connection."""
    with unharmed(server):
        for seed in range(100):
            with Hostile(server.target) as client:
                for data in itertools.islice(garbage(seed), 5):
                    client.send(data, seconds=1)


def test_garbage_in_place_of_http(server: Server) -> None:
    """Bytes that are not HTTP/2 at all, or its preface cut short, end their connection alone."""
    with unharmed(server):
        for at in range(0, len(PREFACE), 3):
            with Hostile(server.target, hello=False) as client:
                client.send(PREFACE[:at] + b"\0garbage\r\n\r\n" * 10, seconds=1)
                assert client.listen(25)


def test_silent_connections(server: Server) -> None:
    """300 connections that say nothing, or stop in the middle of a frame, cost only themselves."""
    hello = PREFACE + frame(4, 0, b"")
    beginnings = itertools.cycle((b"", PREFACE[:9], hello, hello + b"\0\0", hello + begun(1)[:12]))
    with unharmed(server), contextlib.ExitStack() as clients:
        for _ in range(300):
            client = clients.enter_context(Hostile(server.target, hello=False))
            client.send(next(beginnings))
        with server.client() as other:
            assert other.wrap("prod", "eu", b"k").wrapped_key


def test_headers_that_never_end(server: Server) -> None:
    """Calls whose headers stop halfway hold up no others; h2corn ends them after 10 seconds.

    It reads HTTP/1.1, too, for which the same holds.
    """
    half = HeadersFrame(1, data=block(*head())).serialize()
    with unharmed(server), contextlib.ExitStack() as clients:
        slow = [clients.enter_context(Hostile(server.target)) for _ in range(20)]
        for client in slow:
            client.send(half)
        slow.append(clients.enter_context(Hostile(server.target, hello=False)))
        slow[-1].send(b"POST / HTTP/1.1\r\nhost: x\r\nx-slow: ")
        if TRANSPORT == "asgi":
            assert all(client.listen(30) for client in slow)


def test_slow_bodies(server: Server) -> None:
    """A request whose bytes come one by one is given up when it is not whole in time."""
    message = bytes((0, 0, 0, 0, 100)) + bytes(100)
    with unharmed(server), Hostile(server.target) as client:
        client.send(begun(1, path=WRAP))
        for byte in message:
            if client.reset or client.ended or client.closed:
                break
            client.send(frame(0, 0, bytes((byte,)), 1), seconds=1)
            client.listen(0.1, lambda: bool(client.reset or client.ended))
        assert client.listen(10, lambda: bool(client.reset or client.ended))


def test_replies_that_no_window_lets_out(server: Server) -> None:
    """Replies to a client with a window of zero wait in bounded memory."""
    with unharmed(server), Hostile(server.target, settings={4: 0}) as client:
        for stream in range(1, 2_000, 2):
            client.send(begun(stream) + frame(0, 1, NO_MESSAGE, stream), seconds=1)
        client.listen(1)
