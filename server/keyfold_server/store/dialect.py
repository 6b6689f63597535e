"""The few things that databases do differently; nothing else here asks which one it is.

One entry so far. What a shared database adds is an entry: row locks where SQLite locks the whole
file with BEGIN IMMEDIATE, its own clock where SQLite has this process's, reads in one snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Insert, Table

    from keyfold_server.domain.ports import Clock

WRITES: Final = "keyfold_writes"
"""Execution option of a connection whose transaction will write."""


def _upsert(table: Table) -> Insert:
    insert = sqlite.insert(table)
    fresh = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=fresh)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one database does what SQLAlchemy does not make the same.

    Attributes:
        locks_rows: Whether rows are locked by SELECT FOR UPDATE; if not, a transaction that
            writes has the whole store to itself from its beginning.
        one_process: Whether the store serves this process alone, so that replicas left in it
            by another process are dead.
        upsert: The statement that inserts a row or replaces all but its key.
        now: Milliseconds by the one clock that heartbeats are compared by.
    """

    locks_rows: bool
    one_process: bool
    upsert: Callable[[Table], Insert]
    now: Callable[[Connection, Clock], int]


SQLITE: Final = Dialect(
    locks_rows=False,
    one_process=True,
    upsert=_upsert,
    now=lambda _connection, clock: int(clock.wall() * 1000),
)
