"""Asks before a command does what other people will notice."""

from __future__ import annotations

import sys

import typer

from keyfold.cli.errors import InputError


def confirm(question: str, undone: str, *, yes: bool) -> None:
    """Goes on only if a person agrees, or has agreed already.

    Args:
        question: The question.
        undone: What is not done if nobody can be asked, for the error.
        yes: Whether the command line agrees.

    Raises:
        InputError: There is no terminal to ask at. What stdin holds may be meant for another
            command, and so is no answer.
        typer.Abort: The person did not agree.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{undone}: there is no terminal to ask at; give --yes")
    typer.confirm(question, abort=True, err=True)
