"""A progress bar on stderr, for a person who waits for a batch."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_PATIENCE: Final = 1.0
"""Seconds of work after which the bar appears."""


class Progress:
    """Counts items, and shows the count on a terminal unless the output goes there too."""

    def __init__(self, target: str | None) -> None:
        """Begins to count.

        Args:
            target: The output's path, or `-` or None for stdout.
        """
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
        """Adds finished items to the count."""
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

        # The bar pulses, because the number of lines is unknown until the last one.
        columns = (BarColumn(), TextColumn("{task.completed:,.0f} keys"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()
