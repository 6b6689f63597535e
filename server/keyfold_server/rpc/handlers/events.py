"""The methods of the event service that answer once: from bytes to the service and back."""

from __future__ import annotations

from typing import Final

from keyfold.v1 import event_service_pb2 as pb
from keyfold_server.domain.rights import Caller
from keyfold_server.rpc.handlers.unary import OnMessages, UnaryMethod
from keyfold_server.rpc.messages import events, requests, watch
from keyfold_server.rpc.messages.replies import time_of
from keyfold_server.service.loop_turns import one_by_one
from keyfold_server.service.replica import Replica

_PAGE_BYTES: Final = 3 * 1024 * 1024
"""Bytes after which a page ends: less than gRPC's clients accept by default."""


class EventMethods:
    """The methods of the event service on bytes."""

    def __init__(self, replica: Replica) -> None:
        """Takes the service."""
        self._replica = replica

    def table(self) -> dict[str, UnaryMethod]:
        """Returns the methods, by their names in the contract."""
        methods = {
            "ListEvents": OnMessages(pb.ListEventsRequest, self._list_events),
            "VerifyEvents": OnMessages(pb.VerifyEventsRequest, self._verify_events),
            "ListUsage": OnMessages(pb.ListUsageRequest, self._list_usage),
            "GetAnchor": OnMessages(pb.GetAnchorRequest, self._get_anchor),
            "AdvanceCursor": OnMessages(pb.AdvanceCursorRequest, self._advance_cursor),
            "ListCursors": OnMessages(pb.ListCursorsRequest, self._list_cursors),
            "DeleteCursor": OnMessages(pb.DeleteCursorRequest, self._delete_cursor),
        }
        return {name: method.on_bytes() for name, method in methods.items()}

    async def _list_events(
        self, asked: pb.ListEventsRequest, caller: Caller, _deadline: float
    ) -> pb.ListEventsResponse:
        page = await self._replica.events.page(
            caller.rights,
            events.event_filter(asked.filter),
            asked.page_size,
            asked.page_token,
            newest_first=asked.newest_first,
        )
        reply = pb.ListEventsResponse(
            next_page_token=page.next_token, store=self._replica.store_uid.hex()
        )
        size, last = 0, 0
        async for shown in one_by_one(page.events):
            message = events.event(shown)
            size += message.ByteSize()
            if size > _PAGE_BYTES and reply.events:
                reply.next_page_token = page.token_after(last)
                break
            reply.events.append(message)
            last = message.number
        return reply

    async def _verify_events(
        self, asked: pb.VerifyEventsRequest, caller: Caller, _deadline: float
    ) -> pb.VerifyEventsResponse:
        verified = await self._replica.log_checks.verify(
            caller.rights, asked.page_token, asked.anchors
        )
        return events.verified(verified)

    async def _get_anchor(
        self, _asked: pb.GetAnchorRequest, caller: Caller, _deadline: float
    ) -> pb.GetAnchorResponse:
        made = await self._replica.log_checks.anchor(caller.rights)
        return pb.GetAnchorResponse(
            anchor=made.line, number=made.anchor.number, time=time_of(made.anchor.time)
        )

    async def _advance_cursor(
        self, asked: pb.AdvanceCursorRequest, caller: Caller, _deadline: float
    ) -> pb.AdvanceCursorResponse:
        report = await self._replica.watches.cursors.advance(
            caller, asked.cursor, asked.session, asked.resume_token
        )
        return pb.AdvanceCursorResponse(cursor=watch.cursor(report, self._cursor_expiry))

    async def _list_cursors(
        self, _asked: pb.ListCursorsRequest, caller: Caller, _deadline: float
    ) -> pb.ListCursorsResponse:
        found = await self._replica.watches.cursors.list(caller)
        expiry = self._cursor_expiry
        return pb.ListCursorsResponse(cursors=[watch.cursor(each, expiry) for each in found])

    async def _delete_cursor(
        self, asked: pb.DeleteCursorRequest, caller: Caller, _deadline: float
    ) -> pb.DeleteCursorResponse:
        await self._replica.watches.cursors.delete(
            caller, asked.cursor, requests.sought(asked.caller, "caller") or ""
        )
        return pb.DeleteCursorResponse()

    @property
    def _cursor_expiry(self) -> float:
        return self._replica.timing.cursor_expiry

    async def _list_usage(
        self, asked: pb.ListUsageRequest, caller: Caller, _deadline: float
    ) -> pb.ListUsageResponse:
        page = await self._replica.usage.page(
            caller.rights, events.usage_filter(asked), asked.page_size, asked.page_token
        )
        return pb.ListUsageResponse(
            counts=[events.usage_count(each) for each in page.counts],
            next_page_token=page.next_token,
            read_time=time_of(page.read_at),
        )
