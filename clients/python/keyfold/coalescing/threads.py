"""Coalescing for threads. It needs no thread of its own: one of those that wait sends the batch.

A thread sends one batch at most, the one that its own call is in, and not beyond its own deadline.
Then it hands the lead over and returns with its own answer. Whatever ends it earlier, such as a
KeyboardInterrupt, the others of its batch go alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from threading import Lock
from time import monotonic, sleep
from typing import Any, Protocol

from keyfold.calls.call import Call, Response, Result
from keyfold.calls.key_calls import KeyCall
from keyfold.coalescing.batch import (
    ALONE,
    CLOSED,
    batch_call,
    lane_key,
    outcome_of,
    outcomes,
    settle,
    too_late,
)
from keyfold.coalescing.lane import PATIENCE, Lane, Outcome, Passenger
from keyfold.transport.caller import CallerMetadata
from keyfold.transport.tracing import Link, waiting_span


class Sends(Protocol):
    """Sends calls, as a client does."""

    def send(
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


class _Waiter(Passenger):
    """A call whose thread waits.

    Attributes:
        batch: The batch that it leads; empty before it does, or if it leads none.
        lane: Its lane; None before it waits there.
        until: The deadline of the batch that it travels in, once it has an outcome.
    """

    __slots__ = ("_called", "_gate", "batch", "lane", "until")

    def __init__(
        self, call: KeyCall[Any, Any], now: float, limit: float, link: Link | None
    ) -> None:
        super().__init__(call, now, limit, link)
        self.batch: Sequence[_Waiter] = ()
        self.lane: _Lane | None = None
        self.until = self.deadline
        self._called = False
        self._gate = Lock()
        self._gate.acquire()

    def sleep(self, until: float) -> None:
        """Waits until this thread is woken, or until a time."""
        self._gate.acquire(timeout=max(0.0, until - monotonic()))

    def wake(self) -> None:
        """Wakes the thread. The coalescer's lock guards this, and `awake`."""
        if not self._called:
            self._called = True
            self._gate.release()

    def awake(self) -> None:
        """Notes that the thread is awake, so that it can sleep and be woken again."""
        if self._called:
            self._called = False
            self._gate.acquire(blocking=False)


class _Lane(Lane[_Waiter]):
    """A lane of calls whose threads wait."""

    __slots__ = ("_last", "_seen")

    def __init__(self, key: Hashable, holder: object) -> None:
        super().__init__(key, holder)
        self._last = 0
        self._seen = 0

    def lead(self) -> _Waiter:
        """Makes one of those who wait the leader of the next batch, and returns it."""
        self.holder = leader = self.longest()
        self._seen = 0
        return leader

    def grows(self) -> bool:
        """Returns whether more calls wait than at the last look, and fewer than travelled last.

        Then its leader gives the other threads a turn. Python wakes the threads of a batch one
        after the other, and without this the first few would leave without the others.
        """
        seen, self._seen = self._seen, len(self.waiting)
        return seen < self._seen < self._last

    def depart(self, leader: _Waiter) -> list[_Waiter]:
        """Takes the next batch off, and returns it."""
        batch = self.batch(leader)
        self.take_off(batch)
        self._last = len(batch)
        return batch

    def depose(self, other: _Waiter) -> None:
        """Has another call lead in place of one that takes too long.

        If that one only waits to lead, its thread may be gone. If it is not, it goes alone.
        """
        late = self.holder
        if isinstance(late, _Waiter) and late is not other and late in self.waiting:
            del self.waiting[late]
            _deliver([late], [ALONE])
        self.holder = other


class Coalescer:
    """The lanes of one client, which any number of threads may share."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._lanes: dict[Hashable, _Lane] = {}

    def ask(
        self,
        sends: Sends,
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
            return call.result(sends.send(call, timeout=limit, caller=caller))
        lane = None
        with self._turn:
            if key not in self._lanes:
                lane = self._lanes[key] = _Lane(key, call)
        if lane is None:
            return self._wait(sends, key, call, limit, caller)
        try:
            return call.result(sends.send(call, timeout=limit, caller=caller))
        finally:
            self._pass_on(lane, call)

    def close(self) -> None:
        """Ends the calls that wait. gRPC ends those that are under way."""
        with self._turn:
            for lane in self._lanes.values():
                _deliver(list(lane.waiting), [CLOSED] * len(lane.waiting))
                lane.waiting.clear()
            self._lanes.clear()

    def _wait(
        self,
        sends: Sends,
        key: Hashable,
        call: KeyCall[Response, Result],
        limit: float,
        caller: CallerMetadata,
    ) -> Result:
        with waiting_span(call.method, call.service) as link:
            me = _Waiter(call, monotonic(), limit, link)
            try:
                self._join(key, me)
                self._board(me)
                if len(me.batch) > 1:
                    self._lead(sends, me.batch, caller)
                if len(me.batch) != 1:
                    result = settle(me, call, me.until, sends.failure)
                    if result is not ALONE:
                        return result
                return call.result(sends.send(call, timeout=me.left(monotonic()), caller=caller))
            finally:
                # Whatever has ended the call, such as an interrupt in any line.
                if me.lane is not None:
                    self._pass_on(me.lane, me)

    def _join(self, key: Hashable, me: _Waiter) -> None:
        """Has a call wait in its lane."""
        with self._turn:
            lane = self._lanes.get(key)
            if lane is None:  # The call that was under way has ended.
                lane = self._lanes[key] = _Lane(key, me)
            me.lane = lane
            lane.waiting[me] = None

    def _board(self, me: _Waiter) -> None:
        """Waits until the call has an outcome, or has a batch to lead.

        Raises:
            DeadlineError: The call's deadline passed first.
        """
        patience = monotonic() + PATIENCE
        while me.outcome is None:
            gathers = False
            with self._turn:
                me.awake()
                # The outcome may have come with the waking that is now heard. None will follow.
                if me.outcome is not None:
                    return
                now = monotonic()
                if now >= me.deadline:
                    raise too_late(me.call)
                until = me.deadline
                if me.lane is not None and me in me.lane.waiting:
                    late = now >= patience
                    if late:
                        patience = now + PATIENCE
                        me.lane.depose(me)
                    if me.lane.holder is me:
                        gathers = me.lane.grows() and not late
                        if not gathers:
                            me.batch = me.lane.depart(me)
                            return
                    until = min(until, patience)
            if gathers:
                sleep(0)
            else:
                me.sleep(until)

    def _lead(self, sends: Sends, batch: Sequence[_Waiter], caller: CallerMetadata) -> None:
        """Sends a batch and gives each of its calls its outcome."""
        me, lane = batch[0], batch[0].lane
        assert lane is not None  # noqa: S101  it has waited there
        found: Sequence[Outcome] = [ALONE] * len(batch)
        try:
            response = sends.send(
                batch_call(batch),
                timeout=me.left(monotonic()),
                caller=caller,
                links=[one.link for one in batch[1:] if one.link is not None],
            )
            found = outcomes(batch, response)
        except Exception as error:  # noqa: BLE001  each call raises an error of its own
            found = [outcome_of(error)] * len(batch)
        finally:
            with self._turn:
                _deliver(batch, found)
            # Those who were answered have a turn, call again, and travel together.
            sleep(0)
            self._pass_on(lane, me)

    def _pass_on(self, lane: _Lane, holder: object) -> None:
        """Takes a call off its lane, and lets the next batch leave if that waited for this call."""
        with self._turn:
            if isinstance(holder, _Waiter):
                lane.waiting.pop(holder, None)
                left = [one for one in holder.batch if one.outcome is None]
                _deliver(left, [ALONE] * len(left))
            if lane.holder is not holder:
                return
            if lane.waiting:
                lane.lead().wake()
            elif self._lanes.get(lane.key) is lane:
                del self._lanes[lane.key]


def _deliver(batch: Sequence[_Waiter], found: Sequence[Outcome]) -> None:
    """Gives calls their outcomes and wakes their threads. The leader's is awake."""
    until = batch[0].deadline if batch else 0.0
    for one, outcome in zip(batch, found, strict=True):
        one.until = until
        one.outcome = outcome
        one.wake()
