"""The door before the handlers: it bounds how many calls are inside, and shuts before a stop.

gRPC would refuse calls beyond its own bound whatever they are, Revoke included. So the door's bound
is lower, and Revoke does not count (protocol R9).

`grpc.aio.Server.stop` ends calls that have arrived but not yet reached a handler with CANCELLED,
and no client takes that for "try another server" (grpc/grpc#41785). So the server shuts the door
for a moment before it stops gRPC, and new calls wait here, before anything else happens to them.
In that moment gRPC hands over the calls that it has, one after the other. Each takes a turn of two
threads, so on a busy machine the moment ends only when no more calls come. Then the server stops
gRPC, which tells clients to go elsewhere before it sends them any answer, and opens the door for
the waiting calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from keyfold_server.domain.errors import OverloadedError

QUIET: Final = 0.05
"""Seconds without a new call after which the transport has handed over all that it had."""

_LATE: Final = 0.01
"""Seconds by which the loop may wake late; a later one shows nothing about the transport, which
waits for its turn as the loop did."""

LONGEST: Final = 1.0
"""Seconds for which a closed door may keep calls waiting, if clients make ever new ones."""


class Door:
    """A door that calls pass; open until the server stops.

    Attributes:
        shut: The event that calls wait for; None while the door is open. Looking at it is all that
            the door costs a call.
    """

    __slots__ = ("_left", "_waiting", "shut")

    def __init__(self, most: int) -> None:
        """Makes an open door, through which at most so many calls may be inside at once."""
        self.shut: asyncio.Event | None = None
        self._left = most
        self._waiting = 0

    def enter(self) -> None:
        """Lets a call in. Call `leave` when it has ended.

        Raises:
            OverloadedError: Too many calls are inside.
        """
        if self._left <= 0:
            raise OverloadedError("too many calls are under way; try again", retry_after=1.0)
        self._left -= 1

    def leave(self) -> None:
        """Lets a call out."""
        self._left += 1

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Lets a call in until the block ends.

        Raises:
            OverloadedError: Too many calls are inside.
        """
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def close(self) -> None:
        """Closes the door: calls that arrive from now on wait."""
        self.shut = asyncio.Event()

    async def wait(self) -> None:
        """Waits for a closed door to open."""
        if self.shut is not None:
            self._waiting += 1
            await self.shut.wait()

    async def quiet(self) -> None:
        """Returns once no call has come to the closed door for `QUIET` seconds of a prompt loop."""
        time = asyncio.get_running_loop().time
        ends = time() + LONGEST
        while (began := time()) < ends:
            before = self._waiting
            await asyncio.sleep(QUIET)
            if self._waiting == before and time() - began < QUIET + _LATE:
                return

    def open(self) -> None:
        """Lets the waiting calls go on, and all later ones pass."""
        if self.shut is not None:
            self.shut.set()
        self.shut = None
