"""A store's transactions: each on a server that has what this process has seen before.

Knows connections, the seal and the marks; nothing of clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from keyfold_server.domain.errors import StoreRolledBackError, StoreUnavailableError
from keyfold_server.store import faults
from keyfold_server.store.faults import LostRaceError
from keyfold_server.store.horizon import Horizon, Sight

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.engine import Database
    from keyfold_server.store.seal import Seal

T = TypeVar("T")

AGAIN: Final = "the store was changed by others again and again; ask again"


class Transactions:
    """Runs work in transactions.

    Attributes:
        database: The store's connections.
        seal: Seals and checks its rows.
        reach: Called with each of `marks.MARKS` that a mutation passes.
        horizon: What this process has seen.
    """

    def __init__(
        self, database: Database, seal: Seal, clock: Clock, reach: Callable[[str], None]
    ) -> None:
        """Joins the transactions to what they run on."""
        self.database: Final = database
        self.seal: Final = seal
        self.reach: Final = reach
        self.horizon: Final = Horizon()
        self._clock = clock

    def now(self, connection: Connection) -> int:
        """Returns milliseconds by the one clock that all replicas are compared by."""
        return self.database.dialect.now(connection, self._clock)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs reads in one transaction.

        Raises:
            StoreUnavailableError: The store did not answer, or a server that is behind did.
        """
        return self.database.read(lambda c: self._looked(c, lambda _: work(c)))

    def write(self, name: str, work: Callable[[Connection, Sight], T]) -> T:
        """Runs a mutation, again where another one came first.

        Args:
            name: The mutation's name in `marks`.
            work: Takes the connection, and what had been seen before it began.

        Raises:
            StoreUnavailableError: The store did not answer, could not be written, or a server
                that is behind answered.
            LostRaceError: Another one came first every time.
        """
        return self._marked(name, lambda c: self._looked(c, lambda sight: work(c, sight)))

    def write_or_fail(self, name: str, work: Callable[[Connection], T]) -> T:
        """As `write`, where losing every time is a failure of the store."""
        try:
            return self.write(name, lambda c, _: work(c))
        except LostRaceError as error:
            raise StoreUnavailableError(AGAIN) from error

    def poll(self, work: Callable[[Connection, Sight], T]) -> T:
        """Runs the poll, on its own connection; here a server that is behind is told.

        Raises:
            StoreRolledBackError: The server lacks what this process has seen.
            StoreUnavailableError: The store did not answer, or could not be written.
        """

        def looked(connection: Connection) -> T:
            sight = self.horizon.sight()
            if not self._holds(connection, sight):
                raise StoreRolledBackError(
                    f"the store does not have change {sight.newest.number}, which this replica "
                    "has seen: it was rolled back, or is another store"
                )
            return work(connection, sight)

        try:
            return self._marked("poll", looked, polling=True)
        except LostRaceError as error:
            raise StoreUnavailableError(AGAIN) from error

    def begin(self, name: str, work: Callable[[Connection], T]) -> T:
        """Runs a mutation on the store as it is, whatever was seen before; raises as `write`."""
        return self._marked(name, work)

    def _looked(self, connection: Connection, work: Callable[[Sight], T]) -> T:
        sight = self.horizon.sight()
        if self._holds(connection, sight):
            return work(sight)
        # Whoever else gets this connection would meet the same server.
        connection.invalidate()
        raise faults.ConnectionLostError(
            "the store cannot be used: the server that answered lacks changes that were seen "
            "before; see that every connection leads to the primary",
            again=True,
            undone=True,
        )

    def _holds(self, connection: Connection, sight: Sight) -> bool:
        if self.database.dialect.one_process:
            return True
        return self.horizon.holds(connection, sight, self.seal)

    def _marked(self, name: str, work: Callable[[Connection], T], *, polling: bool = False) -> T:
        def marked(connection: Connection) -> T:
            self.reach(f"{name}:begun")
            result = work(connection)
            self.reach(f"{name}:before-commit")
            return result

        result = self.database.write(marked, polling=polling)
        self.reach(f"{name}:after-commit")
        return result
