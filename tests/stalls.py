"""Stalls of event loops (protocol W5): no test may hold one up by computing, unless it says so.

A server's loop watch logs how long the loop was held up, and for how long of that it computed. Only
what it computed counts here: a machine that is busy with other work holds up every loop.
"""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from keyfold_server.service import loop_watch

HELD = 2 * loop_watch.LATE
"""Seconds of computing in a row that fail a test. The watch cannot tell one call from a burst of
many short ones, of which a busy machine makes a longer one."""

_LINE = re.compile(r"held up for ([0-9.]+) s, and computed for ([0-9.]+) s")


def logged(log: str, besides: float = 0.0) -> list[str]:
    """Returns the stalls in a server's log.

    Args:
        log: The log.
        besides: Seconds of computing that were not the server's.
    """
    return [line[0] for line in _LINE.finditer(log) if float(line[2]) - besides > HELD]


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
            lines.extend(logged(record.getMessage(), collections.taken()))

    collector = Collector()
    loop_watch.log.addHandler(collector)
    gc.callbacks.append(collections)
    try:
        yield lines
    finally:
        gc.callbacks.remove(collections)
        loop_watch.log.removeHandler(collector)


class _Collections:
    """Counts the seconds that Python's collector takes."""

    def __init__(self) -> None:
        self._began = self._seconds = 0.0

    def __call__(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._seconds += time.perf_counter() - self._began

    def taken(self) -> float:
        """Returns the seconds since the last look."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
