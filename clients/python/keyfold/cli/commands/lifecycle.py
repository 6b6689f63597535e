"""The commands that change whether clusters use keys: `enable`, `add-regions`, `revoke`, `restore`.

`rotation` has those that change which key a cluster uses.
"""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

from typing import Annotated, Final

import typer

from keyfold import calls
from keyfold.cli.errors import InputError, exit_code
from keyfold.cli.input import region_specs
from keyfold.cli.input.actions import check_revokes
from keyfold.cli.input.confirmation import confirm
from keyfold.cli.input.options import (
    AutoRotate,
    CacheTtl,
    Cluster,
    File,
    Geo,
    IntoRevoked,
    KeyLinkName,
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
from keyfold.cli.output.changes import show_change, show_confirmed
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session


def enable(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: Region = None,
    geo: Geo = None,
    organization: Organization = "",
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    auto_rotate: AutoRotate = None,
    replica_of: ReplicaOf = None,
    key_link: KeyLinkName = None,
    validate_only: ValidateOnly = False,
    request_id: RequestId = None,
) -> None:
    """Give a new cluster its root keys.

    Keyfold tries every region's root key first: if one of them does not wrap and unwrap, it stores
    nothing. If the file lists the cluster's regions, Keyfold remembers them: a region without a key
    is an error, then and later.
    """
    policy = region_specs.policy_of(cache_ttl, outage_grace, auto_rotate=auto_rotate)
    regions = region_specs.read(
        file, region or (), policy, replica_of, geos=geo or (), key_link=key_link
    )
    result, message = session.ask(
        calls.enable(
            cluster,
            regions.specs,
            organization=organization,
            regions=regions.expected,
            request_id=request_id or None,
            validate_only=validate_only,
        )
    )
    if not session.printed(message):
        show_change(result, "enabled", validated=validate_only)


def add_regions(
    session: Session,
    cluster: Cluster,
    *,
    file: File = None,
    region: Region = None,
    geo: Geo = None,
    organization: Organization = "",
    cache_ttl: CacheTtl = None,
    outage_grace: OutageGrace = None,
    auto_rotate: AutoRotate = None,
    replica_of: ReplicaOf = None,
    key_link: KeyLinkName = None,
    into_revoked: IntoRevoked = False,
    validate_only: ValidateOnly = False,
    request_id: RequestId = None,
) -> None:
    """Add regions to a cluster, all of them or none.

    Keyfold tries every region's root key first. It adds none to a cluster whose regions are all
    revoked, unless --into-revoked says so.
    """
    policy = region_specs.policy_of(cache_ttl, outage_grace, auto_rotate=auto_rotate)
    regions = region_specs.read(
        file, region or (), policy, replica_of, geos=geo or (), key_link=key_link
    )
    result, message = session.ask(
        calls.add_regions(
            cluster,
            regions.specs,
            organization=organization,
            regions=regions.expected,
            request_id=request_id or None,
            validate_only=validate_only,
            into_revoked=into_revoked,
        )
    )
    if not session.printed(message):
        show_change(result, "regions added", validated=validate_only)


_BANNED: Final = """\
the stored rows of {cluster} are not authentic, or are gone, so Keyfold banned its name
no key of {cluster} serves until `keyfold-server seal {cluster}`, and then a restore
find out who wrote to the store"""


def revoke(
    session: Session,
    cluster: Cluster,
    *,
    region: NamedRegion = None,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='JSON that asks for it in CockroachDB\'s form: {"action": "REVOKE"}; - is stdin.',
        ),
    ] = None,
    reason: Reason = "",
    yes: Yes = False,
    request_id: RequestId = None,
) -> None:
    """Stop all use of a cluster's keys at once.

    With --region, only those regions stop. A --file stops the whole cluster. The command asks for
    confirmation; without a terminal to ask at it needs --yes.
    """
    if file is not None:
        if region:
            raise InputError("--file revokes the whole cluster; give --region without it")
        check_revokes(file)
    what = one_line(f"{', '.join(region)} of {cluster}" if region else f"all regions of {cluster}")
    question = f"Revoke {what}? Wrapped keys will not unwrap until you restore them."
    confirm(question, f"{what}: not revoked", yes=yes)
    result, message = session.ask(calls.revoke(cluster, region or (), reason, request_id or None))
    if not session.printed(message, cluster):
        if result.banned:
            typer.echo(f"revoked: {_BANNED.format(cluster=one_line(cluster))}")
        else:
            show_change(result, "revoked")
        show_confirmed(result.confirmed, result.pending, result.operation)


def restore(
    session: Session,
    cluster: Cluster,
    *,
    region: NamedRegion = None,
    reason: Reason = "",
    request_id: RequestId = None,
) -> None:
    """Resume service after a revocation.

    Keyfold tries the root keys first: a region whose key does not unwrap stays revoked, and the
    exit code is that of its error.
    """
    result, message = session.ask(calls.restore(cluster, region or (), reason, request_id or None))
    if not session.printed(message):
        if result.restored or result.not_restored:
            done = f"restored {', '.join(result.restored) or 'no region'}"
        else:
            done = "no region is revoked, so there is nothing to restore"
        show_change(result, done)
        for one in result.not_restored:
            line = f"{one.region} stays revoked: {one.error.message} ({one.error.reason})"
            typer.echo(one_line(line))
    for one in result.not_restored:
        raise typer.Exit(exit_code(type(one.error)))
