"""The part of SqlStore for people who read the log.

Invariant: no method here writes, and none returns an entry that it has not verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyfold_server.store.database.trip import rows_of
from keyfold_server.store.tables import log_chain, log_reading, root_users

if TYPE_CHECKING:
    from collections.abc import Collection

    from keyfold_server.domain.events import (
        EventPage,
        EventQuery,
        LogCheck,
        LogMark,
        LogMarks,
        RootUse,
    )
    from keyfold_server.domain.ports import KeyUser
    from keyfold_server.store.sql.transactions import Transactions, Unit


class EventStore:
    """The part of a `domain.ports.Store` that reads the log for people."""

    _transactions: Transactions

    def events(self, query: EventQuery) -> EventPage:
        """Reads entries of the log, and verifies each."""
        seal = self._transactions.seal
        return self._transactions.read(lambda c: log_reading.page(c, query, seal))

    def check_log(self, after: LogMark | None, limit: int) -> LogCheck:
        """Verifies the next part of the log's chain, up to `limit` entries."""
        seal = self._transactions.seal
        return self._transactions.read(lambda c: log_chain.checked(c, after, limit, seal))

    def log_marks(self, numbers: Collection[int]) -> LogMarks:
        """Reads the ends of the log, and the entries of some numbers, each by its own seal."""
        steps = log_reading.marking(numbers)

        def work(unit: Unit) -> LogMarks:
            return log_reading.marks(unit.answers, self._transactions.seal, unit.now)

        return self._transactions.fetch(steps, work)

    def roots_used(self, roots: Collection[str], use: RootUse) -> frozenset[str]:
        """Returns those of some root key ids that a region uses now, among the uses that count."""
        return self._transactions.read(lambda c: log_reading.roots_used(c, roots, use))

    def users_of_roots(self, roots: Collection[str]) -> list[KeyUser]:
        """Returns which regions use some root keys now."""
        steps = root_users.reading(roots)
        return self._transactions.fetch(steps, lambda unit: root_users.of(rows_of(unit.answers)))

    def last_refusals(self, roots: Collection[str]) -> dict[str, int]:
        """Returns the number of the newest refusal of each root key that has been refused."""
        steps = root_users.refusals(roots)
        return self._transactions.fetch(steps, lambda unit: dict(map(tuple, rows_of(unit.answers))))

    def organization_of(self, cluster: str) -> str | None:
        """Returns the organization that a cluster has or, if it is gone, had last."""
        return self._transactions.read(lambda c: log_reading.organization_of(c, cluster))

    def mac(self, purpose: str, data: bytes) -> bytes:
        """Returns a MAC under the service key over bytes that are no row."""
        return self._transactions.seal.mac(purpose, data)
