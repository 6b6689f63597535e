"""What this process has seen of the store: a server that lacks it is not believed (protocol S1).

Connections need not all lead to one server: a pooler, a name with several addresses or a failover
may give one that is behind, or that went another way. So every transaction looks first whether
its server has the newest change that this process had seen by then, in whichever transaction, by
number and random id. What was read from one server and is committed on another therefore rests on
one history, in which a cluster's version is given once: compare-and-swap on it is sound.

Where a store is one file of one process there is nothing to look at.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyfold_server.store.tables import changes
from keyfold_server.store.tables.changes import Newest

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from keyfold_server.store.seal import Seal


@dataclass(frozen=True, slots=True)
class Sight:
    """What had been seen when a transaction began.

    Attributes:
        newest: The newest change.
        beginning: Which beginning it counts from: what was seen before an operator reconciled
            says nothing about the store after it.
    """

    newest: Newest
    beginning: int


class Horizon:
    """The newest change that this process has seen; safe for any number of threads."""

    def __init__(self) -> None:
        """Starts with nothing seen."""
        self._lock = threading.Lock()
        self._sight = Sight(Newest(0, b""), 0)

    def sight(self) -> Sight:
        """Returns what has been seen; to be taken before a transaction reads anything."""
        return self._sight

    def saw(self, newest: Newest, since: Sight) -> None:
        """Notes a change that a transaction read or made which began with a sight."""
        with self._lock:
            now = self._sight
            if since.beginning == now.beginning and newest.number > now.newest.number:
                self._sight = Sight(newest, now.beginning)

    def begin(self, newest: Newest) -> None:
        """Begins with the store as it is, whatever was seen before."""
        with self._lock:
            self._sight = Sight(newest, self._sight.beginning + 1)

    def holds(self, connection: Connection, sight: Sight, seal: Seal) -> bool:
        """Tells whether a server has what had been seen, and notes what it has.

        Raises:
            RowNotAuthenticError: The counter's row, or that change's, is not authentic.
        """
        last, seen = changes.newest(connection, seal), sight.newest
        if last != seen and seen.number:
            if last.number <= seen.number:
                return False
            if changes.id_of(connection, seen.number, seal) != seen.change_id:
                return False
        self.saw(last, sight)
        return True
