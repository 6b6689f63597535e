"""The replicas of a store: who registers, polls and leaves, and what each has applied."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.store.database.faults import CollisionError, LostRaceError, not_taken
from keyfold_server.store.database.trip import Step
from keyfold_server.store.sql.store_clock import STEP, Reading, StoreClock
from keyfold_server.store.sql.transactions import ALWAYS_OVERTAKEN
from keyfold_server.store.tables import (
    lineage,
    log,
    log_head,
    log_polling,
    organizations,
    replicas,
)
from keyfold_server.store.tables.log_head import Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from keyfold_server.domain.log import Entry
    from keyfold_server.domain.ports import Heartbeat, ReplicaRow
    from keyfold_server.store.database.trip import Answer
    from keyfold_server.store.sql.floors import Floors
    from keyfold_server.store.sql.history import HighWaterMark
    from keyfold_server.store.sql.transactions import Transactions, Unit
    from keyfold_server.store.tables.lineage import Lineage


class Membership:
    """The part of a `domain.ports.Store` that concerns replicas."""

    def __init__(self, transactions: Transactions, floors: Floors) -> None:
        """Takes the store's transactions, and the floors that polls raise."""
        self._floors = floors
        self._transactions = transactions
        self._seal = transactions.seal
        self._dialect = transactions.database.dialect
        self._clock = StoreClock(transactions)
        self._mine: set[str] = set()
        self._lock = threading.Lock()

    def register(self, beat: Heartbeat) -> Heartbeat:
        """Adds a replica and returns its heartbeat with the newest entry (protocol S4).

        Raises:
            SetupError: Another replica has this name.
        """
        with self._lock:
            mine = {*self._mine, beat.replica}
            asked = self._clock.asked()

            def work(unit: Unit) -> tuple[Heartbeat, list[bytes], Reading]:
                return self._registered(unit, beat, mine, asked)

            try:
                current, decided, reading = self._transactions.write_unchecked("register", work)
            except CollisionError:
                raise SetupError(
                    f"another replica has the name {beat.replica}; give this one another name"
                ) from None
            except LostRaceError as error:
                raise StoreUnavailableError(ALWAYS_OVERTAKEN) from error
            self._mine, self._transactions.replica = mine, beat.replica
            self._clock.heartbeat(reading)
            newest = Position(current.number, current.entry_id)
            self._transactions.history.restart(newest, decided)
            self._floors.clear()
        return current

    def poll(self, beat: Heartbeat) -> list[Entry]:
        """Writes a heartbeat and reads the entries after its number, oldest first.

        Both go to the store together (protocol S13). So the store writes the heartbeat only where
        it has the entry that the replica knows, and the replica predicts the store's time.

        Raises:
            StoreRolledBackError: The store lacks the entry that the heartbeat names, or another
                entry that this process has seen. Without those entries the store writes no
                heartbeat, since this replica does not belong to it.
            StoreStaleError: The store has pruned entries that the replica has not applied. It
                writes no heartbeat; the replica registers again.
        """
        asked = self._clock.asked()
        seen_at = self._clock.predicted(asked)
        known = Position(beat.number, beat.entry_id)

        def steps(mark: HighWaterMark) -> list[Step]:
            # In a store of one process the page shows whether it lacks what this process has seen.
            alone = self._dialect.one_process or not mark.newest.number
            places = [known] if alone else [known, mark.newest]
            return [
                Step(log_head.READ),
                replicas.beating(beat, seen_at, places, self._seal, self._dialect),
                log_polling.page(beat),
                *lineage.asking(self._dialect),
            ]

        def work(unit: Unit) -> tuple[list[Entry], Lineage, Reading]:
            read, written, page, *others = unit.answers
            connection, history = unit.connection, self._transactions.history
            head = log_head.of(read.rows, self._seal)
            noted = log_polling.since(connection, beat, head, page.rows, self._seal)
            if not written.count:
                raise not_taken("replicas")
            history.learn(connection, head.reconciliation, unit.mark, self._seal)
            if noted:
                newest = Position(noted[-1].number, noted[-1].entry_id)
                history.advance(newest, unit.mark)
            reading = self._clock.reading(asked, unit.now)
            return noted, lineage.of(others, self._seal, self._dialect), reading

        noted, line, reading = self._transactions.poll(steps, work)
        kept = line.kept(replicas.staleness(beat), reading.now, stepped=reading.stepped)
        if kept != line or seen_at - reading.now > STEP * 1000:
            reading = self._transactions.follow_poll(
                lambda unit: self._beat_again(unit, beat, reading)
            )
        self._clock.heartbeat(reading)
        for entry in noted:
            if entry.cluster is not None and entry.floor is not None:
                self._floors.raise_to(entry.number, entry.cluster, entry.floor)
            elif entry.organization is not None:
                name, floor = entry.organization
                self._floors.raise_to(entry.number, organizations.floor_name(name), floor)
        return noted

    def reconciled(self) -> bool:
        """Returns whether an operator has reconciled the store since this process saw it last."""
        # Reads the store as it is. That the store lacks what this process has seen is the reason
        # for the question.
        head = self._transactions.database.read(lambda c: log_head.read(c, self._seal))
        return self._transactions.history.answers(head.reconciliation)

    def leave(self, replica: str) -> None:
        """Removes a replica that stops."""
        self._transactions.write_or_fail(
            "leave", lambda unit: replicas.remove(unit.connection, replica)
        )
        with self._lock:
            self._mine.discard(replica)

    def rows(self) -> list[ReplicaRow]:
        """Reads every replica that has not left, and a row for those that a failover may hide."""
        asked = self._clock.asked()
        return self._transactions.fetch(
            self.asking_rows(), lambda unit: self.rows_of(unit.answers, asked, unit.now)
        )

    def passed(self, unit: Unit) -> int | None:
        """Returns the number of the entry that every live replica has applied (protocol S11).

        Returns:
            The number, or None if no replica lives: each has been silent for longer than it may
            serve without the store.
        """
        asked = self._clock.asked()
        answers = self._dialect.trip(unit.connection, self.asking_rows())
        rows = self.rows_of(answers, asked, unit.now)
        return min((row.applied for row in rows if row.lives), default=None)

    def asking_rows(self) -> list[Step]:
        """Returns the steps that read the replicas; `rows_of` takes their answers."""
        return [Step(replicas.READ), *lineage.asking(self._dialect)]

    def rows_of(self, answers: Sequence[Answer], asked: float, now: int) -> list[ReplicaRow]:
        """Returns what `rows` returns.

        Args:
            answers: The answers to `asking_rows`.
            asked: Monotonic seconds at which this process asked.
            now: Milliseconds of Unix time by the store's clock, in the same round trip.
        """
        stepped = self._clock.reading(asked, now).stepped
        line = lineage.of(answers[1:], self._seal, self._dialect)
        return [
            *replicas.of(answers[0].rows, now, self._seal),
            *line.lost_replicas(now, stepped=stepped),
        ]

    def _registered(
        self, unit: Unit, beat: Heartbeat, mine: set[str], asked: float
    ) -> tuple[Heartbeat, list[bytes], Reading]:
        connection, seal = unit.connection, self._seal
        if self._dialect.one_process:
            replicas.remove_others(connection, mine)
        self._transactions.reach("register:cleared")
        head = log_head.read(connection, seal)
        last = head.newest
        current = replace(beat, number=last.number, entry_id=last.entry_id)
        reading = self._clock.reading(asked, unit.now)
        if self._dialect.one_process or beat.replica in self._mine:
            replicas.write(connection, current, reading.now, seal, self._dialect)
        else:
            replicas.add(connection, current, reading.now, seal)
        self._record(connection, beat, reading)
        self._transactions.reach("register:written")
        # Pruning may have removed the entry that the head names.
        return current, [*log.reconciliations(connection, seal), head.reconciliation], reading

    def _beat_again(self, unit: Unit, beat: Heartbeat, reading: Reading) -> Reading:
        """Writes a heartbeat by the store's own time, and what it shows of the lineage."""
        reading = replace(reading, now=unit.now)
        replicas.write(unit.connection, beat, reading.now, self._seal, self._dialect)
        self._record(unit.connection, beat, reading)
        return reading

    def _record(self, connection: Connection, beat: Heartbeat, reading: Reading) -> None:
        """Records a server that has taken over, and a staleness longer than all before."""
        # Under the lock, because another replica may be writing a longer staleness.
        asking = lineage.asking(self._dialect, lock=True)
        line = lineage.of(self._dialect.trip(connection, asking), self._seal, self._dialect)
        kept = line.kept(replicas.staleness(beat), reading.now, stepped=reading.stepped)
        if kept != line:
            lineage.write(connection, kept, self._seal)
