"""The health of regions in SQL: filters for lists of clusters, and counts.

`domain.region_health` has the rule, which this module has once more: what a region's own replicas
saw decides if it is recent, or newer than what replicas saw that serve every region. A filter only
chooses; whoever reads what it found applies the rule to the observations themselves.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, exists, func, or_, select, union

from keyfold_server.domain.health import Health
from keyfold_server.domain.lifecycle import State
from keyfold_server.store.schema import clusters, observations, regions

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, CompoundSelect, Connection, Select

_ROOT: Final = observations.alias("root")
_KEK: Final = observations.alias("kek")
_OWN_ROOT: Final = observations.alias("own_root")
_OWN_KEK: Final = observations.alias("own_kek")

_NEXT: Final = regions.alias("next")

_UNKNOWN: Final = Health.UNKNOWN.value

_ROOT_SIZE: Final = len("root:") + 32
"""Characters of a root key's subject, without the region of its own replicas."""

_KEK_SIZE: Final = len("kek:") + 32
"""Characters of a KEK's subject, without the region of its own replicas."""


def own_subject(subject: ColumnElement[str]) -> ColumnElement[str]:
    """Returns the subject of what a region's own replicas see, of a column of `regions`."""
    return subject + ":" + regions.c.name


def that_wraps(own_since: int, *, can: bool) -> ColumnElement[bool]:
    """Returns a condition on clusters: an enabled region's root key wraps, or does not.

    Most root keys wrap, so the database asks each cluster in turn whether its own do, and a page
    soon is full. The few that do not wrap are found by an index.

    Args:
        own_since: Milliseconds of Unix time: what a region's own replicas saw since then decides.
        can: Whether it wraps.
    """
    found = _with_roots(select(regions.c.cluster_uid)).where(
        regions.c.state == State.ENABLED.value, _of_root("can_wrap", own_since).is_(can)
    )
    if can:
        return _asked(found)
    not_wrapping = _keys(_ROOT_SIZE).where(observations.c.can_wrap.is_(False))
    return _found_first(found.where(regions.c.root_subject.in_(not_wrapping)))


def of_health(health: Health, own_since: int) -> ColumnElement[bool]:
    """Returns a condition on clusters: one of their regions has a health.

    Most regions are healthy, so the database asks each cluster in turn. Those of another health are
    found by indexes.

    Args:
        health: The health.
        own_since: As for `that_wraps`.
    """
    chosen = _with_keks(_with_roots(select(regions.c.cluster_uid)))
    chosen = chosen.where(_effective(own_since) == health.value)
    if health is Health.HEALTHY:
        return _asked(chosen)
    # The condition above implies either of these, which indexes answer. No OR: for that a database
    # may read all regions.
    seen = observations.c.health == health.value
    keks = chosen.where(regions.c.kek_subject.in_(_keys(_KEK_SIZE).where(seen)))
    roots = [chosen.where(regions.c.root_subject.in_(_keys(_ROOT_SIZE).where(seen)))]
    if health is Health.UNKNOWN:
        roots.append(chosen.where(regions.c.root_subject.in_(_unseen())))
    return _found_first(union(keks, *roots))


def _asked(found: Select[Any]) -> ColumnElement[bool]:
    """Returns the condition that a cluster is selected, which the database asks of each by itself.

    The offset keeps it from looking for all that are selected first.
    """
    of_cluster = found.where(regions.c.cluster_uid == clusters.c.uid)
    return exists(of_cluster.offset(0).correlate(clusters))


def _found_first(found: Select[Any] | CompoundSelect[Any]) -> ColumnElement[bool]:
    """Returns the condition that a cluster is selected, for a selection of few."""
    return clusters.c.uid.in_(select(found.subquery().c.cluster_uid).correlate(None))


def _unseen() -> Select[Any]:
    """Selects the root keys in use of which no replica that serves every region has seen anything.

    It finds each root key by one look-up in an index.
    """
    subject, of_next = regions.c.root_subject, _NEXT.c.root_subject
    roots = select(func.min(subject).label("subject")).cte("roots", recursive=True)
    following = select(func.min(of_next)).where(of_next > roots.c.subject).scalar_subquery()
    roots = roots.union_all(select(following).where(roots.c.subject.is_not(None)))
    seen = select(observations.c.subject).where(observations.c.subject == roots.c.subject)
    return select(roots.c.subject).where(~exists(seen))


def enabled() -> ColumnElement[bool]:
    """Returns a condition on regions: they are enabled. No index answers it."""
    return _unindexed(regions.c.state) == State.ENABLED.value


def census(connection: Connection, own_since: int) -> dict[tuple[str, str], int]:
    """Counts regions by state and health.

    One index has all that this reads of each region. Only root keys, and KEKs whose own health is
    another than their root key's, cost a look-up.
    """
    by_root = (
        select(regions.c.root_subject, regions.c.state, regions.c.name, func.count().label("count"))
        .group_by(regions.c.root_subject, regions.c.state, regions.c.name)
        .subquery()
    )
    of_root = func.coalesce(_of_root("health", own_since), _UNKNOWN)
    own = by_root.c.root_subject + ":" + by_root.c.name
    statement = (
        select(by_root.c.state, of_root, func.sum(by_root.c.count))
        .select_from(by_root)
        .outerjoin(_ROOT, _ROOT.c.subject == by_root.c.root_subject)
        .outerjoin(_OWN_ROOT, _OWN_ROOT.c.subject == own)
        .group_by(by_root.c.state, of_root)
    )
    counts = Counter({(row[0], row[1]): int(row[2]) for row in connection.execute(statement)})
    state, effective = _unindexed(regions.c.state), _effective(own_since)
    apart: Select[Any] = (
        _found(
            select(state, of_root, effective, func.count()),
            regions.c.kek_subject,
            _keys(_KEK_SIZE).where(_other_than(observations.c.health, Health.HEALTHY)),
        )
        .where(of_root != effective)
        .group_by(state, of_root, effective)
    )
    for found, root, kek, count in connection.execute(_with_keks(apart)):
        counts[found, root] -= count
        counts[found, kek] += count
    return dict(+counts)


def cannot_wrap(connection: Connection, own_since: int) -> int:
    """Counts enabled regions whose root key unwraps but did not wrap at the last try."""
    statement = _found(
        select(func.count()),
        regions.c.root_subject,
        _keys(_ROOT_SIZE).where(observations.c.can_wrap.is_(False)),
    ).where(
        enabled(),
        _of_root("health", own_since) == Health.HEALTHY.value,
        _of_root("can_wrap", own_since).is_(False),
    )
    return int(connection.execute(statement).scalar_one())


def failing(connection: Connection, own_since: int) -> dict[tuple[str, str], int]:
    """Returns since when a root key of an enabled region has failed, by health: the longest.

    Returns:
        Milliseconds of Unix time by health and by the region whose own replicas found it so; an
        empty name stands for replicas that serve every region.
    """
    health = _of_root("health", own_since)
    region = case((_own_root_decides(own_since), regions.c.name), else_="")
    usual = (Health.HEALTHY, Health.UNKNOWN)
    statement = (
        _found(
            select(health, region, func.min(_of_root("since", own_since))),
            regions.c.root_subject,
            _keys(_ROOT_SIZE).where(_other_than(observations.c.health, *usual)),
        )
        .where(enabled(), health.not_in([each.value for each in usual]))
        .group_by(health, region)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(statement)}


def _of_root(column: str, own_since: int) -> ColumnElement[Any]:
    """Returns what is known of a region's root key; for statements with `_with_roots`."""
    own = _own_root_decides(own_since)
    return case((own, _OWN_ROOT.c[column]), else_=_ROOT.c[column])


def _own_root_decides(own_since: int) -> ColumnElement[bool]:
    return or_(
        _OWN_ROOT.c.last_check >= own_since,
        _OWN_ROOT.c.last_check >= _ROOT.c.last_check,
        and_(_ROOT.c.last_check.is_(None), _OWN_ROOT.c.last_check.is_not(None)),
    )


def _effective(own_since: int) -> ColumnElement[str]:
    """Returns a region's health; for statements with `_with_roots` and `_with_keks`.

    The refusal of a KEK counts before its root key's health (protocol F4). Otherwise the region
    has the root key's health, which is UNKNOWN before the first check.
    """
    own = or_(
        _own_root_decides(own_since),
        _OWN_KEK.c.last_check >= own_since,
        and_(_ROOT.c.last_check.is_(None), _OWN_KEK.c.last_check.is_not(None)),
    )
    kek = case((own, _OWN_KEK.c.health), else_=_KEK.c.health)
    root = case((own, _OWN_ROOT.c.health), else_=_ROOT.c.health)
    return case((kek != Health.HEALTHY.value, kek), else_=func.coalesce(root, _UNKNOWN))


def _keys(size: int) -> Select[Any]:
    """Selects the beginnings of observations' subjects, which are those in `regions`."""
    return select(func.substr(observations.c.subject, 1, size).label("key"))


def _found(
    statement: Select[*tuple[Any, ...]], column: ColumnElement[str], keys: Select[Any]
) -> Select[Any]:
    """Has a statement read the regions that have some keys in a column, from the keys on."""
    few = keys.distinct().subquery("few")
    return _join_roots(statement.select_from(few).join(regions, column == _unindexed(few.c.key)))


def _with_roots(statement: Select[Any]) -> Select[Any]:
    return _join_roots(statement.select_from(regions))


def _join_roots(statement: Select[Any]) -> Select[Any]:
    root = regions.c.root_subject
    return statement.outerjoin(_ROOT, _ROOT.c.subject == root).outerjoin(
        _OWN_ROOT, _OWN_ROOT.c.subject == own_subject(root)
    )


def _with_keks(statement: Select[Any]) -> Select[Any]:
    kek = regions.c.kek_subject
    return statement.outerjoin(_KEK, _KEK.c.subject == kek).outerjoin(
        _OWN_KEK, _OWN_KEK.c.subject == own_subject(kek)
    )


def _other_than(health: ColumnElement[str], *usual: Health) -> ColumnElement[bool]:
    """Returns a condition on a health, which an index answers: it is none of the usual ones."""
    names = sorted(each.value for each in usual)
    between = (and_(health > low, health < high) for low, high in pairwise(names))
    return or_(health < names[0], *between, health > names[-1])


def _unindexed(column: ColumnElement[str]) -> ColumnElement[str]:
    """Returns a column's value where an index of the column would mislead the database.

    Most regions are enabled, and most root keys healthy. A database that finds rows by that, or
    wants them in that order, reads them all, where another condition finds the few.
    """
    return func.coalesce(column, "")
