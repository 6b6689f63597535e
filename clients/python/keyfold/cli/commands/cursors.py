"""The commands `keyfold cursors`: the places that readers of events have, which hold pruning up."""

from __future__ import annotations

from typing import Annotated

import typer

from keyfold.calls import watch as calls
from keyfold.cli.input.confirmation import confirm
from keyfold.cli.input.options import Yes
from keyfold.cli.output.cursors import show_cursors
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session


def list_cursors(session: Session) -> None:
    """List your cursors; for an auditor of everything, those of all callers.

    Until a cursor expires, the server keeps every event after it. So one that falls behind is a
    reader, such as a relay, that is slow or gone.
    """
    cursors, message = session.ask(calls.list_cursors())
    if not session.printed(message):
        show_cursors(cursors)


def delete(
    session: Session,
    cursor: Annotated[
        str, typer.Argument(metavar="CURSOR", help="The cursor's name.", show_default=False)
    ],
    *,
    caller: Annotated[
        str,
        typer.Option(
            help="The caller that it belongs to, as `keyfold cursors list` shows it; yours if not "
            "given.",
            show_default=False,
        ),
    ] = "",
    yes: Yes = False,
) -> None:
    """Delete a cursor whose reader is gone, or one that has expired, so that pruning goes on.

    A reader that still uses it loses its place, so the command asks for confirmation; without a
    terminal to ask at it needs --yes. Only an operator of everything may name a --caller.
    """
    whose = f" of {one_line(caller)}" if caller else ""
    what = f"cursor {one_line(cursor)}{whose}"
    confirm(f"Delete {what}? Its reader loses its place.", f"{what}: not deleted", yes=yes)
    _, message = session.ask(calls.delete_cursor(cursor, caller))
    if not session.printed(message, cursor):
        typer.echo("deleted")
