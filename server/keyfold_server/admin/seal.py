"""The command that blesses a cluster's rows as they stand (protocol A1, A6)."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from keyfold_server.admin import terminal
from keyfold_server.admin.store import opened_store
from keyfold_server.admin.terminal import EXIT_DECLINED, app, fail, reported

if TYPE_CHECKING:
    from keyfold_server.domain.cluster import Region
    from keyfold_server.store.blessing import Findings


@app.command("seal")
def seal_cluster(
    cluster: Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Seal without asking.")] = False,
    reason: Annotated[
        str,
        typer.Option(metavar="TEXT", help="The reason, for the log.", show_default=False),
    ] = "",
) -> None:
    """Seal the rows of a cluster as they stand, with every region REVOKED.

    Use it for a cluster that is banned, or whose rows are not authentic, once you know who wrote
    the rows. It first shows the rows, and how they differ from what the log decided. It gives no
    service back: `keyfold restore` does that, once the root key answers.
    """
    from keyfold_server import settings
    from keyfold_server.service.clock import SystemClock
    from keyfold_server.store import blessing

    with reported():
        loaded = settings.load()
        with closing(opened_store(loaded)) as store:
            seen = blessing.look(store, cluster)
            _show(seen)
            if seen.cluster is None:
                raise fail(
                    f"cluster {cluster} cannot be sealed: {seen.shapeless}; bring it back from an "
                    f"export: keyfold-server import FILE --cluster {cluster}"
                )
            _confirm(cluster, yes=yes)
            number = blessing.bless(store, seen, reason, SystemClock())
    typer.echo(
        f"sealed cluster {cluster} at entry {number} of the log; every region is REVOKED until "
        "it is restored"
    )


def _show(seen: Findings) -> None:
    state = "banned" if seen.banned else "not banned"
    typer.echo(f"cluster {seen.name}: {state}")
    if seen.cluster is not None:
        for region in seen.cluster.regions:
            typer.echo(f"  {_region(region)}")
    for difference in seen.differences:
        typer.echo(f"  differs: {difference}")
    if seen.cluster is not None and not seen.differences:
        typer.echo("  the rows are as the log decided last")


def _region(region: Region) -> str:
    spec, count = region.key_spec, len(region.generations)
    principal = f" as {spec.principal!a}" if spec.principal else ""
    return (
        f"region {region.name}: {region.state.value}, {ascii(spec.type)[1:-1]} "
        f"{ascii(spec.uri)[1:-1]}{principal}, {count} {'KEK' if count == 1 else 'KEKs'}"
    )


def _confirm(cluster: str, *, yes: bool) -> None:
    if yes:
        return
    # Without a terminal a prompt would read the input of the script.
    if not terminal.has_terminal():
        raise fail(f"cluster {cluster} is not sealed: there is no terminal to ask at; give --yes")
    if not typer.confirm(f"Seal the rows of {cluster} as they stand?", err=True):
        typer.echo("nothing was sealed", err=True)
        raise typer.Exit(EXIT_DECLINED)
