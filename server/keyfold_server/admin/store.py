"""Commands on the store: export, import, reconcile.

They do not talk to a running server. A command changes the store, and servers notice that.
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
    from keyfold_server.store.reconciliation import NewestEntry
    from keyfold_server.store.sql.store import SqlStore
    from keyfold_server.store.transfer.export import Snapshot


@app.command("export")
def export_store(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="The new file to write; - means stdout."),
    ],
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", metavar="NAME", help="Export only this cluster.", show_default="all"
        ),
    ] = None,
) -> None:
    """Write the store, or one cluster's keyring, to a file. A server may run meanwhile.

    The file holds KEKs as their root keys wrapped them. The service key seals the file and is not
    in it: keep a copy of the service key in another place.
    """
    from keyfold_server import settings
    from keyfold_server.service.clock import SystemClock
    from keyfold_server.store.transfer import archive, export

    with reported():
        loaded = settings.load()
        now = int(SystemClock().wall() * 1_000)
        try:
            with archive.target(out) as file, _snapshot(loaded) as snapshot:
                made = export.write(snapshot, file, cluster=cluster, now=now)
        except OSError as error:
            raise fail(f"{out} cannot be written: {error.strerror or error}") from None
    typer.echo(
        f"exported {_counted(made.clusters, 'cluster')} with "
        f"{_entries(made.entries)}, sealed by the service key {made.service_key_id}",
        err=True,
    )


@app.command("import")
def import_store(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that export has written.")],
    key: Annotated[
        Path | None,
        typer.Option(
            "--service-key-of-export",
            metavar="FILE",
            help="The service key that sealed the export.",
            show_default="the store's own",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="NAME",
            help="Bring only this cluster into a store in use; its name is free there, or banned.",
            show_default="all",
        ),
    ] = None,
) -> None:
    """Bring an export into an empty store, whole or not at all, with every region REVOKED.

    With --cluster it brings one cluster into a store that has others: one whose name is free there,
    or one that is banned. A KEK that the store has erased never comes back.

    Prints a line with cluster and region for each region that was ENABLED in the export;
    `keyfold restore` takes it back into service.
    """
    from keyfold_server import settings
    from keyfold_server.service.clock import SystemClock
    from keyfold_server.store.transfer import archive, export, import_, return_

    with reported():
        loaded = settings.load()
        sealed_by = key or export.key_path(loaded.store, loaded.service_key)
        # Verified before the store is opened, which may make it: a bad file leaves nothing behind.
        with (
            archive.verified(file, archive.seal_of(sealed_by)) as verified,
            closing(opened_store(loaded, takes_key=cluster is None)) as store,
        ):
            if cluster is None:
                made = import_.bring_in(store, verified, SystemClock())
            else:
                made = return_.bring_back(store, verified, cluster, SystemClock())
    typer.echo(
        f"imported {_counted(made.clusters, 'cluster')} with "
        f"{_entries(made.entries)}; every region is REVOKED until it is restored",
        err=True,
    )
    for name, region in made.enabled:
        typer.echo(f"{name} {region}")


@app.command("reconcile")
def reconcile_store(
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Reconcile. Otherwise only say what would happen.")
    ] = False,
    reason: Annotated[
        str,
        typer.Option(metavar="TEXT", help="The reason, for the log.", show_default=False),
    ] = "",
) -> None:
    """Make replicas that refuse with STORE_ROLLED_BACK go on with the store as it is.

    Use it after a failover or a restore that lost changes. Without --yes it only says what would
    happen, and ends with exit code 1.
    """
    from keyfold_server import settings
    from keyfold_server.store import reconciliation

    with reported():
        loaded = settings.load()
        with closing(opened_store(loaded)) as store:
            newest = reconciliation.newest(store)
            if not yes:
                typer.echo(_explained(newest))
                raise typer.Exit(EXIT_DECLINED)
            accepted = store.reconcile(reason)
    typer.echo(
        f"reconciled at entry {accepted.number} of the log; replicas that refused go on with "
        "their next poll"
    )


_EXPLAINED: Final = """\
The newest entry of the store's log is number {number}. {made}
Replicas that refuse with STORE_ROLLED_BACK have seen entries that the store lacks.
With --yes:
- each of these replicas drops every key in its memory and goes on with the store as it is;
- the changes that the store lacks stay lost: find out which changes callers made since then, and
  make them again, revocations first;
- if a rotation is lost, the store needs the root key version that it replaced again;
- an entry of the log records your decision.
If another server of the database has the lost changes, bring that server back instead.
Nothing was done."""


def _explained(newest: NewestEntry) -> str:
    made = "The log has no entry yet."
    if newest.made_at is not None:
        at = datetime.fromtimestamp(newest.made_at / 1000, UTC).isoformat(timespec="milliseconds")
        made = f"Replica {newest.replica} wrote it at {at}."
    return _EXPLAINED.format(number=newest.number, made=made)


def opened_store(loaded: Settings, *, takes_key: bool = False) -> SqlStore:
    """Opens the store of the settings."""
    from keyfold_server.service.clock import SystemClock
    from keyfold_server.store.opening import open_store

    return open_store(
        loaded.store,
        loaded.service_key,
        clock=SystemClock(),
        password_file=loaded.store_password_file,
        migrating=loaded.migrate == "auto",
        takes_key=takes_key,
    )


@contextmanager
def _snapshot(loaded: Settings) -> Iterator[Snapshot]:
    """Opens a store for reading: SQLite's file beside its server, PostgreSQL as servers do."""
    from keyfold_server.store.postgresql import address
    from keyfold_server.store.transfer import export

    if not loaded.store.startswith(address.SCHEMES):
        with export.beside(loaded.store, loaded.service_key) as snapshot:
            yield snapshot
        return
    with closing(opened_store(loaded)) as store, export.opened(store) as snapshot:
        yield snapshot


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _entries(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'} of the log"
