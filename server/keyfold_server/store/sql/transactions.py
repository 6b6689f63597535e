"""Transactions that check first that their server has what this process has seen before.

This module knows connections, the seal and the failpoints; it knows nothing of clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from keyfold_server.domain.errors import StoreRolledBackError, StoreUnavailableError
from keyfold_server.store.database import faults
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.sql.history import HighWaterMark, History
from keyfold_server.store.tables.log import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.database.engine import Database
    from keyfold_server.store.seal import Seal

T = TypeVar("T")

ALWAYS_OVERTAKEN: Final = "other changes of the store came first every time; ask again"
"""Message of the error after the last try of a transaction."""


class Transactions:
    """Runs work in transactions.

    Attributes:
        database: The store's connections.
        seal: Seals and checks its rows.
        reach: Called with the name of each failpoint that a mutation passes.
        history: The newest entry of the log that this process has seen.
        clock: This process's clock.
        replica: Name of this process's replica, empty before it registers.
    """

    def __init__(
        self, database: Database, seal: Seal, clock: Clock, reach: Callable[[str], None]
    ) -> None:
        """Joins the parts that transactions need."""
        self.database: Final = database
        self.seal: Final = seal
        self.reach: Final = reach
        self.history: Final = History()
        self.clock: Final = clock
        self.replica = ""

    def now(self, connection: Connection) -> int:
        """Returns milliseconds of Unix time by the one clock that judges all replicas."""
        return self.database.dialect.now(connection, self.clock)

    def stamp(self, connection: Connection) -> Stamp:
        """Returns what all entries of the log that a transaction writes have in common."""
        return Stamp(self.replica, self.now(connection), self.seal, self.database.dialect)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs reads in one transaction.

        Raises:
            StoreUnavailableError: The store did not answer, or the server that answered is behind.
        """
        return self.database.read(lambda c: self._checked(c, lambda _: work(c)))

    def write(self, name: str, work: Callable[[Connection, HighWaterMark], T]) -> T:
        """Runs a mutation, and runs it again when another transaction came first.

        Args:
            name: The mutation's name in `failpoints`.
            work: Takes the connection, and the high-water mark from before the transaction.

        Raises:
            StoreUnavailableError: The store did not answer, could not be written, or the server
                that answered is behind.
            LostRaceError: Another transaction came first every time.
        """
        return self._with_failpoints(name, lambda c: self._checked(c, lambda mark: work(c, mark)))

    def write_or_fail(self, name: str, work: Callable[[Connection], T]) -> T:
        """Runs a mutation as `write` does, but reports a lost last try as StoreUnavailableError."""
        try:
            return self.write(name, lambda c, _: work(c))
        except LostRaceError as error:
            raise StoreUnavailableError(ALWAYS_OVERTAKEN) from error

    def poll(self, work: Callable[[Connection, HighWaterMark], T]) -> T:
        """Runs the poll on its own connection, and reports a server that is behind as a rollback.

        Raises:
            StoreRolledBackError: The server lacks what this process has seen.
            StoreUnavailableError: The store did not answer, or could not be written.
        """

        def checked(connection: Connection) -> T:
            mark = self.history.mark()
            if not self._is_on_history(connection, mark):
                raise StoreRolledBackError(
                    f"the store does not have entry {mark.newest.number}, which this replica "
                    "has seen: it was rolled back, or is another store"
                )
            return work(connection, mark)

        try:
            return self._with_failpoints("poll", checked, polling=True)
        except LostRaceError as error:
            raise StoreUnavailableError(ALWAYS_OVERTAKEN) from error

    def write_unchecked(self, name: str, work: Callable[[Connection], T]) -> T:
        """Runs a mutation on the store as it is, whatever this process saw before.

        Raises:
            StoreUnavailableError: As `write`.
            LostRaceError: As `write`.
        """
        return self._with_failpoints(name, work)

    def _checked(self, connection: Connection, work: Callable[[HighWaterMark], T]) -> T:
        mark = self.history.mark()
        if self._is_on_history(connection, mark):
            return work(mark)
        # The next transaction on this connection would meet the same server.
        connection.invalidate()
        raise faults.ConnectionLostError(
            "the store cannot be used: the server that answered lacks changes that this replica "
            "has seen; make sure that every connection leads to the primary",
            again=True,
            undone=True,
        )

    def _is_on_history(self, connection: Connection, mark: HighWaterMark) -> bool:
        if self.database.dialect.one_process:
            return True
        return self.history.is_on(connection, mark, self.seal)

    def _with_failpoints(
        self, name: str, work: Callable[[Connection], T], *, polling: bool = False
    ) -> T:
        def run(connection: Connection) -> T:
            self.reach(f"{name}:begun")
            result = work(connection)
            self.reach(f"{name}:before-commit")
            return result

        result = self.database.write(run, polling=polling)
        self.reach(f"{name}:after-commit")
        return result
