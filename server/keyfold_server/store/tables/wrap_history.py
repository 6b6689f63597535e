"""A cluster's superseded wraps: a chain in which each row's MAC covers the MAC of the row before.

The history grows with every rotation, so a cluster is read without it. The cluster's own row holds
the chain's head, and the number of the row there. Pruning leaves a sealed checkpoint at the other
end (`history_checkpoints`). So whoever reads the history notices if somebody changed a row of it,
removed one or added one (protocol A2, S12).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select

from keyfold_server.domain.cluster import SupersededWrap
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.store.schema import Cells, wrap_history
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables import groups, history_checkpoints, options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster
    from keyfold_server.store.tables.history_checkpoints import Checkpoint

_PAGE: Final = 1_000
"""Rows that are read at a time."""

_MOST: Final = 1 << 62
"""More rows than any history has."""


def begun_at(stored: StoredCluster, checkpoint: Checkpoint) -> StoredCluster:
    """Returns a cluster whose history begins after a checkpoint, and has no row yet."""
    return replace(stored, history_head=checkpoint.mac, history_count=checkpoint.number)


def appended(stored: StoredCluster, old: SupersededWrap, seal: Seal) -> tuple[StoredCluster, Cells]:
    """Returns a cluster with one more wrap in its history, and that wrap's row."""
    root = old.root
    row = seal.sealed(
        "wrap_history",
        (
            stored.cluster.uid,
            stored.history_count + 1,
            old.kek_id,
            old.number,
            stored.cluster.name,
            root.type,
            root.uri,
            root.principal,
            options.encoded(root.options),
            *groups.encoded(old.groups),
            root.external_id or None,
            old.key_version,
            old.organization,
            old.created_at,
            old.superseded_at,
            stored.history_head,
        ),
    )
    return replace(stored, history_head=row[-1], history_count=row[1]), row


def read(
    connection: Connection,
    stored: StoredCluster,
    seal: Seal,
    checkpoint: Checkpoint | None = None,
) -> Iterator[SupersededWrap]:
    """Reads a cluster's history, oldest first, as far as pruning has left it.

    What it yields counts only once it has ended.

    Args:
        connection: A connection inside a transaction.
        stored: The cluster.
        seal: Checks the rows.
        checkpoint: The history's checkpoint, if the caller has read it in the same transaction;
            None: this function reads it.

    Raises:
        RowNotAuthenticError: Somebody changed, removed or added a wrap.
    """
    name, uid = stored.cluster.name, stored.cluster.uid
    if checkpoint is None:
        checkpoint = history_checkpoints.read(connection, uid, name, seal)
    count, head = checkpoint.number, checkpoint.mac
    page = (
        select(*wrap_history.c)
        .where(wrap_history.c.cluster_uid == uid)
        .order_by(wrap_history.c.number)
        .limit(_PAGE)
    )
    # From the lowest number that the column can hold, so that nobody hides a row below the first.
    after = -_MOST
    while True:
        rows = connection.execute(page.where(wrap_history.c.number > after)).all()
        for row in map(tuple, rows):
            seal.check("wrap_history", row, name)
            number, (before, mac) = row[1], row[-2:]
            if number != count + 1 or before != head:
                raise not_authentic("wrap_history", name)
            after, count, head = number, number, mac
            yield superseded(row)
        if len(rows) < _PAGE:
            break
    if (count, head) != (stored.history_count, stored.history_head):
        raise not_authentic("wrap_history", name)


def superseded(row: Cells) -> SupersededWrap:
    """Returns the superseded wrap in a row."""
    _, _, kek_id, number, _, type_, uri, principal, text, *others = row
    external_id, version, organization, created_at, superseded_at, _, _ = others[3:]
    root = RootKey(type_, uri, principal, options.decoded(text), external_id or "")
    return SupersededWrap(
        kek_id,
        number,
        root,
        version,
        organization,
        created_at,
        superseded_at,
        groups.decoded(tuple(others[:3])),
    )
