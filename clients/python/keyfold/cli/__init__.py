"""The operator's command line, `keyfold`.

Each command is one call. What it prints is for people, or with `--json` the contract's own JSON;
errors go to stderr. Keys come from files, pipes or a prompt and never from arguments. The exit
code tells the kind of an error:

    0  done
    1  unexpected, or damage in the server's store
    2  usage or invalid input
    3  not found
    4  it exists already, its state forbids it, or another change came first
    5  refused by the customer's KMS
    6  the KMS gave no answer that counts, or Keyfold is unavailable
    7  a limit, of Keyfold or of the KMS
    8  not permitted, or not known to the server
    9  no answer within the deadline

The extra `cli` installs typer and rich, which only this package uses; the client library works
without them.
"""

from __future__ import annotations


def main() -> None:
    """Runs the command that the arguments name, and exits."""
    # Imported here, so that this package can be imported without the extra `cli`.
    try:
        from keyfold.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("keyfold"):
            raise
        # An application's installation has this script, too, and not what it needs.
        raise SystemExit(f"keyfold: {error.name} is missing; install keyfold[cli]") from None
    app(prog_name="keyfold")
