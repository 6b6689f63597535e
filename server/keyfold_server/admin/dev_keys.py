"""The commands on the key file of LOCAL root keys. Their output never has key material."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from keyfold_server.admin import terminal
from keyfold_server.admin.terminal import EXIT_DECLINED, app, fail, reported
from keyfold_server.providers.local.contents import KeyVersion, LocalKey
from keyfold_server.providers.local.key_file import KeyFile

dev_keys = typer.Typer(
    help="Manage the key file of LOCAL root keys.\n\nLOCAL root keys are for development, tests "
    "and single machines only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(dev_keys, name="dev-keys")

_Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The key's name; its uri is local:NAME.")
]
_File = Annotated[
    Path | None,
    typer.Option("--file", envvar="KEYFOLD_LOCAL_KEYS", help="The key file.", show_default=False),
]
_Version = Annotated[
    int | None,
    typer.Option("--version", min=1, help="The one version to change.", show_default="all"),
]


def _opened(file: Path | None) -> KeyFile:
    if file is None:
        raise fail("no key file; give --file, or set KEYFOLD_LOCAL_KEYS")
    return KeyFile(file)


@dev_keys.command()
def create(name: _Name, file: _File = None) -> None:
    """Add a root key; makes the key file if it does not exist."""
    with reported():
        key = _opened(file).create(name)
    _say(key)


@dev_keys.command()
def rotate(name: _Name, file: _File = None) -> None:
    """Add a version to a root key, which wraps from now on. Older versions still unwrap."""
    with reported():
        key = _opened(file).rotate(name)
    _say(key)


@dev_keys.command()
def disable(name: _Name, file: _File = None, version: _Version = None) -> None:
    """Take a root key out of use until you enable it.

    A running server learns of it when it next calls the key, before `cache_ttl` is over.
    """
    with reported():
        key = _opened(file).disable(name, version)
    _say(key)


@dev_keys.command()
def enable(name: _Name, file: _File = None, version: _Version = None) -> None:
    """Bring a disabled root key back into use."""
    with reported():
        key = _opened(file).enable(name, version)
    _say(key)


@dev_keys.command()
def destroy(
    name: _Name,
    file: _File = None,
    version: _Version = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Erase a root key for good: nobody can open again what it wrapped."""
    target = _opened(file)
    what = f"root key {name}" if version is None else f"version {version} of root key {name}"
    if not yes:
        # Without a terminal a prompt would read the input of the script.
        if not terminal.has_terminal():
            raise fail(f"{what} is not destroyed: there is no terminal to ask at; give --yes")
        if not typer.confirm(f"Erase {what} for good?", err=True):
            typer.echo("nothing was destroyed", err=True)
            raise typer.Exit(EXIT_DECLINED)
    with reported():
        key = target.destroy(name, version)
    _say(key)


@dev_keys.command("list")
def list_keys(
    file: _File = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the root keys and their versions, never their material."""
    with reported():
        contents = _opened(file).read()
    contents.wipe()
    keys = list(contents.keys.values())
    if as_json:
        typer.echo(json.dumps([_as_json(key) for key in keys], indent=2))
    else:
        _table(keys)


def _say(key: LocalKey) -> None:
    states = ", ".join(f"version {v.number} {v.state.value}" for v in key.versions)
    typer.echo(f"local:{key.name}: {states}")


def _as_json(key: LocalKey) -> dict[str, object]:
    return {
        "name": key.name,
        "uri": f"local:{key.name}",
        "versions": [
            {"version": v.number, "state": v.state.value, "created": _created(v)}
            for v in key.versions
        ],
    }


def _table(keys: list[LocalKey]) -> None:
    width = max([len("KEY"), *(len(f"local:{key.name}") for key in keys)])
    typer.echo(f"{'KEY':<{width}}  VERSION  STATE      CREATED")
    for key in keys:
        for v in key.versions:
            uri = f"local:{key.name}"
            typer.echo(f"{uri:<{width}}  {v.number:>7}  {v.state.value:<9}  {_created(v)}")


def _created(version: KeyVersion) -> str:
    return datetime.fromtimestamp(version.created_at / 1_000, UTC).isoformat(timespec="seconds")
