"""The store, by hand: export, import.

Knows nothing of a running server: a command changes the store, and a server notices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyfold_server.admin.terminal import app, fail, reported

if TYPE_CHECKING:
    from keyfold_server.settings import Settings
    from keyfold_server.store.export import Source
    from keyfold_server.store.sql import SqlStore


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
