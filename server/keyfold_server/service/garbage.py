"""Garbage: keeps Python's garbage collector from stopping the event loop (protocol W5).

A full collection looks at every object in memory, and meanwhile no call goes on: for 20 to 30 ms
with 2,000 clusters in the key cache, which are 69,000 objects, and longer with more. Almost none of
them can be garbage of the kind that only the collector finds: what leaves the key cache is freed at
once, because `KeyCache` takes its references apart. So this module hides all objects that have
lived for a second from the collector, which takes no time (`gc.freeze`); they are freed as before
when nothing refers to them.

Cycles that were in use when they were hidden and became garbage later stay in memory until the next
full collection. There is one an hour, so they cannot add up.
"""

from __future__ import annotations

import gc
from typing import Final

from keyfold_server.domain.ports import Clock

EVERY: Final = 1.0
"""Seconds between two times that objects are hidden."""

FULL_EVERY: Final = 3600.0
"""Seconds between two full collections."""

_YOUNG: Final = 1
"""The oldest generation that a small collection looks at: objects made since the last freeze."""


class Garbage:
    """Collects the garbage of one process, in place of the collector's own full collections."""

    def __init__(self, clock: Clock) -> None:
        """Takes the clock; the first full collection comes with the first turn."""
        self._clock = clock
        self._full_at = float("-inf")

    async def turn(self) -> None:
        """Collects young garbage, or an hour after the last time all, and hides what lives on."""
        now = self._clock.monotonic()
        if now - self._full_at < FULL_EVERY:
            gc.collect(_YOUNG)
        else:
            self._full_at = now
            gc.unfreeze()
            gc.collect()
        gc.freeze()
