"""keyfold-server without a command, and its commands that concern the whole server.

Each command imports the parts of the server that it needs, so that a command on the key file starts
in a fraction of the time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyfold_server.admin.terminal import app, reported
from keyfold_server.domain.errors import KeyfoldError, SetupError

if TYPE_CHECKING:
    from keyfold_server.rpc.probe import Tls
    from keyfold_server.settings import Settings

_NOT_SERVING: Final = 1
"""The exit code of `health` if the server does not serve; health checks know only 0 and 1."""


def _version(wanted: bool) -> None:
    if wanted:
        from keyfold.version import __version__

        typer.echo(f"keyfold-server {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Print the settings as TOML, and exit.")
    ] = False,
    version: Annotated[  # noqa: ARG001  its callback prints it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run and maintain a Keyfold server. Without a command it serves."""
    with reported():
        if print_settings:
            _print()
        elif context.invoked_subcommand is None:
            serve()


@app.command()
def serve() -> None:
    """Serve until SIGTERM. Prints one line with the address when the server is ready."""
    from keyfold_server import grpc_log, settings

    with reported():
        loaded = settings.load()
        # gRPC reads the variable when it is imported. It tells of failed handshakes at this level
        # only; `grpc_log` keeps strangers from flooding the log with them.
        verbosity = "ERROR" if loaded.tls_cert is None else grpc_log.VERBOSITY
        os.environ.setdefault("GRPC_VERBOSITY", verbosity)
        from keyfold_server import bootstrap

        bootstrap.run(loaded, _ready)


@app.command()
def migrate() -> None:
    """Bring the store's schema up to this release. With SQLite, serving does so by itself."""
    from keyfold_server import bootstrap, settings

    with reported():
        store = bootstrap.migrate(settings.load())
        typer.echo(f"{store} has the schema of this release")


@app.command()
def health(
    target: Annotated[
        str | None,
        typer.Option(help="HOST:PORT or unix:/path.", show_default="KEYFOLD_LISTEN"),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 3.0,
) -> None:
    """Ask a running server whether it serves.

    The exit code is 0 if it does, and 1 if it does not. With TLS, the server must show the
    certificate in KEYFOLD_TLS_CERT, or one for the same name from an authority in KEYFOLD_CA or
    KEYFOLD_TLS_CLIENT_CA. A server on this machine that asks its clients for certificates answers
    the command on a socket of its own, without TLS. With KEYFOLD_CERT and KEYFOLD_KEY the command
    connects with that client certificate instead.
    """
    from keyfold_server import settings
    from keyfold_server.rpc import probe

    try:
        loaded = settings.load()
        found = asked(loaded, target or loaded.listen, timeout)
    except KeyfoldError as error:
        found = error.message
    typer.echo(found, err=found != probe.SERVING)
    if found != probe.SERVING:
        raise typer.Exit(_NOT_SERVING)


def asked(loaded: Settings, target: str, timeout: float) -> str:
    """Returns the answer of a server that has these settings."""
    from keyfold_server.rpc import health_socket, probe

    mutual = loaded.tls_client_ca is not None and "KEYFOLD_CERT" not in os.environ
    here = target == loaded.listen or health_socket.is_here(target)
    if mutual and here and health_socket.SUPPORTED:
        return probe.health(health_socket.of(target), timeout)
    return probe.health(target, timeout, _tls(loaded))


def _tls(loaded: Settings) -> Tls | None:
    """Returns how to connect to a server that has these settings."""
    from keyfold_server.access.tls import files as tls_files
    from keyfold_server.rpc.probe import Tls

    if loaded.tls_cert is None or loaded.tls_key is None:
        return None
    ca = os.environ.get("KEYFOLD_CA") or loaded.tls_client_ca
    cert = os.environ.get("KEYFOLD_CERT") or loaded.tls_cert
    key = os.environ.get("KEYFOLD_KEY") or loaded.tls_key
    try:
        own = loaded.tls_cert.read_bytes()
        trusted = own if ca is None else own + b"\n" + Path(ca).read_bytes()
        return Tls(
            trusted, Path(cert).read_bytes(), Path(key).read_bytes(), tls_files.server_name(own)
        )
    except OSError as error:
        raise SetupError(f"cannot read {error.filename}: {error.strerror}") from None


def _ready(address: str) -> None:
    typer.echo(f"keyfold-server ready on {address}")
    sys.stdout.flush()


def _print() -> None:
    """Prints the settings as TOML, which can be saved as the settings file."""
    from keyfold_server import settings

    typer.echo(settings.toml(settings.load().shown()), nl=False)
