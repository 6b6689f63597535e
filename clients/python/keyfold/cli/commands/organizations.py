"""The commands `keyfold organizations`: the vendor's customers."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

from typing import Annotated, Final

import typer

from keyfold.calls import organizations as calls
from keyfold.cli.errors import InputError
from keyfold.cli.input.confirmation import confirm
from keyfold.cli.input.options import Etag, Limit, RequestId, ValidateChange, Yes
from keyfold.cli.input.values import choice
from keyfold.cli.output.organizations import show_organization, show_organizations
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session
from keyfold.models.organizations import DefaultKey, Organization

_PAGE: Final = 1_000

Name = Annotated[
    str,
    typer.Argument(metavar="ORGANIZATION", help="The organization's name.", show_default=False),
]
DisplayName = Annotated[str | None, typer.Option(help="A name for people.", show_default=False)]
Default = Annotated[
    str | None,
    typer.Option(
        "--default-key",
        metavar="RULE",
        help="What a region gets for which nobody names a key: require_own (an error), linked "
        "(the organization's key link) or platform (the vendor's own key).",
        show_default=False,
    ),
]
ClusterPattern = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster-pattern",
        metavar="PATTERN",
        help="A pattern of the names that its clusters may have; * is any run of characters; "
        "repeat it for more.",
    ),
]
AnyCluster = Annotated[bool, typer.Option("--any-cluster", help="Let its clusters have any name.")]
Holder = Annotated[
    list[str] | None,
    typer.Option(
        "--holder",
        metavar="TYPE:NAME",
        help="An account, project, vault or origin whose keys it may name, such as "
        "AWS_KMS:111122223333; repeat it for each one that it is to have.",
    ),
]
NoHolders = Annotated[bool, typer.Option("--no-holders", help="Release all that it holds.")]
MaxClusters = Annotated[
    int | None,
    typer.Option(min=0, help="The most clusters; 0: as many as it likes.", show_default=False),
]
MaxKeyLinks = Annotated[
    int | None,
    typer.Option(min=0, help="The most key links; 0: up to 1,000.", show_default=False),
]


def create(
    session: Session,
    organization: Name,
    *,
    display_name: DisplayName = None,
    default_key: Default = None,
    cluster_pattern: ClusterPattern = None,
    max_clusters: MaxClusters = None,
    max_key_links: MaxKeyLinks = None,
    validate_only: ValidateChange = False,
    request_id: RequestId = None,
) -> None:
    """Make an organization.

    One that clusters name exists before it is made, with the defaults: a region without a key is
    an error, and nothing is limited.
    """
    made = Organization(
        organization,
        display_name or "",
        choice(DefaultKey, default_key, "--default-key"),
        tuple(cluster_pattern or ()),
        max_clusters or 0,
        max_key_links or 0,
    )
    call = calls.create_organization(made, request_id or None, validate_only=validate_only)
    result, message = session.ask(call)
    if not session.printed(message):
        typer.echo("valid" if validate_only else "made")
        show_organization(result.organization)


def get(session: Session, organization: Name) -> None:
    """Show an organization, and what a region of its clusters gets without a key."""
    result, message = session.ask(calls.get_organization(organization))
    if not session.printed(message):
        show_organization(result)


def list_organizations(session: Session, *, limit: Limit = 1_000) -> None:
    """List organizations by name, those included that only clusters name."""
    first = calls.first_organizations(min(limit, _PAGE))
    whole, more = session.listed(first, "organizations", "not_authentic", limit=limit)
    if not session.printed(whole):
        show_organizations(calls.organizations_of(whole), more=more)
    calls.check_authentic(whole.not_authentic)


def update(
    session: Session,
    organization: Name,
    *,
    display_name: DisplayName = None,
    default_key: Default = None,
    cluster_pattern: ClusterPattern = None,
    any_cluster: AnyCluster = False,
    max_clusters: MaxClusters = None,
    max_key_links: MaxKeyLinks = None,
    holder: Holder = None,
    no_holders: NoHolders = False,
    etag: Etag = "",
    validate_only: ValidateChange = False,
    request_id: RequestId = None,
) -> None:
    """Change an organization. It changes no key of a cluster, and what no option names stays."""
    if any_cluster and cluster_pattern:
        raise InputError("give --cluster-pattern or --any-cluster, but not both")
    if no_holders and holder:
        raise InputError("give --holder or --no-holders, but not both")
    given = {
        "display_name": display_name,
        "default_key": default_key,
        "cluster_patterns": () if any_cluster else cluster_pattern,
        "max_clusters": max_clusters,
        "max_key_links": max_key_links,
        "holders": () if no_holders else holder,
    }
    fields = [name for name, value in given.items() if value is not None]
    if not fields:
        raise InputError("give an option that says what to change")
    changed = Organization(
        organization,
        display_name or "",
        choice(DefaultKey, default_key, "--default-key"),
        tuple(cluster_pattern or ()),
        max_clusters or 0,
        max_key_links or 0,
        holders=tuple(holder or ()),
    )
    call = calls.update_organization(
        changed, fields, etag, request_id or None, validate_only=validate_only
    )
    result, message = session.ask(call)
    if not session.printed(message):
        typer.echo("valid" if validate_only else "changed")
        show_organization(result.organization)


def delete(
    session: Session,
    organization: Name,
    *,
    etag: Etag = "",
    yes: Yes = False,
    validate_only: ValidateChange = False,
    request_id: RequestId = None,
) -> None:
    """Delete an organization that has neither clusters nor key links, and holds nothing.

    The command asks for confirmation; without a terminal to ask at it needs --yes.
    """
    name = one_line(organization)
    if not validate_only:
        confirm(f"Delete organization {name}?", f"{name}: not deleted", yes=yes)
    call = calls.delete_organization(
        organization, etag, request_id or None, validate_only=validate_only
    )
    _, message = session.ask(call)
    if not session.printed(message, organization):
        typer.echo("valid" if validate_only else f"deleted {name}")
