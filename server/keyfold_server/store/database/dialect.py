"""The few things that databases do differently; nothing else here asks which one it is.

How connections are made and transactions begin is the other difference: `sqlite_file` and
`postgresql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy import func, select, text
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Insert, Table

    from keyfold_server.domain.ports import Clock

ACCESS_MODE: Final = "keyfold_access"
"""Execution option of a connection that says what its transaction is for."""

CHANNEL: Final = "keyfold"
"""What PostgreSQL's notifications are sent on. Another store's only cause a poll too many."""


class AccessMode(Enum):
    """What a transaction is for; an export reads, too, and may take its time."""

    READ = "read"
    EXPORT = "export"
    WRITE = "write"
    MIGRATE = "migrate"

    @property
    def writes(self) -> bool:
        """Whether it changes the store."""
        return self in (AccessMode.WRITE, AccessMode.MIGRATE)

    @property
    def is_long(self) -> bool:
        """Whether it may take longer than any call."""
        return self in (AccessMode.EXPORT, AccessMode.MIGRATE)


class Upsert(Protocol):
    """Makes the statement that inserts a row or replaces all but its key."""

    def __call__(self, table: Table, *, if_later: str | None = None) -> Insert:
        """Makes it.

        Args:
            table: The table.
            if_later: A column: a row is replaced only by one whose value there is larger.
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
_NOTIFY: Final = select(func.pg_notify(CHANNEL, ""))

# A promoted standby begins a new timeline with its first write; the file's name begins with it.
_TIMELINE: Final = text(
    "SELECT system_identifier || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) "
    "FROM pg_control_system()"
)


def _now_postgresql(connection: Connection, _clock: Clock) -> int:
    now: int = connection.execute(_NOW).scalar_one()
    return now


def _notify_postgresql(connection: Connection) -> None:
    connection.execute(_NOTIFY)


def _timeline_postgresql(connection: Connection) -> str:
    timeline: str = connection.execute(_TIMELINE).scalar_one()
    return timeline


def unknown_timeline(_connection: Connection) -> str:
    """Says of every server that it cannot tell."""
    return ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one database does what SQLAlchemy does not make the same.

    Attributes:
        locks_rows: Whether rows are locked by SELECT FOR UPDATE; if not, a transaction that
            writes has the whole store to itself from its beginning.
        one_process: Whether the store serves this process alone, so that replicas left in it
            by another process are dead.
        tries: How often a transaction is run before another one may have come first each time.
        upsert: Makes the statement that inserts a row or replaces all but its key.
        now: Milliseconds by the one clock that all replicas of the store are compared by.
        notify: Has those who listen woken when the transaction commits.
        timeline: Names the history that the server writes on: another one after each failover.
            Empty where the server cannot tell, or nothing can fail over.
    """

    locks_rows: bool
    one_process: bool
    tries: int
    upsert: Upsert
    now: Callable[[Connection, Clock], int]
    notify: Callable[[Connection], None]
    timeline: Callable[[Connection], str]


SQLITE: Final = Dialect(
    locks_rows=False,
    one_process=True,
    tries=3,
    upsert=_upsert_sqlite,
    now=lambda _connection, clock: int(clock.wall() * 1000),
    notify=lambda _connection: None,
    timeline=unknown_timeline,
)

POSTGRESQL: Final = Dialect(
    locks_rows=True,
    one_process=False,
    tries=6,
    upsert=_upsert_postgresql,
    now=_now_postgresql,
    notify=_notify_postgresql,
    timeline=_timeline_postgresql,
)
