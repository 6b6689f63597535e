"""Commands that begin, end and resume the use of a cluster's keys."""

# ruff: noqa: PLR0913  options of the command line, one argument each

from __future__ import annotations

import sys

import typer

from keyfold import calls
from keyfold.cli import region_specs
from keyfold.cli.failures import exit_code, one_line
from keyfold.cli.options import (
    AutoRotate,
    CacheTtl,
    Cluster,
    File,
    NamedRegion,
    Organization,
    OutageGrace,
    Reason,
    Region,
    ReplicaOf,
    RequestId,
    ValidateOnly,
    Yes,
)
from keyfold.cli.outcomes import show_change, show_confirmed
from keyfold.cli.session import Session, json_of


def enable(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: Region = None,
    organization: Organization = "",
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    auto_rotate: AutoRotate = None,
    replica_of: ReplicaOf = None,
    validate_only: ValidateOnly = False,
    request_id: RequestId = None,
) -> None:
    """Give a cluster its keys, in all of its regions or in none.

    Each key is proven before anything is stored.
    """
    policy = region_specs.policy_of(cache_ttl, outage_grace, auto_rotate=auto_rotate)
    regions = region_specs.read(file, region or (), policy, replica_of)
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
        show_change(answer, "enabled", validated=validate_only)


def add_regions(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: Region = None,
    organization: Organization = "",
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    auto_rotate: AutoRotate = None,
    replica_of: ReplicaOf = None,
    validate_only: ValidateOnly = False,
    request_id: RequestId = None,
) -> None:
    """Give keys to further regions of a cluster, to all of them or to none."""
    policy = region_specs.policy_of(cache_ttl, outage_grace, auto_rotate=auto_rotate)
    regions = region_specs.read(file, region or (), policy, replica_of)
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
        show_change(answer, "regions added", validated=validate_only)


def revoke(
    session: Session,
    cluster: Cluster,
    *,
    region: NamedRegion = None,
    reason: Reason = "",
    yes: Yes = False,
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
        show_change(answer, "revoked")
        show_confirmed(answer.confirmed, answer.pending)


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
        if answer.restored or answer.not_restored:
            done = f"restored {', '.join(answer.restored) or 'no region'}"
        else:
            done = "no region is revoked, so there is nothing to restore"
        show_change(answer, done)
        for one in answer.not_restored:
            line = f"{one.region} stays revoked: {one.error.message} ({one.error.reason})"
            typer.echo(one_line(line))
    for one in answer.not_restored:
        raise typer.Exit(exit_code(type(one.error)))
