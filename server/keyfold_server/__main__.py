"""keyfold-server: serve, look at the settings, and the server's own commands.

What serves is imported by the commands that need it: a command on the key file alone starts in a
fraction of the time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from keyfold_server import admin
from keyfold_server.domain.errors import KeyfoldError

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
    """Ask a running server whether it serves: exit code 0 if it does, 1 if not."""
    from keyfold_server import settings
    from keyfold_server.rpc import probe

    try:
        found = probe.health(target or settings.load().listen, timeout)
    except KeyfoldError as error:
        found = error.message
    typer.echo(found, err=found != probe.SERVING)
    if found != probe.SERVING:
        raise typer.Exit(_NOT_SERVING)


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

    loaded = settings.load()
    tables = {}
    for name, value in loaded.shown().items():
        if isinstance(value, dict):
            tables[name] = value
        else:
            typer.echo(f"{name} = {_toml(str(value) if isinstance(value, Path) else value)}")
    for name, table in tables.items():
        typer.echo(f"\n[{name}]")
        for key, value in table.items():
            typer.echo(f"{_toml(key)} = {_toml(value)}")


def _toml(value: object) -> str:
    """Returns a string or number as TOML, which is JSON but for characters beyond 16 bits."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


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
