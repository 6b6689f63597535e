"""A layer of faults in front of an HTTP service, or of a function that answers for one.

    with FaultLayer(forward("http://127.0.0.1:8200")) as layer:
        …                            calls to layer.url reach the service
        with layer.hanging_at_read():
            …                        and now they hang

The layer makes one fault at a time. When a fault begins and when it ends, the layer cuts the open
connections, so that the change holds for the next call. Use the layer in a `with`, or call `close`.
"""

from __future__ import annotations

import contextlib
import enum
import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from counterparts.messages import Answer, Reply, Request, read, to_bytes

_RESET: Final = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing a socket sends an RST."""


def _every(_request: Request) -> bool:
    """Picks every request."""
    return True


class _Way(enum.Enum):
    PASS = enum.auto()
    REFUSE = enum.auto()
    RESET = enum.auto()
    HANG_AT_CONNECT = enum.auto()
    HANG_AT_READ = enum.auto()
    DRIP = enum.auto()
    DELAY = enum.auto()
    ANSWER = enum.auto()


class FaultLayer:
    """An HTTP/1.1 server on loopback, which answers as usual or with a fault.

    Attributes:
        port: Its port of 127.0.0.1.
        url: Its scheme, host and port.
    """

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None, *, port: int = 0) -> None:
        """Begins to serve.

        Args:
            answer: Function that answers without a fault; each connection calls it in a thread.
            tls: The server's certificate, or None for plain http.
            port: The port, or 0 for a free one.
        """
        self._answer = answer
        self._tls = tls
        self._way = _Way.PASS
        self._seconds = 0.0
        self._instead: Answer = answer
        self._only: Callable[[Request], bool] = _every
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._fillers: list[socket.socket] = []
        self._listening = self._listen(port)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops serving and cuts every connection."""
        self._become(_Way.REFUSE)
        self._listening.close()

    # Faults.

    def refusing(self) -> contextlib.AbstractContextManager[None]:
        """Refuses connections."""
        return self._while(_Way.REFUSE)

    def resetting(self) -> contextlib.AbstractContextManager[None]:
        """Takes requests and resets their connections."""
        return self._while(_Way.RESET)

    def hanging_at_connect(self) -> contextlib.AbstractContextManager[None]:
        """Completes no connection, as a firewall that drops packets."""
        return self._while(_Way.HANG_AT_CONNECT)

    def hanging_at_read(self) -> contextlib.AbstractContextManager[None]:
        """Takes requests and does not answer."""
        return self._while(_Way.HANG_AT_READ)

    def dripping(
        self, interval: float, only: Callable[[Request], bool] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Sends its answers one byte at a time, the status line included.

        Args:
            interval: Seconds between two bytes.
            only: Picks the requests whose answers drip; without it, all of them do.
        """
        self._only = only or _every
        return self._while(_Way.DRIP, interval)

    def delayed(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Delays its answers by so many seconds."""
        return self._while(_Way.DELAY, seconds)

    def answering(self, reply: Reply) -> contextlib.AbstractContextManager[None]:
        """Gives one answer to every request: a 500, a throttle, garbage, too many bytes."""
        return self.instead(lambda _request: reply)

    def instead(self, answer: Answer) -> contextlib.AbstractContextManager[None]:
        """Lets another function answer. It may call the usual one and change its answer."""
        self._instead = answer
        return self._while(_Way.ANSWER)

    @contextlib.contextmanager
    def distrusted(self, tls: ssl.SSLContext) -> Iterator[None]:
        """Shows a certificate that the client does not trust."""
        before, self._tls = self._tls, tls
        self._become(_Way.PASS)
        try:
            yield
        finally:
            self._tls = before
            self._become(_Way.PASS)

    @contextlib.contextmanager
    def _while(self, way: _Way, seconds: float = 0.0) -> Iterator[None]:
        assert self._way is _Way.PASS, "one fault at a time"
        self._seconds = seconds
        self._become(way)
        try:
            yield
        finally:
            self._become(_Way.PASS)

    def _become(self, way: _Way) -> None:
        with self._lock:
            before, self._way = self._way, way
            self._over.set()
            self._over = threading.Event()
            opened, self._open = self._open, set()
            for each in opened:
                # Each thread closes its own socket; this only wakes the thread up.
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            shut = (_Way.REFUSE, _Way.HANG_AT_CONNECT)
            if way in shut or before in shut:
                for filler in self._fillers:
                    filler.close()
                self._fillers.clear()
                self._stop_listening()
                self._listening = self._listen(self.port)

    def _stop_listening(self) -> None:
        # Closing alone would not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _listen(self, port: int) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        if self._way is _Way.REFUSE:
            # The port is bound, so that nobody else gets it, but does not listen.
            return listening
        if self._way is _Way.HANG_AT_CONNECT:
            listening.listen(0)
            # The queue holds one or two connections; the kernel drops all others.
            for _ in range(4):
                filler = socket.socket()
                filler.settimeout(0)
                filler.connect_ex(("127.0.0.1", port))
                self._fillers.append(filler)
            return listening
        listening.listen(128)
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return listening

    # Serving.

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            way, over, tls = self._way, self._over, self._tls
            self._open.add(sock)
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                with self._lock:
                    self._open.discard(sock)
                sock = tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    if self._over is not over:
                        raise ConnectionResetError
                    self._open.add(sock)
            with sock.makefile("rb") as lines:
                while (request := read(lines)) is not None:
                    self._reply(sock, request, way, over)
        with self._lock:
            self._open.discard(sock)
        sock.close()

    def _reply(
        self, sock: socket.socket, request: Request, way: _Way, over: threading.Event
    ) -> None:
        if way is _Way.RESET:
            # The thread closes the socket, which then sends an RST.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise ConnectionResetError
        if way is _Way.HANG_AT_READ:
            over.wait()
            raise ConnectionResetError
        reply = (self._instead if way is _Way.ANSWER else self._answer)(request)
        if way is _Way.DELAY:
            over.wait(self._seconds)
        whole = to_bytes(reply)
        if way is not _Way.DRIP or not self._only(request):
            sock.sendall(whole)
            return
        for byte in whole:
            sock.sendall(bytes((byte,)))
            if over.wait(self._seconds):
                raise ConnectionResetError
