"""The part of SqlStore for erasing what is deleted (protocol D3, D4).

An erasure itself is a change like others, which `apply` carries out. Here is whose turn it is, and
what has to follow so that the bytes go out of the database's files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyfold_server.store.tables import erasing

if TYPE_CHECKING:
    from keyfold_server.domain.erasure import ErasureTurn
    from keyfold_server.store.sql.transactions import Transactions


class ErasureStore:
    """The part of a `domain.ports.Store` for erasing what is deleted."""

    _transactions: Transactions

    def erasure_turn(self, every_ms: int) -> ErasureTurn | None:
        """Begins a turn to erase what is due, which one replica has at a time (protocol D3)."""
        return self._transactions.write_or_fail(
            "turn", lambda unit: erasing.begin_turn(unit.connection, every_ms, unit.now)
        )

    def clear_traces(self) -> bool:
        """Clears the database's files of what was erased, as far as the database can (D4)."""
        # From before, so that an erasure that comes meanwhile is not taken for cleared.
        newest = self._transactions.read(erasing.newest)
        if not self._transactions.database.clear_traces():
            return False
        self._transactions.write_or_fail(
            "cleared", lambda unit: erasing.cleared(unit.connection, newest)
        )
        return True
