"""How long the relay waits before it tries again."""

from __future__ import annotations

import random
from typing import Final

FIRST: Final = 0.5
LONGEST: Final = 300.0
"""Seconds: the first wait is at most `FIRST`, each further one at most twice the one before, and
none is longer than `LONGEST` unless the target itself asks for more."""

MOST_ASKED: Final = 3_600.0
"""Most seconds of a target's own Retry-After that the relay heeds."""

_DOUBLINGS: Final = 20


def wait(failures: int, asked: float | None = None, draw: random.Random | None = None) -> float:
    """Returns seconds to wait.

    The time is drawn from the upper half of its bound, so that relays that failed together do not
    come back together, and none comes back at once.

    Args:
        failures: The number of failures in a row, at least 1.
        asked: The seconds that the other side asked for, or None.
        draw: Where randomness comes from.
    """
    most = min(LONGEST, FIRST * 2.0 ** min(failures - 1, _DOUBLINGS))
    drawn = (draw or random).uniform(most / 2, most)
    return max(drawn, min(asked or 0.0, MOST_ASKED))
