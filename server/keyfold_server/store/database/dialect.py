"""The differences between databases; no other module asks which database it has.

The other differences are how connections are made and how transactions begin: `store/sqlite` and
`store/postgresql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite

from keyfold_server.store.database import extras

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Insert, Table

    from keyfold_server.domain.ports import Clock

ACCESS_MODE: Final = "keyfold_access"
"""Execution option of a connection: the AccessMode of its transaction."""

CHANNEL: Final = "keyfold"
"""Channel of PostgreSQL's notifications. One of another store only costs an extra poll."""


class AccessMode(Enum):
    """The purpose of a transaction."""

    READ = "read"
    EXPORT = "export"
    WRITE = "write"
    MIGRATE = "migrate"

    @property
    def writes(self) -> bool:
        """True if the transaction changes the store."""
        return self in (AccessMode.WRITE, AccessMode.MIGRATE)

    @property
    def is_long(self) -> bool:
        """True if the transaction may take longer than any call does."""
        return self in (AccessMode.EXPORT, AccessMode.MIGRATE)


class Upsert(Protocol):
    """Makes the statement that inserts a row or replaces all but its key."""

    def __call__(self, table: Table, *, if_later: str | None = None) -> Insert:
        """Makes the statement.

        Args:
            table: The table.
            if_later: Name of a column. If given, only a row with a larger value in it replaces
                an existing one.
        """
        ...


def _upsert_sqlite(table: Table, *, if_later: str | None = None) -> Insert:
    insert = sqlite.insert(table)
    fresh = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key}
    where = insert.excluded[if_later] > table.c[if_later] if if_later is not None else None
    key = list(table.primary_key)
    return insert.on_conflict_do_update(index_elements=key, set_=fresh, where=where)


def _upsert_postgresql(table: Table, *, if_later: str | None = None) -> Insert:
    insert = postgresql.insert(table)
    fresh = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key}
    where = insert.excluded[if_later] > table.c[if_later] if if_later is not None else None
    key = list(table.primary_key)
    return insert.on_conflict_do_update(index_elements=key, set_=fresh, where=where)


_NOW: Final = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)")
# A deferred constraint's trigger could undo rows at the commit, after everything was checked.
_SETTLE: Final = "SET CONSTRAINTS ALL IMMEDIATE"
_SETTLE_AND_WAKE: Final = f"{_SETTLE}; SELECT pg_notify('{CHANNEL}', '')"

# A promoted standby begins a new timeline with its first write, and the names of its log files
# begin with the timeline's number.
_TIMELINE: Final = text(
    "SELECT system_identifier || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) "
    "FROM pg_control_system()"
)


def _now_postgresql(connection: Connection, _clock: Clock) -> int:
    now: int = connection.execute(_NOW).scalar_one()
    return now


class Settle(Protocol):
    """Runs what is deferred to the commit now, before an entry gets its number (protocol S10)."""

    def __call__(self, connection: Connection, /, *, wake: bool) -> None:
        """Settles a transaction.

        Args:
            connection: A connection inside a transaction that writes.
            wake: Whether to notify the other replicas when the transaction commits.
        """
        ...


def _settle_postgresql(connection: Connection, *, wake: bool) -> None:
    connection.exec_driver_sql(_SETTLE_AND_WAKE if wake else _SETTLE)


def unsettled(_connection: Connection, *, wake: bool) -> None:
    """Does nothing: for databases that defer nothing, and have nobody to notify."""
    del wake


def _timeline_postgresql(connection: Connection) -> str:
    timeline: str = connection.execute(_TIMELINE).scalar_one()
    return timeline


def unknown_timeline(_connection: Connection) -> str:
    """Names no timeline: for servers that cannot tell theirs."""
    return ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The differences of one database that SQLAlchemy does not hide.

    Attributes:
        locks_rows: True if SELECT FOR UPDATE locks rows. Otherwise a transaction that writes has
            the whole store to itself from its beginning.
        one_process: True if one process has the store to itself, so that replicas that another
            process left in it are dead.
        tries: Number of times that the store runs a transaction before it reports that others
            came first every time.
        upsert: Makes the statement that inserts a row or replaces all but its key.
        now: Returns milliseconds of Unix time by the one clock that judges all replicas.
        settle: Runs what is deferred to the commit now, before an entry gets its number (protocol
            S10), and notifies the other replicas when the transaction commits.
        timeline: Returns the name of the server's timeline, which changes with each failover. The
            name is empty if the server cannot tell, or if nothing can fail over.
        extras: Lists what somebody else attached to Keyfold's tables.
    """

    locks_rows: bool
    one_process: bool
    tries: int
    upsert: Upsert
    now: Callable[[Connection, Clock], int]
    settle: Settle
    timeline: Callable[[Connection], str]
    extras: Callable[[Connection], list[str]]


SQLITE: Final = Dialect(
    locks_rows=False,
    one_process=True,
    tries=3,
    upsert=_upsert_sqlite,
    now=lambda _connection, clock: int(clock.wall() * 1000),
    settle=unsettled,
    timeline=unknown_timeline,
    extras=extras.of_sqlite,
)

POSTGRESQL: Final = Dialect(
    locks_rows=True,
    one_process=False,
    tries=6,
    upsert=_upsert_postgresql,
    now=_now_postgresql,
    settle=_settle_postgresql,
    timeline=_timeline_postgresql,
    extras=extras.of_postgresql,
)
