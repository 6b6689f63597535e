"""The newest change that this process has seen; a server that lacks it is refused (protocol S1).

Connections need not all lead to one server. A pooler, a name with several addresses or a failover
may hand out a server that is behind, or one whose history went another way. So every transaction
first checks that its server has the newest change that this process had seen when the transaction
began, by number and random id. What one transaction reads and another commits then rests on one
history, in which each version of a cluster exists once. That makes compare-and-swap on the version
sound.

A store that one process has to itself needs no check.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyfold_server.store.tables import changes, counter
from keyfold_server.store.tables.counter import START, Position

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from keyfold_server.store.seal import Seal


@dataclass(frozen=True, slots=True)
class HighWaterMark:
    """The newest change that this process had seen when a transaction began.

    Attributes:
        newest: That change's position.
        era: Number of times that this process has registered. What it saw before an operator
            reconciled the store says nothing about the store since then.
    """

    newest: Position
    era: int


class History:
    """Keeps the high-water mark of this process. Safe for any number of threads."""

    def __init__(self) -> None:
        """Starts with nothing seen."""
        self._lock = threading.Lock()
        self._mark = HighWaterMark(START, 0)

    def mark(self) -> HighWaterMark:
        """Returns the high-water mark. A transaction asks for it before it reads anything."""
        return self._mark

    def advance(self, newest: Position, since: HighWaterMark) -> None:
        """Advances the mark to a change that a transaction read or made.

        Args:
            newest: The change's position.
            since: The mark that the transaction began with. A mark of an earlier era moves
                nothing.
        """
        with self._lock:
            now = self._mark
            if since.era == now.era and newest.number > now.newest.number:
                self._mark = HighWaterMark(newest, now.era)

    def restart(self, newest: Position) -> None:
        """Starts a new era at the store's newest change, whatever this process saw before."""
        with self._lock:
            self._mark = HighWaterMark(newest, self._mark.era + 1)

    def is_on(self, connection: Connection, mark: HighWaterMark, seal: Seal) -> bool:
        """Returns whether a server has the change of a mark, and advances to its newest change.

        Raises:
            StoreStaleError: The store has pruned that change, because this replica was silent.
            RowNotAuthenticError: The counter's row, or that change's, is not authentic.
        """
        ends, seen = counter.read(connection, seal), mark.newest
        if ends.newest != seen and seen.number:
            if ends.newest.number <= seen.number:
                return False
            if not changes.has(connection, seen, ends, seal):
                return False
        self.advance(ends.newest, mark)
        return True
