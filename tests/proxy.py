"""A TCP proxy that a test controls: a network that fails in each way that networks fail.

It runs in a thread of its own beside the test, and ends with it. It stands between a client and one
server; `Way` says what the client sees of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeVar

T = TypeVar("T")

_CHUNK: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which closing a socket sends RST."""

_ANSWER: Final = 10.0
"""Real seconds after which the proxy itself counts as broken."""


class Way(enum.Enum):
    """The state of the network.

    Attributes:
        PASS: Everything passes.
        DROP: Connections are reset (RST), the open ones and each new one.
        DELAY: Everything passes, each piece so much later.
        BLACK_HOLE: Connections are accepted and nothing passes. When it is over, what was under
            way goes on, as TCP's repetitions have it.
        HALF_OPEN: The server's end of each connection is gone and the client does not learn of
            it, even when it is over. New connections are accepted and lead nowhere.
    """

    PASS = enum.auto()
    DROP = enum.auto()
    DELAY = enum.auto()
    BLACK_HOLE = enum.auto()
    HALF_OPEN = enum.auto()


@dataclass(eq=False)
class _Link:
    """One connection: the client's end, the server's if any, and the tasks that move bytes."""

    client: socket.socket
    server: socket.socket | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Proxy:
    """A proxy in front of one TCP server of this machine; use it in a `with`.

    Attributes:
        port: Its port of 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        """Prepares a proxy in front of a port of 127.0.0.1."""
        self._server = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0)
        self.port: int = self._listening.getsockname()[1]
        self._way = Way.PASS
        self._delay = 0.0
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._passable = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._accepting: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._on_loop(self._begin)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_ANSWER)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER)
        self._loop.close()

    def set(self, way: Way, delay: float = 0.0) -> None:
        """Sets the network's state, which holds once this returns.

        Args:
            way: The state from now on.
            delay: Seconds by which each piece is late, for `Way.DELAY`.
        """
        self._on_loop(lambda: self._become(way, delay))

    def _on_loop(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_ANSWER)

    # On the loop

    def _begin(self) -> None:
        self._passable.set()
        self._accepting = self._loop.create_task(self._accept())

    async def _end(self) -> None:
        tasks = [task for link in self._links for task in link.tasks]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self._links):
            self._drop(link, _reset)
        self._listening.close()

    def _become(self, way: Way, delay: float) -> None:
        self._way, self._delay = way, delay
        if way is Way.BLACK_HOLE:
            self._passable.clear()
        else:
            self._passable.set()
        if way is Way.DROP:
            for link in list(self._links):
                self._drop(link, _reset)
        elif way is Way.HALF_OPEN:
            for link in self._links:
                self._forget_server(link)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listening)
            client.settimeout(0)
            link = _Link(client)
            self._links.add(link)
            if self._way is Way.DROP:
                self._drop(link, _reset)
            elif self._way is not Way.HALF_OPEN:
                link.tasks.append(self._loop.create_task(self._connect(link)))

    async def _connect(self, link: _Link) -> None:
        await self._passable.wait()
        server = socket.socket()
        server.settimeout(0)
        link.server = server
        try:
            await self._loop.sock_connect(server, self._server)
        except OSError:
            self._drop(link, _reset)
            return
        for source, sink in ((link.client, server), (server, link.client)):
            link.tasks.append(self._loop.create_task(self._move(link, source, sink)))

    async def _move(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        """Moves bytes one way until either end closes."""
        with contextlib.suppress(OSError):
            while data := await self._loop.sock_recv(source, _CHUNK):
                await self._passable.wait()
                if self._way is Way.DELAY:
                    await asyncio.sleep(self._delay)
                self._see(source, data)
                await self._loop.sock_sendall(sink, data)
        # The end of a connection is held back like everything else.
        await self._passable.wait()
        self._drop(link, _close)

    def _see(self, source: socket.socket, data: bytes) -> None:
        """Sees what one end sent before the other end gets it."""

    def _drop(self, link: _Link, how: Callable[[socket.socket], None]) -> None:
        """Ends a connection at both ends."""
        self._links.discard(link)
        for task in link.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for end in (link.client, link.server):
            if end is not None:
                # The cancelled task must let go of its socket first.
                self._loop.call_soon(how, end)

    def _forget_server(self, link: _Link) -> None:
        for task in link.tasks:
            task.cancel()
        link.tasks.clear()
        server, link.server = link.server, None
        if server is not None:
            self._loop.call_soon(_reset, server)


def _close(end: socket.socket) -> None:
    end.close()


def _reset(end: socket.socket) -> None:
    """Closes a connection with RST."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()
