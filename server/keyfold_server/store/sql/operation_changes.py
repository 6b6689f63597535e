"""Changes of operations: what a transaction reads for one, and what it then writes.

Most changes of an operation are transactions of their own (`operations`). Those that begin or end
the move of a key link are part of the change of its organization (`organizations`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.operations import LISTED
from keyfold_server.store.tables import operations
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.domain.operations import Operation, OperationChange
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.database.trip import Answer, Step
    from keyfold_server.store.tables.log import Stamp


@dataclass(frozen=True, slots=True)
class DecidedOperation:
    """A change of an operation that was decided, and is to be written.

    Attributes:
        after: The operation as it shall be, or None to delete it.
        changes: Whether it changes at all.
        steps: The steps that write it; each must write all of its rows.
        drafts: Its entries of the log: one, or none.
        forgotten: The uid of an operation that the change deletes, whose failures go too; or None.
    """

    after: Operation | None
    changes: bool
    steps: list[Step]
    drafts: list[Draft]
    forgotten: bytes | None = None


def reading(change: OperationChange, dialect: Dialect) -> list[Step]:
    """Returns the steps that lock and read the operation of a change."""
    locking = [operations.locking(change.key)] if dialect.locks_rows else []
    return [*locking, operations.reading(change.key)]


def apart(
    change: OperationChange | None, answers: Sequence[Answer], dialect: Dialect
) -> tuple[Sequence[Answer], Answer | None]:
    """Returns the answers without those to `reading`, which came last, and what it read."""
    if change is None:
        return answers, None
    return answers[: -len(reading(change, dialect))], answers[-1]


def decided(
    change: OperationChange, read: Answer, stamp: Stamp, seen: tuple[bytes, int] | None = None
) -> DecidedOperation:
    """Decides a change of an operation on what the transaction has read.

    Args:
        change: The change.
        read: The answer to the last step of `reading`.
        stamp: For the entry of the log.
        seen: The uid and the version that this process had seen before it began to read, or None.

    Raises:
        RowNotAuthenticError: The operation's row is not authentic, or older than a decision.
        KeyfoldError: What the change itself raises.
    """
    current = next(iter(operations.of(read.rows, stamp.seal)), None)
    operations.hold(current, seen)
    after = change.decide(current, stamp.now)
    if after is current:
        return DecidedOperation(after, changes=False, steps=[], drafts=[])
    if after is not None:
        after = replace(after, version=1 if current is None else current.version + 1)
    steps: list[Step] = []
    listed = () if after is None else change.failures[: LISTED - after.progress.listed]
    if after is not None and listed:
        before = after.progress.listed
        after = replace(after, progress=replace(after.progress, listed=before + len(listed)))
        steps.append(operations.listing(after.uid, before + 1, listed, stamp.now, stamp.seal))
    steps += operations.writing(current, after, stamp.seal)
    drafts: list[Draft] = []
    about = after or current
    if change.event is not None and about is not None:
        told = operations.told(after, current)
        drafts = [Draft(EntryKind.OPERATION, change.event, uid=about.uid, decision=told)]
    forgotten = current.uid if after is None and current is not None else None
    return DecidedOperation(after, changes=True, steps=steps, drafts=drafts, forgotten=forgotten)
