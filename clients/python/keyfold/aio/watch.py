"""Watching the states of clusters and the events of the log, and keeping a place among them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Self

from keyfold.aio.connection import Connection
from keyfold.calls import watch as calls
from keyfold.calls.events import EVERY_EVENT, EventFilter
from keyfold.calls.watch import PATIENCE, Moment, WatchCall, WatchState, ignored
from keyfold.errors import KeyfoldError, UnavailableError
from keyfold.models.watch import Cursor, WatchMessage
from keyfold.transport.failures import FAILURES
from keyfold.transport.line import Line
from keyfold.transport.message_reader import AsyncMessageReader, async_pause
from keyfold.v1.event_service_pb2 import WatchEventsResponse


class AsyncWatch:
    """A watch: iterate over it for its messages, which are values of `keyfold.models.watch`.

    When a stream ends because a server stops, is stale or cannot be reached, the watch goes on from
    the last message, on whichever server answers. Leave the loop, or `close` the watch, to end it.
    """

    def __init__(
        self,
        connection: Connection,
        state: WatchState,
        on_break: Callable[[KeyfoldError | None], None],
    ) -> None:
        self._connection = connection
        self._state = state
        self._on_break = on_break
        self._reader: AsyncMessageReader | None = None
        self._closed = False

    @property
    def resume_token(self) -> str:
        """The token of the last message, for a later watch or `advance_cursor`."""
        return self._state.resume_token

    @property
    def response(self) -> WatchEventsResponse:
        """The last message as the contract has it."""
        return self._state.response

    @property
    def cursor_session(self) -> str:
        """What `advance_cursor` has to present; empty without a cursor."""
        return self._state.cursor_session

    @property
    def age(self) -> float:
        """Seconds since a look of the server at its store of which this watch has told everything.

        It grows while nothing comes, whatever the reason; it is infinite before the first
        heartbeat. A cache of keys counts from it, and not from the arrival of a message: heartbeats
        that lay unread are as old as they are.
        """
        return self._state.age

    def good_until(self, silence: float) -> Moment:
        """Returns until when a cache may rely on what the watch has told.

        Args:
            silence: Most seconds without a heartbeat. Servers send one every 5 seconds.
        """
        return self._state.good_until(silence)

    @property
    def max_age(self) -> timedelta:
        """The age at which a server ends its stream; zero before the first heartbeat."""
        return self._state.max_age

    def close(self) -> None:
        """Ends the watch. From another thread or task, it ends the loop that reads it."""
        self._closed = True
        if self._reader is not None:
            self._reader.cut()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[WatchMessage]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[WatchMessage]:
        while not self._closed:
            ended: KeyfoldError | None = None
            call, line = self._state.call(), self._connection.line()
            try:
                async for message in self._one_stream(call, line):
                    yield message
            except FAILURES as failed:
                found = self._connection.failure(failed, call)
                if not isinstance(found, KeyfoldError):
                    raise
                ended = found
            if self._closed:
                return
            # With renewed certificates the next stream begins at once, and nothing has failed.
            if self._connection.line() is line:
                try:
                    wait = self._state.failed(ended)
                except UnavailableError as error:  # the first stream could not be begun
                    raise await self._connection.explained(error) from error
                self._on_break(ended)
                await async_pause(wait)

    async def _one_stream(self, call: WatchCall, line: Line) -> AsyncIterator[WatchMessage]:
        stream = self._connection.stream(call, line)
        with AsyncMessageReader(stream, PATIENCE) as self._reader:
            if self._closed:
                return  # `close` may have cut the stream before this one.
            async for response in self._reader:
                for message in self._state.take(response):
                    yield message
                if self._state.stepped or self._connection.line() is not line:
                    return


class Watching(Connection):
    """The calls that watch, and those about cursors."""

    def watch(
        self,
        clusters: Iterable[str] = (),
        *,
        organization: str = "",
        states: bool = True,
        events: bool = False,
        narrow: EventFilter = EVERY_EVENT,
        resume_token: str = "",
        cursor: str = "",
        on_break: Callable[[KeyfoldError | None], None] = ignored,
    ) -> AsyncWatch:
        """Watches the states of clusters, the events about them, or both.

        First come the states of all clusters that the arguments mean, then `SnapshotEnd`, then each
        change. States in between may be left out; the last one never is. Events are told each, in
        the order of the log, from the beginning of the watch or from the cursor on. Every few
        seconds comes a `Heartbeat`.

        Args:
            clusters: The names of the clusters; none: all of the organization or, without one, all
                that the caller may see.
            organization: The organization that the clusters belong to.
            states: Whether to tell states, for which the right to use the clusters' keys is enough.
            events: Whether to tell events, which needs the role auditor.
            narrow: Selects events.
            resume_token: The token of an earlier watch with the same arguments.
            cursor: The name of a cursor to begin from. The watch takes it over from whoever has it.
            on_break: Called with what has ended a stream that the watch will begin again, or None
                if it ended without an error, nothing came for too long, or a clock was set.

        Raises:
            ArgumentTypeError: An argument has a type that is not taken.
            KeyfoldError: In the loop: the first stream cannot be begun or, later, going on would
                lose something or is not allowed any more.

        Example:
            >>> async with client.watch(["prod"]) as watch:
            ...     async for message in watch:
            ...         if isinstance(message, keyfold.ClusterState):
            ...             break
            >>> message.exists, [str(region.state) for region in message.regions]
            (True, ['ENABLED', 'ENABLED'])
        """
        state = WatchState(
            clusters,
            organization=organization,
            states=states,
            events=events,
            narrow=narrow,
            resume_token=resume_token,
            cursor=cursor,
        )
        return AsyncWatch(self, state, on_break)

    async def advance_cursor(
        self, cursor: str, session: str, resume_token: str, *, timeout: float | None = None
    ) -> Cursor:
        """Says that everything up to a message is dealt with, so that pruning may pass it.

        Args:
            cursor: The name of the cursor.
            session: The `cursor_session` of the watch.
            resume_token: The `resume_token` of the watch after the message.
            timeout: Deadline of the call, in seconds.

        Raises:
            CursorTakenError: Another reader has taken the cursor over.
            CursorNotFoundError: There is none of this name.
            CursorExpiredError: It has expired.
        """
        return await self._ask(calls.advance_cursor(cursor, session, resume_token), timeout)

    async def list_cursors(self, *, timeout: float | None = None) -> tuple[Cursor, ...]:
        """Lists the caller's cursors; for an auditor of everything, those of all callers.

        Raises:
            NotAllowedError: The caller is not an auditor.
        """
        return await self._ask(calls.list_cursors(), timeout)

    async def delete_cursor(
        self, cursor: str, *, caller: str = "", timeout: float | None = None
    ) -> None:
        """Deletes a cursor of this caller, or, for an operator of everything, of another one.

        Raises:
            CursorNotFoundError: There is none of this name.
        """
        await self._ask(calls.delete_cursor(cursor, caller), timeout)
