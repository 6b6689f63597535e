"""The poll: a thread of its own that looks at the store, and hands what it finds to the loop.

A poll is a heartbeat write and a read of the numbered changes since the last one (protocol S2).
The thread waits for nothing that calls wait for, so that a hung pool cannot make a healthy
replica stale (W3). What the changes mean is `changes`'s.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keyfold_server import telemetry
from keyfold_server.domain.changes import RecordedChange
from keyfold_server.domain.errors import KeyfoldError, StoreRolledBackError
from keyfold_server.domain.ports import Clock, Heartbeat, Store
from keyfold_server.domain.timing import Timing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by both clocks."""

    monotonic: float
    wall: float

    @classmethod
    def now(cls, clock: Clock) -> Moment:
        """Returns this one."""
        return cls(clock.monotonic(), clock.wall())


class Follower(Protocol):
    """Who is told of what a poll finds; on the loop, but for `beat` and what is read of it."""

    rolled_back: bool
    """Whether the store is not the one that it was."""

    @property
    def ours(self) -> Mapping[int, bytes]:
        """Changes that this replica has committed and no poll has shown yet, with their ids."""
        ...

    def beat(self) -> Heartbeat:
        """Returns what this replica says of itself."""
        ...

    def apply(
        self,
        noted: Sequence[RecordedChange],
        ours: Mapping[int, bytes],
        began: Moment,
        applied: threading.Event,
    ) -> None:
        """Applies what a poll has read."""
        ...

    def lose(self, lost: threading.Event) -> None:
        """Takes the store for another one than it was."""
        ...

    def begin_anew(self) -> Coroutine[Any, Any, None]:
        """Begins with the store as it is."""
        ...


class Poll:
    """The thread.

    Attributes:
        soon: Set by whoever wants the next look at once.
        failing: Whether the last look found no store.
    """

    def __init__(self, store: Store, clock: Clock, timing: Timing, follower: Follower) -> None:
        """Prepares the thread; `start` starts it."""
        self.soon = threading.Event()
        self.failing = False
        self._store = store
        self._clock = clock
        self._timing = timing
        self._follower = follower
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to look."""
        self._thread = threading.Thread(target=self._run, args=(loop,), name="changes", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Has the thread end."""
        self._stop.set()
        self.soon.set()

    def join(self) -> None:
        """Waits for its end."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            self.soon.wait(self._timing.store_poll)
            self.soon.clear()
            if self._stop.is_set() or loop.is_closed():
                return
            if self._follower.rolled_back:
                self._look_for_a_decision(loop)
            else:
                self._look(loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        began = Moment.now(self._clock)
        ours = dict(self._follower.ours)
        try:
            with telemetry.store_call("poll"):
                noted = self._store.poll(self._follower.beat())
        except StoreRolledBackError:
            lost = threading.Event()
            loop.call_soon_threadsafe(self._follower.lose, lost)
            lost.wait(self._timing.store_max_staleness)
        except KeyfoldError as error:
            if not self.failing:
                log.warning("cannot see the store: %s: %s", error.reason, error.message)
            self.failing = True
            # A store that fails at once must not be asked as fast as it answers.
            self._stop.wait(self._timing.store_poll)
        except Exception:
            log.exception("the poll failed unexpectedly")
            self._stop.wait(self._timing.store_poll)
        else:
            if self.failing:
                log.warning("the store is seen again")
            self.failing = False
            applied = threading.Event()
            loop.call_soon_threadsafe(self._follower.apply, noted, ours, began, applied)
            # The next beat must not be sent before these changes are applied.
            applied.wait(self._timing.store_max_staleness)

    def _look_for_a_decision(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins anew once an operator has decided that the store is right as it is (S1)."""
        try:
            if self._store.reconciled():
                asyncio.run_coroutine_threadsafe(self._follower.begin_anew(), loop).result()
        except KeyfoldError as error:
            log.warning("cannot begin anew with the store: %s: %s", error.reason, error.message)
        except Exception:
            log.exception("beginning anew with the store failed unexpectedly")
