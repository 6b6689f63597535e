"""Reads requests, but only once there is room for them and somebody to charge the room to.

A request that came with its call is small, and the number of calls bounds the bytes of all such
requests; it is handed on at once. Any other request must find room before it is read. If it does
not arrive in time, it gives its room back.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.errors import DeadlineError, MalformedRequestError, OverloadedError
from keyfold_server.domain.ports import Clock
from keyfold_server.rpc.call import Call
from keyfold_server.rpc.incoming.request_room import Holder, RequestRoom
from keyfold_server.rpc.messages.sizes import LARGEST, UNASKED

LOOK: Final = 0.25
"""Seconds between two looks for requests that did not arrive in time."""


class Receiver:
    """Reads the requests of one server."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        """Takes how much may be in memory at once, and how long a request may take to arrive."""
        self._room = RequestRoom(
            bounds.request_bytes,
            bounds.request_bytes_per_caller,
            LARGEST,
            bounds.calls_per_caller,
        )
        self._timeout = bounds.receive_timeout
        self._clock = clock
        # To look the loop up takes longer in Python 3.11 than all that happens here to a request.
        self._loop = asyncio.get_running_loop()
        # The requests that arrive or wait for room, oldest first, and since when they do.
        self._arriving: dict[asyncio.Task[Any], float] = {}
        # Those of them that have room and whose caller is unknown, oldest first.
        self._strangers: dict[asyncio.Task[Any], None] = {}

    async def request(
        self,
        call: Call,
        account: Holder,
        now: float | None = None,
        *,
        stranger: bool = False,
        bounded: bool = True,
    ) -> bytes | None:
        """Reads the request of a call, or the next one of a stream.

        Call `done` when the request is no longer needed, so that its room is given back.

        Args:
            call: The call.
            account: Counts the room that the caller's requests take.
            now: Monotonic seconds, if the caller of this method has just looked at the clock.
            stranger: True for a call without a credential, such as a health probe's. All strangers
                share one account. So that slow ones cannot keep a probe waiting, the oldest request
                of a stranger gives way when a new one finds no room.
            bounded: False if something else bounds how many of the caller's requests wait for room.

        Returns:
            The request's bytes, or None where the client ended the call, or went away, before the
            request was whole.

        Raises:
            OverloadedError: There was no room for the request in time.
            DeadlineError: The request did not arrive in time.
        """
        data = call.whole
        if data is not None:
            return data
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101  a transport runs each handler in a task
        room = self._room
        arriving = self._arriving
        arriving[task] = self._clock.monotonic() if now is None else now
        taken = 0
        try:
            if not room.take(account):
                if stranger:
                    self._make_way()
                await room.wait(account, bounded=bounded)
            taken = LARGEST
            if stranger:
                self._strangers[task] = None
            data = await call.read()
            if data is not None:
                taken -= _counted(data)
        except asyncio.CancelledError:
            if task in arriving:
                raise  # The client has gone.
            task.uncancel()
            raise self._late(had_room=bool(taken) and not stranger) from None
        finally:
            arriving.pop(task, None)
            if stranger:
                self._strangers.pop(task, None)
            if taken:
                room.give(account, taken)
        return data

    def done(self, account: Holder, data: bytes) -> None:
        """Gives back the room of a request that is no longer needed."""
        size = _counted(data)
        if size:
            self._room.give(account, size)

    def now(self) -> float:
        """Returns the time, in monotonic seconds."""
        return self._clock.monotonic()

    async def give_up_late(self) -> None:
        """Gives up requests that did not arrive in time."""
        late = self._clock.monotonic() - self._timeout
        while self._arriving:
            task, began = next(iter(self._arriving.items()))
            if began > late:
                break
            del self._arriving[task]
            task.cancel()

    def _make_way(self) -> None:
        """Gives up the stranger's request that has held its room longest."""
        for task in self._strangers:
            if self._arriving.pop(task, None) is not None:
                del self._strangers[task]
                task.cancel()
                return

    def _late(self, *, had_room: bool) -> Exception:
        if had_room:
            return DeadlineError(
                f"the request did not arrive within {self._timeout:g} seconds; send it at once"
            )
        return OverloadedError(
            "there is no room for further requests of this caller; have fewer large ones under "
            "way, and try again",
            retry_after=1.0,
        )


def whole(data: bytes | None) -> bytes:
    """Returns a request that must be there.

    Raises:
        MalformedRequestError: The call ended before the request was whole.
    """
    if data is None:
        raise MalformedRequestError("the call ended before its request was whole; send all of it")
    return data


def _counted(data: bytes) -> int:
    """Returns the bytes of room that a request takes once it has arrived."""
    size = len(data)
    return size if size > UNASKED else 0
