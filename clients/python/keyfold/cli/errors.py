"""Errors of a command: one line on stderr, hints below it, and an exit code by kind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Final

import typer

from keyfold import errors
from keyfold.cli.flags import flag_of
from keyfold.cli.output.text import one_line
from keyfold.errors import KeyfoldError, reasons


class ExitCode(IntEnum):
    """The exit codes of every command; `keyfold --help` explains them."""

    OK = 0
    UNEXPECTED = 1
    INVALID = 2
    NOT_FOUND = 3
    CONFLICT = 4
    REFUSED = 5
    UNAVAILABLE = 6
    LIMIT = 7
    PERMISSION = 8
    DEADLINE = 9
    BROKEN = 10
    STOPS = 11
    INCOMPLETE = 12
    CHANGES = 13
    FAILED = 14
    UNKNOWN = 15
    CLOSED = 141


EXIT_CODES: Final = """\b
Exit codes:
  0  success
  1  unexpected error, or damage in the server's store
  2  wrong usage or invalid input
  3  not found
  4  already exists, forbidden by its state, served elsewhere, or another change came first
  5  refused by the customer's KMS
  6  no usable answer from the KMS, or Keyfold is unavailable
  7  over a limit of Keyfold or of the KMS
  8  the server does not know the caller, or does not permit the call
  9  no answer within the deadline
 10  a probe found a broken promise, such as a revoked key that still opened
 11  what-if: something would stop, or may stop that is hidden from you
 12  an operation failed on some regions, or ended before its end
 13  apply --plan: something would change
 14  a check failed
 15  no check failed, and something could not be told
141  whatever read the output has closed it, as head does; nothing more was printed"""


class IncompleteError(KeyfoldError):
    """An operation failed on some regions, or ended before its end."""

    reason = "INCOMPLETE"


# The first entry that fits decides, so a leaf that differs from its branch stands before it.
_CODES: Final[tuple[tuple[type[KeyfoldError], ExitCode], ...]] = (
    (reasons.ThrottledError, ExitCode.LIMIT),
    (errors.InvalidInputError, ExitCode.INVALID),
    (errors.NotFoundError, ExitCode.NOT_FOUND),
    (errors.AlreadyExistsError, ExitCode.CONFLICT),
    (errors.StateError, ExitCode.CONFLICT),
    (errors.ConflictError, ExitCode.CONFLICT),
    (errors.RefusedError, ExitCode.REFUSED),
    (errors.CouldNotTellError, ExitCode.UNAVAILABLE),
    (errors.UnavailableError, ExitCode.UNAVAILABLE),
    (errors.LimitError, ExitCode.LIMIT),
    (errors.ForbiddenError, ExitCode.PERMISSION),
    (errors.UnauthenticatedError, ExitCode.PERMISSION),
    (errors.DeadlineError, ExitCode.DEADLINE),
    (errors.ExtraMissingError, ExitCode.INVALID),
    (IncompleteError, ExitCode.INCOMPLETE),
)

# After one of these, the server may have made the change or not.
_OUTCOME_UNKNOWN: Final = (
    errors.CancelledError,
    errors.DeadlineError,
    errors.InternalError,
    errors.UnavailableError,
)

NOT_NOW: Final = (
    errors.CancelledError,
    errors.DeadlineError,
    errors.LimitError,
    errors.UnavailableError,
)
"""The errors after which a command that polls tries again."""


class InputError(Exception):
    """The command cannot use its arguments or files; it has not called the server with them."""


def exit_code(kind: type[KeyfoldError]) -> ExitCode:
    """Returns the exit code for a class of error."""
    return next((code for known, code in _CODES if issubclass(kind, known)), ExitCode.UNEXPECTED)


def error_object(error: KeyfoldError | InputError) -> dict[str, Any]:
    """Returns an error as `--json` and `--batch` print it, without its empty fields."""
    if isinstance(error, InputError):
        return {"reason": "INVALID_INPUT", "message": str(error)}
    return error.to_dict()


@contextmanager
def reporting(parsed: typer.Context, *, as_json: bool, target: str) -> Iterator[None]:
    """Reports the block's error on stderr and turns it into an exit code.

    Args:
        parsed: The command, whose flags hints name.
        as_json: Print a JSON object instead of lines for people.
        target: The server's address, for the hint that no server answers there.

    Raises:
        typer.Exit: The block failed, and stderr says why.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe. Without this, Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.CLOSED) from None
    except OSError as problem:
        # The code that opens a file reports the file's errors, so this one is about stdout.
        typer.echo(f"error: cannot write to stdout: {problem.strerror}", err=True)
        raise typer.Exit(ExitCode.UNEXPECTED) from None
    except KeyfoldError as error:
        report(error, parsed, as_json=as_json)
        if not as_json and type(error) is errors.UnavailableError:
            # The bare branch, without a reason of Keyfold's own: no server was there to give one.
            typer.echo(f"hint: tried {target}; set --target or KEYFOLD_TARGET", err=True)
        raise typer.Exit(exit_code(type(error))) from None
    except InputError as error:
        report(error, parsed, as_json=as_json)
        raise typer.Exit(ExitCode.INVALID) from None


def report(
    error: KeyfoldError | InputError, parsed: typer.Context, *, as_json: bool, file: str = ""
) -> None:
    """Prints an error on stderr.

    Args:
        error: The error.
        parsed: The command, whose flags hints name.
        as_json: Print a JSON object instead of lines for people.
        file: The file that it is about, if there are several. An InputError names its own.
    """
    if as_json:
        about = {"file": file} if file else {}
        typer.echo(json.dumps({**about, "error": error_object(error)}), err=True)
        return
    if isinstance(error, InputError):
        typer.echo(f"error: {one_line(str(error))}", err=True)
        return
    about_it = f"{one_line(file)}: " if file else ""
    typer.echo(f"error: {about_it}{one_line(error.message)} ({one_line(error.reason)})", err=True)
    for hint in _hints(error, parsed):
        typer.echo(f"hint: {one_line(hint)}", err=True)


def _hints(error: KeyfoldError, parsed: typer.Context) -> Iterator[str]:
    for violation in error.field_violations:
        # The message often repeats the only violation's description.
        repeated = violation.description in error.message
        yield f"look at {flag_of(violation.field, parsed)}" + (
            "" if repeated else f": {violation.description}"
        )
    if permission := error.metadata.get("missing_permission"):
        yield f"missing permission: {permission}"
    if served_at := error.metadata.get("served_at"):
        yield f"repeat the command with --target {served_at}"
    if error.retry_after:
        yield f"try again in {error.retry_after:g} s"
    if error.request_id and isinstance(error, _OUTCOME_UNKNOWN):
        yield (
            "the change may or may not have been made; it is safe to repeat the command with "
            f"--request-id {error.request_id}"
        )
