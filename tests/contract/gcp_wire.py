"""Faults of a network in front of a gRPC server: a layer that passes bytes on unread, or fails.

For wrong answers, the layer leads new connections to another server, which gives them.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from counterparts.faults import _RESET, FaultLayer, _Way
from counterparts.messages import Reply, Request

_CHUNK: Final = 65_536

Pair = tuple[bytes, bytes]
"""A private key and its certificates, in PEM."""


class GrpcLayer(FaultLayer):
    """A TCP port of loopback that leads to a gRPC server, with the faults of `FaultLayer`."""

    def __init__(self, server: int) -> None:
        """Begins to serve in front of a port of 127.0.0.1."""
        self._server = server
        super().__init__(_nothing)

    @contextlib.contextmanager
    def leading_to(self, server: int) -> Iterator[None]:
        """Leads new connections to another server."""
        before, self._server = self._server, server
        self._become(_Way.PASS)
        try:
            yield
        finally:
            self._server = before
            self._become(_Way.PASS)

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            way, over, port = self._way, self._over, self._server
            self._open.add(sock)
        with contextlib.suppress(OSError):
            if way is _Way.RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            elif way is _Way.HANG_AT_READ:
                over.wait()
            else:
                self._pass_on(sock, port, over, way)
        with self._lock:
            self._open.discard(sock)
        sock.close()

    def _pass_on(self, sock: socket.socket, port: int, over: threading.Event, way: _Way) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            for each in (sock, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            there = threading.Thread(target=_move, args=(sock, server), daemon=True)
            there.start()
            if way is _Way.DRIP:
                self._drip(server, sock, over)
            else:
                _move(server, sock)
            for each in (sock, server):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            there.join()

    def _drip(self, source: socket.socket, sink: socket.socket, over: threading.Event) -> None:
        while byte := source.recv(1):
            sink.sendall(byte)
            if over.wait(self._seconds):
                return


def _move(source: socket.socket, sink: socket.socket) -> None:
    """Moves bytes one way until either end closes, and closes both."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _nothing(request: Request) -> Reply:
    raise AssertionError


class Impostor(grpc.GenericRpcHandler):
    """A gRPC server that gives one answer to every call.

    Attributes:
        answer: The answer's bytes.
        port: The port at which it shows a trusted certificate.
        distrusted: The port at which it shows a certificate that no client trusts.
    """

    def __init__(self, trusted: Pair, stranger: Pair) -> None:
        """Begins to serve."""
        self.answer = b""
        self._threads = ThreadPoolExecutor(8)
        self._server = grpc.server(self._threads, options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.port, self.distrusted = (
            self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
            for pair in (trusted, stranger)
        )
        self._server.start()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.answer)

    def close(self) -> None:
        """Stops serving."""
        self._server.stop(grace=None).wait()
        self._threads.shutdown()
