"""The source that asks Keyfold's `EventService`.

Invariant: this is all that the relay says to a server. It calls no method that needs a key, or that
changes anything but its own cursors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import Message as Request

from keyfold.calls.call import EVENTS
from keyfold.errors import KeyfoldError
from keyfold.errors.rpc_status import error_of_call
from keyfold.transport.caller import Caller
from keyfold.transport.channel import endpoint
from keyfold.transport.line import Lines
from keyfold.transport.loops import async_this_loop
from keyfold.transport.tls import Tls
from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay import cloudevents
from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.config import ConfigError, Server
from keyfold_relay.source.source import (
    CursorExpiredError,
    CursorTakenError,
    Feed,
    Message,
    NotNowError,
    Usage,
)

TIMEOUT: Final = 10.0
"""Seconds for a call that is not a stream."""

_PAGE: Final = 1_000
"""Events of one page of ListEvents."""

_PATIENCE: Final = 60.0
"""Seconds without any message, heartbeats included, after which a stream counts as dead."""

_Call: TypeAlias = "grpc.aio.UnaryStreamCall[pb.WatchEventsRequest, pb.WatchEventsResponse]"


class EventService:
    """A connection to the servers.

    Args:
        server: The table `[keyfold]` of the file.

    Raises:
        ConfigError: A value of it cannot be used.
    """

    def __init__(self, server: Server) -> None:
        files = (server.ca, server.cert, server.key, server.server_name)
        secured = server.tls or any(one is not None for one in files)
        try:
            self._caller = Caller(server.token_file, None)
            tls = Tls(server.ca, server.cert, server.key, server.server_name) if secured else None
            to = endpoint(server.target, tls, with_token=self._caller.brings_token)
        except (ValueError, OSError) as error:
            raise ConfigError(f"[keyfold]: {error}") from None
        self._lines = Lines(to, to.aio_channel, async_this_loop)
        self._name = ""
        self._store = ""

    async def close(self) -> None:
        """Closes the connection."""
        for channel in self._lines.close():
            await channel.close()

    @asynccontextmanager
    async def watch(
        self, cursor: str, wanted: pb.EventFilter, token: str = ""
    ) -> AsyncIterator[Feed]:
        """See `Source`."""
        request = pb.WatchEventsRequest(
            events=True, filter=wanted, cursor=cursor, resume_token=token
        )
        with _failures():
            line = self._lines.line()
            stub: Any = line.stubs[EVENTS]
            call: _Call = stub.WatchEvents(request, metadata=self._metadata())
            try:
                yield _Stream(call, await _next(call), lambda: self._lines.line() is line)
            finally:
                call.cancel()

    async def advance(self, cursor: str, session: str, token: str) -> None:
        """See `Source`."""
        with _failures():
            answer = await self._asked(
                "AdvanceCursor",
                pb.AdvanceCursorRequest(cursor=cursor, session=session, resume_token=token),
            )
        self._name = answer.cursor.caller

    async def cursors(self) -> dict[str, pb.Cursor]:
        """Returns the cursors of this caller, by name.

        A caller who may see everything sees other callers' cursors, too. Until this one has moved a
        cursor of its own, it does not know its own name, and all of them are returned.
        """
        with _failures():
            answer = await self._asked("ListCursors", pb.ListCursorsRequest())
        found = (one for one in answer.cursors if self._name in ("", one.caller))
        return {cursor.name: cursor for cursor in found}

    async def newest(self, cursor: str) -> int:
        """Returns the number of the newest entry of the log.

        Args:
            cursor: A cursor, from which the number is reckoned.

        Raises:
            NotNowError: The server does not answer, or there is no such cursor.
        """
        found = (await self.cursors()).get(cursor)
        if found is None:
            raise NotNowError(
                f"there is no cursor {cursor}; `keyfold-relay run` makes it", "CURSOR_NOT_FOUND"
            )
        return found.number + found.behind

    async def probe(self) -> None:
        """Asks for one event, and for the cursors, as `keyfold-relay check`.

        Raises:
            NotNowError: The server does not answer, or does not let this caller read events.
        """
        request = pb.ListEventsRequest(page_size=1)
        with _failures():
            await self._asked("ListEvents", request)
        await self.cursors()

    async def time(self) -> float:
        """See `UsageSource`."""
        # Nothing was counted before 1970, so this reads the time alone.
        request = pb.ListUsageRequest(page_size=1)
        request.end_time.seconds = 0
        with _failures():
            page = await self._asked("ListUsage", request)
        return float(page.read_time.seconds + page.read_time.nanos / 1e9)

    async def usage(self, start: int, span: int, wanted: Usage) -> list[CloudEvent]:
        """See `UsageSource`."""
        request = pb.ListUsageRequest(
            cluster=wanted.cluster,
            organization=wanted.organization,
            caller=wanted.caller,
            page_size=_PAGE,
        )
        request.start_time.seconds, request.end_time.seconds = start, start + span
        request.span.seconds = span
        counts: dict[str, list[pb.UsageCount]] = {}
        with _failures():
            while True:
                page = await self._asked("ListUsage", request)
                for count in page.counts:
                    counts.setdefault(count.cluster, []).append(count)
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
            if counts and not self._store:
                newest = await self._asked("ListEvents", pb.ListEventsRequest(page_size=1))
                self._store = newest.store
        return [
            cloudevents.usage(some, start, span, self._store) for _, some in sorted(counts.items())
        ]

    async def forget(self, cursor: str) -> None:
        """Deletes a cursor.

        Raises:
            NotNowError: The server does not answer, or there is no such cursor.
        """
        with _failures():
            await self._asked("DeleteCursor", pb.DeleteCursorRequest(cursor=cursor))

    async def events(self, wanted: pb.EventFilter) -> AsyncIterator[CloudEvent]:
        """Yields the events that match now, oldest first, without any cursor."""
        request = pb.ListEventsRequest(filter=wanted, page_size=_PAGE)
        while True:
            with _failures():
                page = await self._asked("ListEvents", request)
            for event in page.events:
                yield cloudevents.made(event, page.store)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _asked(self, method: str, request: Request) -> Any:
        line = self._lines.line()
        ask = getattr(line.stubs[EVENTS], method)
        return await ask(request, timeout=TIMEOUT, metadata=self._metadata())

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._caller.metadata())


class _Stream:
    """A stream of WatchEvents whose first message has arrived."""

    def __init__(
        self, call: _Call, first: pb.WatchEventsResponse, goes_on: Callable[[], bool]
    ) -> None:
        """Takes the stream.

        Args:
            call: gRPC's call.
            first: Its first message.
            goes_on: Returns whether new streams would still go over the same connection.
        """
        self._call = call
        self._first = first
        self._goes_on = goes_on
        self.session = first.cursor_session
        self._store = first.store

    async def messages(self) -> AsyncIterator[Message]:
        """See `Feed`."""
        with _failures():
            message = self._first
            while True:
                if message.HasField("event"):
                    event = cloudevents.made(message.event, self._store)
                    yield Message(event, message.resume_token, event.number)
                elif message.resume_token:
                    yield Message(None, message.resume_token, message.heartbeat.number)
                if not self._goes_on():
                    raise NotNowError("the relay's certificates were renewed", "RENEWED")
                message = await _next(self._call)


async def _next(call: _Call) -> pb.WatchEventsResponse:
    """Returns the next message of a stream.

    Raises:
        NotNowError: The stream has ended, or is silent for longer than its heartbeats allow.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            message = await call.read()
    except TimeoutError:
        raise NotNowError(f"the server sent nothing for {_PATIENCE:g} s", "SILENT") from None
    if isinstance(message, pb.WatchEventsResponse):
        return message
    raise NotNowError("the server ended the stream", "ENDED")


@contextmanager
def _failures() -> Iterator[None]:
    """Raises the errors of `Source` in place of gRPC's."""
    try:
        yield
    except grpc.RpcError as failed:
        raise _error(error_of_call(failed)) from failed


def _error(error: KeyfoldError) -> Exception:
    if error.reason == "CURSOR_TAKEN":
        return CursorTakenError(error.message)
    # Pruning passes a place that a live cursor has not passed only if that cursor is gone.
    if error.reason in {"CURSOR_EXPIRED", "RESUME_TOKEN_EXPIRED"}:
        return CursorExpiredError(error.message)
    return NotNowError(error.message, error.reason)
