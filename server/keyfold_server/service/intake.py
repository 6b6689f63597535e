"""Room for requests: how many of their bytes may be in memory at once, before anyone has read them.

Nobody knows how large a request is until it has arrived, so room is taken for the largest there
may be, before the first of it is asked for, and given back once its size is known. Who finds none
waits in line; callers who wait take turns. A caller who holds nothing is always let in, so that
no other caller can keep it out: beyond the room there is at most one request of each caller.
"""

from __future__ import annotations

import asyncio

from keyfold_server.domain.errors import OverloadedError


class Share:
    """What one caller holds of the room.

    Attributes:
        held: Bytes.
        waiting: Its requests in line, first come first.
    """

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        """Begins with nothing."""
        self.held = 0
        self.waiting: dict[asyncio.Future[None], None] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing is held or waited for."""
        return not self.held and not self.waiting


class Intake:
    """The room of one server; belongs to one event loop.

    Attributes:
        largest: Bytes that a request is taken to have until it has arrived.
    """

    __slots__ = ("_each", "_held", "_line", "_most", "_turns", "largest")

    def __init__(self, most: int, each: int, largest: int, line: int) -> None:
        """Begins empty.

        Args:
            most: Bytes of all callers.
            each: Bytes of one caller.
            largest: Bytes of a request, at most; below it a caller has room for one all the same.
            line: Requests of one caller that may wait.
        """
        self._most = max(most, largest)
        self._each = max(each, largest)
        self._line = line
        self._held = 0
        # Those who wait, and are not in their own way; whoever was served goes to the end.
        self._turns: dict[Share, None] = {}
        self.largest = largest

    @property
    def held(self) -> int:
        """Bytes of all callers."""
        return self._held

    def take(self, share: Share) -> bool:
        """Takes room for the largest request; False, and nothing taken, where it must wait."""
        # Each call comes through here: written out.
        size, held = self.largest, share.held
        if share.waiting or (held and (held + size > self._each or self._held + size > self._most)):
            return False
        share.held = held + size
        self._held += size
        return True

    async def wait(self, share: Share) -> None:
        """Takes room for the largest request, in turn; whoever gives up is cancelled.

        Raises:
            OverloadedError: The line is too long.
        """
        if len(share.waiting) >= self._line:
            raise OverloadedError(
                "too many requests of this caller wait to be received; try again", retry_after=1.0
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.waiting[place] = None
        if self._own(share):
            self._turns[share] = None
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                share.waiting.pop(place, None)
            else:  # Its turn came in the same moment.
                self.give(share, self.largest)
            raise

    def give(self, share: Share, size: int) -> None:
        """Gives bytes back, and lets those in who wait for them."""
        share.held -= size
        self._held -= size
        if share.waiting or self._turns:
            self._serve(share)

    def _serve(self, share: Share) -> None:
        """Lets those in for whom there is room now that a caller has given some back."""
        if share.waiting:
            if not share.held:
                self._admit(share)
            self._turns[share] = None
        while self._turns:
            first = next(iter(self._turns))
            if first.waiting and self._own(first):
                if not self._open:
                    return
                self._admit(first)
                del self._turns[first]
                self._turns[first] = None
            else:  # What it holds itself is in its way, and brings it back when it goes.
                del self._turns[first]

    @property
    def _open(self) -> bool:
        return self._held + self.largest <= self._most

    def _own(self, share: Share) -> bool:
        return share.held + self.largest <= self._each

    def _admit(self, share: Share) -> None:
        """Lets the first in line in that has not given up."""
        while share.waiting:
            place = next(iter(share.waiting))
            del share.waiting[place]
            if not place.done():
                place.set_result(None)
                share.held += self.largest
                self._held += self.largest
                return
