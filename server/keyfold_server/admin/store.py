"""The store, by hand: export, import, reconcile.

Knows nothing of a running server: a command changes the store, and a server notices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyfold_server.admin.terminal import EXIT_DECLINED, app, fail, reported

if TYPE_CHECKING:
    from keyfold_server.settings import Settings
    from keyfold_server.store.reconciliation import NewestChange
    from keyfold_server.store.sql.store import SqlStore
    from keyfold_server.store.transfer.export import Source


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
    from keyfold_server.service.clock import SystemClock
    from keyfold_server.store.transfer import archive, export

    with reported():
        loaded = settings.load()
        now = int(SystemClock().wall() * 1_000)
        try:
            with archive.target(out) as file, _source(loaded) as source:
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
    from keyfold_server.service.clock import SystemClock
    from keyfold_server.store.transfer import archive, export, import_

    with reported():
        loaded = settings.load()
        sealed_by = key or export.key_path(loaded.store, loaded.service_key)
        # Before the store is opened, which may make it: a bad file leaves nothing behind.
        with archive.verified(file, archive.seal_of(sealed_by)) as checked:
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


@app.command("reconcile")
def reconcile_store(
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without, only say what would be done.")
    ] = False,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why, for the audit trail.", show_default=False)
    ] = "",
) -> None:
    """Has replicas go on that refuse with STORE_ROLLED_BACK, with the store as it is.

    For after a failover or a restore that lost changes. Without --yes it says what will be done,
    and ends with exit code 1.
    """
    from keyfold_server import settings
    from keyfold_server.service.clock import SystemClock
    from keyfold_server.store import reconciliation

    with reported():
        loaded = settings.load()
        with closing(_opened_store(loaded)) as store:
            newest = reconciliation.newest(store)
            if not yes:
                typer.echo(_explained(newest))
                raise typer.Exit(EXIT_DECLINED)
            done = reconciliation.carry_out(store, reason, SystemClock())
    for refused in done.refused:
        typer.echo(f"keyfold-server: not in its audit trail: {refused.message}", err=True)
    typer.echo(
        f"reconciled at change {newest.number}, in the audit trail of "
        f"{_counted(done.clusters, 'cluster')}; replicas that refused go on with their next poll"
    )


_EXPLAINED: Final = """\
The store's newest change is number {number}. {made}
Replicas that refuse with STORE_ROLLED_BACK have seen changes that it lacks.
With --yes:
- each of them drops every key that it holds and goes on with the store as it is;
- what the store lacks stays lost: look into what callers were answered since then, and make those
  changes again, revocations first;
- root key versions that a lost rotation had replaced are needed again;
- every cluster's audit trail says that you decided so.
If another server of the database has the lost changes, bring that one back instead.
Nothing was done."""


def _explained(newest: NewestChange) -> str:
    made = "There is none yet."
    if newest.made_at is not None:
        at = datetime.fromtimestamp(newest.made_at / 1000, UTC).isoformat(timespec="milliseconds")
        made = f"Replica {newest.replica} made it at {at}."
    return _EXPLAINED.format(number=newest.number, made=made)


def _opened_store(loaded: Settings) -> SqlStore:
    from keyfold_server.service.clock import SystemClock
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
    from keyfold_server.store.postgresql import address
    from keyfold_server.store.transfer import export

    if not loaded.store.startswith(address.SCHEMES):
        with export.beside(loaded.store, loaded.service_key) as source:
            yield source
        return
    with closing(_opened_store(loaded)) as store, export.opened(store) as source:
        yield source


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
