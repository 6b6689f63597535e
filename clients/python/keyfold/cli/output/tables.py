"""The parts of tables: columns that fold, words in colour, times.

Colour appears on terminals only.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyfold.cli.output.text import one_line
from keyfold.models.specs import KeySpec

_WIDTH_ELSEWHERE: Final = 250
"""Characters in a line of a file or pipe, so wide that nothing is folded."""

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


class _Console(Console):
    """A console that leaves it to the command what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  Console calls this while it handles the BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """Returns a console on stdout or stderr, which respects NO_COLOR."""
    file = sys.stderr if stderr else sys.stdout
    terminal = file.isatty()
    return _Console(
        file=file,
        force_terminal=terminal,
        width=None if terminal else _WIDTH_ELSEWHERE,
        markup=False,
        emoji=False,
        highlight=False,
    )


def styled_table(*heads: str, narrow: bool = False) -> Table:
    """Returns an empty table with these heads; `narrow` leaves less space between columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=narrow)
    for head in heads:
        # Folded, not cut: part of a key's uri is useless.
        least = _DATE if head == "LAST CHECK" else max(map(len, head.split()))
        table.add_column(head, overflow="fold", no_wrap=head in _WHOLE, min_width=least)
    return table


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
