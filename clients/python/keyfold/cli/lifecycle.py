"""Commands that change a cluster's keys."""

# ruff: noqa: PLR0913  options of the command line, one argument each

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from keyfold import calls
from keyfold.answers import Change
from keyfold.cli import region_specs
from keyfold.cli.failures import exit_code, one_line
from keyfold.cli.session import Session, json_of
from keyfold.cli.tables import show_status
from keyfold.status import PendingReplica

Cluster = Annotated[
    str, typer.Argument(metavar="CLUSTER", help="The cluster's name.", show_default=False)
]
File = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='Region specs as JSON: {"region_specs": […]}, the bare list, or '
        '{"dedicated": {"cmek_region_specs": […]}}; - is stdin.',
    ),
]
Region = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME=TYPE,URI[,PRINCIPAL]",
        help="A region and its root key; may be repeated.",
    ),
]
RotatedRegion = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME[=TYPE,URI[,PRINCIPAL]]",
        help="A region, for its key's newest version; or a region and its new root key.",
    ),
]
NamedRegion = Annotated[
    list[str] | None,
    typer.Option("--region", metavar="NAME", help="Only this region; may be repeated."),
]
Organization = Annotated[str, typer.Option(help="The customer's organization.", show_default=False)]
CacheTtl = Annotated[
    str | None,
    typer.Option(help="How long one use of the root key lasts, 0s to 15m; 0s asks each time."),
]
OutageGrace = Annotated[
    str | None, typer.Option(help="How much longer while the KMS is away, 0s to 24h.")
]
ValidateOnly = Annotated[
    bool, typer.Option("--validate-only", help="Prove the keys, and store nothing.")
]
RequestId = Annotated[
    str | None, typer.Option(help="Repeat a change whose outcome is not known with its id.")
]
Reason = Annotated[str, typer.Option(help="For the audit trail.", show_default=False)]


def enable(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: Region = None,
    organization: Organization = "",
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    validate_only: ValidateOnly = False,
    request_id: RequestId = None,
) -> None:
    """Give a cluster its keys, in all of its regions or in none.

    Each key is proven before anything is stored.
    """
    regions = region_specs.read(file, region or (), cache_ttl, outage_grace)
    answer, message = session.ask(
        calls.enable(
            cluster,
            regions.specs,
            organization=organization,
            regions=regions.expected,
            request_id=request_id or None,
            validate_only=validate_only,
        )
    )
    if session.json:
        typer.echo(json_of(message))
    else:
        _show(answer, "enabled", validated=validate_only)


def add_regions(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: Region = None,
    organization: Organization = "",
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    validate_only: ValidateOnly = False,
    request_id: RequestId = None,
) -> None:
    """Give keys to further regions of a cluster, to all of them or to none."""
    regions = region_specs.read(file, region or (), cache_ttl, outage_grace)
    answer, message = session.ask(
        calls.add_regions(
            cluster,
            regions.specs,
            organization=organization,
            regions=regions.expected,
            request_id=request_id or None,
            validate_only=validate_only,
        )
    )
    if session.json:
        typer.echo(json_of(message))
    else:
        _show(answer, "regions added", validated=validate_only)


def rotate(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: RotatedRegion = None,
    new_generation: Annotated[
        bool, typer.Option("--new-generation", help="Also make a new key encryption key.")
    ] = False,
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    validate_only: ValidateOnly = False,
    request_id: RequestId = None,
) -> None:
    """Move regions to their key's newest version, or to another key.

    Wrapped keys stay valid. The old key is needed until this is done, and not after. A region's
    policy is kept unless --cache-ttl or --outage-grace is given, which replace all of it.
    """
    regions = region_specs.read(file, region or (), cache_ttl, outage_grace)
    answer, message = session.ask(
        calls.rotate(
            cluster,
            regions.specs,
            new_generation=new_generation,
            request_id=request_id or None,
            validate_only=validate_only,
        )
    )
    if session.json:
        typer.echo(json_of(message))
    else:
        _show(answer, "rotated", validated=validate_only)
        _show_pending(answer.pending, "will have applied it")


def revoke(
    session: Session,
    cluster: Cluster,
    *,
    region: NamedRegion = None,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    request_id: RequestId = None,
) -> None:
    """Stop all use of a cluster's keys, or of some regions', at once.

    Asks first, unless there is no terminal.
    """
    what = f"{', '.join(region)} of {cluster}" if region else f"all regions of {cluster}"
    if not yes and sys.stdin.isatty():
        question = f"Revoke {one_line(what)}? Wrapped keys will not open until they are restored."
        typer.confirm(question, abort=True, err=True)
    answer, message = session.ask(calls.revoke(cluster, region or (), reason, request_id or None))
    if session.json:
        typer.echo(json_of(message))
    else:
        _show(answer, "revoked")
        typer.echo(
            f"confirmed by {len(answer.confirmed)} of "
            f"{len(answer.confirmed) + len(answer.pending)} replicas"
        )
        _show_pending(answer.pending, "will have stopped")


def restore(
    session: Session,
    cluster: Cluster,
    *,
    region: NamedRegion = None,
    reason: Reason = "",
    request_id: RequestId = None,
) -> None:
    """Prove keys again and resume service, region by region.

    Ends with an error's exit code where a region stays revoked.
    """
    answer, message = session.ask(calls.restore(cluster, region or (), reason, request_id or None))
    if session.json:
        typer.echo(json_of(message))
    else:
        _show(answer, f"restored {', '.join(answer.restored) or 'no region'}")
        for one in answer.not_restored:
            line = f"{one.region} stays revoked: {one.error.message} ({one.error.reason})"
            typer.echo(one_line(line))
    for one in answer.not_restored:
        raise typer.Exit(exit_code(type(one.error)))


def _show(answer: Change, done: str, *, validated: bool = False) -> None:
    if validated:
        done = "valid; nothing was stored, and this is how it would be"
    elif answer.replayed:
        done = "this request was carried out before; this is how it is now"
    typer.echo(done)
    if answer.superseded:
        typer.echo("something later has changed what that request did")
    show_status(answer.status)


def _show_pending(pending: Iterable[PendingReplica], what: str) -> None:
    for one in pending:
        within = one.stops_within.total_seconds()
        typer.echo(f"{one_line(one.replica)} {what} within {within:.0f} s")
