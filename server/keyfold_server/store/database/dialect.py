"""The differences between databases; no other module asks which database it has.

The other differences are how connections are made and how transactions begin: `store/sqlite` and
`store/postgresql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite

from keyfold_server.store.database import extras, traces
from keyfold_server.store.database.trip import (
    Answer,
    Finish,
    Step,
    Trip,
    finish_one_by_one,
    one_by_one,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import (
        ColumnElement,
        Connection,
        Executable,
        Insert,
        Table,
    )
    from sqlalchemy.sql.base import ReadOnlyColumnCollection
    from sqlalchemy.sql.elements import KeyedColumnElement

    from keyfold_server.domain.ports import Clock

ACCESS_MODE: Final = "keyfold_access"
"""Execution option of a connection: the AccessMode of its transaction."""

CHANNEL: Final = "keyfold"
"""Channel of PostgreSQL's notifications. One of another store only costs an extra poll."""


Excluded: TypeAlias = "ReadOnlyColumnCollection[str, KeyedColumnElement[Any]]"
"""The columns of the row that an upsert would insert."""


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

    def __call__(
        self,
        table: Table,
        *,
        if_later: str | None = None,
        adding: str | None = None,
        only: Callable[[Excluded], ColumnElement[bool]] | None = None,
    ) -> Insert:
        """Makes the statement.

        Args:
            table: The table.
            if_later: Name of a column. If given, only a row with a larger value in it replaces
                an existing one.
            adding: Name of a column. If given, its value is added to that of an existing row.
            only: Returns the condition on which a row replaces an existing one, given the columns
                of the new row; None: it always does.
        """
        ...


def _upserting(inserting: Callable[[Table], sqlite.Insert | postgresql.Insert]) -> Upsert:
    """Returns the `Upsert` of a database, whose own `insert` has the clause for conflicts."""

    def upsert(
        table: Table,
        *,
        if_later: str | None = None,
        adding: str | None = None,
        only: Callable[[Excluded], ColumnElement[bool]] | None = None,
    ) -> Insert:
        insert = inserting(table)
        fresh: dict[str, ColumnElement[Any]] = {
            c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key
        }
        if adding is not None:
            fresh[adding] = table.c[adding] + insert.excluded[adding]
        where = only(insert.excluded) if only is not None else None
        if if_later is not None:
            where = insert.excluded[if_later] > table.c[if_later]
        key = list(table.primary_key)
        return insert.on_conflict_do_update(index_elements=key, set_=fresh, where=where)

    return upsert


# A promoted standby begins a new timeline with its first write, and the names of its log files
# begin with the timeline's number.
_TIMELINE: Final = text(
    "SELECT system_identifier || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) "
    "FROM pg_control_system()"
)


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
        time: Reads milliseconds of Unix time by the one clock that judges all replicas. None: the
            process's own clock does, because it has the store to itself.
        undeferred: Runs what is deferred to the commit now. None: nothing ever is.
        notify: Notifies the other replicas when the transaction commits. None: nobody listens.
        timeline: Reads the name of the server's timeline, which changes with each failover. None:
            the server cannot tell, or nothing can fail over.
        extras: Lists what somebody else attached to Keyfold's tables.
        trip: Runs statements together, in one round trip if the database is elsewhere.
        finish: Writes the last rows of a transaction, and may commit it with them.
        clear: Clears the files of what was erased, as far as the database can, on a connection of
            the driver that is in no transaction, and gives up after some seconds in which nobody
            else can write; returns whether it is done.
    """

    locks_rows: bool
    one_process: bool
    tries: int
    upsert: Upsert
    time: Executable | None
    undeferred: Executable | None
    notify: Executable | None
    timeline: Executable | None
    extras: Callable[[Connection], list[str]]
    trip: Trip
    finish: Finish
    clear: Callable[[Any, float], bool]

    def now(self, connection: Connection, clock: Clock) -> int:
        """Returns milliseconds of Unix time by the one clock that judges all replicas.

        Args:
            connection: A connection inside a transaction.
            clock: The process's own clock.
        """
        return self.now_of(self.trip(connection, self.asking_time()), clock)

    def asking_time(self) -> list[Step]:
        """Returns the steps that ask for the time; `now_of` takes their answers."""
        return [] if self.time is None else [Step(self.time)]

    @staticmethod
    def now_of(answers: Sequence[Answer], clock: Clock) -> int:
        """Returns the time that answers to `asking_time` show."""
        return int(clock.wall() * 1000) if not answers else int(answers[0].rows[0][0])

    def settling(self, *, wake: bool) -> list[Step]:
        """Returns the steps after which an entry of the log may get its number (protocol S10).

        Args:
            wake: Whether to notify the other replicas when the transaction commits.
        """
        statements = (self.undeferred, self.notify if wake else None)
        return [Step(statement) for statement in statements if statement is not None]

    def asking_timeline(self) -> list[Step]:
        """Returns the steps that ask for the timeline; `timeline_of` takes their answers."""
        return [] if self.timeline is None else [Step(self.timeline)]

    @staticmethod
    def timeline_of(answers: Sequence[Answer]) -> str:
        """Returns the timeline in answers to `asking_timeline`; empty: nobody can tell."""
        return "" if not answers else str(answers[0].rows[0][0])


SQLITE: Final = Dialect(
    locks_rows=False,
    one_process=True,
    tries=3,
    upsert=_upserting(sqlite.insert),
    time=None,
    undeferred=None,
    notify=None,
    timeline=None,
    extras=extras.of_sqlite,
    trip=one_by_one,
    finish=finish_one_by_one,
    clear=traces.clear_sqlite,
)

POSTGRESQL: Final = Dialect(
    locks_rows=True,
    one_process=False,
    tries=6,
    upsert=_upserting(postgresql.insert),
    time=text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"),
    # A deferred constraint's trigger could undo rows at the commit, after everything was checked.
    undeferred=text("SET CONSTRAINTS ALL IMMEDIATE"),
    notify=text(f"SELECT pg_notify('{CHANNEL}', '')"),
    timeline=_TIMELINE,
    extras=extras.of_postgresql,
    # `postgresql.connections` replaces these: by ways that take one round trip, and by a vacuum.
    trip=one_by_one,
    finish=finish_one_by_one,
    clear=traces.clear_nothing,
)
