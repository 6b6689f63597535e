"""A cluster's rows as they stand, whoever wrote them, and their replacement (protocol A1, A6).

Nobody uses what is read here before a person has looked at it. `clusters` reads the rows that
Keyfold uses, each verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Table, delete, insert, select

from keyfold_server.domain.errors import KeyfoldError, RowNotAuthenticError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.store import schema
from keyfold_server.store.tables import cluster_rows, rows, wrap_history
from keyfold_server.store.tables.cluster_rows import CHILDREN, Children

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster

_UID_SIZE: Final = 16
_MOST: Final = 1 << 62


class ShapelessError(Exception):
    """The rows do not form a cluster; the message says why."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The rows of a cluster, none verified.

    Attributes:
        own: The cluster's own row.
        children: The rows below it, by table and primary key, those included that hang on nothing.
        history: The rows of its superseded wraps, by number.
        checkpoint: The row of the last one that pruning removed, or None.
    """

    own: Cells
    children: Children
    history: tuple[Cells, ...]
    checkpoint: Cells | None = None


def read(connection: Connection, name: str) -> Standing | None:
    """Reads the rows of the cluster of a name, or None if it has no row of its own."""
    own = connection.execute(
        select(*schema.clusters.c).where(schema.clusters.c.name == name)
    ).first()
    if own is None:
        return None
    uid = own[0]
    children: Children = {}
    for table in CHILDREN:
        found = connection.execute(select(*table.c).where(table.c.cluster_uid == uid)).all()
        keys = len(table.primary_key)
        children[table] = {tuple(row[:keys]): tuple(row) for row in found}
    history = connection.execute(
        select(*schema.wrap_history.c)
        .where(schema.wrap_history.c.cluster_uid == uid)
        .order_by(schema.wrap_history.c.number)
    ).all()
    pruned = connection.execute(
        select(*schema.history_checkpoints.c).where(schema.history_checkpoints.c.cluster_uid == uid)
    ).first()
    checkpoint = None if pruned is None else tuple(pruned)
    return Standing(tuple(own), children, tuple(map(tuple, history)), checkpoint)


def unsealed(standing: Standing, seal: Seal) -> Iterator[str]:
    """Yields the place of each row that the service key did not seal."""
    for table, row in _every(standing):
        try:
            seal.check(table.name, row)
        except RowNotAuthenticError:
            key = [_shown(row[list(table.columns).index(c)]) for c in table.primary_key]
            yield f"{table.name} {' '.join(key)}"


def formed(standing: Standing) -> Cluster:
    """Returns the cluster that the rows form.

    Raises:
        ShapelessError: They are no cluster: a row is missing, hangs on nothing, or has a wrong
            value.
    """
    _check_types(standing)
    _check_whole(standing)
    try:
        check_name(standing.own[1], "cluster")
        if standing.own[2] is not None:
            check_name(standing.own[2], "organization")
        for _, region in standing.children[schema.regions]:
            check_name(region, "region")
        cluster = cluster_rows.decoded(standing.own, standing.children)
        for row in standing.history:
            wrap_history.superseded(row)
    except KeyfoldError as error:
        raise ShapelessError(f"a value does not fit its column: {error.message}") from None
    except (ValueError, LookupError, TypeError):
        raise ShapelessError("a value does not fit its column") from None
    for place in cluster.regions:
        if place.newest.retired_at is not None:
            raise ShapelessError(f"the newest KEK of region {place.name} is out of use")
    return cluster


def _check_types(standing: Standing) -> None:
    for table, row in _every(standing):
        for column, value in zip(table.columns, row, strict=True):
            fits = column.nullable if value is None else type(value) is column.type.python_type
            if not fits or (isinstance(value, int) and not 0 <= value < _MOST):
                raise ShapelessError(f"{table.name}.{column.name} has a value that it cannot have")


def _check_whole(standing: Standing) -> None:
    regions, generations, wraps = (standing.children[table] for table in CHILDREN)
    uid = standing.own[0]
    if len(uid) != _UID_SIZE or not regions:
        raise ShapelessError("regions: there is no row")
    used = {(row[1], row[2]) for row in generations.values()}
    if used != set(regions):
        raise ShapelessError("generations: a region has no KEK, or a KEK has no region")
    if set(generations) != set(wraps):
        raise ShapelessError("wraps: a KEK has no wrap, or a wrap has no KEK")
    if any(len(key[0]) != _UID_SIZE for key in generations):
        raise ShapelessError("generations.kek_id has a value that it cannot have")
    first = 1 if standing.checkpoint is None else standing.checkpoint[1] + 1
    if [row[1] for row in standing.history] != list(range(first, first + len(standing.history))):
        raise ShapelessError("wrap_history: a row is missing")


def put(
    connection: Connection,
    uids: Iterable[bytes],
    stored: StoredCluster,
    history: Iterable[Cells],
    checkpoint: Cells | None = None,
) -> None:
    """Replaces the rows of clusters by those of a cluster.

    Args:
        connection: A connection inside a transaction that writes.
        uids: The uids of the rows that go.
        stored: The sealed cluster.
        history: The sealed rows of its superseded wraps.
        checkpoint: The sealed row of the last one that pruning removed, or None.
    """
    gone = list(uids)
    for table in (schema.history_checkpoints, schema.wrap_history, *reversed(CHILDREN)):
        connection.execute(delete(table).where(table.c.cluster_uid.in_(gone)))
    connection.execute(delete(schema.clusters).where(schema.clusters.c.uid.in_(gone)))
    _insert(connection, schema.clusters, [stored.own])
    for table in CHILDREN:
        _insert(connection, table, stored.children[table].values())
    _insert(connection, schema.wrap_history, history)
    if checkpoint is not None:
        _insert(connection, schema.history_checkpoints, [checkpoint])


def _insert(connection: Connection, table: Table, cells: Iterable[Cells]) -> None:
    rows.write(connection, insert(table), [rows.named(table, row) for row in cells])


def _every(standing: Standing) -> Iterator[tuple[Table, Cells]]:
    yield schema.clusters, standing.own
    for table in CHILDREN:
        for row in standing.children[table].values():
            yield table, row
    for row in standing.history:
        yield schema.wrap_history, row
    if standing.checkpoint is not None:
        yield schema.history_checkpoints, standing.checkpoint


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else ascii(value).strip("'")[:128]
