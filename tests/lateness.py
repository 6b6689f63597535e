"""How late this machine is: a time limit on a test holds for the code, not for a busy machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self

_TICK: Final = 0.01


@contextmanager
def in_time(limit: float) -> Iterator[None]:
    """Fails if the block takes longer than this many seconds, beyond those the machine was late."""
    with Lateness() as machine:
        began = time.monotonic()
        yield
        took = time.monotonic() - began
    assert took < limit + machine.late, (
        f"took {took:.3f} s, and the machine was {machine.late:.3f} s late"
    )


class Lateness:
    """Measures how late this machine wakes a thread that waits, while it is entered.

    A busy machine delays the code under test as it delays this thread, which shares nothing with
    it. On a machine that is not busy, nothing is late.

    Attributes:
        late: Seconds that the thread's waits took too long, over all waits that took twice as long
            as they should.
    """

    def __init__(self, told: Callable[[float, float], None] = lambda _at, _late: None) -> None:
        """Takes a function that hears of each late wait: its end, and by how much it was late."""
        self.late = 0.0
        self._told = told
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        began = time.monotonic()
        over = False
        while not over:
            over = self._over.wait(_TICK)
            now = time.monotonic()
            if now - began > 2 * _TICK:
                self.late += now - began - _TICK
                self._told(now, now - began - _TICK)
            began = now
