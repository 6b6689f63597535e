"""An `EventService` of the tests: a log and cursors in memory, over gRPC on loopback.

It keeps what a server promises to readers, and can be stopped and started again on its port as
replicas are, while its log and its cursors stay as a store does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from keyfold.v1 import event_service_pb2 as pb
from relay_fakes import STORE, event
from wire_errors import WireError

Context = Any


class Log:
    """What a store has.

    Attributes:
        events: The entries, serialized as they are sent.
        cursors: The number and the session of each cursor.
        expired: The names of cursors that have expired.
    """

    def __init__(self) -> None:
        self.events: list[pb.Event] = []
        self.cursors: dict[str, tuple[int, str]] = {}
        self.expired: set[str] = set()
        self.news = asyncio.Condition()

    async def append(self, count: int = 1) -> None:
        """Adds entries."""
        async with self.news:
            begin = len(self.events) + 1
            self.events += [event(number) for number in range(begin, begin + count)]
            self.news.notify_all()

    def number(self, cursor: str) -> int:
        """Returns where a cursor stands."""
        return self.cursors[cursor][0]


class Replica:
    """A server of a log.

    Attributes:
        target: Its address, which a restart keeps.
        streams: How many streams it has begun.
    """

    def __init__(self, log: Log, heartbeat: float = 0.2) -> None:
        self.log = log
        self.target = "127.0.0.1:0"
        self.streams = 0
        self._heartbeat = heartbeat
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Begins to listen."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self._handlers(),))
        port = self._server.add_insecure_port(self.target)
        self.target = f"127.0.0.1:{port}"
        await self._server.start()

    def _handlers(self) -> grpc.GenericRpcHandler:
        """Returns the methods that a relay calls."""
        service = pb.DESCRIPTOR.services_by_name["EventService"]
        handlers = {}
        for method in service.methods:
            if (behaviour := getattr(self, method.name, None)) is not None:
                make = (
                    grpc.unary_stream_rpc_method_handler
                    if method.server_streaming
                    else grpc.unary_unary_rpc_method_handler
                )
                handlers[method.name] = make(
                    behaviour,
                    request_deserializer=GetMessageClass(method.input_type).FromString,
                    response_serializer=GetMessageClass(method.output_type).SerializeToString,
                )
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    async def stop(self) -> None:
        """Breaks every call off, as a killed server does."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def WatchEvents(  # noqa: N802
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        self.streams += 1
        await self._check(request.cursor, None, context)
        session = secrets.token_hex(8)
        number = self.log.cursors.get(request.cursor, (0, ""))[0]
        self.log.cursors[request.cursor] = number, session
        yield pb.WatchEventsResponse(
            heartbeat=pb.Heartbeat(number=number),
            resume_token=str(number),
            cursor_session=session,
            store=STORE,
        )
        while True:
            for entry in self.log.events[number : number + 500]:
                number = entry.number
                yield pb.WatchEventsResponse(event=entry, resume_token=str(number))
            await self._check(request.cursor, session, context)
            if number < len(self.log.events):
                continue
            try:
                async with asyncio.timeout(self._heartbeat), self.log.news:
                    await self.log.news.wait()
            except TimeoutError:
                yield pb.WatchEventsResponse(
                    heartbeat=pb.Heartbeat(number=number), resume_token=str(number)
                )

    async def AdvanceCursor(  # noqa: N802
        self, request: pb.AdvanceCursorRequest, context: Context
    ) -> pb.AdvanceCursorResponse:
        await self._check(request.cursor, request.session, context)
        number = int(request.resume_token)
        assert self.log.cursors[request.cursor][0] <= number <= len(self.log.events)
        self.log.cursors[request.cursor] = number, request.session
        return pb.AdvanceCursorResponse(cursor=self._cursor(request.cursor))

    async def ListCursors(  # noqa: N802
        self, request: pb.ListCursorsRequest, context: Context
    ) -> pb.ListCursorsResponse:
        return pb.ListCursorsResponse(cursors=map(self._cursor, self.log.cursors))

    async def DeleteCursor(  # noqa: N802
        self, request: pb.DeleteCursorRequest, context: Context
    ) -> pb.DeleteCursorResponse:
        self.log.cursors.pop(request.cursor)
        self.log.expired.discard(request.cursor)
        return pb.DeleteCursorResponse()

    async def ListEvents(  # noqa: N802
        self, request: pb.ListEventsRequest, context: Context
    ) -> pb.ListEventsResponse:
        begin = max(int(request.page_token or 0), request.filter.first_number - 1)
        last = request.filter.last_number or len(self.log.events)
        end = min(begin + request.page_size, last)
        return pb.ListEventsResponse(
            events=self.log.events[begin:end],
            next_page_token=str(end) if end < last else "",
            store=STORE,
        )

    def _cursor(self, name: str) -> pb.Cursor:
        number = self.log.number(name)
        return pb.Cursor(name=name, number=number, behind=len(self.log.events) - number)

    async def _check(self, cursor: str, session: str | None, context: Context) -> None:
        error = None
        if cursor in self.log.expired:
            error = WireError(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED", "it has expired")
        elif session is not None and self.log.cursors[cursor][1] != session:
            error = WireError(grpc.StatusCode.ABORTED, "CURSOR_TAKEN", "another reader took it")
        if error is not None:
            await context.abort_with_status(rpc_status.to_status(error.status()))
