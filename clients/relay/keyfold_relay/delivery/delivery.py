"""One target's delivery: at least once, in the log's order, nothing left out.

The cursor on the server is the only position that lasts. It advances after a target has taken the
events, never before, so a relay that is killed loses nothing: the next one begins where the cursor
stands and sends some events again. A batch that the target does not take stays the next one until
the target takes it, so nothing overtakes it. While it runs, a delivery also keeps the place of the
last events that the target took. So if somebody deletes the cursor in the store, the next stream
begins there, and not with what comes next.

A target that has failed for `park_after` is *parked*: its stream is closed, the cursor stays where
it is, and the relay knocks once an hour, on SIGHUP and when it starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum
from typing import Final

from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay import backoff
from keyfold_relay.clock import Clock
from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.delivery.backlog import Backlog
from keyfold_relay.meters import STATES, Meters
from keyfold_relay.source import (
    UNKNOWN_PLACE,
    CursorExpiredError,
    CursorTakenError,
    Feed,
    NotNowError,
    Source,
)
from keyfold_relay.targets import NotTakenError, Target

ADVANCE_EVERY: Final = 1.0
"""Seconds between two advances of a cursor, each of which is a write in the server's store. A relay
that is killed sends the events of this time again."""

KNOCK_EVERY: Final = 3_600.0
"""Seconds after which a parked target is tried again."""

_REMEMBERED: Final = 10_000
"""Events that a target has taken last, whose ids the relay remembers."""

_SOURCE_AGAIN: Final = 5.0
"""Most seconds until Keyfold is asked again: replicas come and go, and events must not wait."""

_log: Final = logging.getLogger(__name__)


class Ending(Enum):
    """Why a delivery ended."""

    DRAINED = "drained"
    CAUGHT_UP = "caught up"
    TAKEN = "taken"
    EXPIRED = "expired"


class ParkedError(Exception):
    """The target is parked."""


class _CaughtUpError(Exception):
    """Everything that was there is delivered, and the delivery was to end then."""


class Delivery:
    """The delivery to one target.

    Args:
        name: The target's name.
        cursor: The cursor's name.
        wanted: Which events the target gets.
        target: The target.
        source: Where the events come from.
        meters: The metrics.
        park_after: Seconds for which the target may fail until it is parked.
        clock: The clock.

    Attributes:
        name: The target's name.
        state: One of `meters.STATES`.
        count: How many events the target has taken.
    """

    def __init__(
        self,
        name: str,
        cursor: str,
        wanted: pb.EventFilter,
        target: Target,
        source: Source,
        *,
        meters: Meters,
        park_after: float,
        clock: Clock,
    ) -> None:
        self.name = name
        self.state = ""
        self.count = 0
        self._cursor = cursor
        self._wanted = wanted
        self._target = target
        self._source = source
        self._meters = meters
        self._park_after = park_after
        self._clock = clock
        self._most = target.limits.events
        self._stopping = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        self._backlog: Backlog | None = None
        self._sending: CloudEvent | None = None
        self._failing_since: float | None = None
        self._taken_to = ""
        self._outages = 0
        self._until: int | None = None
        self._ids: OrderedDict[int, str] = OrderedDict()
        self._delivered = meters.delivered.labels(name)
        self._retries = meters.retries.labels(name)
        self._arrival = meters.arrival.labels(name)
        meters.lag_seconds.labels(name).set_function(self.lag)
        self._become("delivering")

    def lag(self) -> float:
        """Returns the age in seconds of the oldest event that is here and not delivered."""
        oldest = self._sending or (self._backlog and self._backlog.oldest)
        return max(0.0, self._clock.now() - oldest.time) if oldest else 0.0

    def stop(self) -> None:
        """Ends the delivery after the batch that is being sent."""
        self._stopping = True
        self._wake.set()
        if self._backlog is not None:
            self._backlog.stop()
        elif self._task is not None:
            # No batch is under way, only the wait for a stream, which a dead server makes long.
            self._task.cancel()

    def hurry(self) -> None:
        """Ends a pause between two attempts, a parked target's included, and reopens files."""
        self._target.reopen()
        self._wake.set()

    async def run(self, until: int | None = None) -> Ending:
        """Delivers until it is stopped or must not go on.

        Args:
            until: The number of an entry of the log, up to which it delivers; None: for ever.

        Raises:
            ParkedError: The target is parked, and the delivery was to end at a number.
        """
        self._until = until
        self._task = asyncio.current_task()
        while not self._stopping:
            try:
                await self._once()
            except _CaughtUpError:
                return Ending.CAUGHT_UP
            except (CursorTakenError, CursorExpiredError) as error:
                return self._give_up(error)
            except asyncio.CancelledError:
                if not self._stopping:
                    raise
            except Exception as error:  # noqa: BLE001  a defect, too, must not end the delivery
                await self._begin_again(error)
        return Ending.DRAINED

    def _give_up(self, error: CursorTakenError | CursorExpiredError) -> Ending:
        """Says why the delivery must not go on."""
        self._become("stopped")
        if isinstance(error, CursorTakenError):
            _log.error(
                "another relay has taken this target's cursor over, so this one gives up; run one "
                "relay for each name",
                extra=self._labels(),
            )
            return Ending.TAKEN
        _log.critical(
            "this target's cursor has expired: nobody advanced it for too long, or somebody "
            "deleted it, and events after it may be gone from the log. Compare the target's last "
            "event with `keyfold events list`, and run `keyfold-relay forget FILE %s` to begin "
            "anew",
            self.name,
            extra=self._labels(),
        )
        return Ending.EXPIRED

    async def _begin_again(self, error: Exception) -> None:
        """Waits until the next attempt; the events are in the log, so beginning again is safe."""
        if isinstance(error, ParkedError):
            if self._until is not None:
                raise error
            await self._pause(KNOCK_EVERY)
            return
        self._outages += 1
        pause = min(backoff.wait(self._outages), _SOURCE_AGAIN)
        more = self._labels(again_in=round(pause, 1))
        if isinstance(error, NotNowError):
            if error.reason == UNKNOWN_PLACE:
                # Such as after a rollback, or under a new service key.
                self._taken_to = ""
            _log.warning("no events come: %s", error, extra=more | {"reason": error.reason})
        else:
            _log.error("the delivery failed and begins again", exc_info=error, extra=more)
        await self._pause(pause)

    async def _once(self) -> None:
        """Reads from the cursor and delivers, until the stream ends or the delivery is stopped."""
        async with self._source.watch(self._cursor, self._wanted, self._taken_to) as feed:
            self._backlog = backlog = Backlog(self._target.limits, self._clock)
            if self._stopping:
                return
            reader = asyncio.create_task(_read(feed, backlog), name=f"read {self.name}")
            try:
                await self._pass_on(feed, backlog)
            finally:
                self._backlog = self._sending = None
                reader.cancel()
                await asyncio.wait([reader])

    async def _pass_on(self, feed: Feed, backlog: Backlog) -> None:
        """Sends batch after batch, and advances the cursor behind them."""
        token, advanced = "", self._clock.monotonic()
        try:
            while True:
                due = advanced + ADVANCE_EVERY - self._clock.monotonic() if token else None
                batch = await backlog.take(due)
                if batch is None:
                    return
                if batch.events and not await self._send(batch.events):
                    return
                token = batch.token or token
                if batch.token:
                    self._outages, self._taken_to = 0, batch.token
                if token and self._clock.monotonic() >= advanced + ADVANCE_EVERY:
                    advanced = self._clock.monotonic()
                    if await self._advance(feed, token):
                        token = ""
                if self._until is not None and batch.number >= self._until:
                    raise _CaughtUpError
        finally:
            if token:
                await self._advance(feed, token)

    async def _advance(self, feed: Feed, token: str) -> bool:
        """Moves the cursor; returns whether it could, because a later attempt does as well."""
        try:
            await self._source.advance(self._cursor, feed.session, token)
        except NotNowError as error:
            _log.warning(
                "the cursor could not be moved: %s", error, extra=self._labels(reason=error.reason)
            )
            return False
        return True

    async def _send(self, events: Sequence[CloudEvent]) -> bool:
        """Sends events until the target has them all; returns False if it was stopped before.

        Raises:
            ParkedError: The target is parked.
        """
        self._compare(events)
        begin, failures = 0, 0
        while begin < len(events):
            part = events[begin : begin + self._most]
            self._sending = part[0]
            try:
                await self._target.send(part)
            except NotTakenError as error:
                if error.too_large and len(part) > 1:
                    self._most = len(part) // 2
                    continue
                failures += 1
                self._not_taken(part, error)
                pause = backoff.wait(failures, error.retry_after)
                _log.warning(
                    "the target has not taken events: %s",
                    error,
                    extra=self._labels(
                        first=part[0].number, events=len(part), again_in=round(pause, 1)
                    ),
                )
                await self._pause(pause)
                if self._stopping:
                    return False
            else:
                self._taken(part)
                begin, failures = begin + len(part), 0
        self._sending = None
        return True

    def _compare(self, events: Sequence[CloudEvent]) -> None:
        """Says so if the store has another event in the place of one that the target has.

        An event that comes again has the same id. So the store was rolled back, and the target has
        events that it no longer has. The delivery goes on: the target shall have both.
        """
        changed = next((e for e in events if self._ids.get(e.number, e.id) != e.id), None)
        if changed is not None:
            _log.critical(
                "the store has another event %d than the one that this target has: it was rolled "
                "back, or replaced. What the target has from there on is gone from the store; keep "
                "it, and compare",
                changed.number,
                extra=self._labels(),
            )
            self._ids.clear()

    def _not_taken(self, part: Sequence[CloudEvent], error: NotTakenError) -> None:
        self._retries.inc()
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if not error.gone and now - self._failing_since < self._park_after:
            self._become("retrying")
            return
        self._become("parked")
        _log.error(
            "the target is parked: %s; its events stay in the log, and the relay tries again every "
            "hour, on SIGHUP and when it starts",
            error,
            extra=self._labels(first=part[0].number),
        )
        raise ParkedError

    def _taken(self, part: Sequence[CloudEvent]) -> None:
        if self._failing_since is not None:
            self._failing_since = None
            _log.info("the target takes events again", extra=self._labels(first=part[0].number))
        self._become("delivering")
        self.count += len(part)
        self._ids.update((event.number, event.id) for event in part)
        while len(self._ids) > _REMEMBERED:
            self._ids.popitem(last=False)
        self._delivered.inc(len(part))
        now = self._clock.now()
        for event in part:
            self._arrival.observe(max(0.0, now - event.time))

    async def _pause(self, seconds: float) -> None:
        """Waits, until `stop` or `hurry` at the latest."""
        if not self._stopping:
            self._wake.clear()
            await self._clock.wait(self._wake, seconds)

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            for one in STATES:
                self._meters.state.labels(self.name, one).set(one == state)

    def _labels(self, **more: object) -> dict[str, object]:
        return {"target": self.name, "cursor": self._cursor, **more}


async def _read(feed: Feed, backlog: Backlog) -> None:
    """Puts a feed's messages into the backlog; its end is the backlog's end."""
    try:
        async for message in feed.messages():
            await backlog.put(message)
    except Exception as error:  # noqa: BLE001  whoever takes from the backlog raises it
        backlog.end(error)
