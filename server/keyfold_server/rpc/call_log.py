"""A line per data-plane call: who did what to which cluster, and how it ended.

Formatted by hand and written in batches by a thread of its own, so that a call pays a few
microseconds and a reader that stalls holds up nobody. Never key material: names, counts, codes.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import time
from functools import lru_cache
from typing import Final

from keyfold_server import telemetry

_EVERY: Final = 0.1
"""Seconds that a line waits at most before it is handed to the writer."""

_MOST_WAITING: Final = 64
"""Batches that may wait for a slow reader; further ones are dropped and counted."""

_LONGEST: Final = 128
"""Characters of a name in a line; a longer one is not a name."""


class Facts:
    """What one call is about, filled in while it is answered."""

    __slots__ = ("cluster", "items", "region")

    def __init__(self) -> None:
        """Nothing is known when a call arrives."""
        self.cluster = ""
        self.region = ""
        self.items = 1


class CallLog:
    """Collects lines and writes them in batches."""

    def __init__(self, descriptor: int, *, pretty: bool) -> None:
        """Prepares a log; `start` begins to write.

        Args:
            descriptor: An open file descriptor to write to.
            pretty: Lines for people rather than JSON.
        """
        self._descriptor = descriptor
        self._format = _pretty if pretty else _json
        self._lines: list[str] = []
        self._batches: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._second = 0
        self._stamp = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the writer."""
        self._thread = threading.Thread(target=self._write, name="call-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Writes what is left, for at most a second."""
        self._hand_over()
        if self._thread is not None:
            try:
                self._batches.put(None, timeout=1.0)
            except queue.Full:
                return
            self._thread.join(1.0)

    def add(
        self,
        method: str,
        caller: str,
        facts: Facts,
        code: str,
        reason: str,
        seconds: float,
        trace: str,
    ) -> None:
        """Adds a line; returns at once."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = f"{self._stamp}.{int((now - second) * 1000):03d}Z"
        if not self._lines:
            asyncio.get_running_loop().call_later(_EVERY, self._hand_over)
        self._lines.append(self._format(stamp, method, caller, facts, code, reason, seconds, trace))

    def _hand_over(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._batches.put_nowait("".join(lines).encode())
        except queue.Full:
            telemetry.LOG_LINES_DROPPED.inc(len(lines))

    def _write(self) -> None:
        while (batch := self._batches.get()) is not None:
            _write_all(self._descriptor, batch)


def _write_all(descriptor: int, batch: bytes) -> None:
    view = memoryview(batch)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        # Nobody reads: the log's end is not the service's.
        telemetry.LOG_LINES_DROPPED.inc(batch.count(b"\n"))


@lru_cache(maxsize=8_192)
def _quoted(text: str) -> str:
    """A name as JSON; what callers send may hold anything."""
    return json.dumps(text[:_LONGEST])


def _json(
    stamp: str,
    method: str,
    caller: str,
    facts: Facts,
    code: str,
    reason: str,
    seconds: float,
    trace: str,
) -> str:
    return (
        f'{{"time":"{stamp}","level":"info","event":"call","method":"{method}",'
        f'"caller":{_quoted(caller)},"cluster":{_quoted(facts.cluster)},'
        f'"region":{_quoted(facts.region)},"items":{facts.items},"code":"{code}",'
        f'"reason":"{reason}","us":{int(seconds * 1e6)},"trace_id":"{trace}"}}\n'
    )


def _pretty(
    stamp: str,
    method: str,
    caller: str,
    facts: Facts,
    code: str,
    reason: str,
    seconds: float,
    trace: str,
) -> str:
    items = f" x{facts.items}" if facts.items != 1 else ""
    where = _quoted(facts.cluster)[1:-1] + (
        f"/{_quoted(facts.region)[1:-1]}" if facts.region else ""
    )
    how = reason or code
    tail = f" trace={trace}" if trace else ""
    return (
        f"{stamp} call    {method}{items} {where} {how} {seconds * 1e3:.2f} ms by {caller}{tail}\n"
    )
