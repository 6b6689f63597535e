"""Errors as a person and a script see them: one line, a hint, and an exit code by kind."""

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
from keyfold.errors import KeyfoldError, reasons


class ExitCode(IntEnum):
    """What a command ends with; the help of `keyfold` lists the same."""

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


EXIT_CODES: Final = """\b
Exit codes:
  0  done
  1  unexpected, or damage in the server's store
  2  usage or invalid input
  3  not found
  4  it exists already, its state forbids it, or another change came first
  5  refused by the customer's KMS
  6  the KMS gave no answer that counts, or Keyfold is unavailable
  7  a limit, of Keyfold or of the KMS
  8  not permitted, or not known to the server
  9  no answer within the deadline"""

# The first that fits, so a leaf that differs from its branch stands before it.
_KINDS: Final[tuple[tuple[type[KeyfoldError], ExitCode], ...]] = (
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
)

# After these a change may have been made or not.
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
"""After these a command that polls asks again."""


class InputError(Exception):
    """What the command was given cannot be used; no server was asked."""


def exit_code(kind: type[KeyfoldError]) -> ExitCode:
    """Returns the exit code of a kind of error."""
    return next((code for known, code in _KINDS if issubclass(kind, known)), ExitCode.UNEXPECTED)


def error_object(error: KeyfoldError | InputError) -> dict[str, Any]:
    """Returns an error in the form that `--json` and `--batch` print; what is unset is left out."""
    if isinstance(error, InputError):
        return {"reason": "INVALID_INPUT", "message": str(error)}
    details: dict[str, Any] = {
        "reason": error.reason,
        "message": error.message,
        "code": error.code,
        "source": error.source,
        "metadata": error.metadata,
        "field_violations": [
            {"field": one.field, "description": one.description} for one in error.field_violations
        ],
        "retry_after": error.retry_after,
        "request_id": error.request_id,
    }
    return {name: value for name, value in details.items() if value not in (None, {}, [])}


def one_line(text: str) -> str:
    """Returns text that can do nothing to a terminal: one line, without control characters.

    Messages may come from a KMS, and so from outside.
    """
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


@contextmanager
def reporting(*, as_json: bool, target: str) -> Iterator[None]:
    """Turns errors into their line on stderr and their exit code.

    Args:
        as_json: Print a JSON object rather than lines.
        target: Where the server should be, for the hint that it is not there.

    Raises:
        typer.Exit: There was an error, and it has been reported.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has read enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.UNEXPECTED) from None
    except OSError as problem:
        # Files are looked after where they are opened; this is stdout.
        typer.echo(f"error: cannot write to stdout: {problem.strerror}", err=True)
        raise typer.Exit(ExitCode.UNEXPECTED) from None
    except KeyfoldError as error:
        _report(error, as_json=as_json)
        if not as_json and type(error) is errors.UnavailableError:
            # No reason of Keyfold's own: it was not there to give one.
            typer.echo(f"hint: looked at {target}; set --target or KEYFOLD_TARGET", err=True)
        raise typer.Exit(exit_code(type(error))) from None
    except InputError as error:
        _report(error, as_json=as_json)
        raise typer.Exit(ExitCode.INVALID) from None


def _report(error: KeyfoldError | InputError, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"error": error_object(error)}), err=True)
        return
    if isinstance(error, InputError):
        typer.echo(f"error: {one_line(str(error))}", err=True)
        return
    typer.echo(f"error: {one_line(error.message)} ({one_line(error.reason)})", err=True)
    for hint in _hints(error):
        typer.echo(f"hint: {one_line(hint)}", err=True)


def _hints(error: KeyfoldError) -> Iterator[str]:
    for violation in error.field_violations:
        # The message often says the same as the only violation's description.
        repeated = violation.description in error.message
        yield f"look at {violation.field}" + ("" if repeated else f": {violation.description}")
    if permission := error.metadata.get("missing_permission"):
        yield f"the KMS misses the permission {permission}"
    if error.retry_after:
        yield f"try again in {error.retry_after:g} s"
    if error.request_id and isinstance(error, _OUTCOME_UNKNOWN):
        yield (
            "it is not known whether the change was made; "
            f"the same command with --request-id {error.request_id} is safe"
        )
