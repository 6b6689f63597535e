"""SQLite: the store's file, and how connections and transactions begin.

The settings are for durability: an answered commit is on the disk (WAL, synchronous=FULL), and
SQLite overwrites what it erases (secure_delete). The driver's own way to begin transactions is off.
Each transaction begins with BEGIN, and one that will write with BEGIN IMMEDIATE. Otherwise two
transactions that read first and then write would each wait for the other.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sqlalchemy import Engine, NullPool, QueuePool, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from keyfold_server.domain.errors import SetupError
from keyfold_server.store.database import faults
from keyfold_server.store.database.dialect import ACCESS_MODE, SQLITE, AccessMode
from keyfold_server.store.database.engine import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_PRAGMAS: Final = (
    "PRAGMA busy_timeout = 5000",  # the first one, because the switch to WAL may have to wait
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
)

_MAGIC: Final = b"SQLite format 3\0"
"""The first bytes of every database of SQLite."""

_POOL: Final = 8
"""Connections that stay open."""

_OVERFLOW: Final = 24
"""Further connections that may open at peaks."""

_POOL_WAIT: Final = 5.0
"""Seconds that a transaction waits for a connection."""

_BUSY: Final = 5.0
"""Seconds that `reading` waits for a lock in the file."""


def path_of(url: str) -> Path:
    """Returns the file that a store's url names, with links resolved.

    Messages do not repeat the url, because a url of another database may hold a password.

    Raises:
        SetupError: The url is not `sqlite:///` and a path.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SetupError(
            "the store's url is malformed; write sqlite:///path/to/keyfold.db"
        ) from None
    if parsed.drivername != "sqlite":
        raise SetupError(
            "this release keeps its store in SQLite or PostgreSQL; write "
            "sqlite:///path/to/keyfold.db or postgresql://user@host/database"
        )
    if not parsed.database or parsed.database == ":memory:" or parsed.host or parsed.query:
        raise SetupError("the store's url must name a file and nothing else: sqlite:///path")
    # Resolved, because two names of one file must lead to one lock.
    return Path(parsed.database).resolve()


def service_key_of(url: str) -> Path:
    """Returns the path of the service key beside a store's file, under the name in the url."""
    return Path(f"{url.removeprefix('sqlite:///')}.service-key")


def make(path: Path) -> None:
    """Makes an empty file that only its owner can read; SQLite would make it by the umask.

    Raises:
        SetupError: The file cannot be made, or the log of a former store is there.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        # SQLite would replay it into the new store.
        raise SetupError(
            f"the store {path} is missing, but its log {log} exists: move the log away"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise SetupError(f"the store {path} cannot be made: {error.strerror}") from None


def check(path: Path) -> None:
    """Refuses an existing file that cannot be a store, and leaves it as it is.

    Raises:
        SetupError: The file is not a database, or cannot be read and written.
    """
    try:
        with path.open("r+b") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise SetupError(f"the store {path} cannot be read and written: {error.strerror}") from None
    if start not in (b"", _MAGIC):
        raise SetupError(f"the file {path} is not a database; name another file for the store")


def close_to_others(path: Path) -> None:
    """Takes all rights to a store's file from its group and others.

    Raises:
        SetupError: This process may not change the file's mode.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(mode & 0o700)
    except OSError as error:
        raise SetupError(f"the store {path} cannot be closed to others: {error.strerror}") from None


@contextmanager
def reading(path: Path) -> Iterator[Connection]:
    """Opens a file for reading in one transaction, whether a server runs on it or not.

    Raises:
        StoreUnavailableError: The file cannot be read.
    """

    def connect() -> sqlite3.Connection:
        name = f"file:{quote(str(path))}?mode=ro"
        return sqlite3.connect(name, uri=True, isolation_level=None, timeout=_BUSY)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        with faults.ending(), engine.connect() as connection, connection.begin():
            yield connection
    finally:
        engine.dispose()


def connected(path: Path) -> Database:
    """Returns the connections of a store in a file."""
    url = URL.create("sqlite", database=str(path))
    return Database(SQLITE, _engine(url, _POOL, _OVERFLOW), _engine(url, 1, 0))


def _engine(url: URL, size: int, overflow: int) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=overflow,
        pool_timeout=_POOL_WAIT,
        hide_parameters=True,
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(driver: Any, _record: object) -> None:
    driver.isolation_level = None
    for pragma in _PRAGMAS:
        driver.execute(pragma).close()


def _on_begin(connection: Connection) -> None:
    access = connection.get_execution_options().get(ACCESS_MODE, AccessMode.READ)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if access.writes else "BEGIN")
