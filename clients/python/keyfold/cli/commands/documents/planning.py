"""The plan: the steps in their order, each tried by the server before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from keyfold.cli.commands.documents.actual import Actual
from keyfold.cli.commands.documents.clusters import (
    cluster_name,
    cluster_steps,
    region_name,
)
from keyfold.cli.commands.documents.deletions import deletion_notes, deletion_steps
from keyfold.cli.commands.documents.geo_links import with_link_regions
from keyfold.cli.commands.documents.limits import check_limits
from keyfold.cli.commands.documents.moves import move_notes
from keyfold.cli.commands.documents.organizations import (
    link_name,
    link_steps,
    organization_name,
    organization_steps,
)
from keyfold.cli.commands.documents.planned_keys import PlannedKeys
from keyfold.cli.commands.documents.seats import with_own_seats
from keyfold.cli.commands.documents.step import Step
from keyfold.cli.input.documents import Cluster, Document
from keyfold.cli.output.plan import Change, Plan
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError
from keyfold.models.status import ClusterStatus


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with the steps that carry it out, one for each of its changes."""

    plan: Plan
    steps: tuple[Step, ...]


def make_plan(
    session: Session,
    document: Document,
    deletions: Iterable[tuple[str, ...]],
    waiting_period: timedelta | None,
) -> Planned:
    """Works out what leads from what exists to what a document declares.

    Raises:
        InputError: The document contradicts what exists.
        KeyfoldError: The server refuses one of the changes. Nothing was changed.
    """
    exists = Actual(session)
    for name in document.organizations:
        if exists.organization(name) is not None:
            exists.clusters(name)
    steps = [*organization_steps(document, exists), *link_steps(document, exists)]
    keys = PlannedKeys(document, exists, [each.resource for each in steps])
    found: dict[str, tuple[Cluster, ClusterStatus]] = {}
    for name, entry in document.clusters.items():
        status = exists.cluster(name, entry.value.organization)
        if status is not None:
            wanted = entry.value
            if status.organization and any(spec.geo and spec.key_link for spec in wanted.specs):
                wanted = with_link_regions(wanted, exists.key_links(status.organization))
            found[name] = wanted, status
            own = replace(entry, value=with_own_seats(session, wanted, status))
            steps += cluster_steps(document, own, status, keys)
        else:
            steps += cluster_steps(document, entry, None, keys)
    check_limits(document, exists, (name for name in document.clusters if name not in found))
    steps += deletion_steps(deletions, session, waiting_period, follows=bool(steps))
    changed = {each.resource for each in steps}
    plan = Plan(
        tuple(_tried(session, each) for each in steps),
        tuple(each for each in _declared(document) if each not in changed),
        tuple(each for each in _left(document, exists, found) if each not in changed),
    )
    return Planned(plan, tuple(steps))


def _tried(session: Session, step: Step) -> Change:
    """Returns what a step changes, as the server foretells it.

    Raises:
        KeyfoldError: The server refuses it, and no earlier step can be the remedy.
    """
    if step.trial is not None:
        try:
            result, _ = session.ask(step.trial)
        except step.excused:
            pass
        except KeyfoldError as error:
            error.message = f"{step.resource}: {error.message}; nothing was changed"
            raise
        else:
            fields = step.changed(result, step.was or {})
            notes = (*deletion_notes(result), *move_notes(result))
            return Change(step.resource, step.action, fields, notes=notes, seen=step.seen)
    return Change(step.resource, step.action, step.asked, proven=False, seen=step.seen)


def _declared(document: Document) -> Iterator[str]:
    yield from map(organization_name, document.organizations)
    yield from (link_name(*each) for each in document.key_links)
    yield from map(cluster_name, document.clusters)


def _left(
    document: Document, exists: Actual, found: dict[str, tuple[Cluster, ClusterStatus]]
) -> Iterator[str]:
    """Yields what the document's organizations and clusters have beside it."""
    for name in document.organizations:
        if exists.organization(name) is None:
            continue
        for link in exists.key_links(name):
            if (name, link) not in document.key_links:
                yield link_name(name, link)
        for cluster in exists.clusters(name):
            if cluster not in document.clusters:
                yield cluster_name(cluster)
    for name, (wanted, status) in found.items():
        named = {spec.region for spec in wanted.specs}
        geos = {spec.geo for spec in wanted.specs if spec.geo}
        sources = {one.region for one in status.regions if one.geo in geos}
        for region in status.regions:
            if region.region not in named and not {region.region, region.replica_of} & sources:
                yield region_name(name, region.region)
