"""What was recorded of request ids (protocol R6).

A row says that a request was carried out and which version it made: no more, since a repeated
request is answered from the state as it is now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, and_, select

from keyfold_server.domain.changes import RecordedRequest, RequestKey
from keyfold_server.store.schema import Cells, requests

if TYPE_CHECKING:
    from collections.abc import Collection

    from keyfold_server.store.seal import Seal

Scope = tuple[str, str, str, str]
"""Caller, RPC, cluster and request_id."""


def scope(key: RequestKey) -> Scope:
    """Returns what makes a request_id unique."""
    return (key.caller, key.rpc, key.cluster, key.request_id)


def read(
    connection: Connection, keys: Collection[RequestKey], seal: Seal
) -> dict[Scope, RecordedRequest]:
    """Reads what was recorded of some request ids.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    if not keys:
        return {}
    columns = requests.c
    # Wider than asked, and portable: the scope is picked below.
    near = and_(
        columns.cluster.in_({key.cluster for key in keys}),
        columns.request_id.in_({key.request_id for key in keys}),
    )
    wanted = {scope(key) for key in keys}
    found = {}
    for row in connection.execute(select(*columns).where(near)).all():
        cells = tuple(row)
        if cells[:4] in wanted:
            seal.check("requests", cells, cells[2])
            found[cells[:4]] = RecordedRequest(digest=cells[4], version=cells[5])
    return found


def recorded(key: RequestKey, version: int, now: int, seal: Seal) -> Cells:
    """Returns the row of a request that was carried out."""
    return seal.sealed("requests", (*scope(key), key.digest, version, now))
