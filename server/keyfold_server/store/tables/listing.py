"""Filters for lists of clusters, and a count of regions that nobody serves.

A filter only chooses and vouches for nothing: the reader verifies every cluster that passes it.
Whoever edits the store by hand can hide a cluster from a list, but not from a call that names it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, exists, false, func, select, true

from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.store.database.patterns import fits
from keyfold_server.store.schema import clusters, generations, regions, wraps
from keyfold_server.store.tables import floors, region_health

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import ColumnElement, Connection, Select

    from keyfold_server.domain.rights import Coverage


_OTHER: Final = regions.alias("other")

_AFTER: Final = "\x7f"
"""Comes after every character of a name."""


def page(which: ClusterFilter, after: str, limit: int) -> ColumnElement[bool]:
    """Returns a condition that holds for up to `limit` clusters after a name, ordered by name.

    The database walks one index in the order of names, from where the page before ended: that of a
    root key, of a state, of an organization, or of all clusters. What most clusters fulfil, it asks
    each of them there. What few fulfil, it finds by another index first. No filter by itself leaves
    that choice to what the database believes of the rows: it takes a key's clusters to be spread
    over all names, and a customer's are next to each other.
    """
    of_clusters = _of_clusters(which)
    if which.key_uri is None and which.state is None:
        name = clusters.c.name
        found = select(name)
    else:
        name = regions.c.cluster
        found = select(name).distinct().where(*_of_region(which))
        if of_clusters:
            found = found.join(clusters, clusters.c.uid == regions.c.cluster_uid)
    found = found.where(*of_clusters)
    if which.name_prefix is not None:
        found = found.where(_begins(name, which.name_prefix))
    if which.covered is not None:
        found = found.where(*_around(name, which.covered))
    return clusters.c.name.in_(found.where(name > after).order_by(name).limit(limit))


def _of_clusters(which: ClusterFilter) -> list[ColumnElement[bool]]:
    """Returns the conditions on clusters."""
    found = []
    if which.organization is not None:
        found.append(clusters.c.organization == which.organization)
    if which.covered is not None:
        found.append(covered(which.covered))
        names = [each.organizations for each in which.covered]
        known = [each for each in names if each is not None]
        whole = sorted({name for each in known for name in each})
        if names == known and not any("*" in name for name in whole):
            # The condition above implies this one, which an index answers.
            found.append(clusters.c.organization.in_(whole))
    if which.can_wrap is not None:
        found.append(region_health.that_wraps(which.own_since, can=which.can_wrap))
    if which.health is not None:
        found.append(region_health.of_health(which.health, which.own_since))
    return found


def _of_region(which: ClusterFilter) -> list[ColumnElement[bool]]:
    """Returns the conditions on the region by which a page finds a cluster."""
    if which.key_uri is None:
        return [regions.c.state == which.state.value] if which.state is not None else []
    found = [regions.c.root_uri == which.key_uri]
    if which.state is not None:
        # Another region of the cluster may have the state.
        of_state = select(_OTHER.c.cluster).where(_OTHER.c.state == which.state.value)
        found.append(regions.c.cluster.in_(of_state))
    if which.behind is not None:
        found += _behind(*which.behind)
    return found


def rowless_bans(which: ClusterFilter, after: str, limit: int) -> Select[Any] | None:
    """Returns the statement that reads up to `limit` bans of names that have no row, by name.

    Returns:
        The statement; it reads nothing that the filter does not cover. None if there is nothing to
        read, because the filter asks for what only a row has, or covers organizations alone.
    """
    if replace(which, covered=None, name_prefix=None) != ClusterFilter():
        return None
    name = floors.newest.c.cluster
    chosen = every_rowless_ban(after).order_by(name).limit(limit)
    if which.name_prefix is not None:
        chosen = chosen.where(_begins(name, which.name_prefix))
    if which.covered is None:
        return chosen
    any_organization = [each.clusters for each in which.covered if each.organizations is None]
    if not any_organization:
        return None
    return chosen.where(
        _any(true() if names is None else fits_any(name, names) for names in any_organization)
    )


def every_rowless_ban(after: str = "") -> Select[Any]:
    """Returns the statement that reads all bans of names after one that have no row."""
    name = floors.newest.c.cluster
    has_row = exists(select(clusters.c.uid).where(clusters.c.name == name))
    return floors.bans.where(name > after, ~has_row)


def covered(coverages: Iterable[Coverage]) -> ColumnElement[bool]:
    """Returns a condition on clusters: an entry of a caller's rights covers them."""
    return _any(map(_covered, coverages))


def covered_with_regions(
    coverages: Collection[Coverage],
    cluster: ColumnElement[str] = clusters.c.name,
    region: ColumnElement[str] = regions.c.name,
) -> ColumnElement[bool]:
    """Returns a condition on clusters and regions: an entry of a caller's rights covers both.

    Args:
        coverages: The entries. One that names organizations makes the condition need `clusters`.
        cluster: The column that has the cluster's name.
        region: The column that has the region's name.
    """
    if any(each.is_whole for each in coverages):
        return true()
    return _any(
        _covered(each, cluster)
        if each.regions is None
        else and_(_covered(each, cluster), fits_any(region, each.regions))
        for each in coverages
    )


def _covered(coverage: Coverage, name: ColumnElement[str] = clusters.c.name) -> ColumnElement[bool]:
    """Returns a condition on clusters: an entry of a caller's rights covers them."""
    columns = (
        (name, coverage.clusters),
        (clusters.c.organization, coverage.organizations),
    )
    return and_(
        true(), *(fits_any(column, texts) for column, texts in columns if texts is not None)
    )


def fits_any(column: ColumnElement[Any], patterns: tuple[str, ...]) -> ColumnElement[bool]:
    """Returns a condition on a name: it fits one of the patterns."""
    whole = [text for text in patterns if "*" not in text]
    return _any([column.in_(whole), *(fits(column, text) for text in patterns if "*" in text)])


def _any(conditions: Iterable[ColumnElement[bool]]) -> ColumnElement[bool]:
    """Returns a condition that holds if one of some does.

    It is no OR, because SQLite refuses an OR of more than 1,000 conditions.
    """
    each = [(condition, true()) for condition in conditions]
    return case(*each, else_=false()) if each else false()


def _begins(name: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Returns a condition on a name, which an index of names answers: it begins with a prefix.

    It compares as the database sorts, by bytes.
    """
    return and_(name >= prefix, name < prefix + _AFTER)


def _around(name: ColumnElement[str], coverages: Iterable[Coverage]) -> list[ColumnElement[bool]]:
    """Returns conditions on a name, which an index answers: those that are covered lie between.

    So a caller with rights for few names has no page for which all others are read.
    """
    patterns = [each.clusters for each in coverages]
    if not patterns or None in patterns:
        return []
    starts = sorted(text.partition("*")[0] for texts in patterns for text in texts or ())
    return [name >= starts[0], name < starts[-1] + _AFTER] if starts and starts[0] else []


def _behind(region: str, version: str) -> list[ColumnElement[bool]]:
    """Returns conditions on a region: it has a name and must still follow its root key there."""
    ring = (
        select(generations.c.kek_id)
        .join(wraps, wraps.c.kek_id == generations.c.kek_id)
        .where(
            generations.c.cluster_uid == regions.c.cluster_uid,
            generations.c.region == regions.c.name,
            generations.c.retired_at.is_(None),
            wraps.c.key_version != version,
        )
    )
    return [
        regions.c.name == region,
        regions.c.state == State.ENABLED.value,
        regions.c.auto_rotate == 1,
        exists(ring.offset(0)),
    ]


def unserved(connection: Connection, serves: frozenset[str], most: int) -> dict[str, int]:
    """Counts enabled regions by name, other than some names: those with the most clusters."""
    count = func.count()
    statement = (
        select(regions.c.name, count)
        .where(region_health.enabled(), regions.c.name.not_in(sorted(serves)))
        .group_by(regions.c.name)
        .order_by(count.desc(), regions.c.name)
        .limit(most)
    )
    return {row[0]: row[1] for row in connection.execute(statement)}
