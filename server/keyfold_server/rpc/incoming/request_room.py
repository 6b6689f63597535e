"""Bounds the memory that requests take, for all callers together and for each.

Nobody knows how large a request is until it has arrived. So the receiver takes room for the largest
possible request before it reads the first byte, and gives back what the request turned out not to
need. A caller that holds no room always gets some, so no other caller can keep it out: the requests
of all callers exceed the common bound by at most one request each.

Room is counted in bytes. Were it counted in requests, two dozen small batches that wait for a slow
KMS would use up a caller's whole share, and its Revoke would have to wait behind them.
"""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import Protocol

from keyfold_server.domain.errors import OverloadedError


class Holder(Protocol):
    """A caller, as far as the room knows it.

    Attributes:
        request_bytes: Bytes of room that the caller holds. Only the room changes it.
    """

    request_bytes: int


_held = attrgetter("request_bytes")


class RequestRoom:
    """The room of one server; belongs to one event loop.

    Attributes:
        held: Bytes that all callers hold.
        largest: Bytes that a request counts as until it has arrived.
    """

    __slots__ = ("_each", "_lines", "_longest_line", "_most", "held", "largest")

    def __init__(self, most: int, each: int, largest: int, longest_line: int) -> None:
        """Makes a room that nobody uses yet.

        Args:
            most: Bytes that all callers may hold.
            each: Bytes that one caller may hold. A caller may always hold one request.
            largest: Bytes of the largest possible request.
            longest_line: Requests of one caller that may wait for room.
        """
        self._most = most
        self._each = each
        self._longest_line = longest_line
        # The waiting requests of each caller that has any, first come first.
        self._lines: dict[Holder, dict[asyncio.Future[None], None]] = {}
        self.held = 0
        self.largest = largest

    def take(self, caller: Holder) -> bool:
        """Takes room for one request, or returns False where the request must `wait`."""
        # Every call comes through here, so `_fits` is written out.
        held, size = caller.request_bytes, self.largest
        if held and (held + size > self._each or self.held + size > self._most):
            return False
        if self._lines and caller in self._lines:
            return False
        caller.request_bytes = held + size
        self.held += size
        return True

    async def wait(self, caller: Holder, *, bounded: bool = True) -> None:
        """Waits until there is room for one request, and takes it.

        Cancel it to give up the place in the line.

        Args:
            caller: The caller.
            bounded: False if something else bounds how many of the caller's requests wait here.

        Raises:
            OverloadedError: Too many requests of this caller wait already.
        """
        if bounded and len(self._lines.get(caller, ())) >= self._longest_line:
            raise OverloadedError(
                "too many requests of this caller wait to be received; try again", retry_after=1.0
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(caller, {})[place] = None
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._give_up(caller, place)
            else:  # The room became free in the same moment.
                self.give(caller, self.largest)
            raise

    def give(self, caller: Holder, size: int) -> None:
        """Gives back bytes, and passes free room on to waiting requests.

        Room goes to the caller that holds least; among equals, to the one whose last turn is
        longest ago.
        """
        caller.request_bytes -= size
        self.held -= size
        while self._lines:
            next_caller = min(self._lines, key=_held)
            if not self._fits(next_caller):
                return  # Nobody else fits either: they hold as much, or more.
            line = self._lines.pop(next_caller)
            place = next(iter(line))
            del line[place]
            if line:
                self._lines[next_caller] = line  # Behind the other callers' lines.
            if not place.done():
                place.set_result(None)
                next_caller.request_bytes += self.largest
                self.held += self.largest

    def _fits(self, caller: Holder) -> bool:
        held = caller.request_bytes
        size = self.largest
        return not held or (held + size <= self._each and self.held + size <= self._most)

    def _give_up(self, caller: Holder, place: asyncio.Future[None]) -> None:
        line = self._lines.get(caller, {})
        line.pop(place, None)
        if not line:
            self._lines.pop(caller, None)
