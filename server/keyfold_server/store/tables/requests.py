"""Records of requests that were carried out (protocol R6).

A row names the request and the version that it made, and nothing more: Keyfold answers a repeated
request from the current state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, and_, delete, or_, select

from keyfold_server.domain.changes import RecordedRequest, RequestKey
from keyfold_server.store.schema import Cells, requests

if TYPE_CHECKING:
    from collections.abc import Collection

    from keyfold_server.store.seal import Seal

Scope = tuple[str, str, str, str]
"""Caller, RPC, cluster and request_id."""


def scope(key: RequestKey) -> Scope:
    """Returns the scope in which a request_id is unique."""
    return (key.caller, key.rpc, key.cluster, key.request_id)


def read(
    connection: Connection, keys: Collection[RequestKey], seal: Seal
) -> dict[Scope, RecordedRequest]:
    """Reads the records of some requests, by scope; leaves out requests without a record.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    if not keys:
        return {}
    # The database looks each of these up by the primary key (protocol S12). SQLite would scan the
    # table for a long list of tuples.
    each = (
        and_(*(column == value for column, value in zip(requests.primary_key, one, strict=True)))
        for one in {scope(key) for key in keys}
    )
    found = {}
    for row in connection.execute(select(*requests.c).where(or_(*each))).all():
        cells = tuple(row)
        seal.check("requests", cells, cells[2])
        found[cells[:4]] = RecordedRequest(digest=cells[4], version=cells[5])
    return found


def prune(connection: Connection, before: int) -> None:
    """Removes the records of requests from before a time."""
    connection.execute(delete(requests).where(requests.c.created_at < before))


def recorded(key: RequestKey, version: int, now: int, seal: Seal) -> Cells:
    """Returns the row of a request that was carried out."""
    return seal.sealed("requests", (*scope(key), key.digest, version, now))
