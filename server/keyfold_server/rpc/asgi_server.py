"""The transport on h2corn, an ASGI server that runs inside this process and on its event loop.

h2corn cannot change its certificate and closes no connection for its age. So this module replaces
the whole engine, over the same listening sockets: a new one takes the new connections, and the old
one sends its clients there and ends once its calls have. h2corn is young, so nothing else in
Keyfold knows it; `asgi` would do the same behind another server of ASGI.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import random
import socket
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.errors import SetupError
from keyfold_server.rpc import health_socket, listening
from keyfold_server.rpc.asgi import AsgiApp
from keyfold_server.rpc.asgi_call import STALLED
from keyfold_server.rpc.call import Table
from keyfold_server.rpc.cors import Origins
from keyfold_server.rpc.messages.sizes import LARGEST

if TYPE_CHECKING:
    from h2corn import Config
    from h2corn import Server as H2corn

log = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Seconds between two looks at the certificate and the engine's age."""

_HANDSHAKE: Final = 20.0
"""Seconds within which a new connection must have said what it is."""

_LINE: Final = 1024
"""Bytes of the first line of an HTTP/1.1 request: many times the longest path of a method."""

_WINDOW: Final = 65_535
"""Bytes of a call that a client may send before the server reads them: HTTP/2's own default, and
the least that h2corn takes."""

_FRAME: Final = 16_384
"""Bytes of a frame, which has to arrive whole: HTTP/2's own default, and the least it allows."""

_SPREAD: Final = 0.1
"""The part of the connections' age by which an engine may end earlier or later."""

_TRIES: Final = 3
"""Attempts to load TLS files that change at the same time, and to find a port that is free at all
addresses."""


class Tls(Protocol):
    """The server's TLS files, which may change while it serves."""

    @property
    def paths(self) -> tuple[Path, Path, Path | None]:
        """The files of the certificate, of its key, and of the clients' authorities."""
        ...

    def current(self) -> object:
        """Returns the set to serve, which is another object once it has changed; never raises."""
        ...

    def is_on_disk(self) -> bool:
        """Says whether the files hold exactly the set that `current` returned last."""
        ...


def check_installed() -> None:
    """Checks that h2corn is there.

    Raises:
        SetupError: It is not.
    """
    if importlib.util.find_spec("h2corn") is None:
        raise SetupError(
            "KEYFOLD_TRANSPORT=asgi needs h2corn; install keyfold[fast], or set "
            "KEYFOLD_TRANSPORT=grpc"
        )


class AsgiServer:
    """A server of h2corn on one address."""

    def __init__(
        self,
        listen: str,
        bounds: Bounds,
        *,
        tls: Tls | None = None,
        socket_mode: int = 0o600,
        grace: float = 30.0,
        origins: Collection[str] = (),
    ) -> None:
        """Prepares a server; `start` binds.

        Args:
            listen: `HOST:PORT`, port 0 for a free one, or `unix:` and a path.
            bounds: What the server lets in.
            tls: The server's TLS files. None serves without TLS, which the settings allow only on
                loopback addresses and unix sockets.
            socket_mode: The permissions of a unix socket's file.
            grace: Seconds after which a replaced engine, or the server when it stops, ends the
                calls that are still under way.
            origins: The origins whose pages in a browser may call.
        """
        self._listen = listen
        self._bounds = bounds
        self._tls = tls
        self._socket_mode = socket_mode
        self._grace = grace
        self._origins = Origins(origins)
        self._table: Table = {}
        self._most = 0
        self._sockets: list[socket.socket] = []
        self._health_socket: socket.socket | None = None
        self._served: object = None
        self._engine: _Engine | None = None
        self._due = 0.0
        self._health: _Engine | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._fault = ""
        self._lock = asyncio.Lock()

    async def start(self, table: Table, most: int) -> str:
        """Binds the address and serves; returns the address.

        Args:
            table: The methods.
            most: Calls that may be under way; the transport itself refuses further ones.

        Raises:
            SetupError: h2corn is not installed, or another server has the address, or it cannot be
                bound.
        """
        check_installed()
        listening.check_free(self._listen)
        self._table, self._most = table, most
        address = self._bind()
        try:
            self._engine = await self._started()
            if self._tls is not None and self._tls.paths[2] is not None:
                self._health = await self._health_engine(address)
        except BaseException:
            self._close()
            raise
        return address

    async def keep(self) -> None:
        """Replaces the engine if its certificate has changed or its connections may be too old."""
        async with self._lock:
            if self._engine is not None:
                await self._renew(self._engine)

    async def _renew(self, engine: _Engine) -> None:
        current = None if self._tls is None else await asyncio.to_thread(self._tls.current)
        if current is self._served and monotonic() < self._due:
            return
        try:
            self._engine = await self._started()
        except SetupError as error:
            if error.message != self._fault:
                self._fault = error.message
                log.warning(
                    "the server goes on with its old certificate and connections",
                    extra={"fault": error.message},
                )
            return
        self._fault = ""
        self._retire(engine)

    async def stop(self) -> None:
        """Takes no further calls, and lets the calls under way finish."""
        async with self._lock:
            for engine in (self._engine, self._health):
                if engine is not None:
                    self._retire(engine)
            self._engine = self._health = None
        while self._retired:
            await asyncio.wait(self._retired)
        self._close()

    def _retire(self, engine: _Engine) -> None:
        engine.server.shutdown()
        task = asyncio.create_task(engine.ended())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _close(self) -> None:
        for listener in (*self._sockets, self._health_socket):
            if listener is not None:
                listener.close()
        if self._sockets and self._listen.startswith("unix:"):
            with contextlib.suppress(OSError):
                os.unlink(self._listen.removeprefix("unix:"))  # noqa: PTH108  no Path on a loop
        self._sockets, self._health_socket = [], None

    async def _started(self) -> _Engine:
        """Returns an engine that serves on the sockets.

        Raises:
            SetupError: Its TLS files cannot be used just now.
        """
        fault = "KEYFOLD_TLS_CERT: the files change while they are read; try again"
        for _ in range(1 if self._tls is None else _TRIES):
            served = None if self._tls is None else self._tls.current()
            if self._tls is not None and not self._tls.is_on_disk():
                continue
            try:
                engine = await self._begun(self._sockets, self._tls)
            except (OSError, RuntimeError, ValueError) as error:
                fault = f"h2corn cannot serve on {self._listen}: {error}"
                continue
            # h2corn has read the files itself. If they are as before, it has the set that was
            # checked.
            if self._tls is None or (self._tls.current() is served and self._tls.is_on_disk()):
                self._served = served
                # Not all replicas that started together, nor their clients, at one moment.
                spread = random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311  no secret
                self._due = monotonic() + spread * self._bounds.connection_age
                return engine
            self._retire(engine)
        raise SetupError(fault)

    async def _health_engine(self, address: str) -> _Engine | None:
        if health_socket.SUPPORTED:
            name = health_socket.of(address).partition(":")[2]
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with contextlib.suppress(OSError):
                listener.bind(f"\0{name}")
                listener.listen()
                self._health_socket = listener
                return await self._begun([listener], None)
            listener.close()
        health_socket.missing()
        return None

    async def _begun(self, sockets: Sequence[socket.socket], tls: Tls | None) -> _Engine:
        """Returns an engine that serves on some sockets.

        Raises:
            OSError, RuntimeError, ValueError: It cannot start.
        """
        # h2corn duplicates the descriptors; they stay ours.
        lent = [listener.fileno() for listener in sockets]
        app = AsgiApp(self._table, self._most, self._origins, self._bounds.header_bytes)
        return await _Engine.start(app, self._config(lent, tls))

    def _config(self, descriptors: Sequence[int], tls: Tls | None) -> Config:
        from h2corn import Config

        bounds = self._bounds
        certificate, key, client_ca = (None, None, None) if tls is None else tls.paths
        return Config(
            bind=tuple(f"fd://{descriptor}" for descriptor in descriptors),
            certfile=certificate,
            keyfile=key,
            ca_certs=client_ca,
            cert_reqs="none" if client_ca is None else "required",
            lifespan="off",
            http1=True,
            grpc=True,
            # The handlers need one core, and h2corn for all its own work less than another. Two
            # threads would wake each other for nearly every call.
            runtime_threads=1,
            access_log=False,
            log_format="text" if sys.stderr.isatty() else "json",
            server_header="off",
            max_concurrent_streams=bounds.calls_per_connection,
            limit_connections=bounds.connections,
            # Bounded by the size of all fields together.
            limit_request_fields=0,
            limit_request_head_size=bounds.header_bytes,
            limit_request_field_size=bounds.header_bytes,
            limit_request_line=_LINE,
            # Of calls that are not gRPC's. The handlers refuse all beyond LARGEST with a reason.
            max_request_body_size=2 * LARGEST,
            # Up to this the application refuses a call with gRPC's own code, and beyond it h2corn
            # with HTTP's status 431. A longer block costs the client its connection.
            h2_max_header_list_size=4 * bounds.header_bytes,
            h2_max_header_block_size=8 * bounds.header_bytes,
            h2_max_inbound_frame_size=_FRAME,
            h2_initial_stream_window_size=_WINDOW,
            # Calls that nobody reads yet must not stop those beside them (protocol R9).
            h2_initial_connection_window_size=_WINDOW * (bounds.calls_per_connection + 1),
            h2_timeout_response_stall=STALLED,
            h2_timeout_write=STALLED,
            timeout_handshake=_HANDSHAKE,
            timeout_keep_alive=0.0,
            timeout_graceful_shutdown=self._grace,
        )

    def _bind(self) -> str:
        if self._listen.startswith("unix:"):
            self._sockets = [listening.unix(self._listen, self._socket_mode)]
            return self._listen
        host, _, wanted = self._listen.rpartition(":")
        for _ in range(_TRIES):
            with contextlib.suppress(OSError):
                self._sockets = listening.tcp(host.strip("[]"), int(wanted))
                return f"{host}:{self._sockets[0].getsockname()[1]}"
        raise listening.taken(self._listen)


class _Engine:
    """One h2corn, from its start to the end of its last call.

    Attributes:
        server: The h2corn.
    """

    def __init__(self, server: H2corn) -> None:
        self.server = server
        self._serving = asyncio.create_task(server.serve())

    @classmethod
    async def start(cls, app: AsgiApp, config: Config) -> _Engine:
        """Returns an engine that takes connections.

        Raises:
            OSError, RuntimeError, ValueError: It cannot start.
        """
        from h2corn import Server

        engine = cls(Server(app, config))
        try:
            await engine.server.wait_started()
        except BaseException:
            engine._serving.cancel()
            await asyncio.gather(engine._serving, return_exceptions=True)
            raise
        return engine

    async def ended(self) -> None:
        """Waits for the engine's last call."""
        try:
            await self._serving
        except RuntimeError as error:
            log.warning("calls did not end in time", extra={"fault": str(error)})
