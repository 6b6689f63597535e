"""What hangs on an organization: its clusters, the users of its key links, and its name in them.

Nothing here is verified, since it only counts and names: whoever edits the store to change the
answer spoils the rows of a cluster.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import CTE, Connection, Select, bindparam, func, select

from keyfold_server.domain.key_links import KeyUse, LinkUse, LinkUser
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.lifecycle import State
from keyfold_server.store.database.trip import Step, looking_for, one_of
from keyfold_server.store.schema import Cells, clusters, organizations, regions
from keyfold_server.store.tables import listing, options
from keyfold_server.store.tables.cluster_rows import link_column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_COUNTING: Final = select(func.count()).where(clusters.c.organization == bindparam("of"))
_FIRST: Final = (
    select(clusters.c.name)
    .where(clusters.c.organization == bindparam("of"))
    .order_by(clusters.c.name)
    .limit(bindparam("most"))
)


def counting(name: str) -> Step:
    """Returns the step that counts the clusters of an organization."""
    return Step(_COUNTING, [{"of": name}])


def counting_each(names: Sequence[str]) -> list[Step]:
    """Returns the steps that count the clusters of some organizations, by the organization."""
    return looking_for(_counting_each, names)


@cache
def _counting_each(count: int) -> Select[Any]:
    mine = one_of(clusters.c.organization, count)
    counted = select(clusters.c.organization, func.count()).where(mine)
    return counted.group_by(clusters.c.organization)


def first_clusters(name: str, most: int) -> Step:
    """Returns the step that reads the first names of an organization's clusters."""
    return Step(_FIRST, [{"of": name, "most": most}])


_USED: Final = (
    select(
        regions.c.link,
        clusters.c.name.label("cluster"),
        regions.c.name.label("region"),
        func.count().over(partition_by=regions.c.link).label("users"),
        func.row_number()
        .over(partition_by=regions.c.link, order_by=(clusters.c.name, regions.c.name))
        .label("place"),
    )
    .join(clusters, clusters.c.uid == regions.c.cluster_uid)
    .where(
        regions.c.link.is_not(None),
        regions.c.link >= bindparam("first"),
        regions.c.link < bindparam("beyond"),
    )
    .subquery()
)
_KEY: Final = (
    regions.c.link,
    regions.c.name,
    regions.c.key_type,
    regions.c.key_uri,
    regions.c.key_principal,
    regions.c.key_options,
)
_KEYS: Final = (
    select(*_KEY, func.count())
    .where(
        regions.c.link.is_not(None),
        regions.c.link >= bindparam("first"),
        regions.c.link < bindparam("beyond"),
        regions.c.state != State.DELETED.value,
    )
    .group_by(*_KEY)
    .order_by(*_KEY)
)
_USES: Final = (
    select(_USED).where(_USED.c.place <= bindparam("most")).order_by(_USED.c.link, _USED.c.place)
)


def uses(name: str, link: str | None, most: int) -> Step:
    """Returns the step that reads who uses a link of an organization, or each of its links.

    Args:
        name: The organization's name.
        link: The link's name; None: each.
        most: Most users to read of a link.
    """
    return Step(_USES, [_between(name, link) | {"most": most}])


def keys(name: str, link: str | None) -> Step:
    """Returns the step that reads which keys the users of a link, or of each link, have.

    Args:
        name: The organization's name.
        link: The link's name; None: each.
    """
    return Step(_KEYS, [_between(name, link)])


def _between(name: str, link: str | None) -> dict[str, str | int]:
    if link is not None:
        # Between a text and itself followed by a character that no name has lies nothing else.
        first = link_column(name, link)
        return {"first": first, "beyond": first + "\x01"}
    return {"first": f"{name}/", "beyond": f"{name}0"}


def uses_of(found: Iterable[Cells], keyed: Iterable[Cells] = ()) -> dict[str, LinkUse]:
    """Returns the use of links by the link's name.

    Args:
        found: The rows that `uses` returned.
        keyed: The rows that `keys` returned, if it was asked.
    """
    having: dict[str, list[KeyUse]] = {}
    for link, region, kind, uri, principal, pairs, count in keyed:
        spec = KeySpec(kind, uri, principal, options.decoded(pairs))
        having.setdefault(link.partition("/")[2], []).append(KeyUse(region, spec, count))
    users: dict[str, list[LinkUser]] = {}
    counts: dict[str, int] = {}
    for link, cluster, region, count, _ in found:
        name = link.partition("/")[2]
        users.setdefault(name, []).append(LinkUser(cluster, region))
        counts[name] = count
    return {
        name: LinkUse(tuple(some), counts[name], tuple(having.get(name, ())))
        for name, some in users.items()
    }


def _named() -> CTE:
    """Returns the names of the organizations of clusters after a name, one after the other.

    The clusters of one organization may be many, so the database steps from each name to the next
    one by the index.
    """
    later = clusters.alias("later")
    name = func.min(clusters.c.organization).label("name")
    first = select(name).where(clusters.c.organization > bindparam("after"))
    named = first.cte("named", recursive=True)
    following = (
        select(func.min(later.c.organization))
        .where(later.c.organization > named.c.name)
        .scalar_subquery()
    )
    return named.union_all(select(following).where(named.c.name.is_not(None)))


def names_after(
    connection: Connection, after: str, limit: int, patterns: tuple[str, ...] | None
) -> list[str]:
    """Reads the names of organizations that have a row or that clusters name, by name.

    Args:
        connection: A connection inside a transaction.
        after: The name after which to begin.
        limit: Most names to read.
        patterns: Alternative patterns that a name has to fit; None: any name.
    """
    named = _named()
    # No order: the recursion yields the names in theirs, and sorting would make it run to its end.
    of_clusters = select(named.c.name).where(named.c.name.is_not(None))
    made = select(organizations.c.name).where(organizations.c.name > bindparam("after"))
    if patterns is not None:
        of_clusters = of_clusters.where(listing.fits_any(named.c.name, patterns))
        made = made.where(listing.fits_any(organizations.c.name, patterns))
    made = made.order_by(organizations.c.name)
    found = {
        str(name)
        for statement in (made, of_clusters)
        for name in connection.execute(statement.limit(limit), {"after": after}).scalars()
    }
    return sorted(found)[:limit]
