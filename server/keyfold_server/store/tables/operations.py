"""Operations' rows, written and read; nobody uses a row before its MAC is verified.

A row must not lie below the newest decision about it in the log, of which it is read together with
(protocol S10). So nobody undoes a cancelling, an end or a deletion by putting an older row back.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.operations import (
    Census,
    Failure,
    Operation,
    OperationKey,
    Place,
    Progress,
    Starter,
    Work,
)
from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import Cells, log, operation_failures, operations
from keyfold_server.store.tables import log as log_table
from keyfold_server.store.tables.rows import named

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from keyfold_server.store.seal import Seal

_TABLE: Final = operations.name
_VERSION: Final = "version"
_GONE: Final = "gone"
_FAILURES: Final = operation_failures.name
_MINE: Final = (
    operations.c.owner == bindparam("of_owner"),
    operations.c.name == bindparam("of_name"),
)
_newest: Final = log.alias("newest_of_operation")
_every: Final = log.alias("every_of_operation")
_OPERATION: Final[ColumnElement[str]] = literal_column(f"'{EntryKind.OPERATION.value}'")
_WIDTH: Final = len(operations.columns)


def _with_newest(chosen: Select[Any]) -> Select[Any]:
    """Returns a statement that reads some operations, each with the newest decision about it."""
    found = chosen.subquery("found")
    number = (
        select(func.max(_every.c.number))
        # A literal, since no partial index answers a parameter.
        .where(_every.c.kind == _OPERATION, _every.c.cluster_uid == found.c.uid)
        .correlate(found)
        .scalar_subquery()
    )
    joined = found.outerjoin(_newest, _newest.c.number == number)
    return select(*found.c, *_newest.c).select_from(joined)


def _page(chosen: Select[Any], *order: ColumnElement[Any]) -> Select[Any]:
    page = chosen.order_by(*order).limit(cast(bindparam("most"), BigInteger))
    return _with_newest(page).order_by(*(literal_column(f"found.{each.key}") for each in order))


_ALL: Final = select(*operations.c)
_ONE: Final = _with_newest(_ALL.where(*_MINE))
_LOCK: Final = select(operations.c.name).where(*_MINE).with_for_update()
_AFTER: Final = _page(
    _ALL.where(
        tuple_(operations.c.owner, operations.c.name)
        > tuple_(bindparam("of_owner"), bindparam("of_name"))
    ),
    operations.c.owner,
    operations.c.name,
)
_OPEN: Final = _page(_ALL.where(operations.c.ended_at.is_(None)), operations.c.created_at)
_BEGAN: Final = (
    select(operations.c.created_at)
    .where(operations.c.ended_at.is_(None))
    .order_by(operations.c.created_at)
    .limit(1)
)
_LISTED: Final = (
    select(*operation_failures.c)
    .where(operation_failures.c.operation == bindparam("of_uid"))
    .order_by(operation_failures.c.number)
)
_INSERT: Final = insert(operations)
_UPDATE: Final = update(operations).where(*_MINE)
_DELETE: Final = delete(operations).where(*_MINE)
_FAIL: Final = insert(operation_failures)
_FORGET: Final = delete(operation_failures).where(
    operation_failures.c.operation == bindparam("of_uid")
)

_PRUNED_AT_ONCE: Final = 100
"""Most operations that one transaction of pruning removes."""


def locking(key: OperationKey) -> Step:
    """Returns the step that locks an operation's row."""
    return Step(_LOCK, [_of(key)])


def reading(key: OperationKey) -> Step:
    """Returns the step that reads an operation; `of` takes the rows."""
    return Step(_ONE, [_of(key)])


def reading_after(after: OperationKey, limit: int) -> Step:
    """Returns the step that reads the operations after a full name; `of` takes the rows."""
    return Step(_AFTER, [{**_of(after), "most": limit}])


def reading_open(limit: int) -> Step:
    """Returns the step that reads the operations that have not ended; `of` takes the rows."""
    return Step(_OPEN, [{"most": limit}])


def reading_failures(uid: bytes) -> Step:
    """Returns the step that reads what an operation lists; `failures_of` takes the rows."""
    return Step(_LISTED, [{"of_uid": uid}])


class NewerOperationError(RowNotAuthenticError):
    """A newer release started the operation, and this one does not know what it is to do."""


def of(found: Iterable[Cells], seal: Seal) -> list[Operation]:
    """Returns the operations in some rows.

    Raises:
        NewerOperationError: This release cannot read one.
        RowNotAuthenticError: A row is not authentic, or older than the newest decision about it.
    """
    return [_one(cells, seal) for cells in found]


def known(found: Iterable[Cells], seal: Seal) -> list[Operation]:
    """Returns the operations in some rows, without those that only a newer release can carry out.

    Raises:
        RowNotAuthenticError: A row is not authentic, or older than the newest decision about it.
    """
    operations_known = []
    for cells in found:
        with suppress(NewerOperationError):
            operations_known.append(_one(cells, seal))
    return operations_known


def _one(cells: Cells, seal: Seal) -> Operation:
    operation = _of_row(cells[:_WIDTH], seal)
    _hold(operation, cells[_WIDTH:], seal)
    return operation


def told(after: Operation | None, before: Operation | None) -> str:
    """Returns what an entry of the log tells about a decision, as JSON, for `of` to hold rows to.

    Args:
        after: The operation as the decision leaves it, or None if it is deleted.
        before: As it was, or None.
    """
    if after is not None:
        return json.dumps({_VERSION: after.version})
    return json.dumps({_GONE: True, _VERSION: 0 if before is None else before.version + 1})


def _hold(operation: Operation, entry: Cells, seal: Seal) -> None:
    """Refuses an operation whose row lies below the newest decision about it."""
    if entry[log_table.NUMBER] is None:
        # Pruning keeps the decisions about one that has not ended.
        if not operation.ended:
            raise _overtaken(operation)
        return
    seal.check("log", entry)
    decision = json.loads(entry[log_table.DECISION] or "{}")
    if decision.get(_GONE) or operation.version < decision.get(_VERSION, 0):
        raise _overtaken(operation)


def hold(found: Operation | None, seen: tuple[bytes, int] | None) -> None:
    """Refuses an operation that is older than this process has seen it.

    Args:
        found: The operation as it was read.
        seen: The uid and the version that this process had seen before it began to read.

    Raises:
        RowNotAuthenticError: It is older.
    """
    if found is not None and seen is not None and found.uid == seen[0] and found.version < seen[1]:
        raise _overtaken(found)


def _overtaken(operation: Operation) -> RowNotAuthenticError:
    return RowNotAuthenticError(
        f"the row of operation {operation.key.name} is not the one that Keyfold wrote last: "
        "somebody put an older one back; find out who writes the store, and delete the row"
    )


def _of_row(row: Cells, seal: Seal) -> Operation:
    seal.check(_TABLE, row)
    cells = dict(named(operations, row))
    census = cells["census"]
    try:
        work, starter = Work.decoded(cells["work"]), Starter.decoded(cells["starter"])
    except (KeyError, TypeError, ValueError) as error:
        # The seal is right, so a server of a newer release wrote it (protocol S6).
        raise NewerOperationError(
            f"a newer release started the operation {cells['name']}: ask a server of that release, "
            "or upgrade this one"
        ) from error
    return Operation(
        key=OperationKey(cells["owner"], cells["name"]),
        uid=cells["uid"],
        work=work,
        starter=starter,
        created_at=cells["created_at"],
        updated_at=cells["updated_at"],
        cancelled_at=cells["cancelled_at"],
        ended_at=cells["ended_at"],
        outcome=cells["outcome"],
        message=cells["message"],
        census=None if census is None else Census(**json.loads(census)),
        progress=Progress(
            Place(cells["place_cluster"], cells["place_region"]),
            cells["done"],
            cells["failed"],
            cells["skipped"],
            cells["listed"],
        ),
        holder=cells["holder"],
        leased_until=cells["leased_until"],
        version=cells["version"],
    )


def failures_of(found: Iterable[Cells], seal: Seal) -> list[Failure]:
    """Returns the failures in some rows.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    known = []
    for row in found:
        seal.check(_FAILURES, row)
        known.append(Failure(*row[2:-1]))
    return known


def writing(before: Operation | None, after: Operation | None, seal: Seal) -> list[Step]:
    """Returns the steps that write an operation in place of what it was, or delete it."""
    if after is None:
        return [] if before is None else [Step(_DELETE, [_of(before.key)])]
    cells = named(operations, sealed(after, seal))
    if before is None:
        return [Step(_INSERT, [cells])]
    del cells["owner"], cells["name"]
    return [Step(_UPDATE, [cells | _of(after.key)])]


def listing(uid: bytes, first: int, failures: Sequence[Failure], now: int, seal: Seal) -> Step:
    """Returns the step that lists failures.

    Args:
        uid: The operation's uid.
        first: The number of the first of them.
        failures: The failures.
        now: Milliseconds of Unix time, by the store's clock.
        seal: Seals the rows.
    """
    cells = [
        seal.sealed(_FAILURES, (uid, n, each.cluster, each.region, each.reason, each.message, now))
        for n, each in enumerate(failures, first)
    ]
    return Step(_FAIL, [named(operation_failures, row) for row in cells])


def forget(connection: Connection, uid: bytes) -> None:
    """Removes what an operation lists."""
    connection.execute(_FORGET, {"of_uid": uid})


def kept_from(connection: Connection, before: int) -> int:
    """Returns the time from which pruning keeps entries of the log: of the oldest open operation.

    Args:
        connection: A connection inside a transaction.
        before: The time from which it keeps them without any.
    """
    found = connection.execute(_BEGAN).scalar()
    return before if found is None else min(before, int(found))


def prune(connection: Connection, before: int) -> None:
    """Removes some of the operations that ended before a time, with what they list."""
    old = select(operations.c.owner, operations.c.name, operations.c.uid)
    old = old.where(operations.c.ended_at < literal(before, BigInteger)).limit(_PRUNED_AT_ONCE)
    for owner, name, uid in connection.execute(old).all():
        forget(connection, uid)
        connection.execute(_DELETE, _of(OperationKey(owner, name)))


def sealed(operation: Operation, seal: Seal) -> Cells:
    """Returns an operation's row with its MAC."""
    progress, census = operation.progress, operation.census
    return seal.sealed(
        _TABLE,
        (
            *operation.key,
            operation.uid,
            operation.work.encoded(),
            operation.starter.encoded(),
            operation.created_at,
            operation.updated_at,
            operation.cancelled_at,
            operation.ended_at,
            operation.outcome,
            operation.message,
            None if census is None else json.dumps(asdict(census), separators=(",", ":")),
            *progress.place,
            progress.done,
            progress.failed,
            progress.skipped,
            progress.listed,
            operation.holder,
            operation.leased_until,
            operation.version,
        ),
    )


def _of(key: OperationKey) -> dict[str, str]:
    return {"of_owner": key.owner, "of_name": key.name}
