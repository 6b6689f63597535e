"""Calls over HTTP that end when their time is up, whatever the other side does (protocol C4).

What the adapters that speak HTTP share. A library's read timeout holds for each read, so a server
that answers a byte now and then holds a thread for as long as it likes. Here a watchdog, one
thread for the process, shuts the sockets of a call down when its time is up.

    with within(budget):        all that this thread does over watched connections ends in time
        transport.send(…)       of `deadline_transport`, or a session of `deadline_requests`

Invariant: a socket is shut down only for the call that uses it, and what is shut down is a
duplicate of the descriptor, so that neither TLS nor a library that closes or hands over its own
can make it another's. A name's look-up cannot be cut short and may overrun. Answers are bounded
in size and redirects are not followed: they would carry a credential elsewhere. It must not know
any provider.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)

CONNECT_TIMEOUT: Final = 1.0
"""Seconds for a connection to one address, its TLS handshake's single reads included."""

READ_TIMEOUT: Final = 3.0
"""Seconds that one read may wait; the call's own time bounds them all."""

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of an answer's body; what key services answer is below a hundredth."""

POOL_SIZE: Final = 32
"""Connections kept open to one host."""


class within:  # noqa: N801  it reads as a statement
    """A call under way: leaves no socket waiting once its seconds have passed.

    Inside another one it can only end sooner. It belongs to the thread that entered it.

    Attributes:
        ends: When its time is up, on the monotonic clock.
        passed: Whether that has happened.
    """

    __slots__ = ("_handles", "_outer", "ends", "over", "passed")

    def __init__(self, seconds: float) -> None:
        """Begins to count."""
        self.ends = monotonic() + seconds
        self.passed = False
        self.over = False
        self._handles: set[_Handle] = set()
        self._outer: within | None = None

    def __enter__(self) -> Self:
        self._outer = getattr(_thread, "call", None)
        if self._outer is not None:
            self.ends = min(self.ends, self._outer.ends)
        _thread.call = self
        _watchdog.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _thread.call = self._outer
        with _lock:
            self.over = True
            for handle in self._handles:
                if handle.call is self:
                    handle.call = None
                    handle.close_if_left()
            self._handles.clear()

    def remaining(self) -> float:
        """Returns the seconds that are left.

        Raises:
            TimeoutError: There are none.
        """
        left = self.ends - monotonic()
        if left <= 0:
            self.passed = True
            raise TimeoutError("the call's time is up")
        return left

    def watch(self, handle: _Handle) -> None:
        """Makes a connection this call's."""
        self.remaining()
        with _lock:
            handle.call = self
            self._handles.add(handle)

    def cut(self) -> None:
        """Shuts down what the call waits for; the watchdog's."""
        with _lock:
            if self.over:
                return
            self.passed = True
            for handle in self._handles:
                if handle.call is self:
                    # Not connected any more is as good.
                    with contextlib.suppress(OSError):
                        handle.duplicate.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False, slots=True)
class _Handle:
    """A connection's socket, by a descriptor of its own.

    Attributes:
        duplicate: It shares the connection with the original.
        call: The call that uses the connection.
        left: Whether the connection has let go; the answer may still be read from it.
    """

    duplicate: socket.socket
    call: within | None = None
    left: bool = False

    def leave(self) -> None:
        """Notes that the connection is closed."""
        with _lock:
            self.left = True
            self.close_if_left()

    def close_if_left(self) -> None:
        """Closes the descriptor once nobody needs it; under the lock."""
        if self.left and self.call is None:
            self.duplicate.close()


_thread: Final = threading.local()
_lock: Final = threading.Lock()
"""Held while a connection changes hands or is shut down, never while anything waits."""


def current() -> within:
    """Returns this thread's call.

    Raises:
        RuntimeError: There is none: a call without an end would be made.
    """
    call: within | None = getattr(_thread, "call", None)
    if call is None:
        raise RuntimeError("calls to key services are made inside of deadline.within")
    return call


class _Watchdog:
    """One thread that ends every call whose time is up."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: list[tuple[float, int, within]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def add(self, call: within) -> None:
        """Takes a call; one that is over earlier stays until its time and costs nothing."""
        with self._changed:
            entry = (call.ends, next(self._order), call)
            heapq.heappush(self._calls, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            # Only an earlier end than all others changes when to wake up.
            if self._calls[0] is entry:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                wait = self._calls[0][0] - monotonic() if self._calls else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                    continue
                call = heapq.heappop(self._calls)[2]
            call.cut()


_watchdog: Final = _Watchdog()


class _Watched(HTTPConnection):
    """What makes a connection of urllib3 end with the call that uses it."""

    _handle: _Handle | None = None

    def _new_conn(self) -> socket.socket:
        """Connects to one address after the other, all within the call's time."""
        call, name, most = current(), self._dns_host, self.timeout
        failed: HTTPError | None = None
        try:
            for address in _addresses(self, name, self.port):
                self._dns_host = address
                left = call.remaining()
                self.timeout = min(most, left) if isinstance(most, int | float) else left
                try:
                    sock = super()._new_conn()
                except (ConnectTimeoutError, NewConnectionError) as error:
                    failed = error
                    continue
                self._handle = _Handle(sock.dup())
                try:
                    call.watch(self._handle)
                except BaseException:
                    sock.close()
                    raise
                return sock
        finally:
            self._dns_host, self.timeout = name, most
        raise failed or NewConnectionError(self, "the name has no address")

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self._handle is not None:
            current().watch(self._handle)
        super().request(*args, **kwargs)

    def close(self) -> None:
        super().close()
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.leave()


def _addresses(connection: HTTPConnection, name: str, port: int) -> Iterable[str]:
    """Returns a name's addresses, in the resolver's order."""
    try:
        found = socket.getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise NameResolutionError(name, connection, error) from error
    return dict.fromkeys(str(each[4][0]) for each in found)


class _WatchedTls(_Watched, HTTPSConnection):
    """The same over TLS: the handshake is watched too."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


def watch(manager: urllib3.PoolManager) -> None:
    """Makes all connections that a pool manager will open end with their calls."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


class AnswerTooLargeError(HTTPError):
    """The answer's body is larger than `MAX_ANSWER`."""


def read(response: urllib3.BaseHTTPResponse) -> bytes:
    """Reads a body, decoded, and gives the connection back.

    Raises:
        AnswerTooLargeError: It is too large, and the connection is closed.
        TimeoutError: The call's time passed; a body without a length just seems to end then.
    """
    # Checked on what is decoded: a small compressed body may be a large one.
    body = response.read(MAX_ANSWER + 1, decode_content=True)
    if len(body) > MAX_ANSWER:
        response.close()
        raise AnswerTooLargeError
    current().remaining()
    response.release_conn()
    return body


def what_happened(error: BaseException, call: within) -> str:
    """Says for people why there is no answer, without a library's text."""
    if call.passed or call.ends <= monotonic():
        return "gave no answer in the time that the call had"
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (AnswerTooLargeError, f"answered with more than {MAX_ANSWER} bytes, which is no answer"),
        (NameResolutionError, "cannot be found: its name does not resolve"),
        (NewConnectionError, "refuses connections"),
        (ConnectTimeoutError, f"was not connected within {CONNECT_TIMEOUT:g} s"),
        (SSLError, "could not be trusted: the TLS handshake failed; check its CA"),
        (TimeoutError, f"sent nothing for {READ_TIMEOUT:g} s"),
        (urllib3.exceptions.TimeoutError, f"sent nothing for {READ_TIMEOUT:g} s"),
    )
    for kind, text in kinds:
        if isinstance(error, kind):
            return text
    return "broke the connection off"
