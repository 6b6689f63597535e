"""The events that have arrived at the relay and have not been taken out as a batch.

One task puts messages in, another takes batches out. So a target gets all that came while it was
busy as one batch, and an event that comes alone goes out at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from keyfold_relay.clock import Clock
from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.source import Message
from keyfold_relay.targets import Limits

_BATCHES: Final = 2
_LEAST: Final = 1_000


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes next.

    Attributes:
        events: The events; empty if only the cursor's place is news, or nothing came in time.
        token: What the cursor advances to once the events are delivered; empty: nothing came.
        number: The number of the last entry of the log that the source has passed by then.
    """

    events: list[CloudEvent]
    token: str
    number: int = 0


class Backlog:
    """A bounded queue of messages.

    Args:
        limits: The size of a batch; the backlog holds a few batches.
        clock: The clock.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._messages: deque[tuple[float, Message]] = deque()
        self._events = 0
        self._size = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._error: Exception | None = None
        self._stopped = False

    @property
    def oldest(self) -> CloudEvent | None:
        """The oldest event that is here, or None."""
        return next((one.event for _, one in self._messages if one.event is not None), None)

    async def put(self, message: Message) -> None:
        """Adds a message; waits while the backlog is full."""
        while self._full(max(_BATCHES * self._limits.events, _LEAST), _BATCHES * self._limits.size):
            self._room.clear()
            await self._room.wait()
        self._messages.append((self._clock.monotonic(), message))
        if message.event is not None:
            self._events += 1
            self._size += len(message.event.body)
        self._changed.set()

    def end(self, error: Exception) -> None:
        """Says that no further message will come; `take` raises the error after the last one."""
        self._error = error
        self._changed.set()

    def stop(self) -> None:
        """Has `take` return None from now on, whatever is here."""
        self._stopped = True
        self._changed.set()

    async def take(self, seconds: float | None) -> Batch | None:
        """Returns the next batch, or None if the backlog was stopped.

        Args:
            seconds: How long to wait for it; None waits for ever. When they have passed, the batch
                is empty.

        Raises:
            Exception: That of `end`, once everything before it has been taken.
        """
        until = None if seconds is None else self._clock.monotonic() + seconds
        while not self._stopped:
            now = self._clock.monotonic()
            ready = self._ready_at()
            if ready <= now:
                return self._cut()
            if not self._messages and self._error is not None:
                raise self._error
            if until is not None and until <= now:
                return Batch([], "")
            ends = min(ready, until if until is not None else ready)
            self._changed.clear()
            await self._clock.wait(self._changed, None if ends == _NEVER else ends - now)
        return None

    def _ready_at(self) -> float:
        """Returns when the next batch is to be taken, on the monotonic clock."""
        if not self._messages:
            return _NEVER
        if self._error is not None or self._full(self._limits.events, self._limits.size):
            return 0.0
        return self._messages[0][0] + self._limits.wait

    def _full(self, events: int, size: int) -> bool:
        return self._events >= events or self._size >= size

    def _cut(self) -> Batch:
        events, size, token, number = list[CloudEvent](), 0, "", 0
        while self._messages and len(events) < self._limits.events:
            message = self._messages[0][1]
            if message.event is not None:
                if events and size + len(message.event.body) > self._limits.size:
                    break
                events.append(message.event)
                size += len(message.event.body)
            self._messages.popleft()
            token, number = message.token, message.number
        self._events -= len(events)
        self._size -= size
        self._room.set()
        return Batch(events, token, number)


_NEVER: Final = float("inf")
