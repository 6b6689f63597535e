"""Stalls of event loops (protocol W5): no test may hold one up by computing, unless it says so.

A server's loop watch logs how long the loop was held up, and for how long of that it computed. Only
what it computed counts here: a machine that is busy with other work holds up every loop.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from keyfold_server.service import loop_watch

HELD = 2 * loop_watch.LATE
"""Seconds of computing in a row that fail a test. The watch cannot tell one call from a burst of
many short ones, of which a busy machine makes a longer one."""

_LINE = re.compile(r"held up for ([0-9.]+) s, and computed for ([0-9.]+) s")


def logged(log: str) -> list[str]:
    """Returns the stalls in a server's log."""
    return [line[0] for line in _LINE.finditer(log) if float(line[2]) > HELD]


def check(stalls: Sequence[str]) -> None:
    """Fails if there were stalls."""
    assert not stalls, f"an event loop was {stalls}; the log says by what"


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collects the stalls of the servers in this process."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(logged(record.getMessage()))

    collector = Collector()
    loop_watch.log.addHandler(collector)
    try:
        yield lines
    finally:
        loop_watch.log.removeHandler(collector)
