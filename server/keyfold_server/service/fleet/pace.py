"""Pace: how soon a hastened poll may begin (protocol S12)."""

from __future__ import annotations

from time import monotonic
from typing import Final

_BURST: Final = 2
"""Hastened polls that begin at once after a pause: one reads a change, the next one reports it."""


class Pace:
    """Spaces hastened polls. Safe for one thread."""

    def __init__(self, spacing: float) -> None:
        """Takes the seconds between two polls in the long run."""
        self._spacing = spacing
        self._next = 0.0

    def take(self) -> float:
        """Returns the seconds to wait before the next poll, and counts that poll as begun then."""
        # The machine's own clock: the thread that waits does so in real time.
        now = monotonic()
        self._next = max(self._next, now - (_BURST - 1) * self._spacing)
        wait = max(0.0, self._next - now)
        self._next += self._spacing
        return wait
