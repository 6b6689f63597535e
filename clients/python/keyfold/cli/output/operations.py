"""Operations as text for people: a table, a census, and a bar while somebody waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import typer

from keyfold.cli.output.changes import show_pending
from keyfold.cli.output.tables import console, remarks, styled_table, time_text
from keyfold.cli.output.text import counted, one_line, span_text
from keyfold.models.operations import Operation, OperationCensus

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_EVERY: Final = 10.0
"""Seconds between two lines about how far an operation is, where there is no terminal."""

_SHOWN: Final = 20
"""Failures that the command shows; `--json` has all that the server lists."""


def show_census(census: OperationCensus) -> None:
    """Prints what an operation would have before it."""
    typer.echo(
        f"{counted(census.regions, 'region')} under {counted(census.keys, 'root key')}, about "
        f"{counted(census.expected_kms_calls, 'call')} to KMSs, at least "
        f"{span_text(census.expected_duration)} at the rates that the server allows; nothing "
        "started"
    )
    if census.pinned_regions:
        verb = "fails" if census.pinned_regions == 1 else "fail"
        typer.echo(
            f"{counted(census.pinned_regions, 'region')} {verb} (KEY_VERSION_PINNED): the key's "
            "uri names one version; name the key without it, or take auto_rotate from the policies"
        )


def show_operations(operations: Sequence[Operation]) -> None:
    """Prints a table of operations."""
    table = styled_table("NAME", "ACTION", "STATE", "DONE", "FAILED", "SKIPPED", "TOTAL", "STARTED")
    for each in operations:
        table.add_row(
            one_line(each.name),
            each.action,
            str(each.state),
            f"{each.done:,}",
            f"{each.failed:,}",
            f"{each.skipped:,}",
            f"{each.total:,}" if each.total or each.ended else "-",
            time_text(each.create_time),
        )
    if operations:
        console().print(table)
    else:
        remarks().print("no operations")


def show_operation(operation: Operation) -> None:
    """Prints an operation, and the first of its failures."""
    out = console()
    out.print(f"{one_line(operation.name)}: {_line(operation)}")
    if operation.confirmations is not None:
        show_pending(operation.confirmations.pending)
    if operation.error:
        out.print(one_line(operation.error))
    if operation.notice:
        out.print(one_line(f"  {operation.notice}"))
    for each in operation.failures[:_SHOWN]:
        place = f"{each.cluster}/{each.region}" if each.region else each.cluster
        out.print(one_line(f"  {place}: {each.message} ({each.reason})"))
    more = operation.failed - min(len(operation.failures), _SHOWN)
    if more > 0 and operation.failures:
        out.print(f"  and {more:,} more; --json shows the first 1,000")


def _line(operation: Operation) -> str:
    of = operation.confirmations
    if of is not None:
        what = one_line(f"{of.action.rpartition(':')[2]} of {of.cluster}")
        by = f"{operation.done} of {operation.total}"
        return f"{what} {operation.state}, confirmed by {by} replicas"
    total = f" of {operation.total:,}" if operation.total else ""
    return (
        f"{operation.action} {operation.state}, {operation.processed:,}{total} regions: "
        f"{operation.done:,} done, {operation.failed:,} failed, {operation.skipped:,} skipped"
    )


class Waiting:
    """Shows how far an operation is: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        """Begins; shows nothing until it knows something."""
        self._terminal = sys.stderr.isatty()
        self._told = float("-inf")
        self._notice = ""
        self._began: tuple[float, int] | None = None
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

    def note(self, text: str) -> None:
        """Shows a line about something else, such as a server that does not answer."""
        if self._bar is not None:
            self._bar.console.print(one_line(text), markup=False)
        else:
            typer.echo(one_line(text), err=True)

    def show(self, operation: Operation) -> None:
        """Shows how far an operation is."""
        if operation.notice != self._notice:
            self._notice = operation.notice
            if operation.notice:
                self.note(operation.notice)
        if self._terminal:
            self._show_bar(operation)
            return
        now = time.monotonic()
        if now - self._told >= _EVERY and not operation.ended:
            self._told = now
            left = self._left(operation)
            typer.echo(_line(operation) + (f", {span_text(left)} left" if left else ""), err=True)

    def _left(self, operation: Operation) -> timedelta | None:
        """Returns how long the rest takes at the pace since the first look; None: nobody knows."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, operation.processed
            return None
        since, before = self._began
        done = operation.processed - before
        if not (done and operation.total):
            return None
        return timedelta(seconds=(now - since) / done * (operation.total - operation.processed))

    def _show_bar(self, operation: Operation) -> None:
        if self._bar is None:
            self._start()
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=operation.processed,
                total=operation.total or None,
                description=(
                    "confirmed by replicas"
                    if operation.confirmations is not None
                    else f"{operation.action}, {operation.failed:,} failed"
                ),
            )

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()
