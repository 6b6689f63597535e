"""The machine's clocks."""

from __future__ import annotations

import time
from functools import partial


class SystemClock:
    """Reads the machine's clocks.

    Attributes:
        monotonic: Returns seconds that go on while the machine sleeps. So a replica that was
            suspended wakes up knowing that its view is stale (protocol S3).
        wall: Returns seconds of Unix time.
    """

    # Not methods: a warm call reads the clocks six times, and a method takes longer than a clock.
    monotonic = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME))
    wall = staticmethod(time.time)
