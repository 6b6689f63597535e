"""Coalescing for asyncio. A batch has a task of its own, so that no caller's cancellation ends it.

The task ends when its batch does, or when every call of the batch has been cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from keyfold.calls.call import Call, Response, Result
from keyfold.calls.key_calls import KeyCall
from keyfold.coalescing.batch import (
    ALONE,
    LATE,
    batch_call,
    lane_key,
    outcome_of,
    outcomes,
    settle,
)
from keyfold.coalescing.lane import PATIENCE, Lane, Outcome, Passenger
from keyfold.transport.caller import CallerMetadata
from keyfold.transport.tracing import Link, waiting_span


class AsyncSends(Protocol):
    """Sends calls, as a client does."""

    async def send(
        self,
        call: Call[Response, Result],
        *,
        timeout: float | None = None,
        caller: CallerMetadata | None = None,
        links: Sequence[Link] = (),
    ) -> Response:
        """Sends a call and returns its response, or raises a KeyfoldError."""
        ...

    def failure(self, failed: BaseException, call: Call[Response, Result]) -> BaseException:
        """Returns the error of a call for what was raised."""
        ...


class _Batch:
    """A batch under way.

    Attributes:
        calls: The calls in it.
        until: Its deadline, which is that of the call with the longest time left.
    """

    __slots__ = ("_left", "_loop", "_task", "_timer", "calls", "until")

    def __init__(
        self, calls: Sequence[_Waiter], task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.calls = calls
        deadlines = [one.deadline for one in calls]
        self.until = max(deadlines)
        self._left = len(calls)
        self._task = task
        self._loop = loop
        for one in calls:
            one.batch = self
        self._timer: asyncio.TimerHandle | None = loop.call_at(min(deadlines), self._watch)

    def _watch(self) -> None:
        """Ends the calls whose deadline has passed, and waits for the next deadline."""
        now = self._loop.time()
        ahead = [one.deadline for one in self.calls if not one.late(now)]
        self._timer = self._loop.call_at(min(ahead), self._watch) if ahead else None

    def leave(self) -> None:
        """Notes that nobody waits for one of the calls any more."""
        self._left -= 1
        if not self._left:
            self._task.cancel()

    def end(self, found: Sequence[Outcome]) -> None:
        """Gives each call its outcome."""
        if self._timer is not None:
            self._timer.cancel()
        for one, outcome in zip(self.calls, found, strict=True):
            if not one.ended.done():
                one.outcome = outcome
                one.ended.set_result(None)


class _Waiter(Passenger):
    """A call whose task waits.

    Attributes:
        ended: Done as soon as the call has an outcome.
        surroundings: The context variables of its task.
        batch: The batch that it travels in; None before it does.
    """

    __slots__ = ("batch", "ended", "surroundings")

    def __init__(
        self,
        call: KeyCall[Any, Any],
        now: float,
        limit: float,
        link: Link | None,
        ended: asyncio.Future[None],
    ) -> None:
        super().__init__(call, now, limit, link)
        self.ended = ended
        self.surroundings = contextvars.copy_context()
        self.batch: _Batch | None = None

    def end(self, outcome: Outcome) -> None:
        """Gives the call its outcome and wakes its task, if that still waits."""
        if not self.ended.done():
            self.outcome = outcome
            self.ended.set_result(None)

    def late(self, now: float) -> bool:
        """Ends the call if its deadline has passed; returns whether it has ended in any way."""
        if self.deadline <= now:
            self.end(LATE)
        return self.ended.done()


class _Lane(Lane[_Waiter]):
    """A lane with the timer that lets a batch leave when the call under way takes long."""

    __slots__ = ("timer",)

    def __init__(self, key: Hashable, holder: object) -> None:
        super().__init__(key, holder)
        self.timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Stops the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class AsyncCoalescer:
    """The lanes of one client, all on its event loop."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, _Lane] = {}
        self._batches: set[asyncio.Task[None]] = set()

    async def ask(
        self,
        sends: AsyncSends,
        call: KeyCall[Response, Result],
        limit: float,
        caller: CallerMetadata,
    ) -> Result:
        """Sends a call, alone or with others, and returns its result.

        Args:
            sends: Sends the calls and batches.
            call: The call.
            limit: Seconds that the call may take.
            caller: What the call says of its caller.
        """
        key = lane_key(call, caller)
        if key is None:
            return await _alone(sends, call, limit, caller)
        lane = self._lanes.get(key)
        if lane is None:
            return await self._go(sends, key, call, limit, caller)
        # Waiting is no coroutine of its own: each one would cost every call a microsecond.
        loop = asyncio.get_running_loop()
        with waiting_span(call.method, call.service) as link:
            me = _Waiter(call, loop.time(), limit, link, loop.create_future())
            lane.waiting[me] = None
            if lane.timer is None or limit < PATIENCE:
                self._watch(sends, lane, caller, min(PATIENCE, limit))
            try:
                await me.ended
                until = me.deadline if me.batch is None else me.batch.until
                result = settle(me, call, until, sends.failure)
                if result is not ALONE:
                    return result
                return await _alone(sends, call, me.left(loop.time()), caller)
            finally:
                lane.waiting.pop(me, None)
                if me.batch is not None:
                    me.batch.leave()
                self._pass_on(sends, lane, me, caller)

    async def _go(
        self,
        sends: AsyncSends,
        key: Hashable,
        call: KeyCall[Response, Result],
        limit: float,
        caller: CallerMetadata,
    ) -> Result:
        """Sends a call that finds its lane empty."""
        lane = self._lanes[key] = _Lane(key, call)
        try:
            return await _alone(sends, call, limit, caller)
        finally:
            self._pass_on(sends, lane, call, caller)

    def close(self) -> None:
        """Ends the calls that wait as gRPC ends those that are under way, which it cancels."""
        for lane in self._lanes.values():
            lane.stop()
            for one in lane.waiting:
                one.end(asyncio.CancelledError())
            lane.waiting.clear()
        self._lanes.clear()

    def _watch(
        self, sends: AsyncSends, lane: _Lane, caller: CallerMetadata, patience: float
    ) -> None:
        """Sets a lane's timer, unless it goes off earlier."""
        loop = asyncio.get_running_loop()
        at = loop.time() + patience
        if lane.timer is not None and lane.timer.when() <= at:
            return
        lane.stop()
        lane.timer = loop.call_at(at, self._hurry, sends, lane, caller)

    def _hurry(self, sends: AsyncSends, lane: _Lane, caller: CallerMetadata) -> None:
        """Ends the calls whose deadline has passed; the others leave beside the one under way."""
        lane.timer = None
        now = asyncio.get_running_loop().time()
        for one in [one for one in lane.waiting if one.late(now)]:
            del lane.waiting[one]
        if lane.waiting:
            self._depart(sends, lane, caller)

    def _pass_on(
        self, sends: AsyncSends, lane: _Lane, holder: object, caller: CallerMetadata
    ) -> None:
        """Lets the next batch leave, if that has waited for this call or batch."""
        if lane.holder is not holder:
            return
        lane.stop()
        if lane.waiting:
            self._depart(sends, lane, caller)
        elif self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    def _depart(self, sends: AsyncSends, lane: _Lane, caller: CallerMetadata) -> None:
        leader = lane.longest()
        # With the leader's context variables, so that the batch's span is in the leader's trace.
        lane.holder = task = asyncio.get_running_loop().create_task(
            self._travel(sends, lane, leader, caller), context=leader.surroundings
        )
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _travel(
        self, sends: AsyncSends, lane: _Lane, leader: _Waiter, caller: CallerMetadata
    ) -> None:
        """Takes the next batch, sends it, and gives each of its calls its outcome."""
        # Those who have just been answered make their next calls first, which then travel along.
        await asyncio.sleep(0)
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101  this is a coroutine of a task
        lane.stop()
        if leader not in lane.waiting:  # It was cancelled.
            if not lane.waiting:
                self._pass_on(sends, lane, task, caller)
                return
            leader = lane.longest()
        calls = lane.batch(leader)
        lane.take_off(calls)
        if lane.waiting:
            self._watch(sends, lane, caller, PATIENCE)
        if len(calls) == 1:
            if lane.holder is task:
                lane.holder = leader
            leader.end(ALONE)
            return
        batch = _Batch(calls, task, loop)
        found: Sequence[Outcome] = [ALONE] * len(calls)
        try:
            response = await sends.send(
                batch_call(calls),
                timeout=batch.until - loop.time(),
                caller=caller,
                links=[one.link for one in calls[1:] if one.link is not None],
            )
            found = outcomes(calls, response)
        except asyncio.CancelledError:
            for one in calls:
                one.ended.cancel()
            raise
        except Exception as error:  # noqa: BLE001  each call raises an error of its own
            found = [outcome_of(error)] * len(calls)
        finally:
            batch.end(found)
            # Those who were answered call again in the next turn of the loop, and travel together.
            loop.call_soon(self._pass_on, sends, lane, task, caller)


async def _alone(
    sends: AsyncSends, call: Call[Response, Result], limit: float, caller: CallerMetadata
) -> Result:
    return call.result(await sends.send(call, timeout=limit, caller=caller))
