"""The command that blesses a cluster's rows as they stand (protocol A1, A6)."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from keyfold_server.admin import terminal
from keyfold_server.admin.store import opened_store
from keyfold_server.admin.terminal import EXIT_DECLINED, app, fail, reported

if TYPE_CHECKING:
    from keyfold_server.domain.cluster import Generation, Region
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
        typer.echo(f"  organization: {seen.cluster.organization or 'none'}")
        for region in seen.cluster.regions:
            typer.echo(f"  {_region(region)}")
            for generation in region.generations:
                typer.echo(f"    {_generation(generation)}")
    for difference in seen.differences:
        typer.echo(f"  differs: {difference}")
    if seen.cluster is not None and not seen.differences:
        typer.echo("  the rows are as the log decided last")


def _region(region: Region) -> str:
    spec, policy = region.key_spec, region.policy
    facts = [f"region {region.name}: {region.state.value}", _key(spec.type, spec.uri)]
    if spec.principal:
        facts.append(f"as {_shown(spec.principal)}")
    if policy.cache_ttl is not None:
        facts.append(f"cache_ttl {policy.cache_ttl:g} s")
    if policy.outage_grace is not None:
        facts.append(f"outage_grace {policy.outage_grace:g} s")
    if policy.auto_rotate:
        facts.append("auto_rotate")
    return ", ".join(facts)


def _generation(generation: Generation) -> str:
    root = generation.current.root
    retired = "" if generation.retired_at is None else ", out of use"
    return f"KEK {generation.kek_id.hex()}: wrapped by {_key(root.type, root.uri)}{retired}"


def _key(type_: str, uri: str) -> str:
    return f"{_shown(type_)} {_shown(uri)}"


def _shown(value: str) -> str:
    """Returns a value that nobody verified, without what a terminal could take for an order."""
    return ascii(value)[1:-1]


def _confirm(cluster: str, *, yes: bool) -> None:
    if yes:
        return
    # Without a terminal a prompt would read the input of the script.
    if not terminal.has_terminal():
        raise fail(f"cluster {cluster} is not sealed: there is no terminal to ask at; give --yes")
    if not typer.confirm(f"Seal the rows of {cluster} as they stand?", err=True):
        typer.echo("nothing was sealed", err=True)
        raise typer.Exit(EXIT_DECLINED)
