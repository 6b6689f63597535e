"""The driver's errors to ours: the one place where a database's words are read.

The message to a caller is our own; the driver's text, which may hold values of rows, stays in
the exception's cause for whoever debugs.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from keyfold_server.domain.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SQLITE: Final = {
    sqlite3.SQLITE_BUSY: "it is locked, and stayed so; who else holds the file?",
    sqlite3.SQLITE_LOCKED: "it is locked, and stayed so; who else holds the file?",
    sqlite3.SQLITE_READONLY: "it is read-only; look at the file's and its folder's rights",
    sqlite3.SQLITE_PERM: "its file may not be used; look at the file's and its folder's rights",
    sqlite3.SQLITE_FULL: "the disk is full; make room, and ask again",
    sqlite3.SQLITE_NOTADB: "its file is not a database; restore it from a backup",
    sqlite3.SQLITE_CORRUPT: "its file is damaged; restore it from a backup",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened; is it still there?",
    sqlite3.SQLITE_IOERR: "its disk failed; look at the system's log",
}
"""What to say, by SQLite's primary result code."""

_SERIALIZATION: Final = frozenset({"40001", "40P01"})
"""SQLSTATEs that mean: the same transaction, tried again, may succeed."""


class LostRaceError(Exception):
    """Another transaction came first in a way that locks do not cover.

    Two that insert the same new cluster have no row to lock. Nothing was written, and changes
    are pure, so the transaction is run again and sees what the other one made.
    """


@contextmanager
def translated() -> Iterator[None]:
    """Turns the database's errors into StoreUnavailableError, or LostRaceError.

    Raises:
        StoreUnavailableError: The store did not answer, or could not be written.
        LostRaceError: The transaction is to be run again.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise StoreUnavailableError("the store has no connection free; ask again") from error
    except IntegrityError as error:
        raise LostRaceError from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in _SERIALIZATION:
            raise LostRaceError from error
        raise StoreUnavailableError(_told(error.orig)) from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StoreUnavailableError(_told(error)) from error


def _told(error: BaseException | None) -> str:
    code = getattr(error, "sqlite_errorcode", None)
    # Extended codes carry the primary one in their low byte.
    why = _SQLITE.get(code & 0xFF) if isinstance(code, int) else None
    return f"the store cannot be used: {why or 'the database failed; look at its log'}"
