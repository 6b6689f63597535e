"""Named cursors: positions in the log that the store keeps for its readers (protocol S0, S11).

A reader that must not miss an entry, such as a relay, has a name for its position. Pruning never
passes it, until nobody has advanced it for a long time: then it expires, and its reader hears so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from keyfold_server.domain.log import AuditEvent, Position

PER_OWNER: Final = 20
"""Most cursors of one caller. Each may keep entries of the log from being pruned."""

IN_ALL: Final = 1_000
"""Most cursors of a store."""


@dataclass(frozen=True, slots=True, order=True)
class CursorKey:
    """What identifies a cursor.

    Attributes:
        owner: The name of the caller that made it. Cursors of two callers never meet.
        name: The name that the caller chose.
    """

    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """A cursor as the store has it.

    Attributes:
        key: What identifies it.
        position: The last entry that its reader has dealt with.
        session: The fencing token of the reader that took it over last: 16 random bytes.
        scope: The digest of what that reader asked for.
        created_at: Milliseconds of Unix time, as are the others, by the store's clock.
        advanced_at: When a reader advanced it, or took it over.
        expired_at: When it expired; None: it lives.
    """

    key: CursorKey
    position: Position
    session: bytes
    scope: bytes
    created_at: int
    advanced_at: int
    expired_at: int | None = None


@dataclass(frozen=True, slots=True)
class CursorReport:
    """A cursor, and how far behind the log it is.

    Attributes:
        cursor: The cursor.
        behind: The number of entries after its position.
        waiting: Milliseconds for which the first of these has waited; 0 if there is none.
    """

    cursor: Cursor
    behind: int
    waiting: int


class Cursors(Protocol):
    """The part of a store that keeps cursors. Rows that are not authentic raise as others do."""

    def take_cursor(
        self, key: CursorKey, session: bytes, scope: bytes, begin: Position, event: AuditEvent
    ) -> Cursor:
        """Takes a cursor over for a reader, or makes it.

        Args:
            key: The cursor.
            session: The reader's fencing token; that of the reader before counts no longer.
            scope: The digest of what the reader asks for.
            begin: Where a new cursor begins. A cursor that exists stays where it is.
            event: Who makes the cursor, for the entry of the log that a new one gets.

        Raises:
            CursorExpiredError: The cursor has expired.
            TooManyCursorsError: There are as many cursors as may be.
            ResumeTokenExpiredError: The store has pruned the entry after `begin`.
            ResumeTokenInvalidError: The store does not have the entry at `begin`.
        """
        ...

    def advance_cursor(
        self, key: CursorKey, session: bytes, scope: bytes, position: Position
    ) -> CursorReport:
        """Advances a cursor, as an observation: without an entry of the log (protocol S7).

        A position before that of the cursor leaves it where it is, and shows that its reader lives.

        Raises:
            CursorNotFoundError: There is no such cursor.
            CursorTakenError: Another reader has taken the cursor over.
            CursorExpiredError: The cursor has expired.
            ResumeTokenExpiredError: The store has pruned the entry after the position.
            ResumeTokenInvalidError: The store does not have the entry at the position, or the
                position is of another scope.
        """
        ...

    def check_position(self, position: Position) -> None:
        """Refuses a position that the log does not have.

        Raises:
            ResumeTokenExpiredError: The store has pruned the entry after the position.
            ResumeTokenInvalidError: The log has another entry there, or ends before.
        """
        ...

    def cursors(self) -> Sequence[CursorReport]:
        """Reads every cursor, by owner and name."""
        ...

    def drop_cursor(self, key: CursorKey, event: AuditEvent) -> None:
        """Deletes a cursor, and appends an entry to the log.

        Raises:
            CursorNotFoundError: There is no such cursor.
        """
        ...

    def expire_cursors(self, now_ms: int, after_ms: int) -> Sequence[Cursor]:
        """Has cursors expire that nobody advanced, and appends an entry for each to the log.

        Args:
            now_ms: Milliseconds of Unix time. A time later than the store's counts as the store's.
            after_ms: Milliseconds without an advance after which a cursor expires.

        Returns:
            The cursors that have expired now.
        """
        ...
