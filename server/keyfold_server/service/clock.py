"""The machine's clocks."""

from __future__ import annotations

import time


class SystemClock:
    """Reads the machine's clocks."""

    def monotonic(self) -> float:
        """Returns seconds that go on while the machine sleeps.

        So a replica that was suspended wakes up knowing that its view is stale (protocol S3).
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Returns seconds of Unix time."""
        return time.time()
