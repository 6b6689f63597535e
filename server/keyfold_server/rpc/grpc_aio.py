"""The transport on gRPC's own library, `grpc.aio`.

Its server receives the request of a unary method whole before the handler's first line runs,
whoever sent it. So every method is registered as one with a stream of requests, of which the
handler reads the first; what a client sends is the same. Before the handler reads, gRPC holds no
more of a call than `UNASKED` bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import grpc
from grpc_status import rpc_status

from keyfold_server.domain.bounds import Bounds
from keyfold_server.rpc import health_socket, listening
from keyfold_server.rpc.call import Failed, Handler, Method, Table
from keyfold_server.rpc.messages.sizes import LARGEST, UNASKED

log = logging.getLogger(__name__)

_CERTIFICATE: Final = "x509_pem_cert"
"""The key of the client's certificate in gRPC's `auth_context()`; absent if the client showed
none."""

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # With gRPC's default, two servers would silently share a port.
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_age_grace_ms", 30 * 1000),
    ("grpc.keepalive_time_ms", 60 * 1000),
    # By default a connection that says nothing keeps its place for two minutes.
    ("grpc.server_handshake_timeout_ms", 20 * 1000),
    # With bandwidth probes, gRPC lets a client send 4 MiB or more per call before anybody reads.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", UNASKED),
)

_PENDING: Final = 20_000
"""Calls that gRPC holds before it hands them to a handler. With its default limits it would cancel
calls of a burst of some thousands without a reason; the handlers give one."""


def _options(bounds: Bounds, most: int) -> tuple[tuple[str, int], ...]:
    pending = max(_PENDING, 2 * most)
    return (
        *_OPTIONS,
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", pending),
        ("grpc.max_receive_message_length", LARGEST),
        ("grpc.max_send_message_length", LARGEST),
        ("grpc.max_metadata_size", bounds.header_bytes),
        # Without it gRPC lets a quarter more pass, and at random even larger metadata.
        ("grpc.absolute_max_metadata_size", bounds.header_bytes),
        ("grpc.max_concurrent_streams", bounds.calls_per_connection),
        ("grpc.max_allowed_incoming_connections", bounds.connections),
        ("grpc.max_connection_age_ms", int(bounds.connection_age * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", int(bounds.ping_interval * 1000)),
    )


class GrpcAio:
    """A server of gRPC's own library on one address."""

    def __init__(
        self,
        listen: str,
        bounds: Bounds,
        *,
        credentials: grpc.ServerCredentials | None = None,
        asks_clients: bool = False,
        socket_mode: int = 0o600,
        grace: float = 30.0,
    ) -> None:
        """Prepares a server; `start` binds.

        Args:
            listen: `HOST:PORT`, port 0 for a free one, or `unix:` and a path.
            bounds: What the server lets in.
            credentials: The server's TLS credentials. None serves without TLS, which the settings
                allow only on loopback addresses and unix sockets.
            asks_clients: Whether the credentials ask clients for a certificate, so that health
                checks of this machine need a socket of their own.
            socket_mode: The permissions of a unix socket's file.
            grace: Seconds after which the server, when it stops, ends the calls that are still
                under way.
        """
        self._listen = listen
        self._bounds = bounds
        self._credentials = credentials
        self._asks_clients = asks_clients
        self._socket_mode = socket_mode
        self._grace = grace
        self._server: grpc.aio.Server | None = None

    async def start(self, table: Table, most: int) -> str:
        """Binds the address and serves; returns the address.

        Args:
            table: The methods.
            most: Calls that may be under way; gRPC itself refuses further ones.

        Raises:
            SetupError: Another server has the address, or it cannot be bound.
        """
        listening.check_free(self._listen)
        server = grpc.aio.server(options=_options(self._bounds, most), maximum_concurrent_rpcs=most)
        server.add_generic_rpc_handlers((_Handlers(table),))
        if self._listen.startswith("unix:"):
            address = self._bind_unix(server)
        else:
            address = self._bind_tcp(server)
        if self._asks_clients:
            _bind_health_socket(server, address)
        await server.start()
        self._server = server
        return address

    async def stop(self) -> None:
        """Takes no further calls, and lets the calls under way finish."""
        if self._server is None:
            return  # This server never listened; a socket at its address is another server's.
        await self._server.stop(self._grace)
        if self._listen.startswith("unix:"):
            with contextlib.suppress(OSError):
                os.unlink(self._listen.removeprefix("unix:"))  # noqa: PTH108  no Path on a loop

    def _bind_tcp(self, server: grpc.aio.Server) -> str:
        port = 0
        with contextlib.suppress(RuntimeError):
            port = (
                server.add_insecure_port(self._listen)
                if self._credentials is None
                else server.add_secure_port(self._listen, self._credentials)
            )
        if not port:
            raise listening.taken(self._listen)
        return f"{self._listen.rpartition(':')[0]}:{port}"

    def _bind_unix(self, server: grpc.aio.Server) -> str:
        # The socket's permissions decide who may call, so it must have them from its first moment.
        before = os.umask(0o777 & ~self._socket_mode)
        try:
            bound = server.add_insecure_port(self._listen)
        except RuntimeError:
            bound = 0
        finally:
            os.umask(before)
        if not bound:
            raise listening.taken(self._listen)
        return self._listen


def _bind_health_socket(server: grpc.aio.Server, address: str) -> None:
    bound = 0
    if health_socket.SUPPORTED:
        with contextlib.suppress(RuntimeError):
            bound = server.add_insecure_port(health_socket.of(address))
    if not bound:
        health_socket.missing()


class _Handlers(grpc.GenericRpcHandler):
    """The table, as gRPC looks methods up."""

    def __init__(self, table: Table) -> None:
        self._handlers = {path: _registered(method) for path, method in table.items()}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


def _registered(method: Method) -> grpc.RpcMethodHandler[Any, Any]:
    if method.streams:
        return grpc.stream_stream_rpc_method_handler(_streaming(method.handle))
    return grpc.stream_unary_rpc_method_handler(_unary(method.handle))


def _unary(handle: Handler) -> Any:
    async def answer(_: object, context: Any) -> Any:
        reply = await handle(_Call(context))
        if isinstance(reply, Failed):
            await context.abort_with_status(rpc_status.to_status(reply.status))
        return reply

    return answer


def _streaming(handle: Handler) -> Any:
    async def answer(_: object, context: Any) -> None:
        call = _Call(context)
        reply = await handle(call)
        if isinstance(reply, Failed):
            await call.headers_sent()
            await context.abort_with_status(rpc_status.to_status(reply.status))

    return answer


class _Call:
    """A call of gRPC's library; see `rpc.call.Call`."""

    __slots__ = ("_context", "_headers", "_metadata", "peer")

    whole: Final = None  # gRPC says only by a future whether a request has arrived.

    def __init__(self, context: Any) -> None:
        # A `grpc.aio.ServicerContext` of bytes, whose type stubs cannot express that of a generic
        # handler.
        self._context = context
        self.peer: str = context.peer()
        self._metadata: Sequence[tuple[str, str | bytes]] | None = None
        self._headers: asyncio.Future[None] | None = None

    def header(self, name: str) -> Sequence[str | bytes]:
        metadata = self._metadata
        if metadata is None:
            # gRPC makes them anew each time it is asked.
            metadata = self._metadata = self._context.invocation_metadata()
        return [value for key, value in metadata if key == name]

    def certificate(self) -> bytes | None:
        shown: Iterable[bytes] | None = self._context.auth_context().get(_CERTIFICATE)
        return None if shown is None else next(iter(shown))

    def time_remaining(self) -> float | None:
        left: float | None = self._context.time_remaining()
        return left

    async def read(self) -> bytes | None:
        data = await self._context.read()
        return data if isinstance(data, bytes) else None  # EOF is an object of its own.

    async def write(self, message: bytes) -> None:
        if self._headers is None:
            # gRPC would send them with the first message. If that write were cancelled, it would
            # send them once more with the status, fail, and the call would end without a reason.
            self._headers = asyncio.ensure_future(self._context.send_initial_metadata(()))
            await asyncio.shield(self._headers)
        await self._context.write(message)

    async def headers_sent(self) -> None:
        """Waits until the headers are sent if they are on their way; no reader holds them up."""
        if self._headers is not None:
            await asyncio.wait((self._headers,))

    def when_done(self, callback: Callable[[], None]) -> None:
        self._context.add_done_callback(lambda _: callback())
