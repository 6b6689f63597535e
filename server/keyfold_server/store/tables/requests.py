"""Records of requests that were carried out (protocol R6).

A row names the request and the version that it made, and nothing more: Keyfold answers a repeated
request from the current state.
"""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, TextClause, delete, text

from keyfold_server.domain.changes import RecordedRequest, RequestKey
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import Cells, requests

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from keyfold_server.store.seal import Seal

Scope = tuple[str, str, str, str]
"""Caller, RPC, cluster and request_id."""


_AT_ONCE: Final = 100
"""Most requests that one statement looks up."""

_KEY: Final = tuple(column.name for column in requests.primary_key)


@cache
def _lookup(count: int) -> TextClause:
    """Returns the statement that looks up some requests, each by the primary key (protocol S12).

    SQLite would scan the table for a long list of tuples. The statement is text, because building
    it anew for a large group of changes takes longer than running it.
    """
    one = " AND ".join(f"{name} = :{name}_%d" for name in _KEY)
    each = " OR ".join(f"({one.replace('%d', str(number))})" for number in range(count))
    columns = ", ".join(requests.columns.keys())
    return text(f"SELECT {columns} FROM requests WHERE {each}")  # noqa: S608  names from the schema


def scope(key: RequestKey) -> Scope:
    """Returns the scope in which a request_id is unique."""
    return (key.caller, key.rpc, key.cluster, key.request_id)


def reading(keys: Collection[RequestKey]) -> list[Step]:
    """Returns the steps that read the records of some requests; `of` takes the rows."""
    left, steps = iter({scope(key) for key in keys}), []
    while some := list(islice(left, _AT_ONCE)):
        values = {
            f"{name}_{number}": value
            for number, one in enumerate(some)
            for name, value in zip(_KEY, one, strict=True)
        }
        steps.append(Step(_lookup(len(some)), [values]))
    return steps


def of(found: Iterable[Cells], seal: Seal) -> dict[Scope, RecordedRequest]:
    """Returns the records in the rows that `reading` returned, by scope.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    known = {}
    for row in found:
        seal.check("requests", row, row[2])
        known[row[:4]] = RecordedRequest(digest=row[4], version=row[5])
    return known


def prune(connection: Connection, before: int) -> None:
    """Removes the records of requests from before a time."""
    connection.execute(delete(requests).where(requests.c.created_at < before))


def recorded(key: RequestKey, version: int, now: int, seal: Seal) -> Cells:
    """Returns the row of a request that was carried out."""
    return seal.sealed("requests", (*scope(key), key.digest, version, now))
