"""The part of SqlStore for operations (`domain.operations`)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.errors import ConcurrentChangeError
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import require_taken
from keyfold_server.store.sql import operation_changes
from keyfold_server.store.tables import log, log_head, operations

if TYPE_CHECKING:
    from keyfold_server.domain.operations import (
        Failure,
        Operation,
        OperationChange,
        OperationKey,
    )
    from keyfold_server.store.sql.transactions import Transactions, Unit


_MOST: Final = 10_000
"""Most operations whose versions stay in memory; then those that changed longest ago go."""


class Versions:
    """The versions of operations that this process has seen (protocol S10). Safe for threads.

    A read that begins after this process saw a version must find that one or a later one. They live
    in memory, so a process that starts knows only what the log tells.
    """

    def __init__(self) -> None:
        """Starts with nothing seen."""
        self._lock = threading.Lock()
        self._seen: dict[OperationKey, tuple[bytes, int]] = {}

    def clear(self) -> None:
        """Forgets every version, because the process goes on with the store as it is."""
        with self._lock:
            self._seen.clear()

    def of(self, key: OperationKey) -> tuple[bytes, int] | None:
        """Returns the uid and version of an operation. A read asks for it before it begins."""
        return self._seen.get(key)

    def learn(self, found: Operation | None) -> None:
        """Learns of an operation that was read, or written and committed."""
        if found is None:
            return
        with self._lock:
            uid, version = self._seen.pop(found.key, (b"", 0))
            least = version if uid == found.uid else 0
            self._seen[found.key] = found.uid, max(least, found.version)
            if len(self._seen) > _MOST:
                del self._seen[next(iter(self._seen))]


class OperationStore:
    """The part of a `domain.ports.Store` that keeps operations."""

    _transactions: Transactions
    _versions: Versions

    def operation(self, key: OperationKey) -> Operation | None:
        """Reads an operation, or returns None."""
        seen = self._versions.of(key)
        found = self._transactions.fetch(
            [operations.reading(key)], lambda unit: next(iter(self._of(unit)), None)
        )
        operations.hold(found, seen)
        self._versions.learn(found)
        return found

    def operations(self, after: OperationKey, limit: int) -> list[Operation]:
        """Reads up to `limit` operations whose full names follow `after`, in their order."""
        return self._transactions.fetch([operations.reading_after(after, limit)], self._of)

    def open_operations(self, limit: int) -> list[Operation]:
        """Reads up to `limit` operations that have not ended, the oldest first."""
        return self._transactions.fetch([operations.reading_open(limit)], self._of)

    def free_operations(self, limit: int) -> list[Operation]:
        """Reads up to `limit` operations that have not ended, and returns those without a lease.

        It leaves out those of a newer release, which servers of that release take (protocol S6).
        """
        seal = self._transactions.seal
        return self._transactions.fetch(
            [operations.reading_open(limit)],
            lambda unit: [
                each for each in operations.known(unit.answers[0].rows, seal) if each.free(unit.now)
            ],
        )

    def operation_failures(self, uid: bytes) -> list[Failure]:
        """Reads what an operation lists of its failures, in the order of its items."""
        seal = self._transactions.seal
        return self._transactions.fetch(
            [operations.reading_failures(uid)],
            lambda unit: operations.failures_of(unit.answers[0].rows, seal),
        )

    def change_operation(self, change: OperationChange) -> Operation | None:
        """Carries out a change of an operation in one transaction."""
        dialect = self._transactions.database.dialect
        seen = self._versions.of(change.key)
        first = operation_changes.reading(change, dialect)
        try:
            made = self._transactions.write(
                "operation", lambda unit: self._made(change, unit, seen), first
            )
        except LostRaceError:
            raise ConcurrentChangeError(
                f"another request changed operation {change.key.name} at the same time; ask again",
                field="name",
            ) from None
        self._versions.learn(made)
        return made

    def _of(self, unit: Unit) -> list[Operation]:
        return operations.of(unit.answers[-1].rows, self._transactions.seal)

    def _made(
        self, change: OperationChange, unit: Unit, seen: tuple[bytes, int] | None
    ) -> Operation | None:
        """Decides a change on what the transaction has read, and writes it."""
        stamp = self._transactions.stamp(unit)
        made = operation_changes.decided(change, unit.answers[-1], stamp, seen)
        if not made.changes:
            return made.after
        if made.forgotten is not None:
            operations.forget(unit.connection, made.forgotten)
        closing = log.closing(stamp.dialect, wake=False) if made.drafts else []
        answers = stamp.dialect.trip(unit.connection, [*made.steps, *closing])
        for step, answer in zip(made.steps, answers, strict=False):
            require_taken(step, answer)
        self._transactions.reach("operation:written")
        if made.drafts:
            head = log_head.of(answers[-1].rows, stamp.seal)
            _, unit.ending = log.ended(head, made.drafts, stamp)
            self._transactions.reach("operation:numbered")
        return made.after
