"""The gRPC server: Keyfold's service, health and reflection on one address, until it drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2  # noqa: F401  so that reflection explains our errors
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.errors import SetupError
from keyfold_server.rpc import health_socket
from keyfold_server.rpc.call_log import CallLog
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.incoming.door import Door
from keyfold_server.rpc.incoming.receiver import LOOK, Receiver
from keyfold_server.rpc.messages.sizes import LARGEST, UNASKED
from keyfold_server.rpc.methods import SERVICE, Methods
from keyfold_server.rpc.standard_services import Guarded
from keyfold_server.service.lane import PLACES
from keyfold_server.service.loop_watch import LoopWatch
from keyfold_server.service.readiness import Readiness
from keyfold_server.service.replica import Replica
from keyfold_server.telemetry import NO_SPANS, Sampling

log = logging.getLogger(__name__)

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

_LOOK_AT_HEALTH: Final = 0.5
"""Seconds between two looks at whether this replica may serve."""

_BEYOND: Final = 1_000
"""Calls that may be inside beyond those that may wait: health, reflection, and warm calls."""

_TURNED_AWAY: Final = 1_000
"""Calls that gRPC lets in beyond all bounds, to be refused with a reason."""

_PENDING: Final = 20_000
"""Calls that gRPC holds before it hands them to a handler. With its default limits it would cancel
calls of a burst of some thousands without a reason; the handlers give one."""

_LAST_WORD: Final = 0.05
"""Seconds in which the health service tells its watchers NOT_SERVING before their streams end, and
gRPC hands over the calls that it has."""

_V1_REFLECTION: Final = "grpc.reflection.v1.ServerReflection"


def _options(bounds: Bounds, inside: int) -> tuple[tuple[str, int], ...]:
    pending = max(_PENDING, 2 * inside)
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


class GrpcServer:
    """The server of one replica, on one address."""

    def __init__(  # noqa: PLR0913  one argument for each part that the caller brings
        self,
        replica: Replica,
        listen: str,
        callers: Callers,
        *,
        credentials: grpc.ServerCredentials | None = None,
        asks_clients: bool = False,
        socket_mode: int = 0o600,
        sampling: Sampling = NO_SPANS,
        call_log: CallLog | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        """Prepares a server; `start` binds.

        Args:
            replica: The service.
            listen: `HOST:PORT`, port 0 for a free one, or `unix:` and a path.
            callers: Identifies the caller of each call.
            credentials: The server's TLS credentials. None serves without TLS, which the settings
                allow only on loopback addresses and unix sockets.
            asks_clients: Whether the credentials ask clients for a certificate, so that health
                checks of this machine need a socket of their own.
            socket_mode: The permissions of a unix socket's file.
            sampling: Decides which calls get spans.
            call_log: Records each call; None keeps the metric alone.
            readiness: Learns when the server has started and when it stops; None if nobody else
                asks whether it serves.
        """
        self._sampling = sampling
        self._call_log = call_log or CallLog()
        self._readiness = readiness or Readiness()
        self._replica = replica
        self._listen = listen
        self._callers = callers
        self._credentials = credentials
        self._asks_clients = asks_clients
        self._socket_mode = socket_mode
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._guarded: Guarded | None = None
        self._door: Door | None = None
        self._loop_watch = LoopWatch()
        self._keepers: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> str:
        """Binds the address and serves; returns the address.

        Raises:
            SetupError: Another server has the address, or it cannot be bound.
        """
        unix = self._listen.startswith("unix:")
        bounds = self._replica.bounds
        # The handlers refuse with a reason, and leave room for Revoke (protocol R9). gRPC's own
        # bound is for a flood beyond that.
        inside = _BEYOND + 2 * bounds.calls
        door = Door(inside)
        server = grpc.aio.server(
            options=_options(bounds, inside),
            maximum_concurrent_rpcs=inside + PLACES + _TURNED_AWAY,
        )
        receiver = Receiver(bounds, self._replica.clock)
        methods = Methods(
            self._replica, self._callers, receiver, self._sampling, self._call_log, door
        )
        server.add_generic_rpc_handlers((methods.handlers(),))
        guarded = Guarded(server, self._callers, receiver, self._replica, door)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, guarded)  # type: ignore[arg-type]  # it only registers handlers
        _add_reflection(guarded)
        await self._set_health(serving=False)
        address = self._bind_unix(server) if unix else self._bind_tcp(server)
        if self._asks_clients:
            _bind_health_socket(server, address)
        await server.start()
        self._readiness.started(self._replica.check_serving, self._replica.supervisor)
        await self._show_health()
        self._server = server
        self._guarded = guarded
        self._door = door
        self._loop_watch.start(self._replica.supervisor)
        supervised = self._replica.supervisor.start
        self._keepers = (
            supervised("show_health", self._show_health, _LOOK_AT_HEALTH),
            supervised("receive_timeout", receiver.give_up_late, LOOK),
        )
        return address

    async def stop(self, grace: float) -> None:
        """Says NOT_SERVING, takes no further calls, and lets the calls under way finish.

        Args:
            grace: Seconds after which the server ends the calls that are still under way.
        """
        if self._server is None or self._guarded is None or self._door is None:
            return  # This server never listened; a socket at its address is another server's.
        self._readiness.drain()
        self._readiness.look()
        await self._health.enter_graceful_shutdown()
        self._door.close()
        await asyncio.sleep(_LAST_WORD)
        self._guarded.end_streams()
        stopping = asyncio.create_task(self._server.stop(grace))
        await asyncio.sleep(0)  # Now it has begun, and gRPC has told the clients to go elsewhere.
        self._door.open()
        await stopping
        self._loop_watch.stop()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._listen.startswith("unix:"):
            with contextlib.suppress(OSError):
                os.unlink(self._listen.removeprefix("unix:"))  # noqa: PTH108  no Path on a loop

    def _bind_tcp(self, server: grpc.aio.Server) -> str:
        host, _, wanted = self._listen.rpartition(":")
        port = 0
        # localhost is two addresses, and gRPC would be content if only one of them is free.
        if wanted == "0" or not _any_answers(host.strip("[]"), int(wanted)):
            with contextlib.suppress(RuntimeError):
                port = (
                    server.add_insecure_port(self._listen)
                    if self._credentials is None
                    else server.add_secure_port(self._listen, self._credentials)
                )
        if not port:
            raise SetupError(
                f"cannot listen on {self._listen}; is another server there? Set KEYFOLD_LISTEN to "
                "another port, or to port 0 for a free one"
            )
        return f"{host}:{port}"

    def _bind_unix(self, server: grpc.aio.Server) -> str:
        path = self._listen.removeprefix("unix:")
        if _answers(socket.AF_UNIX, path):
            raise SetupError(
                f"another server listens on {path}; stop it, or set KEYFOLD_LISTEN to another path"
            )
        # The socket's permissions decide who may call, so it must have them from its first moment.
        before = os.umask(0o777 & ~self._socket_mode)
        try:
            bound = server.add_insecure_port(self._listen)
        except RuntimeError:
            bound = 0
        finally:
            os.umask(before)
        if not bound:
            raise SetupError(f"cannot listen on {path}; is its folder writable?")
        return self._listen

    async def _show_health(self) -> None:
        await self._set_health(serving=self._readiness.look())

    async def _set_health(self, *, serving: bool) -> None:
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", SERVICE):
            await self._health.set(name, status)


def _bind_health_socket(server: grpc.aio.Server, address: str) -> None:
    bound = 0
    if health_socket.SUPPORTED:
        with contextlib.suppress(RuntimeError):
            bound = server.add_insecure_port(health_socket.of(address))
    if not bound:
        log.warning(
            "no socket for health checks; keyfold-server health needs a client certificate in "
            "KEYFOLD_CERT and KEYFOLD_KEY"
        )


def _any_answers(host: str, port: int) -> bool:
    """Says whether a server listens on any address of a host of this machine."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return any(_answers(family, address) for family, _, _, _, address in found)


def _answers(family: socket.AddressFamily, address: str | tuple[Any, ...]) -> bool:
    """Says whether a server listens there; one that died leaves only its socket's file."""
    with socket.socket(family) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except OSError:
            return False
        return True


class _Pool:
    """A descriptor pool that also finds methods by their names; Python's own pool does not.

    Without it ghz and `grpcurl describe Service.Method` fail.
    """

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  the pool's name
        """Returns the file that defines a symbol; a method is in its service's file."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            if method not in found.methods_by_name:
                raise
            return found.file


def _add_reflection(server: Guarded) -> None:
    """Adds reflection under both of its names, whose messages are the same."""
    names = (
        SERVICE,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
        _V1_REFLECTION,
    )
    servicer = reflection.aio.ReflectionServicer(names, pool=_Pool(descriptor_pool.Default()))
    for name in (reflection.SERVICE_NAME, _V1_REFLECTION):
        server.add_registered_method_handlers(
            name,
            {
                "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                    servicer.ServerReflectionInfo,
                    reflection_pb2.ServerReflectionRequest.FromString,
                    reflection_pb2.ServerReflectionResponse.SerializeToString,
                )
            },
        )
