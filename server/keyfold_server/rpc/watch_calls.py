"""WatchEvents: from a call to the service, and messages back until something ends the stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from keyfold.v1 import event_service_pb2 as pb
from keyfold_server.domain.errors import WatchTooSlowError
from keyfold_server.domain.rights import Caller, Rights
from keyfold_server.rpc.call import Call
from keyfold_server.rpc.call_log import Facts
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.messages import requests
from keyfold_server.rpc.messages.watch import WatchMessages, watch_request
from keyfold_server.service.replica import Replica
from keyfold_server.service.watch.messages import Message

_STALLED: Final = 60.0
"""Seconds for which a reader may leave a message unread, before its watch ends."""


class WatchMethod:
    """Answers WatchEvents."""

    def __init__(self, replica: Replica, callers: Callers) -> None:
        """Takes the service, and what identifies callers."""
        self._replica = replica
        self._callers = callers
        self._messages = WatchMessages(replica.timing.cache_ttl)

    async def stream(self, data: bytes, call: Call, caller: Caller, facts: Facts) -> None:
        """Streams to a caller until something ends the watch.

        Raises:
            KeyfoldError: What has ended it.
            CancelledError: The caller has gone.
        """
        asked = requests.decode(pb.WatchEventsRequest, data)
        if len(asked.clusters) == 1:
            facts.cluster = asked.clusters[0]
        request = watch_request(asked)
        store = self._replica.store_uid.hex()

        async def send(message: Message, token: str, session: str) -> None:
            nonlocal store
            # Only the first message names the store.
            encoded, store = self._messages.encoded(message, token, session, store), ""
            try:
                async with asyncio.timeout(_STALLED):
                    await call.write(encoded)
            except TimeoutError:
                raise WatchTooSlowError(
                    f"the reader has left a message unread for {_STALLED:g} seconds; resume with "
                    "the token of the last message, and read on"
                ) from None

        who = _Who(self._callers, call, caller, self._callers.claims)
        await self._replica.watches.watch(request, caller, who, send)


@dataclass(slots=True)
class _Who:
    """The caller of a stream; see `service.watch.watch.Who`.

    Attributes:
        callers: What identifies callers.
        call: The call that the stream answers.
        caller: Its caller, as it was identified last.
        claims: The claims that were read from the caller's token then.
    """

    callers: Callers
    call: Call
    caller: Caller
    claims: frozenset[str]

    def rights(self) -> Rights:
        claims = self.callers.claims
        if claims != self.claims:
            # Grants go by other claims now, and the token may have them.
            self.caller, self.claims = self.callers.at_once(self.call, final=True), claims
        return self.callers.rights(self.caller.rights.identity)

    async def again(self) -> Caller:
        self.caller = await self.callers.caller(self.call)
        return self.caller
