"""keyfold-server: serve, look at the settings, and the server's own commands.

What serves is imported by the commands that need it: a command on the key file alone starts in a
fraction of the time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyfold_server import admin
from keyfold_server.domain.errors import KeyfoldError, SetupError

if TYPE_CHECKING:
    from keyfold_server.rpc.probe import Tls
    from keyfold_server.settings import Settings

_NOT_SERVING: Final = 1
"""What `health` exits with unless the server serves; health checks know 0 and 1."""


@admin.app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Say what is wrong with the settings, and end.")
    ] = False,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Print the settings as TOML, and end.")
    ] = False,
) -> None:
    """Runs and looks after a Keyfold server. Without a command it serves."""
    with admin.reported():
        if check:
            _check()
        elif print_settings:
            _print()
        elif context.invoked_subcommand is None:
            serve()


@admin.app.command()
def serve() -> None:
    """Serve until SIGTERM; prints one line with the address when ready."""
    # gRPC writes a line for each failed handshake, so strangers could flood the log. It looks
    # when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from keyfold_server import bootstrap, settings

    with admin.reported():
        bootstrap.run(settings.load(), _ready)


@admin.app.command()
def migrate() -> None:
    """Bring the store's schema up to this release, as serving does by itself with SQLite."""
    from keyfold_server import bootstrap, settings

    with admin.reported():
        store = bootstrap.migrate(settings.load())
        typer.echo(f"{store} has the schema of this release")


@admin.app.command()
def health(
    target: Annotated[
        str | None,
        typer.Option(help="HOST:PORT or unix:/path.", show_default="KEYFOLD_LISTEN"),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 3.0,
) -> None:
    """Ask a running server whether it serves: exit code 0 if it does, 1 if not.

    Where the server has TLS, its own certificate is what it must show, and what is shown to it;
    KEYFOLD_CA, KEYFOLD_CERT and KEYFOLD_KEY say otherwise.
    """
    from keyfold_server import settings
    from keyfold_server.rpc import probe

    try:
        loaded = settings.load()
        found = probe.health(target or loaded.listen, timeout, _tls(loaded))
    except KeyfoldError as error:
        found = error.message
    typer.echo(found, err=found != probe.SERVING)
    if found != probe.SERVING:
        raise typer.Exit(_NOT_SERVING)


def _tls(loaded: Settings) -> Tls | None:
    """Returns how to ask a server with these settings."""
    from keyfold_server.access import tls_files
    from keyfold_server.rpc.probe import Tls

    if loaded.tls_cert is None or loaded.tls_key is None:
        return None
    ca = os.environ.get("KEYFOLD_CA") or loaded.tls_client_ca
    cert = os.environ.get("KEYFOLD_CERT") or loaded.tls_cert
    key = os.environ.get("KEYFOLD_KEY") or loaded.tls_key
    try:
        return Tls(
            None if ca is None else Path(ca).read_bytes(),
            Path(cert).read_bytes(),
            Path(key).read_bytes(),
            tls_files.server_name(loaded.tls_cert.read_bytes()),
        )
    except OSError as error:
        raise SetupError(f"{error.filename} cannot be read: {error.strerror}") from None


def _ready(address: str) -> None:
    typer.echo(f"keyfold-server ready on {address}")
    sys.stdout.flush()


def _check() -> None:
    from keyfold_server import bootstrap, settings

    faults = [f"{name}: not a setting; is it misspelt?" for name in settings.unknown_variables()]
    try:
        faults += bootstrap.check(settings.load())
    except KeyfoldError as error:
        faults += error.message.splitlines()
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        raise typer.Exit(admin.EXIT_ERROR)
    typer.echo("the settings are good")


def _print() -> None:
    """Prints TOML: what is printed can be saved and used as the settings file."""
    from keyfold_server import settings

    typer.echo(settings.toml(settings.load().shown()), nl=False)


def main() -> None:
    """Runs the command line."""
    try:
        admin.app()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("keyfold"):
            raise
        # The client's installation has this script, too, and not what it needs.
        raise SystemExit(
            f"keyfold-server: {error.name} is missing; install keyfold[server]"
        ) from None


if __name__ == "__main__":
    main()
