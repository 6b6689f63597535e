"""A cluster's superseded wraps: a chain in which each row's MAC covers the MAC of the row before.

The history grows with every rotation, so a cluster is read without it. The cluster's own row holds
the chain's head and its length. So whoever reads the history notices if somebody changed a row of
it, removed one or added one (protocol A2, S12).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select

from keyfold_server.domain.cluster import SupersededWrap
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.store.schema import Cells, wrap_history
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables import groups, options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster

_PAGE: Final = 1_000
"""Rows that are read at a time."""

_MOST: Final = 1 << 62
"""More rows than any history has."""


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


def read(connection: Connection, stored: StoredCluster, seal: Seal) -> Iterator[SupersededWrap]:
    """Reads a cluster's history, oldest first. What it yields counts only once it has ended.

    Raises:
        RowNotAuthenticError: Somebody changed, removed or added a wrap.
    """
    name, count, head = stored.cluster.name, 0, b""
    page = (
        select(*wrap_history.c)
        .where(wrap_history.c.cluster_uid == stored.cluster.uid)
        .order_by(wrap_history.c.number)
        .limit(_PAGE)
    )
    while True:
        # From the lowest number that the column can hold, so that nobody hides a row below 1.
        after = count or -_MOST
        rows = connection.execute(page.where(wrap_history.c.number > after)).all()
        for row in map(tuple, rows):
            seal.check("wrap_history", row, name)
            number, (before, mac) = row[1], row[-2:]
            if number != count + 1 or before != head:
                raise not_authentic("wrap_history", name)
            count, head = number, mac
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
