"""The loop watch: measures how late the event loop takes its turns, and logs what held it up.

Every call waits for the event loop, so what holds it holds up all callers (protocol W5). A task on
the loop measures the lag. A thread beside it looks at what the loop runs while it is late, because
the loop itself cannot tell. The log gets functions and lines of source, never a variable.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from pathlib import PurePath
from time import monotonic, thread_time
from typing import Final

from keyfold_server import telemetry
from keyfold_server.service.supervisor import Supervisor

log = logging.getLogger(__name__)

LATE: Final = 0.1
"""Seconds of lag from which the log says what the event loop runs."""

_EVERY: Final = 0.05
"""Seconds between two measurements."""

_FRAMES: Final = 8
"""Innermost functions that the log names."""


class LoopWatch:
    """Watches one event loop."""

    def __init__(self) -> None:
        """Prepares the watch; `start` begins."""
        self._loop_thread = 0
        self._due = float("inf")
        self._ended = threading.Event()

    def start(self, supervisor: Supervisor) -> None:
        """Begins to watch the event loop that runs now."""
        self._loop_thread = threading.get_ident()
        supervisor.start("loop_watch", self._turn)
        threading.Thread(target=self._look, name="loop-watch", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread; the supervisor ends the task."""
        self._ended.set()

    async def _turn(self) -> None:
        computed = thread_time()
        self._due = monotonic() + _EVERY
        try:
            await asyncio.sleep(_EVERY)
            lag = max(0.0, monotonic() - self._due)
        finally:
            self._due = float("inf")
        # A loop that computed for little of the time waited for a lock, a file or a processor.
        computed = thread_time() - computed
        telemetry.LOOP_LAG.observe(lag)
        telemetry.LOOP_HELD.observe(min(lag, computed))
        if lag > LATE:
            log.warning(
                "the event loop was held up for %.3f s, and computed for %.3f s", lag, computed
            )

    def _look(self) -> None:
        told = 0.0
        while not self._ended.wait(_EVERY):
            due = self._due
            if due != told and monotonic() - due > LATE:
                told = due
                log.warning("the event loop is held up by %s", _running(self._loop_thread))


def _running(thread: int) -> str:
    """Returns what a thread runs: its innermost functions, the innermost first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  there is no public function for it
    stack = traceback.walk_stack(frame) if frame is not None else ()
    innermost = [
        f"{code.co_name} ({PurePath(code.co_filename).name}:{line})"
        for (each, line), _ in zip(stack, range(_FRAMES), strict=False)
        for code in (each.f_code,)
    ]
    return ", called by ".join(innermost)
