"""Floors: what the newest numbered change of a cluster made of it (protocol S10).

A change carries the uid, version and epoch that it gave its cluster, under its MAC. A cluster whose
rows lie below its newest change is not authentic: somebody put older rows back, or the database did
not keep the newer ones, whatever it reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, bindparam, func, select

from keyfold_server.domain.changes import Floor
from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.store.schema import Cells, changes
from keyfold_server.store.seal import not_authentic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster

_AT_ONCE: Final = 1_000
"""Most names in one statement (protocol S12)."""

_NEWEST: Final = (
    select(*changes.c)
    .where(changes.c.cluster == bindparam("name"))
    .order_by(changes.c.number.desc())
    .limit(1)
)


def held(
    connection: Connection, found: dict[str, StoredCluster | RowNotAuthenticError], seal: Seal
) -> dict[str, StoredCluster | RowNotAuthenticError]:
    """Holds clusters against their newest changes.

    Args:
        connection: The transaction that has read the clusters.
        found: Clusters by name, as `clusters.read` returns them.
        seal: Checks the changes.

    Returns:
        The clusters, with an error in place of each that lies below its newest change.
    """
    names = [name for name, each in found.items() if not isinstance(each, RowNotAuthenticError)]
    held = dict(found)
    for row in _newest(connection, names):
        name, floor, stored = row[2], of_row(row), held.get(row[2])
        try:
            seal.check("changes", row, name)
        except RowNotAuthenticError as error:
            held[name] = error
            continue
        if (
            floor is not None
            and not isinstance(stored, RowNotAuthenticError | None)
            and not floor.is_kept_by(stored.cluster)
        ):
            held[name] = not_authentic("clusters", name)
    return held


def _newest(connection: Connection, names: Sequence[str]) -> Iterator[Cells]:
    """Reads the row of each cluster's newest change that the store keeps."""
    if len(names) == 1:
        yield from map(tuple, connection.execute(_NEWEST, {"name": names[0]}).all())
        return
    for first in range(0, len(names), _AT_ONCE):
        numbers = (
            select(func.max(changes.c.number))
            .where(changes.c.cluster.in_(names[first : first + _AT_ONCE]))
            .group_by(changes.c.cluster)
        )
        newest = select(*changes.c).where(changes.c.number.in_(numbers))
        yield from map(tuple, connection.execute(newest).all())


def of_row(row: Cells) -> Floor | None:
    """Returns the floor in a change's row, or None: a refusal."""
    uid, version, epoch = row[7:10]
    return None if uid is None else Floor(uid, version, epoch)
