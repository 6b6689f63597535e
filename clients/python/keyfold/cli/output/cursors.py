"""Cursors, as text for people."""

from __future__ import annotations

from collections.abc import Collection

from rich.text import Text

from keyfold.cli.output.tables import console, look, remarks, styled_table, time_text
from keyfold.cli.output.text import one_line
from keyfold.models.watch import Cursor


def show_cursors(cursors: Collection[Cursor]) -> None:
    """Prints a table with a line for each cursor; `wide` also shows when each was made."""
    if not cursors:
        remarks().print("no cursors")
        return
    wide = look().wide
    table = styled_table(
        *("CURSOR", "CALLER", "NUMBER", "BEHIND", "ADVANCED", "EXPIRES", "EXPIRED"),
        *(("MADE",) if wide else ()),
    )
    for each in cursors:
        table.add_row(
            one_line(each.name),
            one_line(each.caller),
            str(each.number),
            f"{each.behind:,}",
            time_text(each.advance_time),
            time_text(each.expire_time),
            Text("yes", "red") if each.expired else Text("no"),
            *((time_text(each.create_time),) if wide else ()),
        )
    console().print(table)
