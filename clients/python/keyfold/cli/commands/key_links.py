"""The commands `keyfold links`: the root keys that organizations have linked."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

import secrets
from typing import Annotated, Final

import typer

from keyfold.calls import organizations as calls
from keyfold.calls.operations import start_operation
from keyfold.cli.commands.operations import send_start
from keyfold.cli.commands.organizations import Name
from keyfold.cli.errors import InputError
from keyfold.cli.input.confirmation import confirm
from keyfold.cli.input.options import (
    Etag,
    KeyOption,
    Limit,
    Principal,
    Reason,
    RequestId,
    ValidateChange,
    Yes,
)
from keyfold.cli.input.values import pairs
from keyfold.cli.output.organizations import show_link, show_links
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session
from keyfold.models.operations import OperationAction, OperationScope
from keyfold.models.organizations import KeyLink
from keyfold.models.specs import KeySpec

_PAGE: Final = 1_000

_SHORT: Final = 100
"""Most characters of a link's name in the name of an operation."""

Link = Annotated[
    str,
    typer.Argument(
        metavar="LINK", help="The link's name within the organization.", show_default=False
    ),
]
Description = Annotated[str | None, typer.Option(help="What the link is for.", show_default=False)]
KeyType = Annotated[
    str,
    typer.Option(
        "--type", help="The root key's provider, such as AWS_KMS or LOCAL.", show_default=False
    ),
]
KeyUri = Annotated[
    str, typer.Option("--uri", help="The root key's name at its provider.", show_default=False)
]


def create(
    session: Session,
    organization: Name,
    link: Link,
    *,
    key_type: KeyType,
    uri: KeyUri,
    region: Annotated[
        str, typer.Option(help="The region whose keys it gives.", show_default=False)
    ] = "",
    geo: Annotated[
        str,
        typer.Option(
            help="A geo of the server's settings, for a multi-Region key with a replica in each "
            "of its regions.",
            show_default=False,
        ),
    ] = "",
    principal: Principal = "",
    option: KeyOption = None,
    description: Description = None,
    validate_only: ValidateChange = False,
    request_id: RequestId = None,
) -> None:
    """Link a root key to an organization, for one region or geo.

    Keyfold tries the key first: if it does not wrap and unwrap in each region, it stores nothing.
    """
    key = KeySpec(key_type, uri, principal, pairs(option or (), "--option"))
    made = KeyLink(organization, link, key, region, geo, description or "")
    call = calls.create_key_link(made, request_id or None, validate_only=validate_only)
    result, message = session.ask(call)
    if not session.printed(message):
        typer.echo("the key works" if validate_only else "linked")
        show_link(result.key_link)


def get(session: Session, organization: Name, link: Link) -> None:
    """Show a key link and the regions that use it."""
    result, message = session.ask(calls.get_key_link(organization, link))
    if not session.printed(message):
        show_link(result)


def list_links(session: Session, organization: Name, *, limit: Limit = 1_000) -> None:
    """List the key links of an organization by name."""
    first = calls.first_key_links(organization, min(limit, _PAGE))
    whole, more = session.listed(first, "key_links", limit=limit)
    if not session.printed(whole):
        show_links(calls.key_links_of(whole), more=more)


def update(
    session: Session,
    organization: Name,
    link: Link,
    *,
    key_type: KeyType = "",
    uri: KeyUri = "",
    principal: Principal = "",
    option: KeyOption = None,
    description: Description = None,
    etag: Etag = "",
    validate_only: ValidateChange = False,
    request_id: RequestId = None,
) -> None:
    """Change a link's description, or its root key while no region uses the link.

    A link in use gets another key with `links move`. Keyfold tries the key first. With the key that
    the link has, it tries it again, also in the regions that its geo has gained.
    """
    options = pairs(option or (), "--option")
    key = KeySpec(key_type, uri, principal, options) if key_type or uri else None
    if key is None and (principal or options):
        raise InputError("--principal and --option belong to a key: give --type and --uri")
    given = {"description": description, "key_spec": key}
    fields = [name for name, value in given.items() if value is not None]
    if not fields:
        raise InputError("give an option that says what to change")
    changed = KeyLink(organization, link, key, description=description or "")
    call = calls.update_key_link(
        changed, fields, etag, request_id or None, validate_only=validate_only
    )
    result, message = session.ask(call)
    if not session.printed(message):
        typer.echo("valid" if validate_only else "changed")
        show_link(result.key_link)


def move(
    session: Session,
    organization: Name,
    link: Link,
    *,
    key_type: KeyType,
    uri: KeyUri,
    principal: Principal = "",
    option: KeyOption = None,
    name: Annotated[
        str,
        typer.Option(
            "--operation",
            metavar="NAME",
            help="Your own name for the operation; by default move-LINK and some digits.",
            show_default=False,
        ),
    ] = "",
    max_concurrency: Annotated[
        int, typer.Option(min=0, max=64, help="Most regions at once; 0 means 16.")
    ] = 0,
    reason: Reason = "",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Try the key, count regions and calls; start nothing."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end, as `operations wait` does.")
    ] = False,
) -> None:
    """Move a link to another root key, with every region that uses it.

    Keyfold tries the key first. From then on the link has it, and an operation rotates the regions
    one by one; wrapped keys stay valid. With the key that the link has, it goes on where the last
    move failed; with the key before, it moves all back.
    """
    key = KeySpec(key_type, uri, principal, pairs(option or (), "--option"))
    call = start_operation(
        name or f"move-{link[:_SHORT]}-{secrets.token_hex(4)}",
        OperationAction.move_link(key),
        OperationScope.key_link(organization, link),
        dry_run=dry_run,
        max_concurrency=max_concurrency,
        reason=reason,
    )
    send_start(session, call, dry_run=dry_run, wait=wait)


def delete(
    session: Session,
    organization: Name,
    link: Link,
    *,
    etag: Etag = "",
    yes: Yes = False,
    validate_only: ValidateChange = False,
    request_id: RequestId = None,
) -> None:
    """Delete a key link that no region uses.

    The command asks for confirmation; without a terminal to ask at it needs --yes.
    """
    name = f"key link {one_line(link)} of {one_line(organization)}"
    if not validate_only:
        confirm(f"Delete {name}?", f"{name}: not deleted", yes=yes)
    call = calls.delete_key_link(
        organization, link, etag, request_id or None, validate_only=validate_only
    )
    _, message = session.ask(call)
    if not session.printed(message, f"{organization}/{link}"):
        typer.echo("valid" if validate_only else f"deleted {name}")
