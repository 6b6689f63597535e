"""Calls that end when their time is up, whatever the other side does (protocol C4).

A library's read timeout holds for each read, so a server that sends a byte now and then holds a
thread for as long as it likes. Here a watchdog, one thread for the whole process, shuts down the
sockets of a call when the call's time is up:

    with within(budget):        everything that this thread does over watched connections ends
        transport.send(…)       in time; `connections` watches those of urllib3

Invariant: the watchdog shuts a socket down only for the call that uses it. It shuts down a
duplicate of the descriptor, so that neither TLS nor a library that closes or hands over its own
descriptor can make the watchdog hit another connection. Nothing can cut the look-up of a name
short, so a look-up may overrun. This module must not know any provider.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import socket
import threading
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Final, Self

CONNECT_TIMEOUT: Final = 1.0
"""Seconds to connect to one address; in a TLS handshake, seconds for each read."""

READ_TIMEOUT: Final = 3.0
"""Seconds that one read may wait. The call's own time bounds all reads together."""


class within:  # noqa: N801  it reads as a statement
    """A call under way, of which no socket waits any longer once its seconds have passed.

    A call inside another one ends with the outer one at the latest. A call belongs to the thread
    that entered it.

    Attributes:
        ends: When the call's time is up, on the monotonic clock.
        passed: Whether the call's time was found to be up.
    """

    __slots__ = ("_handles", "_outer", "ends", "over", "passed")

    def __init__(self, seconds: float) -> None:
        """Begins to count the seconds."""
        self.ends = monotonic() + seconds
        self.passed = False
        self.over = False
        self._handles: set[Handle] = set()
        self._outer: within | None = None

    def __enter__(self) -> Self:
        self._outer = getattr(_thread, "call", None)
        if self._outer is not None:
            self.ends = min(self.ends, self._outer.ends)
        # If the watchdog cannot start, nobody exits this call, so the thread must not have it.
        _watchdog.add(self)
        _thread.call = self
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
            TimeoutError: No time is left.
        """
        left = self.ends - monotonic()
        if left <= 0:
            self.passed = True
            raise TimeoutError("the call's time is up")
        return left

    def watch(self, handle: Handle) -> None:
        """Makes this call the one that uses a connection.

        Raises:
            TimeoutError: No time is left.
        """
        self.remaining()
        with _lock:
            handle.call = self
            self._handles.add(handle)

    def cut(self) -> None:
        """Shuts down every socket that the call waits for. Only the watchdog calls this."""
        with _lock:
            if self.over:
                return
            self.passed = True
            for handle in self._handles:
                if handle.call is self:
                    # A socket that is no longer connected needs no shutdown.
                    with contextlib.suppress(OSError):
                        handle.duplicate.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False, slots=True)
class Handle:
    """A connection's socket, held by a descriptor of the watchdog's own.

    Attributes:
        duplicate: A second descriptor of the connection's socket.
        call: The call that uses the connection, or None.
        left: Whether the connection's owner has closed it; a call may still be reading the answer.
    """

    duplicate: socket.socket
    call: within | None = None
    left: bool = False

    def leave(self) -> None:
        """Notes that the connection's owner has closed it."""
        with _lock:
            self.left = True
            self.close_if_left()

    def close_if_left(self) -> None:
        """Closes the descriptor once nobody needs it. The caller holds the lock."""
        if self.left and self.call is None:
            self.duplicate.close()


_thread: Final = threading.local()
_lock: Final = threading.RLock()
"""Held while a connection changes hands or is shut down, never while anything waits.

While a thread holds it, the garbage collector may close a forgotten pool in that same thread, which
comes back here in `Handle.leave`. With a plain lock the thread would then wait for itself, and all
calls for it. `leave` changes nothing that the holder goes through: neither a call's handles nor
the call of one.
"""


def current() -> within:
    """Returns this thread's call.

    Raises:
        RuntimeError: The thread has no call, so nothing would end what it is about to do.
    """
    call: within | None = getattr(_thread, "call", None)
    if call is None:
        raise RuntimeError("calls to a KMS are made inside of deadlines.within")
    return call


class _Watchdog:
    """One thread that cuts every call whose time is up."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: list[tuple[float, int, within]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def add(self, call: within) -> None:
        """Takes a call. A call that ends early stays listed until its time, and costs nothing."""
        with self._changed:
            entry = (call.ends, next(self._order), call)
            heapq.heappush(self._calls, entry)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                thread.start()  # Raises where no thread is left; the next call tries again.
                self._thread = thread
            # Only a call that ends before all others changes when the thread must wake up.
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
