"""The part of SqlStore that says who needs a root key (protocol C6, C7; `domain.key_usage`).

Invariant: no method here writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyfold_server.store.tables import key_usage

if TYPE_CHECKING:
    from collections.abc import Collection

    from keyfold_server.domain.key_usage import KeyQuery, KeyUsePage, KeyUseSummary, UsePlace
    from keyfold_server.domain.rights import Coverage
    from keyfold_server.store.sql.transactions import Transactions


class KeyUseStore:
    """The part of a `domain.ports.Store` that says who needs a root key."""

    _transactions: Transactions

    def key_usage(
        self,
        query: KeyQuery,
        covered: Collection[Coverage],
        after: UsePlace | None,
        limit: int,
    ) -> KeyUsePage:
        """Reads a page of uses, and verifies the clusters that they are of."""
        seal = self._transactions.seal
        return self._transactions.read(
            lambda c: key_usage.read(c, seal, query, covered, after, limit)
        )

    def key_usage_summary(
        self, query: KeyQuery, covered: Collection[Coverage], oldest_backup: int
    ) -> KeyUseSummary:
        """Counts all uses that a query chooses, those that the caller may not see as well."""
        return self._transactions.read(
            lambda c: key_usage.summary(c, query, covered, oldest_backup)
        )
