"""Fakes for the tests of keyfold-relay: a source of events, a target, a clock.

The source keeps a log and cursors as a server does: it hands out a session with each stream, and a
stream begins after the entry where its cursor stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay import cloudevents
from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.source import UNKNOWN_PLACE, CursorTakenError, Feed, Message, NotNowError
from keyfold_relay.targets import Limits, NotTakenError

STORE = "5f" * 16


def event(number: int, **fields: object) -> pb.Event:
    """Returns an entry of a log."""
    made = pb.Event(
        number=number,
        id=f"{number:032x}",
        kind=pb.EVENT_KIND_DECISION,
        action="rpc:cluster:revoke",
        outcome="done",
        cluster="prod",
        **fields,  # type: ignore[arg-type]
    )
    made.time.FromNanoseconds(time.time_ns())
    return made


def cloud_event(number: int) -> CloudEvent:
    """Returns an entry of a log as the relay sends it."""
    return cloudevents.made(event(number), STORE)


class FakeSource:
    """A log with cursors, in memory.

    Attributes:
        events: The log.
        cursors: The number of each cursor.
        advanced: Every position to which a cursor was moved, in order.
        opened: How many streams were opened.
        fault: Raised by the next calls, or None.
    """

    def __init__(self, count: int = 0) -> None:
        self.events = [cloud_event(number) for number in range(1, count + 1)]
        self.cursors: dict[str, int] = {}
        self.advanced: list[int] = []
        self.opened = 0
        self.fault: Callable[[], Exception | None] = lambda: None
        self._session: dict[str, str] = {}
        self._ids: dict[int, str] = {}
        self._forgotten: set[str] = set()
        self._news = asyncio.Event()

    def append(self, count: int = 1) -> None:
        """Adds entries to the log."""
        begin = len(self.events) + 1
        self.events += [cloud_event(number) for number in range(begin, begin + count)]
        self._news.set()

    def take(self, cursor: str) -> None:
        """Has another reader take a cursor over."""
        self._session[cursor] = "another"
        self._news.set()

    def forget(self, cursor: str) -> None:
        """Deletes a cursor; its next reader makes it anew, at the newest event without a token."""
        del self.cursors[cursor]
        self._forgotten.add(cursor)
        self._news.set()

    def nudge(self) -> None:
        """Has streams look at `fault` and at their session again."""
        self._news.set()

    @asynccontextmanager
    async def watch(
        self, cursor: str, wanted: pb.EventFilter, token: str = ""
    ) -> AsyncIterator[Feed]:
        self._raise()
        self.opened += 1
        place = int(token or 0)
        if self._ids.get(place, "") != (self.events[place - 1].id if place else ""):
            raise NotNowError("the log has another event there", UNKNOWN_PLACE)
        session = self._session[cursor] = f"session {self.opened}"
        new = len(self.events) if cursor in self._forgotten and not token else place
        yield _Feed(self, cursor, session, max(place, self.cursors.setdefault(cursor, new)))

    async def advance(self, cursor: str, session: str, token: str) -> None:
        self._raise()
        if self._session[cursor] != session:
            raise CursorTakenError("taken")
        if cursor not in self.cursors:
            raise NotNowError("there is no such cursor", "CURSOR_NOT_FOUND")
        self.cursors[cursor] = int(token)
        self.advanced.append(int(token))

    def _raise(self) -> None:
        if (fault := self.fault()) is not None:
            raise fault


class _Feed:
    def __init__(self, source: FakeSource, cursor: str, session: str, begin: int) -> None:
        self._source = source
        self._cursor = cursor
        self.session = session
        self._next = begin

    async def messages(self) -> AsyncIterator[Message]:
        source = self._source
        while True:
            source._raise()
            if source._session[self._cursor] != self.session:
                raise CursorTakenError("taken")
            if self._cursor not in source.cursors:
                raise NotNowError("the cursor has been deleted", "CURSOR_NOT_FOUND")
            if self._next < len(source.events):
                self._next += 1
                event = source.events[self._next - 1]
                source._ids[self._next] = event.id
                yield Message(event, str(self._next), self._next)
                continue
            yield Message(None, str(self._next), self._next)
            source._news.clear()
            await source._news.wait()


class FakeTarget:
    """A target in memory.

    Attributes:
        got: The numbers of all events that it took, in the order in which they came.
        batches: The sizes of the batches that it took.
        answer: Called for each batch; raises what the target answers, or returns.
        reopened: How often files were to be opened again.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.got: list[int] = []
        self.batches: list[int] = []
        self.answer: Callable[[Sequence[CloudEvent]], None] = lambda batch: None
        self.gate: asyncio.Event | None = None
        self.reopened = 0
        self._limits = limits or Limits(100, 1_000_000)
        self.news = asyncio.Event()

    @property
    def limits(self) -> Limits:
        return self._limits

    async def send(self, batch: Sequence[CloudEvent]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.news.set()
        self.answer(batch)
        self.got += [one.number for one in batch]
        self.batches.append(len(batch))

    def reopen(self) -> None:
        self.reopened += 1

    async def close(self) -> None:
        pass

    async def has(self, number: int) -> None:
        """Waits until the target has an event."""
        while number not in self.got:
            self.news.clear()
            await self.news.wait()
            await asyncio.sleep(0)


class Refusing:
    """Answers of a target that takes nothing for some attempts.

    Args:
        attempts: How many attempts fail.
        **details: What `NotTakenError` takes.
    """

    def __init__(self, attempts: int, **details: object) -> None:
        self.left = attempts
        self._details = details

    def __call__(self, batch: Sequence[CloudEvent]) -> None:
        if self.left > 0:
            self.left -= 1
            raise NotTakenError("it answered 500", **self._details)  # type: ignore[arg-type]


class TurnedClock:
    """A clock whose waits end at once, once everything else that is ready has run.

    Attributes:
        waits: The seconds of each wait that passed without its event.
        ahead: Seconds by which somebody has set the machine's clock on; below 0: back.
    """

    def __init__(self) -> None:
        self.time = 1_000.0
        self.ahead = 0.0
        self.waits: list[float] = []

    def now(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if seconds is None:
            return await event.wait()
        for _ in range(20):
            if event.is_set():
                return True
            await asyncio.sleep(0)
        self.time += seconds
        self.waits.append(seconds)
        return event.is_set()
