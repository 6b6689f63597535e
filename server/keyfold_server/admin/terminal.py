"""The root of keyfold-server's command line, and the ways in which a command ends.

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
"""The exit code of a command that failed."""

EXIT_DECLINED: Final = 1
"""The exit code of a command that did nothing because it was not confirmed."""

# A pretty traceback would print local variables, which may contain keys.
app = typer.Typer(
    help="Run and maintain a Keyfold server.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def fail(message: str) -> typer.Exit:
    """Prints an error as one line, and returns the exception to raise."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return typer.Exit(EXIT_ERROR)


@contextmanager
def reported() -> Iterator[None]:
    """Turns Keyfold's errors into one line on stderr and exit code 2."""
    try:
        yield
    except KeyfoldError as error:
        raise fail(error.message) from error


def has_terminal() -> bool:
    """Says whether there is a terminal, and so a person to ask."""
    return sys.stdin.isatty()
