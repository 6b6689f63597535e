"""The newest entry that this process has seen; a server that lacks it is refused (protocol S1).

Connections need not all lead to one server. A pooler, a name with several addresses or a failover
may hand out a server that is behind, or one whose history went another way. So every transaction
first checks that its server has the newest entry that this process had seen when the transaction
began, by number and random id. What one transaction reads and another commits then rests on one
history, in which each version of a cluster exists once. That makes compare-and-swap on the version
sound.

This process also remembers every reconciliation in the history that it has seen. If the store loses
a later entry, those do not answer for the loss. The head of the log names the newest one. So a
transaction that goes on from a reconciliation learns of it, even before a poll reads its entry.

A store that one process has to itself needs no check.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyfold_server.store.database.trip import Step
from keyfold_server.store.tables import log, log_head, log_polling
from keyfold_server.store.tables.log_head import START, Position

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection

    from keyfold_server.store.database.trip import Answer
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
    """Keeps what this process has seen of the log. Safe for any number of threads."""

    def __init__(self) -> None:
        """Starts with nothing seen."""
        self._lock = threading.Lock()
        self._mark = HighWaterMark(START, 0)
        self._reconciliations: set[bytes] = set()

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

    def restart(self, newest: Position, reconciliations: Collection[bytes]) -> None:
        """Starts a new era, whatever this process saw before.

        Args:
            newest: The position of the store's newest entry.
            reconciliations: The ids of the reconciliations that the store has.
        """
        with self._lock:
            self._mark = HighWaterMark(newest, self._mark.era + 1)
            self._reconciliations = set(reconciliations)

    def learn(
        self, connection: Connection, reconciliation: bytes, since: HighWaterMark, seal: Seal
    ) -> None:
        """Remembers a reconciliation that a transaction found in the head of the log.

        It also remembers the reconciliations before that one, which the log may have got since this
        process looked last.

        Args:
            connection: A connection inside the transaction or after it. Its server has all that
                this process had seen when the transaction began. Otherwise the reconciliation may
                be the answer to a loss that this process has yet to notice.
            reconciliation: The id in the head, or empty.
            since: The mark that the transaction began with.
            seal: Checks the rows.

        Raises:
            RowNotAuthenticError: The entry of a reconciliation is not authentic.
        """
        if not reconciliation or reconciliation in self._reconciliations:
            return
        found = log.reconciliations(connection, seal)
        with self._lock:
            if since.era == self._mark.era:
                # Pruning may have removed the entry that the head names.
                self._reconciliations.update(found, [reconciliation])

    def answers(self, reconciliation: bytes) -> bool:
        """Returns whether a reconciliation answers for whatever the store has lost.

        Args:
            reconciliation: The id of the newest one in the store, or empty. If the store was rolled
                back, it may be an old one that this process knew.
        """
        return bool(reconciliation) and reconciliation not in self._reconciliations

    @staticmethod
    def asking(mark: HighWaterMark) -> list[Step]:
        """Returns the steps that look for the entry of a mark; `is_on` takes their answers."""
        return [Step(log_head.READ), Step(log.AT, [{"number": mark.newest.number}])]

    def is_on(
        self, connection: Connection, mark: HighWaterMark, answers: Sequence[Answer], seal: Seal
    ) -> bool:
        """Returns whether a server has the entry of a mark, and advances to its newest entry.

        Args:
            connection: A connection inside the transaction that asked, or after it.
            mark: The mark.
            answers: The answers to `asking`.
            seal: Checks the rows.

        Raises:
            StoreStaleError: The store has pruned that entry, because this replica was silent.
            RowNotAuthenticError: The head of the log, or that entry, is not authentic.
        """
        ends, there = answers
        head, seen = log_head.of(ends.rows, seal), mark.newest
        if head.newest != seen and seen.number:
            if head.newest.number <= seen.number:
                return False
            if not log_polling.has(connection, seen, head, there.rows, seal):
                return False
        self.learn(connection, head.reconciliation, mark, seal)
        self.advance(head.newest, mark)
        return True
