"""Prunes the histories of superseded wraps, a bounded number of rows in each transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyfold_server.store.tables import history_pruning
from keyfold_server.store.tables.history_pruning import Place

if TYPE_CHECKING:
    from keyfold_server.store.sql.transactions import Transactions, Unit
    from keyfold_server.store.tables.history_pruning import Pruned


def prune(transactions: Transactions, now_ms: int, retention_ms: int) -> list[str]:
    """Removes superseded wraps; see `domain.ports.Store.prune_history`."""
    broken: set[str] = set()
    place: Place | None = Place()

    def work(unit: Unit) -> Pruned:
        # The store's clock limits the time: a replica's fast clock removes nothing early.
        before = min(now_ms, unit.now) - retention_ms
        stamp, reach = transactions.stamp(unit), transactions.reach
        pruned = history_pruning.prune(unit.connection, before, place or Place(), stamp, reach)
        unit.ending = pruned.ending
        return pruned

    while place is not None:
        pruned = transactions.write_or_fail("history", work)
        broken.update(pruned.broken)
        place = pruned.done
    return sorted(broken)
