"""Coalescing for threads. It needs no thread of its own: one of those that wait sends the batch.

A thread sends one batch at most, the one that its own call is in, and not beyond its own deadline.
Then it hands the lead over and returns with its own answer. Whatever ends it earlier, such as a
KeyboardInterrupt, the others of its batch go alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from threading import Lock
from time import monotonic
from typing import Any, Final, Protocol

from keyfold.calls.call import Call, Response, Result
from keyfold.coalescing.batch import (
    ALONE,
    CLOSED,
    Outcome,
    batch_call,
    lane_key,
    outcome_of,
    outcomes,
    settle,
    too_late,
)
from keyfold.coalescing.lane import PATIENCE, CallerMetadata, Lane, Passenger
from keyfold.models.specs import Context
from keyfold.transport.tracing import Link, waiting_span

LINGER: Final = 0.0002
"""Seconds for which a call that comes right after a batch waits for the others of that batch: their
threads have just been woken, too, and call again if they are at work. Without this one of them
would go alone each time, and half of all calls to the server would be such calls."""

_MOST: Final = 64
"""Lanes to keep although nothing is under way in them."""


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
        lane: Its lane; None before it waits there.
        until: The deadline of the batch that it travels in, once it has an outcome.
    """

    __slots__ = ("_called", "_gate", "lane", "until")

    def __init__(
        self, call: Call[Any, Any], context: Context, now: float, limit: float, link: Link | None
    ) -> None:
        super().__init__(call, context, now, limit, link)
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
    """A lane that expects those of its last batch to come again. Then it has no holder at first.

    Attributes:
        expects: How many.
        until: Until when.
    """

    __slots__ = ("expects", "until")

    def __init__(self, key: Hashable, holder: object) -> None:
        super().__init__(key, holder)
        self.expects = 0
        self.until = 0.0

    def expect(self, count: int) -> None:
        """Expects so many calls."""
        self.holder = None
        self.expects = count
        self.until = monotonic() + LINGER

    def lead(self) -> _Waiter:
        """Makes one of those who wait the leader of the next batch, and returns it."""
        self.holder = leader = self.longest()
        return leader

    def take(self, leader: _Waiter) -> list[_Waiter]:
        """Takes the next batch off."""
        self.expects = 0
        return super().take(leader)

    def depose(self, other: _Waiter) -> None:
        """Has another call lead in place of one that takes too long.

        If that one only waits to lead, its thread may be gone. If it is not, it goes alone.
        """
        late = self.holder
        if isinstance(late, _Waiter) and late is not other and late in self.waiting:
            del self.waiting[late]
            _deliver([late], [ALONE])
        self.holder = other

    def expects_more(self, now: float) -> bool:
        """Returns whether the next batch waits for further calls."""
        return now < self.until and len(self.waiting) < self.expects


class Coalescer:
    """The lanes of one client, which any number of threads may share."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._lanes: dict[Hashable, _Lane] = {}

    def ask(
        self,
        sends: Sends,
        call: Call[Response, Result],
        context: Context,
        limit: float,
        caller: CallerMetadata,
    ) -> Result:
        """Sends a call, alone or with others, and returns its result.

        Args:
            sends: Sends the calls and batches.
            call: A call of one of the methods in `batch.KINDS`.
            context: The context of its key.
            limit: Seconds that the call may take.
            caller: What the call says of its caller.
        """
        key = lane_key(call, caller)
        if key is None:
            return call.result(sends.send(call, timeout=limit, caller=caller))
        with self._turn:
            lane = self._begin(key, call)
        if lane is None:
            return self._wait(sends, key, call, context, limit, caller)
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

    def _begin(self, key: Hashable, call: Call[Any, Any]) -> _Lane | None:
        """Returns the lane of a call that goes at once; None if it has to wait."""
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= _MOST:
                self._lanes = {
                    k: lane for k, lane in self._lanes.items() if lane.holder is not None
                }
            lane = self._lanes[key] = _Lane(key, call)
        elif lane.holder is None and not lane.expects_more(monotonic()):
            lane.holder = call
        else:
            return None
        return lane

    def _wait(
        self,
        sends: Sends,
        key: Hashable,
        call: Call[Response, Result],
        context: Context,
        limit: float,
        caller: CallerMetadata,
    ) -> Result:
        with waiting_span(call.method, call.service) as link:
            me = _Waiter(call, context, monotonic(), limit, link)
            try:
                self._join(key, me)
                batch = self._board(me)
                if batch is None or len(batch) > 1:
                    if batch is not None:
                        self._lead(sends, batch, caller)
                    result = settle(me, call, me.until, sends.failure)
                    if result is not ALONE:
                        return result
                return call.result(sends.send(call, timeout=me.left(monotonic()), caller=caller))
            finally:
                # Whatever ends the call, an interrupt at any place included.
                self._pass_on(me.lane, me)

    def _join(self, key: Hashable, me: _Waiter) -> None:
        """Has a call wait in its lane."""
        with self._turn:
            lane = self._lanes.get(key)
            if lane is None:  # The call that was under way has ended.
                lane = self._lanes[key] = _Lane(key, me)
            elif lane.holder is None:
                lane.holder = me
            me.lane = lane
            lane.waiting[me] = None
            if len(lane.waiting) == lane.expects and isinstance(lane.holder, _Waiter):
                lane.holder.wake()

    def _board(self, me: _Waiter) -> list[_Waiter] | None:
        """Waits for the call's outcome, and returns None; or until it leads, and returns its batch.

        Raises:
            DeadlineError: The call's deadline passed first.
        """
        patience = monotonic() + PATIENCE
        while me.outcome is None:
            with self._turn:
                me.awake()
                now = monotonic()
                if now >= me.deadline:
                    raise too_late(me.call)
                until = me.deadline
                if me.lane is not None and me in me.lane.waiting:
                    if now >= patience:
                        patience = now + PATIENCE
                        me.lane.depose(me)
                    if me.lane.holder is me:
                        if not me.lane.expects_more(now):
                            return me.lane.take(me)
                        until = min(until, me.lane.until)
                    until = min(until, patience)
            me.sleep(until)
        return None

    def _lead(self, sends: Sends, batch: list[_Waiter], caller: CallerMetadata) -> None:
        """Sends a batch and gives each of its calls its outcome."""
        me = batch[0]
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
            self._pass_on(me.lane, me, len(batch))

    def _pass_on(self, lane: _Lane | None, holder: object, travelled: int = 0) -> None:
        """Takes a call off its lane, and lets the next batch leave if that waited for this call.

        Args:
            lane: The lane; None: the call is in none yet.
            holder: The call.
            travelled: How many calls were in its batch, if it led one.
        """
        if lane is None:
            return
        with self._turn:
            if isinstance(holder, _Waiter):
                lane.waiting.pop(holder, None)
            if lane.holder is not holder:
                return
            if lane.waiting:
                lane.lead().wake()
            elif travelled:
                lane.expect(travelled)
            elif self._lanes.get(lane.key) is lane:
                del self._lanes[lane.key]


def _deliver(batch: Sequence[_Waiter], found: Sequence[Outcome]) -> None:
    """Gives calls their outcomes and wakes their threads. The leader's is awake."""
    until = batch[0].deadline if batch else 0.0
    for one, outcome in zip(batch, found, strict=True):
        one.until = until
        one.outcome = outcome
        one.wake()
