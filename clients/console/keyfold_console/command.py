"""The command line: options, the environment, and how faults of settings are said."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from keyfold.transport.target import DEFAULT_TARGET
from keyfold.transport.tls import Tls
from keyfold.version import __version__
from keyfold_console import logs
from keyfold_console.serving import certificates, serve
from keyfold_console.settings import DEFAULT_LISTEN, Settings, SettingsError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Shows Keyfold in a browser, with the rights that each visitor's token has.",
    epilog="""\b
Exit codes:
  0  ended in order by SIGTERM or SIGINT
  1  unexpected error
  2  wrong usage, or a setting that cannot be used""",
)


def _version(wanted: bool) -> None:  # noqa: FBT001  typer passes it by position
    if wanted:
        typer.echo(f"keyfold-console {__version__}")
        raise typer.Exit


@app.callback()
def _before_commands(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def run(  # noqa: PLR0913  one argument for each option
    *,
    listen: Annotated[
        str, typer.Option(envvar="KEYFOLD_CONSOLE_LISTEN", help="HOST:PORT for browsers.")
    ] = DEFAULT_LISTEN,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            envvar="KEYFOLD_CONSOLE_TLS_CERT",
            help="A PEM file with the console's certificate, to serve https.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            envvar="KEYFOLD_CONSOLE_TLS_KEY",
            help="A PEM file with that certificate's private key.",
        ),
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy",
            envvar="KEYFOLD_CONSOLE_BEHIND_PROXY",
            help="Say that a proxy in front of the console ends TLS.",
        ),
    ] = False,
    embed: Annotated[
        list[str] | None,
        typer.Option(
            envvar="KEYFOLD_CONSOLE_EMBED",
            metavar="ORIGIN",
            help="An origin whose pages may show the console in a frame; may be repeated.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            envvar="KEYFOLD_TARGET",
            help="The server: HOST:PORT, or several HOST:PORT separated by commas.",
        ),
    ] = DEFAULT_TARGET,
    tls: Annotated[
        bool, typer.Option("--tls", help="Reach it by TLS, and trust the system's authorities.")
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            envvar="KEYFOLD_CA", help="Reach it by TLS, and trust the authorities in this PEM file."
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            envvar="KEYFOLD_CERT",
            help="A PEM file with a client certificate, where the server asks for one. It gives "
            "visitors no rights: the console makes no call without a visitor's token.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(envvar="KEYFOLD_KEY", help="A PEM file with the certificate's private key."),
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(help="The name in the server's certificate, if it is not the target's host."),
    ] = None,
) -> None:
    """Serve the pages until SIGTERM."""
    secured = tls or any(one is not None for one in (ca, cert, key, server_name))
    try:
        settings = Settings(
            target=target,
            tls=Tls(ca, cert, key, server_name) if secured else None,
            listen=listen,
            certificate=tls_cert,
            private_key=tls_key,
            behind_proxy=behind_proxy,
            embed=tuple(embed or ()),
        )
        certificates(settings)
        logs.set_up()
        asyncio.run(serve(settings))
    except SettingsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
