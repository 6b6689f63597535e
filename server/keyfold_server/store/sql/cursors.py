"""The part of SqlStore for named cursors (protocol S0, S11; `domain.cursors`)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from keyfold_server.domain.cursors import IN_ALL, PER_OWNER, Cursor, CursorKey, CursorReport
from keyfold_server.domain.errors import (
    CursorExpiredError,
    CursorNotFoundError,
    CursorTakenError,
    StoreStaleError,
    TooManyCursorsError,
)
from keyfold_server.domain.log import AuditEvent, EntryKind
from keyfold_server.domain.resuming import expired_token, invalid_token
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.database.trip import Step
from keyfold_server.store.tables import cursors, log, log_head, log_polling
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from keyfold_server.domain.log import Position
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.sql.transactions import Transactions, Unit
    from keyfold_server.store.tables.log_head import Head

_EXPIRING: Final = "store:cursor:expire"
"""The action of the entry that says that a cursor has expired."""


class CursorStore:
    """The part of a `domain.ports.Store` that keeps cursors."""

    _transactions: Transactions

    def take_cursor(
        self, key: CursorKey, session: bytes, scope: bytes, begin: Position, event: AuditEvent
    ) -> Cursor:
        """Takes a cursor over for a reader, or makes it; see `domain.cursors.Cursors`."""

        def work(unit: Unit) -> Cursor:
            stamp = self._transactions.stamp(unit)
            connection, seal, now = unit.connection, stamp.seal, stamp.now
            *_, locked = stamp.dialect.trip(connection, log.closing(stamp.dialect, wake=False))
            head = log_head.of(locked.rows, seal)
            [found] = stamp.dialect.trip(connection, [cursors.reading(key)])
            known = next(iter(cursors.of(found.rows, seal)), None)
            if known is not None:
                _check_alive(known)
                taken = replace(known, session=session, scope=scope, advanced_at=now)
                # An advance does not wait for the lock, and may have come first.
                if not cursors.replace(connection, known, taken, seal):
                    raise LostRaceError
                return taken
            _check_room(connection, key)
            [at] = stamp.dialect.trip(connection, [Step(log.AT, [{"number": begin.number}])])
            _check_there(connection, begin, head, at.rows, seal)
            made = Cursor(key, begin, session, scope, now, now)
            cursors.add(connection, made, seal)
            self._transactions.reach("cursor:made")
            _, unit.ending = log.ended(head, [Draft(EntryKind.ATTEMPT, event)], stamp)
            return made

        return self._transactions.write_or_fail("cursor", work)

    def advance_cursor(
        self, key: CursorKey, session: bytes, scope: bytes, position: Position
    ) -> CursorReport:
        """Advances a cursor; see `domain.cursors.Cursors`."""

        def work(unit: Unit) -> CursorReport:
            seal = self._transactions.seal
            found, at, head_row = unit.answers
            head = log_head.of(head_row.rows, seal)
            known = next(iter(cursors.of(found.rows, seal)), None)
            if known is None:
                _none(key)
            _check_alive(known)
            if known.session != session:
                raise CursorTakenError(
                    f"another reader has taken cursor {key.name} over; let one reader alone use it"
                )
            moved = replace(known, advanced_at=unit.now)
            if known.scope != scope:
                raise invalid_token("it came from another request")
            if position.number > known.position.number:
                _check_there(unit.connection, position, head, at.rows, seal)
                moved = replace(moved, position=position)
            if not cursors.replace(unit.connection, known, moved, seal):
                raise LostRaceError
            return CursorReport(moved, max(0, head.newest.number - moved.position.number), 0)

        first = [
            cursors.reading(key),
            Step(log.AT, [{"number": position.number}]),
            Step(log_head.READ),
        ]
        return self._transactions.write_or_fail("advance", work, first)

    def check_position(self, position: Position) -> None:
        """Refuses a position that the log does not have; see `domain.cursors.Cursors`."""

        def check(connection: Connection) -> None:
            seal = self._transactions.seal
            head = log_head.read(connection, seal)
            step = Step(log.AT, [{"number": position.number}])
            [at] = self._transactions.database.dialect.trip(connection, [step])
            _check_there(connection, position, head, at.rows, seal)

        self._transactions.read(check)

    def cursors(self) -> list[CursorReport]:
        """Reads every cursor, by owner and name."""

        def work(unit: Unit) -> list[CursorReport]:
            seal = self._transactions.seal
            found, waiting, head_row = unit.answers
            head = log_head.of(head_row.rows, seal)
            return cursors.reports(found.rows, waiting.rows, head, unit.now, seal)

        steps = [Step(cursors.READ), Step(cursors.WAITING), Step(log_head.READ)]
        return self._transactions.fetch(steps, work)

    def drop_cursor(self, key: CursorKey, event: AuditEvent) -> None:
        """Deletes a cursor, and appends an entry to the log."""

        def work(unit: Unit) -> None:
            if not cursors.drop(unit.connection, key):
                _none(key)
            self._transactions.reach("drop:deleted")
            self._append(unit, [Draft(EntryKind.ATTEMPT, event)])

        self._transactions.write_or_fail("drop", work)

    def expire_cursors(self, now_ms: int, after_ms: int) -> list[Cursor]:
        """Has cursors expire that nobody advanced; see `domain.cursors.Cursors`."""

        def work(unit: Unit) -> list[Cursor]:
            seal = self._transactions.seal
            # The store's clock limits the time: a replica's fast clock lets nothing expire early.
            before = min(now_ms, unit.now) - after_ms
            found = cursors.of(unit.answers[0].rows, seal)
            old = [c for c in found if c.expired_at is None and c.advanced_at < before]
            if not old:
                return []
            gone = [replace(cursor, expired_at=unit.now) for cursor in old]
            for known, expired in zip(old, gone, strict=True):
                # Its reader may have advanced it in this moment.
                if not cursors.replace(unit.connection, known, expired, seal):
                    raise LostRaceError
            self._transactions.reach("expire:marked")
            self._append(unit, [_expiring(cursor) for cursor in gone])
            return gone

        return self._transactions.write_or_fail("expire", work, [Step(cursors.READ)])

    def _append(self, unit: Unit, drafts: list[Draft]) -> None:
        """Has a transaction end with entries of the log."""
        stamp = self._transactions.stamp(unit)
        *_, locked = stamp.dialect.trip(unit.connection, log.closing(stamp.dialect, wake=False))
        head = log_head.of(locked.rows, stamp.seal)
        _, unit.ending = log.ended(head, drafts, stamp)


def _check_alive(cursor: Cursor) -> None:
    if cursor.expired_at is not None:
        raise CursorExpiredError(
            f"nobody advanced cursor {cursor.key.name} for so long that it has expired; find out "
            "what stopped its reader, delete it with DeleteCursor, and begin anew"
        )


def _check_room(connection: Connection, key: CursorKey) -> None:
    mine, all_ = cursors.count(connection, key.owner)
    if mine >= PER_OWNER or all_ >= IN_ALL:
        whose = "this caller has" if mine >= PER_OWNER else "all callers together have"
        raise TooManyCursorsError(
            f"{whose} {mine if mine >= PER_OWNER else all_:,} cursors; delete those that nobody "
            "uses any more with DeleteCursor"
        )


def _check_there(
    connection: Connection, position: Position, head: Head, at: Sequence[Cells], seal: Seal
) -> None:
    """Refuses a position that the log does not have.

    Args:
        connection: A connection inside a transaction.
        position: The position.
        head: The head of the log.
        at: The entry of that number, read after the head; empty if the store lacks it.
        seal: Checks the rows.

    Raises:
        ResumeTokenExpiredError: The store has pruned the entry after it.
        ResumeTokenInvalidError: The log has another entry there, or ends before.
    """
    try:
        there = log_polling.has(connection, position, head, at, seal)
    except StoreStaleError:
        raise expired_token() from None
    if not there:
        raise invalid_token("the log has no such entry")


def _none(key: CursorKey) -> NoReturn:
    raise CursorNotFoundError(
        f"there is no cursor {key.name}; WatchEvents makes one at its first use"
    )


def _expiring(cursor: Cursor) -> Draft:
    detail = {
        "cursor": cursor.key.name,
        "number": cursor.position.number,
        "owner": cursor.key.owner,
    }
    text = json.dumps(detail, sort_keys=True, separators=(",", ":"))
    return Draft(EntryKind.PRUNING, AuditEvent("", _EXPIRING, "done", text))
