"""A progress bar on stderr, for a person who waits."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_PATIENCE: Final = 1.0
"""Seconds after which work is long enough for a bar."""


class Progress:
    """Counts items; shows nothing where nobody looks, or where the bar would mix with output.

    Args:
        target: Where the output goes: a path, or `-` or None for stdout.
    """

    def __init__(self, target: str | None) -> None:
        to_terminal = target in (None, "-") and sys.stdout.isatty()
        self._wanted = sys.stderr.isatty() and not to_terminal
        self._since = time.monotonic()
        self._done = 0
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, count: int) -> None:
        """Counts items that are done."""
        self._done += count
        if not self._wanted or time.monotonic() - self._since < _PATIENCE:
            return
        if self._bar is None:
            self._start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        # How many lines there are is not known before the last: the bar pulses.
        columns = (BarColumn(), TextColumn("{task.completed:,.0f} keys"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()
