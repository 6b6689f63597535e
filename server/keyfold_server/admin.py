"""keyfold-server's own commands: what an operator does beside a server, not through it.

Invariant: an error is one line on stderr and exit code 2, never a traceback; no output holds
key material. Knows nothing of a running server: a command changes files, and a server notices.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.providers.local_format import KeyVersion, LocalKey
from keyfold_server.providers.local_keys import KeyFile

if TYPE_CHECKING:
    from keyfold_server.settings import Settings
    from keyfold_server.store.export import Source
    from keyfold_server.store.sql import SqlStore

EXIT_ERROR: Final = 2
"""What a command exits with when it could not do what it was told."""

EXIT_DECLINED: Final = 1
"""What a command exits with when the person at the terminal said no."""

# A pretty traceback prints local variables, and those may hold keys.
app = typer.Typer(
    help="Runs and looks after a Keyfold server.",
    pretty_exceptions_enable=False,
)
dev_keys = typer.Typer(
    help="The key file of LOCAL root keys: for development, tests and single-machine use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
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
    typer.Option("--version", min=1, help="Only this version.", show_default="all"),
]


def fail(message: str) -> typer.Exit:
    """Prints an error as one line, and returns what to raise."""
    typer.echo(f"keyfold-server: {' '.join(message.split())}", err=True)
    return typer.Exit(EXIT_ERROR)


@contextmanager
def reported() -> Iterator[None]:
    """Turns Keyfold's errors into one line on stderr and exit code 2."""
    try:
        yield
    except KeyfoldError as error:
        raise fail(error.message) from error


def has_terminal() -> bool:
    """Tells whether there is a person to ask."""
    return sys.stdin.isatty()


def _opened(file: Path | None) -> KeyFile:
    if file is None:
        raise fail("no key file; give --file, or set KEYFOLD_LOCAL_KEYS")
    return KeyFile(file)


@dev_keys.command()
def create(name: _Name, file: _File = None) -> None:
    """Adds a root key; makes the key file where there is none."""
    with reported():
        key = _opened(file).create(name)
    _say(key)


@dev_keys.command()
def rotate(name: _Name, file: _File = None) -> None:
    """Adds a version to a root key, which wraps from now on; the older ones still unwrap."""
    with reported():
        key = _opened(file).rotate(name)
    _say(key)


@dev_keys.command()
def disable(name: _Name, file: _File = None, version: _Version = None) -> None:
    """Takes a root key out of use until it is enabled; a running server notices at once."""
    with reported():
        key = _opened(file).disable(name, version)
    _say(key)


@dev_keys.command()
def enable(name: _Name, file: _File = None, version: _Version = None) -> None:
    """Brings a disabled root key back into use."""
    with reported():
        key = _opened(file).enable(name, version)
    _say(key)


@dev_keys.command()
def destroy(
    name: _Name,
    file: _File = None,
    version: _Version = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erases a root key's material for good: nothing that it wrapped can be opened again."""
    target = _opened(file)
    what = f"root key {name}" if version is None else f"version {version} of root key {name}"
    if not yes:
        # Without a terminal a prompt would read whatever the script was fed.
        if not has_terminal():
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
    """Lists the root keys and their versions, never their material."""
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


@app.command("export")
def export_store(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Write here, to a new file; - is stdout.")
    ],
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="NAME", help="Only this one.", show_default="all"),
    ] = None,
) -> None:
    """Writes the store, or one cluster's keyring, to a file; a server may run meanwhile.

    The file holds KEKs as their root keys wrapped them. The service key seals it and is not in
    it: keep a copy of that key, apart from the file.
    """
    from keyfold_server import settings
    from keyfold_server.service.timing import SystemClock
    from keyfold_server.store import export, export_file

    with reported():
        loaded = settings.load()
        now = int(SystemClock().wall() * 1_000)
        try:
            with export_file.target(out) as file, _source(loaded) as source:
                made = export.write(source, file, cluster=cluster, now=now)
        except OSError as error:
            raise fail(f"{out} cannot be written: {error.strerror or error}") from None
    typer.echo(
        f"exported {_counted(made.clusters, 'cluster')} with "
        f"{_counted(made.events, 'audit event')}, sealed by the service key {made.service_key_id}",
        err=True,
    )


@app.command("import")
def import_store(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export has made.")],
    key: Annotated[
        Path | None,
        typer.Option(
            "--service-key-of-export",
            metavar="FILE",
            help="The service key that sealed it.",
            show_default="the store's own",
        ),
    ] = None,
) -> None:
    """Brings an export into an empty store, every region REVOKED; all of it or nothing.

    Prints cluster and region of what was ENABLED when the export was made, a line each:
    `keyfold restore` takes it back into service.
    """
    from keyfold_server import settings
    from keyfold_server.service.timing import SystemClock
    from keyfold_server.store import export, export_file, import_

    with reported():
        loaded = settings.load()
        sealed_by = key or export.key_path(loaded.store, loaded.service_key)
        # Before the store is opened, which may make it: a bad file leaves nothing behind.
        with export_file.checked(file, export_file.key_of(sealed_by)) as checked:
            store = _opened_store(loaded)
            try:
                made = import_.bring_in(store, checked, SystemClock())
            finally:
                store.close()
    typer.echo(
        f"imported {_counted(made.clusters, 'cluster')} with "
        f"{_counted(made.events, 'audit event')}; every region is REVOKED until it is restored",
        err=True,
    )
    for name, region in made.enabled:
        typer.echo(f"{name} {region}")


def _opened_store(loaded: Settings) -> SqlStore:
    from keyfold_server.service.timing import SystemClock
    from keyfold_server.store.opening import open_store

    return open_store(
        loaded.store,
        loaded.service_key,
        clock=SystemClock(),
        password_file=loaded.store_password_file,
        migrating=loaded.migrate == "auto",
    )


@contextmanager
def _source(loaded: Settings) -> Iterator[Source]:
    """Opens a store for reading: a file beside its server, another one as servers do."""
    from keyfold_server.store import address, export

    if not loaded.store.startswith(address.SCHEMES):
        with export.beside(loaded.store, loaded.service_key) as source:
            yield source
        return
    with closing(_opened_store(loaded)) as store, export.opened(store) as source:
        yield source


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
