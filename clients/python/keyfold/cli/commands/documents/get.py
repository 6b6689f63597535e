"""The command `get`: prints resources as a document that `apply` takes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import typer

from keyfold import calls
from keyfold.calls import organizations as organization_calls
from keyfold.cli.commands.documents import actual
from keyfold.cli.commands.documents.clusters import cluster_name
from keyfold.cli.commands.documents.organizations import link_name, organization_name
from keyfold.cli.errors import InputError
from keyfold.cli.output.documents import document_of
from keyfold.cli.output.forms import Form
from keyfold.cli.output.organizations import show_links, show_organizations
from keyfold.cli.output.status import show_clusters
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session
from keyfold.models.organizations import KeyLink, Organization
from keyfold.models.status import ClusterStatus

_KINDS: Final = ("organization", "link", "cluster", "all")


def get(
    session: Session,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="organization, link, cluster, or all for whole organizations.",
            show_default=False,
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="The names; a link's is ORGANIZATION/NAME, and with all they are those of "
            "organizations. Without a name it prints everything of the kind.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print organizations, key links and clusters as a document for `keyfold apply`.

    It has the fields that a caller sets. Deleted regions are not in it, and neither are states:
    applying the document restores or revokes nothing.
    """
    if kind not in _KINDS:
        raise InputError(f"{kind!r} is not one of {', '.join(_KINDS)}")
    chosen = _chosen(session, kind, list(dict.fromkeys(names or ())))
    organizations, links, clusters = list(chosen[0]), list(chosen[1]), list(chosen[2])
    if session.form is Form.NAME:
        for name in _names(organizations, links, clusters):
            typer.echo(one_line(name))
    elif not session.printed_object(document_of(organizations, links, clusters)):
        if organizations:
            show_organizations(organizations, more=False)
        if links:
            show_links(links, more=False)
        if clusters or not (organizations or links):
            show_clusters(clusters)


def _names(
    organizations: Iterable[Organization],
    links: Iterable[KeyLink],
    clusters: Iterable[ClusterStatus],
) -> Iterator[str]:
    """Yields the names of resources as `apply --delete` takes them."""
    yield from (organization_name(one.organization) for one in organizations)
    yield from (link_name(one.organization, one.key_link) for one in links)
    yield from (cluster_name(one.cluster) for one in clusters)


def _chosen(
    session: Session, kind: str, names: list[str]
) -> tuple[Iterable[Organization], Iterable[KeyLink], Iterable[ClusterStatus]]:
    if kind == "organization":
        return _organizations(session, names), (), ()
    if kind == "link":
        return (), _key_links(session, names), ()
    if kind == "cluster":
        return (), (), _clusters(session, names)
    found = list(_organizations(session, names))
    links = [link for one in found for link in actual.key_links(session, one.organization)]
    if not names:
        return found, links, actual.clusters(session, "", sound=True)
    return found, links, _clusters_of(session, names)


def _organizations(session: Session, names: list[str]) -> Iterator[Organization]:
    if not names:
        yield from actual.organizations(session)
    for name in names:
        yield session.ask(organization_calls.get_organization(name))[0]


def _key_links(session: Session, names: list[str]) -> Iterator[KeyLink]:
    if not names:
        for one in actual.organizations(session):
            yield from actual.key_links(session, one.organization)
    for name in names:
        organization, slash, link = name.partition("/")
        if not slash:
            raise InputError(f"{name!r} is not ORGANIZATION/NAME")
        yield session.ask(organization_calls.get_key_link(organization, link))[0]


def _clusters(session: Session, names: list[str]) -> Iterator[ClusterStatus]:
    if not names:
        yield from actual.clusters(session, "", sound=True)
    for name in names:
        yield session.ask(calls.get_status(name))[0]


def _clusters_of(session: Session, organizations: Iterable[str]) -> Iterator[ClusterStatus]:
    for one in organizations:
        yield from actual.clusters(session, one, sound=True)
