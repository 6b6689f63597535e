"""Transactions that check first that their server has what this process has seen before.

This module knows connections, the seal and the failpoints; it knows nothing of clusters.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from keyfold_server.domain.errors import StoreRolledBackError, StoreUnavailableError
from keyfold_server.store.database import faults
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.sql.history import HighWaterMark, History
from keyfold_server.store.tables import log_head
from keyfold_server.store.tables.log import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.database.engine import Database
    from keyfold_server.store.database.trip import Answer, Ending, Step
    from keyfold_server.store.seal import Seal

T = TypeVar("T")

ALWAYS_OVERTAKEN: Final = "other changes of the store came first every time; ask again"
"""Message of the error after the last try of a transaction."""


@dataclass(slots=True)
class Unit:
    """One transaction, after its first round trip.

    Attributes:
        connection: The connection.
        mark: The high-water mark from before the transaction.
        now: Milliseconds of Unix time by the one clock that judges all replicas.
        answers: Answers to the steps that the transaction began with.
        ending: The rows that the transaction writes last, and is committed with; None: no such
            rows. The work sets it as its last act.
    """

    connection: Connection
    mark: HighWaterMark
    now: int
    answers: list[Answer]
    ending: Ending | None = None


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

    def stamp(self, unit: Unit) -> Stamp:
        """Returns what all entries of the log that a transaction writes have in common."""
        return Stamp(self.replica, unit.now, self.seal, self.database.dialect)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs reads in one transaction.

        Raises:
            StoreUnavailableError: The store did not answer, or the server that answered is behind.
        """
        return self.read_in(lambda unit: work(unit.connection))

    def read_in(self, work: Callable[[Unit], T]) -> T:
        """Runs reads in one transaction, which also knows the store's time.

        Raises:
            StoreUnavailableError: As `read`.
        """
        return self.database.read(lambda c: work(self._begun(c, ())))

    def fetch(self, steps: Sequence[Step], work: Callable[[Unit], T]) -> T:
        """Runs reads that need one round trip in all (protocol S13).

        Args:
            steps: The reads.
            work: Takes their answers, and runs no statement.

        Raises:
            StoreUnavailableError: As `read`.
        """
        return self.database.read(lambda c: work(self._begun(c, steps, commit=True)))

    def write(self, name: str, work: Callable[[Unit], T], first: Sequence[Step] = ()) -> T:
        """Runs a mutation, and runs it again when another transaction came first.

        Args:
            name: The mutation's name in `failpoints`.
            work: Goes on after the first steps.
            first: The steps that the transaction begins with.

        Raises:
            StoreUnavailableError: The store did not answer, could not be written, or the server
                that answered is behind.
            LostRaceError: Another transaction came first every time.
        """

        def checked(unit: Unit) -> T:
            result = work(unit)
            if unit.ending is not None and not self.database.dialect.one_process:
                # Another process may have reconciled the store since this transaction began.
                found = log_head.reconciliation(unit.ending.row)
                self.history.learn(unit.connection, found, unit.mark, self.seal)
            return result

        return self._with_failpoints(name, lambda c: self._begun(c, first), checked)

    def write_or_fail(self, name: str, work: Callable[[Unit], T], first: Sequence[Step] = ()) -> T:
        """Runs a mutation as `write` does, but reports a lost last try as StoreUnavailableError."""
        with _never_lost():
            return self.write(name, work, first)

    def poll(
        self, steps: Callable[[HighWaterMark], Sequence[Step]], work: Callable[[Unit], T]
    ) -> T:
        """Runs the poll in one round trip, and reports a server that is behind as a rollback.

        Args:
            steps: Takes the high-water mark, and returns the poll's statements.
            work: Takes their answers once they are committed, or are about to be.

        Raises:
            StoreRolledBackError: The server lacks what this process has seen, and so does the one
                that a new connection led to. One alone may be a primary that has a successor.
            StoreUnavailableError: The store did not answer, or could not be written.
        """
        alone, given_up = self.database.dialect.one_process, False

        def run(connection: Connection) -> T:
            nonlocal given_up
            try:
                return polled(connection)
            except StoreRolledBackError:
                if alone or given_up:
                    raise
                given_up = True
                raise _given_up(connection) from None

        def polled(connection: Connection) -> T:
            mark = self.history.mark()
            self.reach("poll:begun")
            self.reach("poll:before-commit")
            unit, is_on = self._asked(connection, mark, steps(mark), commit=True)
            if not is_on:
                raise StoreRolledBackError(
                    f"the store does not have entry {mark.newest.number}, which this replica "
                    "has seen: it was rolled back, or is another store"
                )
            return work(unit)

        with _never_lost():
            result = self.database.write(run, polling=True)
        self.reach("poll:after-commit")
        return result

    def follow_poll(self, work: Callable[[Unit], T]) -> T:
        """Runs what a poll must write besides its heartbeat, on the poll's own connection.

        Raises:
            StoreUnavailableError: The store did not answer, or could not be written.
        """
        with _never_lost():
            return self.database.write(lambda c: work(self._begun(c, ())), polling=True)

    def write_unchecked(self, name: str, work: Callable[[Unit], T]) -> T:
        """Runs a mutation on the store as it is, whatever this process saw before.

        Raises:
            StoreUnavailableError: As `write`.
            LostRaceError: As `write`.
        """

        def begun(connection: Connection) -> Unit:
            now = self.database.dialect.now(connection, self.clock)
            return Unit(connection, self.history.mark(), now, [])

        return self._with_failpoints(name, begun, work)

    def _begun(
        self, connection: Connection, steps: Sequence[Step], *, commit: bool = False
    ) -> Unit:
        """Runs a transaction's first steps, and refuses a server that is behind."""
        unit, is_on = self._asked(connection, self.history.mark(), steps, commit=commit)
        if is_on:
            return unit
        raise _given_up(connection)

    def _asked(
        self, connection: Connection, mark: HighWaterMark, steps: Sequence[Step], *, commit: bool
    ) -> tuple[Unit, bool]:
        """Runs a transaction's first steps; also says if the server has what this process saw."""
        dialect = self.database.dialect
        looking = [] if dialect.one_process else self.history.asking(mark)
        asking_time = dialect.asking_time()
        answers = dialect.trip(connection, [*looking, *asking_time, *steps], commit=commit)
        looked, others = answers[: len(looking)], answers[len(looking) :]
        now = dialect.now_of(others[: len(asking_time)], self.clock)
        is_on = not looking or self.history.is_on(connection, mark, looked, self.seal)
        return Unit(connection, mark, now, others[len(asking_time) :]), is_on

    def _with_failpoints(
        self, name: str, begin: Callable[[Connection], Unit], work: Callable[[Unit], T]
    ) -> T:
        def run(connection: Connection) -> T:
            self.reach(f"{name}:begun")
            unit = begin(connection)
            result = work(unit)
            self.reach(f"{name}:before-commit")
            if unit.ending is not None:
                self.database.dialect.finish(connection, unit.ending, commit=True)
            return result

        result = self.database.write(run)
        self.reach(f"{name}:after-commit")
        return result


@contextmanager
def _never_lost() -> Iterator[None]:
    try:
        yield
    except LostRaceError as error:
        raise StoreUnavailableError(ALWAYS_OVERTAKEN) from error


def _given_up(connection: Connection) -> faults.ConnectionLostError:
    """Gives up a connection to a server that is behind; the next one may lead to another server."""
    connection.invalidate()
    return faults.ConnectionLostError(
        "the store cannot be used: the server that answered lacks changes that this replica "
        "has seen; make sure that every connection leads to the primary",
        again=True,
        undone=True,
    )
