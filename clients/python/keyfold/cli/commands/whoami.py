"""The command `whoami`."""

from __future__ import annotations

from keyfold import calls
from keyfold.cli.output.whoami import show_caller
from keyfold.cli.session import Session


def whoami(session: Session) -> None:
    """Show who you are to the server, and what it lets you do.

    It needs no role, and works while the server's store is away.
    """
    identity, message = session.ask(calls.get_caller())
    if not session.printed(message):
        show_caller(identity)
