"""All watches of one replica: how many there may be, what wakes them, and what ends them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.cursors import Cursor
from keyfold_server.domain.errors import DrainingError, KeyfoldError, OverloadedError
from keyfold_server.domain.log import Entry, Position
from keyfold_server.domain.rights import Caller
from keyfold_server.domain.watching import WatchRequest
from keyfold_server.service.fleet.staleness import Moment
from keyfold_server.service.shared_room import SharedRoom
from keyfold_server.service.watch.cursors import CursorReaders
from keyfold_server.service.watch.messages import Send
from keyfold_server.service.watch.sources import Sources
from keyfold_server.service.watch.watch import Watch, Who

PLACES: Final = 5_000
"""Most watches at once. One caller gets at most half of them."""

TICK: Final = 1.0
"""Seconds between two moments at which every reader looks for a heartbeat that is due, whether this
replica is stale, and whether the policy has changed."""

BEATS: Final = 5.0
"""Seconds between two heartbeats, unless a replica is stale soon after that."""

_LOOK: Final = 5.0
"""Seconds between two looks at whether the cursors of streams have been taken over."""


class Watches:
    """The watches of one replica. It is the `fleet.changes.Audience` of what happens.

    Attributes:
        cursors: The cursors, and who reads with which.
    """

    def __init__(self, sources: Sources, cursors: CursorReaders, most_per_caller: int) -> None:
        """Joins the watches to what happens.

        Args:
            sources: What happens.
            cursors: The cursors.
            most_per_caller: Most watches of one caller.
        """
        self.cursors = cursors
        self._sources = sources
        self._most_per_caller = most_per_caller
        self._places = SharedRoom(PLACES, "watches")
        self._running: dict[_Running, None] = {}
        self._looked = float("-inf")
        self._draining = False

    async def watch(self, request: WatchRequest, caller: Caller, who: Who, send: Send) -> None:
        """Streams to a reader until something ends it.

        Args:
            request: What the reader asks for.
            caller: The reader.
            who: The reader, for as long as the stream goes on.
            send: Sends a message.

        Raises:
            KeyfoldError: What has ended it.
            CancelledError: The reader has gone.
        """
        if self._draining:
            raise _draining()
        with self._places.place(caller.name) as share:
            if share.places > self._most_per_caller:
                raise OverloadedError(
                    f"this caller has {self._most_per_caller:,} watches open already; close one",
                    retry_after=1.0,
                )
            running = _Running()
            self._running[running] = None
            try:
                await self._streamed(request, caller, who, send, running)
            except asyncio.CancelledError:
                if running.ended is None:
                    raise
                running.task.uncancel()
                raise running.ended from None
            finally:
                del self._running[running]

    async def _streamed(
        self, request: WatchRequest, caller: Caller, who: Who, send: Send, running: _Running
    ) -> None:
        held: list[Cursor] = []

        async def take(begin: Position) -> Cursor:
            cursor = await self.cursors.take(
                caller, request.cursor, request.digest, begin, running.end
            )
            held.append(cursor)
            return cursor

        try:
            watch = Watch(request, who, self._sources, send, take if request.cursor else None)
            await watch.run()
        finally:
            for cursor in held:
                self.cursors.leave(cursor)

    async def tick(self) -> None:
        """Wakes every reader, and looks from time to time whether cursors were taken over."""
        telemetry.WATCHES.set(len(self._running))
        self._sources.feed.wake()
        now = self._sources.now()
        if now - self._looked >= _LOOK:
            self._looked = now
            # A store that does not answer: the readers hear of that by the age of its poll.
            with contextlib.suppress(KeyfoldError):
                await self.cursors.look()

    def drain(self) -> None:
        """Ends every watch, and refuses new ones, so that readers go on at another replica."""
        self._draining = True
        self._end_all(_draining)

    def _end_all(self, error: Callable[[], KeyfoldError]) -> None:
        for running in list(self._running):
            running.end(error())

    # What happens

    def begin(self, applied: Position) -> None:
        """Hears that this replica follows the log from an entry on."""
        self._sources.feed.begin(applied)
        self._sources.looks.begin(applied)

    def changed(self, cluster: str) -> None:
        """Hears of a change that this replica has committed, ahead of the poll."""
        self._sources.looks.mark(cluster)

    def fresh(self, began: Moment) -> None:
        """Hears that this replica has applied all that the store had at a moment."""
        self._sources.feed.fresh = began
        self._sources.looks.freshen(began)

    def refused(self, root_id: str) -> None:
        """Hears of a refusal that this replica has recorded, ahead of the poll."""
        self._sources.looks.mark_root(root_id)

    def apply(self, noted: Sequence[Entry]) -> None:
        """Hears of entries that this replica has applied."""
        self._sources.feed.append(noted)
        self._sources.looks.apply(noted)
        self._sources.feed.wake()

    def lose(self, error: KeyfoldError) -> None:
        """Hears that this replica no longer follows the log."""
        self._end_all(partial(_again, error))


class _Running:
    """A watch that goes on, in the task that made this."""

    __slots__ = ("ended", "task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a transport runs each handler in a task
        self.task = task
        self.ended: KeyfoldError | None = None

    def end(self, error: KeyfoldError) -> None:
        """Ends it, even in the middle of a message that its reader does not read."""
        if self.ended is None:
            self.ended = error
            self.task.cancel()


def _draining() -> KeyfoldError:
    return DrainingError(
        "this replica is stopping; resume on another one with the token of the last message"
    )


def _again(error: KeyfoldError) -> KeyfoldError:
    return error.at()
