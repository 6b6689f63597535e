"""The command that makes throw-away certificates. Its output never has key material."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Final

import typer

from keyfold_server.admin.terminal import app, fail, reported
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.files import atomic_write

_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_CLIENTS: Final = ("spiffe://example.org/app",)


@app.command("dev-certs")
def dev_certs(
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="The folder to write to; made if it does not exist."
        ),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="A DNS name or IP address of the server. Repeat for more names.",
            show_default=", ".join(_NAMES),
        ),
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(
            "--client",
            metavar="CALLER",
            help="A caller to make a certificate for, in the policy's form: spiffe://…, uri:… or "
            "dns:…. Repeat for more callers.",
            show_default=", ".join(_CLIENTS),
        ),
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Make throw-away certificates, to try TLS out.

    They are valid for 30 days and not for production. Makes an authority, and certificates for the
    server and for each caller. Prints the settings for the server and for each client, and a
    grpcurl command.
    """
    from keyfold_server.access.tls import dev_certs as making

    names = tuple(name or _NAMES)
    callers = tuple(dict.fromkeys(client or _CLIENTS))
    folder = out.absolute()
    with reported():
        files = making.make(names, callers)
        try:
            _write(folder, files, force=force)
        except OSError as error:
            raise fail(f"{error.filename or folder}: {error.strerror or error}") from None
    stems = [making.client_file(number) for number in range(1, len(callers) + 1)]
    _explain(folder, names[0], dict(zip(stems, callers, strict=True)))


def _write(folder: Path, files: dict[str, bytes], *, force: bool) -> None:
    there = sorted(name for name in files if (folder / name).exists())
    if there and not force:
        raise SetupError(
            f"{folder} already has {', '.join(there)}; name another folder, or give --force to "
            "overwrite"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        mode = 0o600 if name.endswith(".key") else 0o644
        with atomic_write(folder / name, mode=mode, overwrite=force) as file:
            file.write(text)


def _explain(folder: Path, host: str, callers: dict[str, str]) -> None:
    def path(name: str) -> str:
        return shlex.quote(str(folder / name))

    lines = [
        "# throw-away certificates, valid for 30 days",
        "# the server:",
        f"export KEYFOLD_TLS_CERT={path('server.pem')}",
        f"export KEYFOLD_TLS_KEY={path('server.key')}",
        f"export KEYFOLD_TLS_CLIENT_CA={path('ca.pem')}",
    ]
    for stem, caller in callers.items():
        lines += [
            f"# a client that is {caller}:",
            f"export KEYFOLD_CA={path('ca.pem')}",
            f"export KEYFOLD_CERT={path(f'{stem}.pem')}",
            f"export KEYFOLD_KEY={path(f'{stem}.key')}",
        ]
    target = f"[{host}]:7443" if ":" in host else f"{host}:7443"
    mine = f"-cacert {path('ca.pem')} -cert {path('client.pem')} -key {path('client.key')}"
    lines += ["# the same with grpcurl:", f"grpcurl {mine} {shlex.quote(target)} list"]
    typer.echo("\n".join(lines))
