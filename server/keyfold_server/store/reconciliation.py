"""Reconciliation: an operator decides that the store is right as it is (protocol S1).

The decision is an entry of the log. So a replica goes on only with a store that says why, who wrote
it and when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from keyfold_server.domain.errors import SetupError
from keyfold_server.store import schema
from keyfold_server.store.tables import log_head

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from keyfold_server.store.sql.store import SqlStore


@dataclass(frozen=True, slots=True)
class NewestEntry:
    """The newest entry of a store's log, for people.

    Attributes:
        number: The entry's number, 0 before the first entry.
        entry_id: The entry's random id, empty before the first entry.
        made_at: Time of the entry in milliseconds of Unix time, or None if it is unknown.
        replica: Name of the replica that wrote the entry, or None if it is unknown.
    """

    number: int
    entry_id: bytes
    made_at: int | None
    replica: str | None


def newest(store: SqlStore) -> NewestEntry:
    """Returns the newest entry of a store's log.

    Raises:
        SetupError: The store is in SQLite, where reconciling has no meaning.
        StoreUnavailableError: The store did not answer.
    """
    database, seal = store.parts
    if database.dialect.one_process:
        raise SetupError(
            "a store in SQLite has one server: restart the server, and it goes on with the store "
            "as it is"
        )

    def work(connection: Connection) -> NewestEntry:
        last = log_head.read(connection, seal).newest
        columns = schema.log.c
        about = select(columns.time, columns.replica).where(columns.number == last.number)
        row = connection.execute(about).first()
        made_at, replica = (None, None) if row is None else tuple(row)
        return NewestEntry(last.number, last.entry_id, made_at, replica)

    return database.read(work)
