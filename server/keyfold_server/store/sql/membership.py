"""The replicas of a store: who registers, polls and leaves, and what each has applied."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.domain.log import EntryKind
from keyfold_server.store.database.faults import CollisionError, LostRaceError
from keyfold_server.store.sql.store_clock import Reading, StoreClock
from keyfold_server.store.sql.transactions import ALWAYS_OVERTAKEN
from keyfold_server.store.tables import lineage, log, log_head, log_polling, replicas
from keyfold_server.store.tables.log_head import Position

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from keyfold_server.domain.log import Entry
    from keyfold_server.domain.ports import Heartbeat, ReplicaRow
    from keyfold_server.store.sql.floors import Floors
    from keyfold_server.store.sql.history import HighWaterMark
    from keyfold_server.store.sql.transactions import Transactions


class Membership:
    """The part of a `domain.ports.Store` that concerns replicas."""

    def __init__(self, transactions: Transactions, floors: Floors) -> None:
        """Takes the store's transactions, and the floors that polls raise."""
        self._floors = floors
        self._transactions = transactions
        self._clock = StoreClock(transactions)
        self._mine: set[str] = set()
        self._lock = threading.Lock()
        self._reconciled: deque[bytes] = deque(maxlen=log.RECONCILIATIONS)

    def register(self, beat: Heartbeat) -> Heartbeat:
        """Adds a replica and returns its heartbeat with the newest entry (protocol S4).

        Raises:
            SetupError: Another replica has this name.
        """
        with self._lock:
            mine = {*self._mine, beat.replica}

            def work(connection: Connection) -> tuple[Heartbeat, list[bytes], Reading]:
                return self._registered(connection, beat, mine)

            try:
                current, decided, reading = self._transactions.write_unchecked("register", work)
            except CollisionError:
                raise SetupError(
                    f"another replica has the name {beat.replica}; give this one another name"
                ) from None
            except LostRaceError as error:
                raise StoreUnavailableError(ALWAYS_OVERTAKEN) from error
            self._mine, self._transactions.replica = mine, beat.replica
            self._reconciled.clear()
            self._reconciled.extend(reversed(decided))
            self._clock.heartbeat(reading)
            self._transactions.history.restart(Position(current.number, current.entry_id))
            self._floors.clear()
        return current

    def poll(self, beat: Heartbeat) -> list[Entry]:
        """Writes a heartbeat and reads the entries after its number, oldest first.

        Raises:
            StoreRolledBackError: The store lacks the entry that the heartbeat names, or another
                entry that this process has seen. The transaction then writes no heartbeat, since
                this replica does not belong to this store.
            StoreStaleError: The store has pruned entries that the replica has not applied. The
                transaction writes no heartbeat; the replica registers again.
        """
        seal, history = self._transactions.seal, self._transactions.history

        def work(connection: Connection, mark: HighWaterMark) -> tuple[list[Entry], Reading]:
            reading = self._beat(connection, beat)
            self._transactions.reach("poll:written")
            noted = log_polling.since(connection, beat, seal)
            if noted:
                history.advance(Position(noted[-1].number, noted[-1].entry_id), mark)
            return noted, reading

        noted, reading = self._transactions.poll(work)
        self._clock.heartbeat(reading)
        for entry in noted:
            if entry.kind is EntryKind.RECONCILIATION:
                self._reconciled.append(entry.entry_id)
            if entry.cluster is not None and entry.floor is not None:
                self._floors.raise_to(entry.number, entry.cluster, entry.floor)
        return noted

    def reconciled(self) -> bool:
        """Returns whether an operator has reconciled the store since the last good poll.

        The newest reconciliation alone can be one that this replica does not know. If the store was
        rolled back, that one may be older than others that the replica knows.
        """
        seal = self._transactions.seal
        # Reads the store as it is. That the store lacks what this process has seen is the reason
        # for the question.
        newest = self._transactions.database.read(lambda c: log.reconciliations(c, seal))[:1]
        return not set(newest) <= set(self._reconciled)

    def leave(self, replica: str) -> None:
        """Removes a replica that stops."""
        self._transactions.write_or_fail("leave", lambda c: replicas.remove(c, replica))
        with self._lock:
            self._mine.discard(replica)

    def rows(self) -> list[ReplicaRow]:
        """Reads every replica that has not left, and a row for those that a failover may hide."""
        return self._transactions.read(lambda c: self._rows(c, self._clock.read(c)))

    def passed(self, connection: Connection) -> int | None:
        """Returns the number of the entry that every live replica has applied (protocol S11).

        Returns:
            The number, or None if no replica lives: each has been silent for longer than it may
            serve without the store.
        """
        rows = self._rows(connection, self._clock.read(connection))
        return min((row.applied for row in rows if row.stops_within >= 0), default=None)

    def _rows(self, connection: Connection, reading: Reading) -> list[ReplicaRow]:
        seal, dialect = self._transactions.seal, self._transactions.database.dialect
        return [
            *replicas.read(connection, reading.now, seal),
            *lineage.lost_replicas(connection, reading.now, seal, dialect, stepped=reading.stepped),
        ]

    def _registered(
        self, connection: Connection, beat: Heartbeat, mine: set[str]
    ) -> tuple[Heartbeat, list[bytes], Reading]:
        seal, dialect = self._transactions.seal, self._transactions.database.dialect
        if dialect.one_process:
            replicas.remove_others(connection, mine)
        self._transactions.reach("register:cleared")
        last = log_head.read(connection, seal).newest
        current = replace(beat, number=last.number, entry_id=last.entry_id)
        if dialect.one_process or beat.replica in self._mine:
            reading = self._beat(connection, current)
        else:
            reading = self._clock.read(connection)
            replicas.add(connection, current, reading.now, seal)
            self._record(connection, beat, reading)
        self._transactions.reach("register:written")
        return current, log.reconciliations(connection, seal), reading

    def _beat(self, connection: Connection, beat: Heartbeat) -> Reading:
        seal, dialect = self._transactions.seal, self._transactions.database.dialect
        reading = self._clock.read(connection)
        replicas.write(connection, beat, reading.now, seal, dialect)
        self._record(connection, beat, reading)
        return reading

    def _record(self, connection: Connection, beat: Heartbeat, reading: Reading) -> None:
        seal, dialect = self._transactions.seal, self._transactions.database.dialect
        longest, now = replicas.staleness(beat), reading.now
        lineage.record(connection, longest, now, seal, dialect, stepped=reading.stepped)
