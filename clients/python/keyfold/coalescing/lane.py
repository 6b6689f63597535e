"""A lane: the calls that wait for one that is under way, and who may leave next.

Nothing here waits or takes a lock. In `threads` the coalescer's lock guards each lane, and in
`tasks` the event loop does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from keyfold.calls.batches import MAX_BYTES, MAX_ITEMS
from keyfold.calls.key_calls import KeyCall

if TYPE_CHECKING:
    from keyfold.transport.tracing import Link

Outcome: TypeAlias = Any
"""A result message of a batch, what was raised for a batch that failed, or an `Ending`."""

PATIENCE: Final = 0.01
"""Seconds for which a call waits for the one under way. A round trip within a region takes about a
millisecond, and one across an ocean is under way with a few others."""

SLACK: Final = 0.1
"""Seconds before its own deadline at which a call may end with its batch, and a tenth of the call's
time at most. The server itself gives up 0.05 s, or a tenth of the time, before a deadline."""

RESERVED: Final = 1024
"""Bytes to reserve for an item beyond those of its call: framing, and its result or its error."""


class Passenger:
    """A call that does not travel alone.

    Attributes:
        call: The call as it would travel alone.
        deadline: When its caller stops waiting, by the clock of its coalescer.
        limit: Seconds that it may take.
        link: Its span, for the span of the batch; None if it has no span.
        outcome: What became of it; None before that is known.
    """

    __slots__ = ("call", "deadline", "limit", "link", "outcome")

    def __init__(
        self, call: KeyCall[Any, Any], now: float, limit: float, link: Link | None
    ) -> None:
        self.call: Any = call
        self.deadline = now + limit
        self.limit = limit
        self.link = link
        self.outcome: Outcome | None = None

    @property
    def slack(self) -> float:
        """Seconds before its deadline at which its batch's may be."""
        return min(SLACK, self.limit / 10)

    @property
    def size(self) -> int:
        """Bytes that it takes of a batch."""
        size: int = self.call.size
        return size + RESERVED

    def left(self, now: float) -> float:
        """Returns the seconds that the call may still take."""
        return self.deadline - now


_P = TypeVar("_P", bound=Passenger)


class Lane(Generic[_P]):
    """The calls that may travel together.

    Attributes:
        key: What these calls have in common.
        holder: Whoever the others wait for: a call under way, or the leader of the next batch.
        waiting: The calls that wait, in their order. The leader of the next batch is one of them.
    """

    __slots__ = ("holder", "key", "waiting")

    def __init__(self, key: Hashable, holder: object) -> None:
        """Makes the lane of a call that goes at once."""
        self.key = key
        self.holder = holder
        self.waiting: dict[_P, None] = {}

    def longest(self) -> _P:
        """Returns the waiting call with the longest time left.

        It leads the next batch, so that the batch has time enough for all who wait now.
        """
        return max(self.waiting, key=_deadline)

    def batch(self, leader: _P) -> list[_P]:
        """Returns the next batch: its leader, and those who waited longest, as many as fit."""
        batch, size = [leader], leader.size
        for one in self.waiting:
            if one is leader:
                continue
            size += one.size
            if len(batch) == MAX_ITEMS or size > MAX_BYTES:
                break
            batch.append(one)
        return batch

    def take_off(self, batch: Iterable[_P]) -> None:
        """Takes calls off, so that they wait no more."""
        for one in batch:
            self.waiting.pop(one, None)


def _deadline(one: Passenger) -> float:
    return one.deadline
