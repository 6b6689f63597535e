"""Translates the drivers' errors to ours: the only module that reads a database's words.

Messages to callers are our own. The driver's text, which may hold values of rows, stays in the
exception's cause for debugging.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from keyfold_server.domain.errors import RowNotAuthenticError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SQLITE: Final = {
    sqlite3.SQLITE_BUSY: "its file stays locked; find the other program that has it open",
    sqlite3.SQLITE_LOCKED: "its file stays locked; find the other program that has it open",
    sqlite3.SQLITE_READONLY: "it is read-only; look at the permissions of the file and its folder",
    sqlite3.SQLITE_PERM: "its file may not be used; look at the permissions of the file and its "
    "folder",
    sqlite3.SQLITE_FULL: "the disk is full; make room, and ask again",
    sqlite3.SQLITE_NOTADB: "its file is not a database; restore it from a backup",
    sqlite3.SQLITE_CORRUPT: "its file is damaged; restore it from a backup",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened; is it still there?",
    sqlite3.SQLITE_IOERR: "its disk failed; look at the system's log",
}
"""Messages for callers, by SQLite's primary result code."""

READ_ONLY: Final = "25006"
"""SQLSTATE of a standby, and of a server that somebody switched to reading."""

_PAUSED: Final = "25P03"
"""SQLSTATE of a session that paused inside a transaction for too long."""

_STOPPING: Final = "the database is stopping or starting; ask again"
_FULL: Final = "the database has no room for another connection; raise its max_connections"
_UNKNOWN_USER: Final = (
    "the database rejects the user's name or password; look at the store's url and at "
    "KEYFOLD_STORE_PASSWORD_FILE"
)
_UNKNOWN_DATABASE: Final = "the database does not exist; create it, or correct the store's url"
_UNMIGRATED: Final = "it does not have this release's schema; run `keyfold-server migrate`"

_SQLSTATES: Final = {
    READ_ONLY: "it is read-only: a standby, or a server that somebody switched to reading; find "
    "the primary",
    _PAUSED: "this server paused inside a change, so the database undid it; ask again",
    "28000": _UNKNOWN_USER,
    "28P01": _UNKNOWN_USER,
    "3D000": _UNKNOWN_DATABASE,
    "3F000": _UNMIGRATED,
    "42501": "the database's user lacks a right; it must read and write every table, and create "
    "tables if it migrates",
    "42703": _UNMIGRATED,
    "42P01": _UNMIGRATED,
    "53100": "the disk is full; make room, and ask again",
    "53200": "the database is out of memory; ask again",
    "53300": _FULL,
    "55P03": "other transactions held a lock for too long; ask again",
    "55000": "it is a standby, or not ready; find the primary",
    "57014": "a statement took too long, and the database stopped it; ask again",
    "57P01": _STOPPING,
    "57P02": _STOPPING,
    "57P03": _STOPPING,
}
"""Messages for callers, by SQLSTATE."""

_CONNECTING: Final = {
    "password authentication failed": _UNKNOWN_USER,
    "no password supplied": "the database asks for a password; put it into a file and name the "
    "file in KEYFOLD_STORE_PASSWORD_FILE",
    "pg_hba.conf": "the database lets this user in from another host only, or only with TLS; look "
    "at its pg_hba.conf",
    "certificate verify failed": "this server does not trust the authority of the database's "
    "certificate; give sslrootcert in the store's url",
    "does not match host name": "the database's certificate is for another host",
    "server does not support SSL": "the database does not speak TLS; set TLS up there, or give "
    "sslmode in the store's url",
    "root certificate file": "the file that sslrootcert in the store's url names does not exist",
    "too many connections": _FULL,
    "too many clients": _FULL,
    "remaining connection slots": _FULL,
    "starting up": _STOPPING,
    "shutting down": _STOPPING,
    "not yet accepting connections": _STOPPING,
    "recovery mode": _STOPPING,
    "session is read-only": _SQLSTATES[READ_ONLY],
    "Connection refused": "nothing listens where the store's url points",
    "No such file or directory": "no socket exists where the store's url points",
    "could not translate host name": "the host of the store's url has no address",
    "failed to resolve host": "the host of the store's url has no address",
    "timeout expired": "the database's host did not answer",
    "invalid connection option": "the store's url has an option that does not exist",
    # The last entry, because other messages have these words too. Here: a role or a database.
    "does not exist": "the database or the user does not exist; create it, or correct the store's "
    "url",
}
"""Messages for callers, by words of libpq's text: a failed connection has no SQLSTATE."""

_SERIALIZATION: Final = frozenset({"40001", "40P01", "26000", "42P05"})
"""SQLSTATEs after which the same transaction may succeed on another try. The last two come from a
pooler's session that lacks a prepared statement, or has it already; the next try prepares none."""

_UNDONE: Final = frozenset({_PAUSED, READ_ONLY})
"""SQLSTATEs that end a session and that a server gives only before a commit."""

_HELD: Final = frozenset({"55P03", "42701", "42710", "42P07", "XX000"})
"""SQLSTATEs of a change of the schema while another session locks or changes it."""


class LostRaceError(Exception):
    """Another transaction came first in a way that locks do not cover.

    The database wrote nothing, so the caller may run the transaction again, which then sees what
    the other one made.
    """


class CollisionError(LostRaceError):
    """A row stands in the way: two transactions that insert one cluster have no row to lock."""


class ConnectionLostError(Exception):
    """The connection ended before the commit was sent, or before the answer to it came.

    Attributes:
        message: Message for the caller if another try does not help.
        again: True if another connection may help; false if the server did not answer in time.
        undone: True if the database certainly wrote nothing, even if the commit was sent.
        committing: True if the commit was sent together with the transaction's last statements.
    """

    def __init__(
        self, message: str, *, again: bool, undone: bool, committing: bool = False
    ) -> None:
        super().__init__(message)
        self.message: Final = message
        self.again: Final = again
        self.undone: Final = undone
        self.committing: Final = committing


@contextmanager
def translated() -> Iterator[None]:
    """Turns the database's errors into StoreUnavailableError, or into a reason for another try.

    Raises:
        StoreUnavailableError: The store did not answer, or could not be written.
        LostRaceError: The caller may run the transaction again.
        ConnectionLostError: The caller may run the transaction again on another connection, unless
            it was committing.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise StoreUnavailableError("the store has no free connection; ask again") from error
    except IntegrityError as error:
        raise CollisionError from error
    except DBAPIError as error:
        if sqlstate(error) in _SERIALIZATION:
            raise LostRaceError from error
        if error.connection_invalidated:
            again = not isinstance(error.orig, TimeoutError)
            raise ConnectionLostError(
                _message(error.orig),
                again=again,
                undone=sqlstate(error) in _UNDONE,
                committing=getattr(error.orig, "committing", False),
            ) from error
        raise StoreUnavailableError(_message(error.orig)) from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StoreUnavailableError(_message(error)) from error


@contextmanager
def ending() -> Iterator[None]:
    """Turns every error of the database into StoreUnavailableError: for work without a retry.

    Raises:
        StoreUnavailableError: The database reported an error.
    """
    try:
        with translated():
            yield
    except ConnectionLostError as error:
        raise StoreUnavailableError(error.message) from error
    except LostRaceError as error:
        raise StoreUnavailableError("the store is busy with changes; ask again") from error


def not_taken(table: str) -> RowNotAuthenticError:
    """Makes the error about a write that the database dropped without an error of its own."""
    return RowNotAuthenticError(
        f"the database did not take a row of {table}, and reported success: look for triggers, "
        f"rules and row-security policies on {table}, and find out who made them"
    )


def failed(error: Exception) -> StoreUnavailableError:
    """Makes the error for one of a driver that SQLAlchemy has not seen."""
    return StoreUnavailableError(_message(error))


def sqlstate(error: DBAPIError) -> str | None:
    """Returns the SQLSTATE of a database's error, or None if it has no SQLSTATE."""
    return getattr(error.orig, "sqlstate", None)


def was_held(error: StoreUnavailableError) -> bool:
    """Returns whether a change of the schema failed because another one was under way."""
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and sqlstate(cause) in _HELD


def _message(error: BaseException | None) -> str:
    return f"the store cannot be used: {_why(error) or 'the database failed; look at its log'}"


def _why(error: BaseException | None) -> str | None:
    if isinstance(error, TimeoutError):
        return "the database did not answer in time; ask again"
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        # Extended codes carry the primary one in their low byte.
        return _SQLITE.get(code & 0xFF)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return _SQLSTATES.get(state)
    text = str(error)
    return next((why for words, why in _CONNECTING.items() if words in text), None)
