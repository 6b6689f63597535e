"""The parts of tables: columns, words in colour, times.

A terminal gets a table that fits it, with lines and colours. A file or pipe gets plain columns: a
line for each row, however long, and three spaces or more between two columns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from keyfold.cli.output.text import one_line
from keyfold.models.specs import KeySpec

_WIDTH_ELSEWHERE: Final = 250
"""Characters in a line of a file or pipe, where nothing is folded at all."""

_GAP: Final = " " * 3
"""What stands between two plain columns. No cell holds it."""

NARROW: Final = 110
"""Characters in a line of a terminal below which a table has no room for the keys' uris."""

_COLOURS: Final = {
    "ENABLED": "green",
    "HEALTHY": "green",
    "PASSED": "green",
    "yes": "green",
    "UNKNOWN": "dim",
    "SKIPPED": "dim",
    "-": "dim",
    "REVOKED": "yellow",
    "UNREACHABLE": "yellow",
    "THROTTLED": "yellow",
    "CREDENTIALS_FAILED": "yellow",
}
"""The colours of words with a meaning; any other such word is red, such as FAILED."""

_WHOLE: Final = frozenset({"STATE", "HEALTH", "OUTCOME"})
"""Columns whose words a narrow terminal must not break."""

_DATE: Final = len("2026-01-31")
"""Characters of a date, the first of the two lines that a time takes in a narrow column."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a command's tables look.

    Attributes:
        wide: Whether they have every column, and nothing is folded to fit a terminal.
        headers: Whether they have heads and titles. Without them stdout gets rows alone.
    """

    wide: bool = False
    headers: bool = True


_TABLES: Final = Look()
_look: Final = ContextVar("look", default=_TABLES)


@contextmanager
def looking(look: Look) -> Iterator[None]:
    """Gives the block's tables a look."""
    before = _look.set(look)
    try:
        yield
    finally:
        _look.reset(before)


def look() -> Look:
    """Returns how tables look now."""
    return _look.get()


class _Console(Console):
    """A console that leaves it to the command what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  Console calls this while it handles the BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """Returns a console on stdout or stderr, which respects NO_COLOR."""
    file = sys.stderr if stderr else sys.stdout
    terminal = file.isatty()
    whole = look().wide or not terminal
    return _Console(
        file=file,
        force_terminal=terminal,
        width=_WIDTH_ELSEWHERE if whole else None,
        soft_wrap=whole,
        markup=False,
        emoji=False,
        highlight=False,
    )


def remarks() -> Console:
    """Returns the console for what a command says besides rows: stderr if rows stand alone."""
    if look().headers:
        return console()
    sys.stdout.flush()  # so that a remark on what was printed comes after it
    return console(stderr=True)


class Columns:
    """A table, which is plain wherever no terminal shows it."""

    def __init__(self, *heads: str, narrow: bool) -> None:
        """Begins a table.

        Args:
            heads: The heads of its columns.
            narrow: Whether to leave less space between columns on a terminal.
        """
        self._heads = heads
        self._narrow = narrow
        self._rows: list[list[Text]] = []

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def add_row(self, *cells: str | Text) -> None:
        """Adds a row."""
        self._rows.append([one if isinstance(one, Text) else Text(one) for one in cells])

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yields the table as the console and the look want it."""
        if console.is_terminal and not look().wide:
            yield self._fitted()
        else:
            yield from self._plain()

    def _fitted(self) -> Table:
        table = Table(
            box=SIMPLE_HEAD,
            pad_edge=False,
            show_header=look().headers,
            header_style="bold",
            collapse_padding=self._narrow,
        )
        for head in self._heads:
            # Folded, not cut: part of a key's uri is useless.
            least = _DATE if head == "LAST CHECK" else max(map(len, head.split()))
            table.add_column(head, overflow="fold", no_wrap=head in _WHOLE, min_width=least)
        for row in self._rows:
            table.add_row(*row)
        return table

    def _plain(self) -> Iterator[Text]:
        heads = [[Text(head, "bold") for head in self._heads]] if look().headers else []
        # An empty cell would shift the cells after it for whoever splits lines into fields.
        rows = [
            *heads,
            *([cell if cell.plain else Text("-") for cell in row] for row in self._rows),
        ]
        widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
        for row in rows:
            line = Text(overflow="ignore", no_wrap=True)
            for cell, width in zip(row, widths, strict=True):
                line.append_text(cell)
                line.append(" " * (width - cell.cell_len) + _GAP)
            line.rstrip()
            yield line


def styled_table(*heads: str, narrow: bool = False) -> Columns:
    """Returns an empty table with these heads; `narrow` leaves less space between columns."""
    return Columns(*heads, narrow=narrow)


def coloured(word: str) -> Text:
    """Returns a word with a meaning, such as ENABLED, in its colour."""
    return Text(word, _COLOURS.get(word, "red"))


def key_text(spec: KeySpec) -> str:
    """Returns a root key's type, uri and principal in one line."""
    principal = f" as {spec.auth_principal}" if spec.auth_principal else ""
    return one_line(f"{spec.type} {spec.uri}{principal}")


def time_text(time: datetime | None) -> str:
    """Returns a time in UTC to the second, or `-`."""
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M:%SZ")


def yes_or_no(*, can: bool | None) -> str:
    """Returns `yes`, `no`, or `-` if nobody knows."""
    return "-" if can is None else "yes" if can else "no"
