"""The calls of a watch and of cursors; and what a watch knows between two streams."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final, NamedTuple

from keyfold.arguments import checked
from keyfold.calls.call import EVENTS, Call, Plane
from keyfold.calls.events import EventFilter
from keyfold.errors import (
    CancelledError,
    DeadlineError,
    InternalError,
    KeyfoldError,
    LimitError,
    ResumeTokenExpiredError,
    ResumeTokenInvalidError,
    UnauthenticatedError,
    UnavailableError,
    WatchTooSlowError,
)
from keyfold.models.watch import (
    ClusterState,
    Cursor,
    Heartbeat,
    SnapshotEnd,
    WatchMessage,
    watch_message,
)
from keyfold.v1 import event_service_pb2 as api

PATIENCE: Final = 20.0
"""Seconds without a message after which a stream counts as dead: the time of four heartbeats."""

_SHORTEST: Final = 0.1
"""Seconds before a stream is begun again; twice as many after each failure."""

_LONGEST: Final = 5.0
"""Most seconds before a stream is begun again."""

_STEP: Final = 1.0
"""Seconds by which the two clocks may part before what began earlier counts no more."""

_FIRST: Final = 3
"""Times that a stream is begun again before a watch that has heard nothing yet gives up."""

AGAIN: Final = (
    CancelledError,
    DeadlineError,
    InternalError,
    LimitError,
    UnavailableError,
    WatchTooSlowError,
)
"""The errors after which a watch begins its stream again, on whichever server answers."""

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

WatchCall = Call[api.WatchEventsResponse, WatchMessage | None]


def clock() -> float:
    """Returns monotonic seconds that go on while the machine sleeps, where the system has them."""
    return time.clock_gettime(_CLOCK)


def wall() -> float:
    """Returns seconds of Unix time."""
    return time.time()


class Moment(NamedTuple):
    """A moment by two clocks. What has passed since is what the clock says that shows more (S3).

    The monotonic clock stands still while a virtual machine is paused, and the wall clock can be
    set back; hardly ever both.
    """

    monotonic: float
    wall: float

    def after(self, seconds: float) -> Moment:
        """Returns the moment so many seconds later."""
        return Moment(self.monotonic + seconds, self.wall + seconds)

    def before(self, end: Moment) -> bool:
        """Returns whether an end has not come yet, by either clock."""
        return self.monotonic < end.monotonic and self.wall < end.wall

    @property
    def age(self) -> float:
        """Seconds since then."""
        return max(clock() - self.monotonic, wall() - self.wall)


NEVER: Final = Moment(float("-inf"), float("-inf"))
"""A moment before all others."""


def moment() -> Moment:
    """Returns this moment."""
    return Moment(clock(), wall())


class WatchState:
    """What a watch knows between two streams: where to go on, what it has told, how old that is.

    Attributes:
        resume_token: The token of the last message, for a later watch with the same arguments.
        cursor_session: What `advance_cursor` has to present; empty without a cursor.
        max_age: The age at which the server ends a stream.
        response: The last message as the contract has it.
    """

    @checked
    def __init__(
        self,
        clusters: Iterable[str],
        *,
        organization: str,
        states: bool,
        events: bool,
        narrow: EventFilter,
        resume_token: str,
        cursor: str,
    ) -> None:
        """Prepares a watch; see `Watching.watch`."""
        self._request = api.WatchEventsRequest(
            clusters=clusters,
            organization=organization,
            states=states,
            events=events,
            filter=narrow.to_message(),
            cursor=cursor,
        )
        self.resume_token = resume_token
        self.cursor_session = ""
        self.max_age = timedelta()
        self.response = api.WatchEventsResponse()
        self._begun_at = self._heard_at = self._told_at = NEVER
        self._alive: set[str] = set()
        self._told: set[str] = set()
        self._pause = 0.0
        self._failures = 0
        self._began = self._ever = False

    def call(self) -> WatchCall:
        """Returns the call that begins the stream, or begins it again."""
        self._told.clear()
        self._began = False
        if self.stepped:
            self._told_at = self._heard_at = NEVER
        self._begun_at = moment()
        request = api.WatchEventsRequest()
        request.CopyFrom(self._request)
        request.resume_token = self.resume_token
        return Call("WatchEvents", request, watch_message, Plane.CONTROL, service=EVENTS)

    @property
    def age(self) -> float:
        """Seconds since a look of the server at its store of which the watch has told everything.

        It grows while nothing comes, whatever the reason. Infinite before the first heartbeat.
        """
        return self._told_at.age

    def good_until(self, silence: float) -> Moment:
        """Returns until when what the watch has told is the newest that its server may rely on.

        It counts from the last heartbeat of a stream that had caught up: until the server's look
        at its store is too old for the server, and until nothing has come for a while.

        Args:
            silence: Seconds from when the server made the heartbeat.
        """
        by_store = self._told_at.after(self.max_age.total_seconds())
        by_stream = self._heard_at.after(silence)
        return Moment(*map(min, by_store, by_stream))

    @property
    def stepped(self) -> bool:
        """Whether a clock was set, or the machine paused, since the stream was asked for.

        How old this stream's messages are cannot be told any more.
        """
        now, begun = moment(), self._begun_at
        return abs((now.wall - begun.wall) - (now.monotonic - begun.monotonic)) > _STEP

    def take(self, response: api.WatchEventsResponse) -> Iterator[WatchMessage]:
        """Takes a message of the stream, and yields what the caller gets for it."""
        self._pause, self._began, self._ever = 0.0, True, True
        self.cursor_session = response.cursor_session or self.cursor_session
        # The stream is begun again only when the caller asks for more, and so has dealt with this.
        self.resume_token = response.resume_token
        message = watch_message(response)
        self.response = response
        if isinstance(message, ClusterState):
            self._told.add(message.cluster)
            (self._alive.add if message.exists else self._alive.discard)(message.cluster)
        elif isinstance(message, SnapshotEnd):
            # What the stream has not told does not exist any more.
            for name in sorted(self._alive - self._told):
                gone = api.ClusterState(cluster=name)
                self.response = api.WatchEventsResponse(
                    state=gone, resume_token=response.resume_token
                )
                yield ClusterState(name)
            self._alive &= self._told
            self.response = response
        elif isinstance(message, Heartbeat):
            self.max_age = message.max_store_age
            if message.store_age is not None:
                # From when the server made it, and not from when it is read: a program that was
                # stopped, or has much else to do, must not take an old heartbeat for a new one.
                # The stream began after it was asked for, so this errs to the safe side.
                made_at = self._begun_at.after(message.stream_age.total_seconds())
                heard_at = Moment(*map(min, made_at, moment()))
                told_at = heard_at.after(-message.store_age.total_seconds())
                if told_at.monotonic > self._told_at.monotonic:
                    self._told_at = told_at
                if heard_at.monotonic > self._heard_at.monotonic:
                    self._heard_at = heard_at
        if message is not None:
            yield message

    def failed(self, error: KeyfoldError | None) -> float:
        """Returns the seconds to wait before the stream is begun again.

        Args:
            error: What has ended it; None: the server ended it without an error, or sent nothing
                for `PATIENCE` seconds.

        Raises:
            KeyfoldError: It must not be begun again.
        """
        if error is None and not self._ever:
            message = (
                f"the watch could not begin: the server said nothing for {PATIENCE:g} seconds, or"
                " ended the stream without a reason"
            )
            raise UnavailableError(message, code="UNAVAILABLE")
        if isinstance(error, ResumeTokenExpiredError | ResumeTokenInvalidError):
            if self._request.events or not self.resume_token:
                raise error
            # States are told anew from a snapshot, and nothing is lost. How fresh an earlier
            # server was says nothing about one that does not go on from there.
            self.resume_token = ""
            self._told_at = self._heard_at = NEVER
            return 0.0
        # A credential that expired during the stream may be replaced by now.
        renewed = isinstance(error, UnauthenticatedError) and self._began
        self._failures += 1
        passing = AGAIN if self._ever else (CancelledError, UnavailableError)
        again = (self._ever or self._failures <= _FIRST) and isinstance(error, passing)
        if error is not None and not renewed and not again:
            raise error
        self._pause = min(max(_SHORTEST, self._pause * 2), _LONGEST)
        wait = self._pause * random.uniform(0.5, 1.0)  # noqa: S311  spreads load, hides nothing
        return max(wait, (error.retry_after or 0.0) if error is not None else 0.0)


@checked
def advance_cursor(
    cursor: str, session: str, resume_token: str
) -> Call[api.AdvanceCursorResponse, Cursor]:
    """Prepares an AdvanceCursor call."""
    request = api.AdvanceCursorRequest(cursor=cursor, session=session, resume_token=resume_token)
    return Call("AdvanceCursor", request, _cursor, Plane.CONTROL, service=EVENTS)


def list_cursors() -> Call[api.ListCursorsResponse, tuple[Cursor, ...]]:
    """Prepares a ListCursors call."""
    request = api.ListCursorsRequest()
    return Call("ListCursors", request, _cursors, Plane.CONTROL, service=EVENTS)


@checked
def delete_cursor(cursor: str, caller: str) -> Call[api.DeleteCursorResponse, None]:
    """Prepares a DeleteCursor call."""
    request = api.DeleteCursorRequest(cursor=cursor, caller=caller)
    return Call("DeleteCursor", request, _nothing, Plane.CONTROL, service=EVENTS)


def _cursor(response: api.AdvanceCursorResponse) -> Cursor:
    return Cursor.from_message(response.cursor)


def _cursors(response: api.ListCursorsResponse) -> tuple[Cursor, ...]:
    return tuple(map(Cursor.from_message, response.cursors))


def _nothing(_: api.DeleteCursorResponse) -> None:
    return None


def ignored(_: KeyfoldError | None) -> None:
    """Takes the end of a stream, of which nobody wants to hear."""
