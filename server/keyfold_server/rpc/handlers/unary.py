"""What methods on messages have in common: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.rights import Caller
from keyfold_server.rpc.call_log import Facts
from keyfold_server.rpc.messages import requests

UnaryMethod = Callable[[bytes, Caller, float, Facts], Awaitable[bytes]]
"""Takes the request's bytes, the caller, the deadline in monotonic seconds, and the call's facts;
fills in the facts, and returns the reply's bytes."""


@dataclass(frozen=True, slots=True)
class OnMessages:
    """One method: its request message and the function that answers it.

    Attributes:
        request: The request message.
        answer: Returns the reply, given the request, the caller and the deadline.
        absent: Says whether a reply is the one about what does not exist. What is hidden from the
            caller gets the same one, and must get it at the same time (protocol C8).
    """

    request: type[Message]
    answer: Callable[[Any, Caller, float], Awaitable[Message]]
    absent: Callable[[Any], bool] | None = None

    def on_bytes(self) -> UnaryMethod:
        """Returns the method on bytes."""

        async def answer(data: bytes, caller: Caller, deadline: float, facts: Facts) -> bytes:
            asked = requests.decode(self.request, data)
            facts.cluster = getattr(asked, "cluster", "")
            try:
                reply = await self.answer(asked, caller, deadline)
            except KeyfoldError as error:
                raise requests.placed(error, asked) from None
            facts.not_found = self.absent is not None and self.absent(reply)
            return reply.SerializeToString()

        return answer
