"""A progress bar on stderr, for a person who waits for a batch, or for a large file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from keyfold.cli.output.text import one_line

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn, TaskID

_PATIENCE: Final = 1.0
"""Seconds of work after which the bar appears."""


class Progress:
    """Counts items, and shows the count on a terminal unless the output goes there too."""

    def __init__(
        self,
        target: str | None,
        *,
        size: int | None = None,
        done: int = 0,
        file: str | None = None,
    ) -> None:
        """Begins to count.

        Args:
            target: The output's path, or `-` or None for stdout.
            size: Bytes of the whole input; None if nobody knows.
            done: Those of them that an earlier run has done.
            file: The name of a file whose bytes count, and not keys in it.
        """
        to_terminal = target in (None, "-") and sys.stdout.isatty()
        self._wanted = sys.stderr.isatty() and not to_terminal
        self._since = time.monotonic()
        self._size = size
        self._file = file
        self._items = 0
        self._began = done
        self._bytes = done
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

    def add(self, count: int, size: int = 0) -> None:
        """Adds finished items to the count.

        Args:
            count: The number of items.
            size: Their bytes in the input.
        """
        self._items += count
        self._bytes += size
        if not self._wanted or time.monotonic() - self._since < _PATIENCE:
            return
        if self._bar is None:
            self._start()
        if self._bar is not None and self._task is not None:
            of_keys = self._size is None and self._file is None
            completed = self._items if of_keys else self._bytes
            self._bar.update(self._task, completed=completed, keys=self._items)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        # The bar pulses if the end is unknown until it is there.
        time_column: ProgressColumn = (
            TimeElapsedColumn() if self._size is None else TimeRemainingColumn()
        )
        columns: tuple[ProgressColumn, ...] = (
            BarColumn(),
            TextColumn("{task.fields[keys]:,.0f} keys"),
            time_column,
        )
        if self._file is not None:
            name = TextColumn("{task.description}", markup=False)
            columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), time_column)
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(
            one_line(self._file or ""), total=self._size, completed=self._began, keys=0
        )
        self._bar.start()
