"""Stalls of event loops (protocol W5): no test may hold one up by computing, unless it says so.

A server's loop watch logs how long the loop was held up, and for how long of that it computed. Only
what it computed counts here: a machine that is busy with other work holds up every loop.
"""

from __future__ import annotations

import gc
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from keyfold_server.service import loop_watch

HELD = 2 * loop_watch.LATE
"""Seconds of computing in a row that fail a test. The watch cannot tell one call from a burst of
many short ones, of which a busy machine makes a longer one."""

_LINE = re.compile(r"held up for ([0-9.]+) s, and computed for ([0-9.]+) s")


def _nothing(_: float) -> float:
    return 0.0


def logged(log: str, besides: Callable[[float], float] = _nothing) -> list[str]:
    """Returns the stalls in a server's log.

    Args:
        log: The log.
        besides: Returns how many of the last so many seconds the loop computed for somebody else.
    """
    return [
        line[0] for line in _LINE.finditer(log) if float(line[2]) - besides(float(line[1])) > HELD
    ]


def check(stalls: Sequence[str]) -> None:
    """Fails if there were stalls."""
    assert not stalls, f"an event loop was {stalls}; the log says by what"


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collects the stalls of the servers in this process.

    It leaves out what Python's collector took. That looks at the objects of the whole test run, of
    which there are far more than in a server.
    """
    lines: list[str] = []
    collections = _Collections()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(logged(record.getMessage(), collections.within))

    collector = Collector()
    loop_watch.log.addHandler(collector)
    gc.callbacks.append(collections)
    try:
        yield lines
    finally:
        gc.callbacks.remove(collections)
        loop_watch.log.removeHandler(collector)


class _Collections:
    """What each thread spent in Python's collector, which calls this when it begins and ends."""

    def __init__(self) -> None:
        self._began: dict[int, float] = {}
        self._ended: list[tuple[int, float, float]] = []

    def __call__(self, phase: str, _: object) -> None:
        thread = threading.get_ident()
        if phase == "start":
            self._began[thread] = time.thread_time()
        elif thread in self._began:
            took = time.thread_time() - self._began.pop(thread)
            self._ended.append((thread, time.monotonic(), took))

    def within(self, seconds: float) -> float:
        """Returns what collections took that this thread ended in the last so many seconds."""
        thread, since = threading.get_ident(), time.monotonic() - seconds
        # A copy, since a collection may begin on the way.
        ends = self._ended.copy()
        return sum(took for who, ended, took in ends if who == thread and ended >= since)
