"""The command line of keyfold-server: its root, and how a command ends.

Invariant: an error is one line on stderr and exit code 2, never a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from keyfold_server.domain.errors import KeyfoldError

EXIT_ERROR: Final = 2
"""What a command exits with when it could not do what it was told."""

EXIT_DECLINED: Final = 1
"""What a command exits with when the person at the terminal said no."""

# A pretty traceback prints local variables, and those may hold keys.
app = typer.Typer(
    help="Runs and looks after a Keyfold server.",
    pretty_exceptions_enable=False,
)


def fail(message: str) -> typer.Exit:
    """Prints an error as one line, and returns what to raise."""
    typer.echo(f"keyfold-server: {' '.join(message.split())}", err=True)
    return typer.Exit(EXIT_ERROR)


@contextmanager
def reported() -> Iterator[None]:
    """Turns Keyfold's errors into one line on stderr and exit code 2."""
    try:
        yield
    except KeyfoldError as error:
        raise fail(error.message) from error


def has_terminal() -> bool:
    """Tells whether there is a person to ask."""
    return sys.stdin.isatty()
