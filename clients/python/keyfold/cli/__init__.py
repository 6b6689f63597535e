"""The operator's command line, `keyfold`.

Each command makes one call, or a few, to a Keyfold server. It prints tables for people, or with
`--json` the contract's own JSON, and reports errors on stderr. Keys come from files, pipes or a
prompt, never from arguments. The exit code tells the kind of error:

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
    141  whatever read the output has closed it, as head does; nothing more was printed

141 is what a shell reports of a program that SIGPIPE ends (128 + 13), such as git or grep. It is
not 0, since a batch or an export that could not be printed is not complete.

The modules: `app` lists the commands, `commands/` implements them, `input/` reads options and
files, `output/` prints, `session` connects, and `errors` maps errors to messages and exit codes.

The extra `cli` installs typer and rich, which only this package uses; the client library works
without them.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command that the arguments name, and exits."""
    # Imported here, so that this package can be imported without the extra `cli`.
    try:
        from keyfold.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("keyfold"):
            raise
        # An installation without the extra has this script too, but not what it needs.
        raise SystemExit(f"keyfold: {error.name} is missing; install keyfold[cli]") from None
    from keyfold.cli.errors import ExitCode

    try:
        app(prog_name="keyfold")
    except SystemExit:
        # What a command prints, `reporting` guards. This was the help, or the version.
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":
            raise SystemExit(ExitCode.CLOSED) from None
        raise
