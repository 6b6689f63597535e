"""The poll: a thread that reads the store and hands what it finds to the event loop.

A poll writes a heartbeat and reads the entries of the log since the last poll (protocol S2). It
reads a long backlog in pages, and applies each before it reads the next (protocol S12). The thread
shares no pool and no connection with calls, so that a hung pool cannot make a healthy
replica stale (protocol W3). It does not know what an entry means; `changes` does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

from keyfold_server import telemetry
from keyfold_server.domain.errors import KeyfoldError, StoreRolledBackError, StoreStaleError
from keyfold_server.domain.log import Entry
from keyfold_server.domain.ports import POLL_PAGE, Clock, Heartbeat
from keyfold_server.domain.timing import Timing
from keyfold_server.service.fleet.pace import Pace
from keyfold_server.service.fleet.staleness import Moment
from keyfold_server.service.storage import Storage
from keyfold_server.service.supervisor import Watched

log = logging.getLogger(__name__)

_SPACING: Final = 0.1
"""Seconds between hastened polls while changes keep coming. With 10 changes a second, each replica
then polls 10 times a second, and each poll reports what the one before has read."""


class Follower(Protocol):
    """Takes what a poll finds.

    The thread reads `rolled_back` and `ours` and calls `beat` itself. It calls the rest on the
    event loop.
    """

    rolled_back: bool
    """Whether the store is not the one that this replica knew."""

    @property
    def ours(self) -> Mapping[int, bytes]:
        """The ids, by number, of changes that this replica committed and no poll has read yet."""
        ...

    def beat(self) -> Heartbeat:
        """Returns the heartbeat of this replica."""
        ...

    def apply(
        self,
        noted: Sequence[Entry],
        ours: Mapping[int, bytes],
        began: Moment,
        applied: threading.Event,
        *,
        complete: bool,
    ) -> None:
        """Applies the entries that a poll has read, then sets `applied`."""
        ...

    def lose(self, lost: threading.Event) -> None:
        """Drops everything, because the store is not the one that it was; then sets `lost`."""
        ...

    def begin_anew(self, why: str) -> Coroutine[Any, Any, None]:
        """Drops everything, and goes on with the store as it is now.

        Args:
            why: The reason, for the log.
        """
        ...


class Poll:
    """The thread that polls.

    Attributes:
        soon: An event that makes the next poll come at once, or in a moment if there were several
            in short time.
        failing: Whether the last poll failed.
    """

    def __init__(
        self, storage: Storage, clock: Clock, timing: Timing, follower: Follower, watched: Watched
    ) -> None:
        """Prepares the thread; `start` begins to poll for `follower`, and `watched` watches it."""
        self.soon = threading.Event()
        self.failing = False
        self._store = storage.store
        self._watching = storage.watching
        self._clock = clock
        self._timing = timing
        self._follower = follower
        self._watched = watched
        self._stop = threading.Event()
        self._behind = False
        self._pace = Pace(min(_SPACING, timing.store_poll))
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, args=(loop,), name="changes", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end; `join` waits for that."""
        self._stop.set()
        self.soon.set()

    def join(self) -> None:
        """Waits for the thread to end."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            with self._watched.turn():
                self._turn(loop)
            if self._watched.failures:
                self._stop.wait(self._timing.store_poll)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._behind and self.soon.wait(self._timing.store_poll):
            self._stop.wait(self._pace.take())
        # Hints that came while this waited have their answer in the poll that comes now.
        self.soon.clear()
        if self._stop.is_set() or loop.is_closed():
            return
        if self._follower.rolled_back:
            self._look_for_reconciliation(loop)
        else:
            self._poll(loop)

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        began = Moment.now(self._clock)
        self._behind = False
        ours = dict(self._follower.ours)
        try:
            with self._watching(), telemetry.store_call("poll"):
                noted = self._store.poll(self._follower.beat())
        except StoreRolledBackError:
            lost = threading.Event()
            loop.call_soon_threadsafe(self._follower.lose, lost)
            lost.wait(self._timing.store_max_staleness)
        except StoreStaleError as error:
            self._begin_anew(loop, error.message)
        except KeyfoldError as error:
            if not self.failing:
                log.warning("the poll cannot reach the store: %s: %s", error.reason, error.message)
            self.failing = True
            # Do not call a store that fails at once as fast as it fails.
            self._stop.wait(self._timing.store_poll)
        else:
            if self.failing:
                log.warning("the poll reaches the store again")
            self.failing = False
            applied = threading.Event()
            complete = len(noted) < POLL_PAGE
            apply = partial(self._follower.apply, complete=complete)
            loop.call_soon_threadsafe(apply, noted, ours, began, applied)
            # The next heartbeat reports these changes as applied, so wait until they are (R4).
            self._behind = applied.wait(self._timing.store_max_staleness) and not complete

    def _look_for_reconciliation(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins anew once an operator has reconciled the store (S1)."""
        try:
            reconciled = self._store.reconciled()
        except KeyfoldError as error:
            log.warning("cannot begin anew with the store: %s: %s", error.reason, error.message)
        else:
            if reconciled:
                self._begin_anew(loop, "an operator reconciled the store")

    def _begin_anew(self, loop: asyncio.AbstractEventLoop, why: str) -> None:
        """Begins anew; if that fails, the next turn of the thread tries again."""
        try:
            asyncio.run_coroutine_threadsafe(self._follower.begin_anew(why), loop).result()
        except KeyfoldError as error:
            log.warning("cannot begin anew with the store: %s: %s", error.reason, error.message)
