"""Connections and transactions, the same for every database once its engines exist."""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import Connection, Engine

from keyfold_server.domain.errors import StoreUnavailableError
from keyfold_server.store.database import faults
from keyfold_server.store.database.dialect import ACCESS_MODE, AccessMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyfold_server.store.database.dialect import Dialect

T = TypeVar("T")

_TURN_WAIT: Final = 5.0
"""Seconds that a transaction waits for its turn to write, in a database with one writer."""

_CLEARING: Final = 2.0
"""Seconds for which clearing a file may keep changes waiting, Revoke among them (protocol R9)."""

_PAUSE: Final = 0.01
"""Longest pause before the second try of a transaction, in seconds; it doubles with each try."""

_jitter: Final = random.SystemRandom()


class Database:
    """One store's connections. The poll has a pool of its own, so it never waits (protocol W3)."""

    def __init__(self, kind: Dialect, engine: Engine, polling: Engine) -> None:
        """Takes the pools, which connect on first use.

        Args:
            kind: Differences of this database from others.
            engine: Connections for everything but the poll.
            polling: The poll's one connection.
        """
        self.dialect: Final = kind
        self.engine: Final = engine
        self._polling = polling
        self._line = threading.Lock()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs reads in one transaction, so that they all see the same state of the store.

        Raises:
            StoreUnavailableError: The store did not answer.
        """
        try:
            return self._settled(lambda: self._once(self.engine, AccessMode.READ, work))
        except faults.LostRaceError as error:
            raise StoreUnavailableError("the store is busy with changes; ask again") from error

    def write(self, work: Callable[[Connection], T], *, polling: bool = False) -> T:
        """Runs a transaction, and runs `work` again when another transaction came first.

        Args:
            work: Takes the connection.
            polling: True for the poll, which has its own connection, and may be repeated even if
                it was committed.

        Raises:
            StoreUnavailableError: The store did not answer, or could not be written.
            LostRaceError: Another transaction came first every time.
        """
        engine = self._polling if polling else self.engine
        return self._settled(lambda: self._once(engine, AccessMode.WRITE, work))

    def migrate(self, work: Callable[[Connection], T]) -> T:
        """Runs a long transaction, once.

        Raises:
            StoreUnavailableError: The store did not answer, or could not be written.
            LostRaceError: Another transaction came first.
        """
        try:
            return self._once(self.engine, AccessMode.MIGRATE, work)
        except faults.ConnectionLostError as error:
            raise StoreUnavailableError(error.message) from error

    def clear_traces(self, most: float = _CLEARING) -> bool:
        """Clears the database's files of what was erased; see `Dialect.clear`.

        Args:
            most: Seconds after which it gives up, if nobody else can write meanwhile.

        Raises:
            StoreUnavailableError: The store did not answer, or could not be written.
        """
        try:
            with (
                faults.translated(),
                self.engine.connect() as bare,
                self._turn(AccessMode.WRITE),
            ):
                return self.dialect.clear(bare.connection.driver_connection, most)
        except (faults.LostRaceError, faults.ConnectionLostError) as error:
            raise StoreUnavailableError("the store's files were not cleared") from error

    def _settled(self, once: Callable[[], T]) -> T:
        lost = False
        for left in reversed(range(self.dialect.tries)):
            try:
                return once()
            except faults.LostRaceError:
                if not left:
                    raise
                # A random pause, or the same transactions would only meet again.
                longest = _PAUSE * 2 ** (self.dialect.tries - left - 1)
                time.sleep(_jitter.uniform(0, longest))
            except faults.ConnectionLostError as error:
                # The pool may have held connections to a server that has restarted. All of those
                # are dropped now, so a second loss has another cause.
                if lost or not left or not error.again:
                    raise StoreUnavailableError(error.message) from error
                lost = True
        raise AssertionError

    def _once(self, engine: Engine, access: AccessMode, work: Callable[[Connection], T]) -> T:
        committing, repeatable = False, engine is self._polling or not access.writes
        try:
            # The connection comes before the turn: a transaction that waits for a connection
            # must not keep the poll from its turn.
            with faults.translated(), engine.connect() as bare, self._turn(access):
                connection = bare.execution_options(**{ACCESS_MODE: access})
                with connection.begin():
                    result = work(connection)
                    committing = True
                return result
        except (faults.ConnectionLostError, StoreUnavailableError) as error:
            if engine is self._polling and not self.dialect.one_process:
                # What cut off the poll may have cut off the idle connections without a notice, and
                # a call on one of them would wait in vain. Those in use go on.
                self.engine.dispose()
            if (
                isinstance(error, StoreUnavailableError)
                or error.undone
                or repeatable
                or not (committing or error.committing)
            ):
                raise
            # The transaction may have committed, so it must not run again from here.
            raise StoreUnavailableError(
                "the store's answer to the commit was lost, so the change may or may not have "
                "been made; ask again with the same request_id"
            ) from error

    @contextmanager
    def _turn(self, access: AccessMode) -> Iterator[None]:
        """Waits in line if the database has one writer: SQLite's own waiting is not fair."""
        if self.dialect.locks_rows or not access.writes:
            yield
            return
        if not self._line.acquire(timeout=_TURN_WAIT):
            raise StoreUnavailableError("the store is busy with other changes; ask again")
        try:
            yield
        finally:
            self._line.release()

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()
        self._polling.dispose()
