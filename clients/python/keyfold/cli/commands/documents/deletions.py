"""The steps that delete, of which each is named on the command line and never by a file's silence.

They follow the rules of DeleteCluster, DeleteKeyLink and DeleteOrganization: a region in service
has to be revoked first, and nothing that is in use goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, Final

from keyfold import calls
from keyfold.calls import organizations as organization_calls
from keyfold.cli.commands.documents.clusters import (
    cluster_name,
    cluster_now,
    region_name,
)
from keyfold.cli.commands.documents.organizations import (
    link_name,
    link_now,
    organization_name,
    organization_now,
)
from keyfold.cli.commands.documents.step import Step
from keyfold.cli.errors import InputError
from keyfold.cli.input.documents import Document
from keyfold.cli.output.plan import Action, FieldChange
from keyfold.cli.output.tables import time_text
from keyfold.cli.session import Session
from keyfold.errors import (
    ClusterNotFoundError,
    KeyLinkInUseError,
    KeyLinkNotFoundError,
    OrganizationNotEmptyError,
    OrganizationNotFoundError,
)
from keyfold.models.deletion import Deleted

_PARTS: Final = {"cluster": 1, "region": 2, "link": 2, "organization": 1}
"""The kinds of resources that can be deleted, in the order in which they are, and their names."""

_FORMS: Final = "cluster/NAME, region/CLUSTER/NAME, link/ORGANIZATION/NAME or organization/NAME"


def read_deletions(arguments: Iterable[str], document: Document) -> list[tuple[str, ...]]:
    """Reads the names of what shall be deleted, in the order in which it is.

    Raises:
        InputError: One is not a name of that form, or stands in the document.
    """
    declared: set[tuple[str, ...]] = {("organization", name) for name in document.organizations}
    declared |= {("link", *key) for key in document.key_links}
    declared |= {("cluster", name) for name in document.clusters}
    declared |= {
        ("region", name, spec.region)
        for name, entry in document.clusters.items()
        for spec in entry.value.specs
    }
    found: dict[tuple[str, ...], None] = {}
    for argument in arguments:
        kind, *names = argument.split("/")
        if _PARTS.get(kind) != len(names) or not all(names):
            raise InputError(f"--delete: {argument!r} is not {_FORMS}")
        if (kind, *names) in declared:
            raise InputError(f"--delete: {document.file} declares {argument}; take it out first")
        found[kind, *names] = None
    order = list(_PARTS)
    return sorted(found, key=lambda each: order.index(each[0]))


def deletion_steps(
    deletions: Iterable[tuple[str, ...]],
    session: Session,
    waiting_period: timedelta | None,
    *,
    follows: bool,
) -> Iterator[Step]:
    """Yields the steps that delete.

    Args:
        deletions: What `read_deletions` returned.
        session: The connection.
        waiting_period: How long `undelete` can take the deletion of a cluster back.
        follows: Whether steps come before, which may take the last use of a link away.

    Raises:
        NotFoundError: Something does not exist, or the caller may not see it.
    """
    for kind, *names in deletions:
        if kind == "cluster":
            yield _cluster(session, names[0], None, waiting_period)
        elif kind == "region":
            yield _cluster(session, names[0], names[1], waiting_period)
        elif kind == "link":
            yield _key_link(session, names[0], names[1], follows=follows)
        else:
            yield _organization(session, names[0], follows=follows)
        follows = True


def _cluster(
    session: Session, name: str, region: str | None, waiting_period: timedelta | None
) -> Step:
    call = partial(
        calls.delete_cluster,
        name,
        () if region is None else (region,),
        all_regions=region is None,
        waiting_period=waiting_period,
        reason="",
        request_id=None,
    )

    was, seen = cluster_now(session, name)
    if was is None:
        raise ClusterNotFoundError(f"cluster {name} does not exist")
    return Step(
        cluster_name(name) if region is None else region_name(name, region),
        Action.DELETE,
        (),
        call(validate_only=False),
        call(validate_only=True),
        _nothing_else,
        lambda again: cluster_now(again, name),
        was,
        seen,
        subject=cluster_name(name),
    )


def _nothing_else(_result: object, _before: dict[str, Any]) -> tuple[FieldChange, ...]:
    return ()


def deletion_notes(result: Any) -> tuple[str, ...]:
    """Returns what a person should know before a deletion that was tried."""
    if not isinstance(result, Deleted):
        return ()
    if result.erased:
        return ("nobody ever used it, so it goes at once, and nothing becomes unreadable",)
    lost = [f"{one.region} generation {one.generation}" for one in result.losses]
    return (
        f"what it wrapped opens no more after {time_text(result.purge_time)}: {', '.join(lost)}",
        "until then `keyfold undelete` takes it back",
    )


def _key_link(session: Session, organization: str, name: str, *, follows: bool) -> Step:
    was, etag = link_now(session, organization, name)
    if was is None:
        raise KeyLinkNotFoundError(f"key link {name} of organization {organization} does not exist")

    call = partial(organization_calls.delete_key_link, organization, name, etag, None)

    return Step(
        link_name(organization, name),
        Action.DELETE,
        (),
        call(validate_only=False),
        call(validate_only=True),
        _nothing_else,
        lambda again: link_now(again, organization, name),
        was,
        etag,
        (KeyLinkInUseError,) if follows else (),
    )


def _organization(session: Session, name: str, *, follows: bool) -> Step:
    was, etag = organization_now(session, name)
    if was is None:
        raise OrganizationNotFoundError(f"organization {name} does not exist")

    call = partial(organization_calls.delete_organization, name, etag, None)

    return Step(
        organization_name(name),
        Action.DELETE,
        (),
        call(validate_only=False),
        call(validate_only=True),
        _nothing_else,
        lambda again: organization_now(again, name),
        was,
        etag,
        (OrganizationNotEmptyError,) if follows else (),
    )
