"""How requests come in: none is asked for before its caller is known and there is room for it.

A method that gRPC takes for a unary one has its request received whole before our first line runs,
whoever sent it. So on this side every method is one with a stream of requests, of which the first
is read; what a client sends is the same. Until then gRPC holds of a call what it lets a client send
unasked, and no more. A request that does not arrive in time gives its room back.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from grpc.aio import EOF

from keyfold_server.domain.errors import DeadlineError, MalformedRequestError, OverloadedError
from keyfold_server.domain.ports import Clock
from keyfold_server.service.intake import Intake
from keyfold_server.service.limits import Account, Bounds

UNASKED: Final = 16 * 1024
"""Bytes of a request that a client may send before it is asked for: most are smaller than that,
and cost no further round trip. They are counted by the number of calls, not by their bytes."""

SLACK: Final = 1024 * 1024
"""Bytes beyond the largest message that gRPC itself takes. What is larger than a message may be is
refused by the handlers, with a reason; this is the end of that."""

_LOOK: Final = 0.25
"""Seconds between two looks for requests that did not arrive in time."""


class Receiver:
    """Reads the requests of one server."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        """Takes how much may be in memory at once, and how long a request may take to arrive."""
        self._intake = Intake(
            bounds.request_bytes,
            bounds.request_bytes_per_caller,
            bounds.message_bytes + SLACK,
            bounds.calls_per_caller,
        )
        self._within = bounds.receive_timeout
        self._clock = clock
        # In the order of their arrival, so that those that are late stand first.
        self._arriving: dict[asyncio.Task[Any], float] = {}
        # Those of callers whom nobody knows that have room, longest first.
        self._strangers: dict[asyncio.Task[Any], None] = {}

    async def request(
        self, context: Any, account: Account, now: float | None = None, *, stranger: bool = False
    ) -> bytes | None:
        """Returns the request of a call, or the next one of a stream; `done` gives its room back.

        Args:
            context: Of the call.
            account: Of its caller.
            now: Monotonic seconds, where they are known.
            stranger: Nobody knows the caller, and its account is everybody's: it may not keep the
                next one waiting. A probe's request comes with its call; one that does not makes
                way.

        Returns:
            Its bytes; None: the client ended, or went away, before a request was whole.

        Raises:
            OverloadedError: There is no room for it, and none came in time.
            DeadlineError: It did not arrive in time.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  gRPC runs each handler in a task
        intake, share = self._intake, account.requests
        arriving = self._arriving
        arriving[task] = self._clock.monotonic() if now is None else now
        size = 0
        try:
            if not intake.take(share):
                if stranger:
                    self._make_way()
                await intake.wait(share)
            size = intake.largest
            if stranger:
                self._strangers[task] = None
            data = await context.read()
            if data is EOF:
                return None
            size -= _counted(data)
        except asyncio.CancelledError:
            if task in arriving:
                raise  # Its client has gone.
            task.uncancel()
            raise self._late(room=bool(size) and not stranger) from None
        finally:
            arriving.pop(task, None)
            self._strangers.pop(task, None)
            intake.give(share, size)
        assert isinstance(data, bytes)  # noqa: S101  no deserializer is registered
        return data

    def done(self, account: Account, data: bytes) -> None:
        """Gives back the room of a request that is no longer needed."""
        size = _counted(data)
        if size:
            self._intake.give(account.requests, size)

    async def keep_time(self) -> None:
        """Ends the wait for requests that are late, until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            late = self._clock.monotonic() - self._within
            while self._arriving:
                task, began = next(iter(self._arriving.items()))
                if began > late:
                    break
                del self._arriving[task]
                task.cancel()

    def _make_way(self) -> None:
        """Gives up that request of a stranger which has had room for longest."""
        for task in self._strangers:
            if self._arriving.pop(task, None) is not None:
                del self._strangers[task]
                task.cancel()
                return

    def _late(self, *, room: bool) -> Exception:
        if room:
            return DeadlineError(
                f"the request did not arrive within {self._within:g} seconds; send it at once"
            )
        return OverloadedError(
            "there is no room for further requests of this caller; have fewer large ones under "
            "way, and try again",
            retry_after=1.0,
        )


def whole(data: bytes | None) -> bytes:
    """Returns a request that has to be there.

    Raises:
        MalformedRequestError: It is not.
    """
    if data is None:
        raise MalformedRequestError("the call ended before its request was whole; send all of it")
    return data


def _counted(data: bytes) -> int:
    """Returns how much room a request takes that has arrived."""
    size = len(data)
    return size if size > UNASKED else 0
