"""The newest entry that this process has seen; a server that lacks it is refused (protocol S1).

Connections need not all lead to one server. A pooler, a name with several addresses or a failover
may hand out a server that is behind, or one whose history went another way. So every transaction
first checks that its server has the newest entry that this process had seen when the transaction
began, by number and random id. What one transaction reads and another commits then rests on one
history, in which each version of a cluster exists once. That makes compare-and-swap on the version
sound.

A store that one process has to itself needs no check.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyfold_server.store.tables import log_head, log_polling
from keyfold_server.store.tables.log_head import START, Position

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from keyfold_server.store.seal import Seal


@dataclass(frozen=True, slots=True)
class HighWaterMark:
    """The newest entry that this process had seen when a transaction began.

    Attributes:
        newest: That entry's position.
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
        """Advances the mark to an entry that a transaction read or wrote.

        Args:
            newest: The entry's position.
            since: The mark that the transaction began with. A mark of an earlier era moves
                nothing.
        """
        with self._lock:
            now = self._mark
            if since.era == now.era and newest.number > now.newest.number:
                self._mark = HighWaterMark(newest, now.era)

    def restart(self, newest: Position) -> None:
        """Starts a new era at the store's newest entry, whatever this process saw before."""
        with self._lock:
            self._mark = HighWaterMark(newest, self._mark.era + 1)

    def is_on(self, connection: Connection, mark: HighWaterMark, seal: Seal) -> bool:
        """Returns whether a server has the entry of a mark, and advances to its newest entry.

        Raises:
            StoreStaleError: The store has pruned that entry, because this replica was silent.
            RowNotAuthenticError: The head of the log, or that entry, is not authentic.
        """
        head, seen = log_head.read(connection, seal), mark.newest
        if head.newest != seen and seen.number:
            if head.newest.number <= seen.number:
                return False
            if not log_polling.has(connection, seen, head, seal):
                return False
        self.advance(head.newest, mark)
        return True
