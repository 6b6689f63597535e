"""Staleness: for how long this replica may go on without having seen the store (protocol S3).

It counts from when the last good poll began, by the larger of two spans: the time since boot, which
goes on while the machine sleeps, and wall-clock time. So a paused process wakes up refusing.

KEKs stay in memory meanwhile but serve no call, and expire as they always do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import StoreStaleError
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.timing import Timing


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by both clocks, in seconds: since boot, and of Unix time."""

    monotonic: float
    wall: float

    @classmethod
    def now(cls, clock: Clock) -> Moment:
        """Returns the present moment."""
        return cls(clock.monotonic(), clock.wall())


NEVER: Final = Moment(float("-inf"), float("-inf"))
"""The last good poll of a replica that has had none."""


class Staleness:
    """Refuses once the last good poll is too old.

    Attributes:
        last_poll: The moment at which the last good poll began.
    """

    def __init__(self, clock: Clock, timing: Timing) -> None:
        """Begins stale: no poll has been good yet."""
        self.last_poll = NEVER
        self._clock = clock
        self._timing = timing

    def check(self, now: float) -> None:
        """Refuses if this replica has not seen the store for too long.

        Args:
            now: Monotonic seconds.

        Raises:
            StoreStaleError: The last good poll began too long ago, by one of the clocks.
        """
        limit = self._timing.store_max_staleness
        last = self.last_poll
        if now - last.monotonic > limit or self._clock.wall() - last.wall > limit:
            raise StoreStaleError(
                f"this replica has not seen the store for {limit:g} seconds, so it does not "
                "know what holds now; call another one",
                retry_after=self._timing.store_poll,
            )

    def age(self) -> float:
        """Returns the seconds since the last good poll began, by the clock that shows more."""
        return self.since(self.last_poll)

    def since(self, moment: Moment) -> float:
        """Returns the seconds since a moment, by the clock that shows more."""
        now = Moment.now(self._clock)
        return max(now.monotonic - moment.monotonic, now.wall - moment.wall)
