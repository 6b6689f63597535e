"""open_store: the one way into a store, with the checks before its first use."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, func, insert, select

from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.store import schema, service_key
from keyfold_server.store import seal as seals
from keyfold_server.store.database import extras
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.migrations import migrate
from keyfold_server.store.postgresql import address as addresses
from keyfold_server.store.postgresql import connections as postgresql
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.sqlite import connections as sqlite
from keyfold_server.store.sqlite.lock import FileLock, is_locked
from keyfold_server.store.tables import erasing, lineage, log_head, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.database.engine import Database
    from keyfold_server.store.postgresql.session import BoundedSession
    from keyfold_server.store.service_key import ServiceKey

log = logging.getLogger(__name__)

_ROW: Final = 1
_UID_SIZE: Final = 16
_UID: Final = list(schema.meta.columns).index(schema.meta.c.store_uid)

_SERVED: Final = (migrate.SchemaAge.CURRENT, migrate.SchemaAge.NEXT)
"""The schemas on which this release serves; only they are sure to have what it reads."""


def open_store(  # noqa: PLR0913  one argument for each setting
    url: str,
    service_key_path: str | Path | None,
    *,
    clock: Clock,
    reach: Callable[[str], None] = no_failpoint,
    password_file: Path | None = None,
    listen_url: str | None = None,
    migrating: bool = False,
    takes_key: bool = False,
    timeouts: addresses.Timeouts | None = None,
) -> SqlStore:
    """Opens a store. Makes an embedded store that does not exist yet, and its service key.

    Args:
        url: `sqlite:///` and the path of the store's file, or `postgresql://user@host/database`.
        service_key_path: The service key's file. None means the file beside an embedded store; a
            shared store needs a path, and the file must exist.
        clock: Source of time.
        reach: Called with the name of each failpoint that a mutation passes.
        password_file: File with the database's password.
        listen_url: Url for the notifications of a shared store, to go around a pooler that does
            not pass notifications on. None means the store's url.
        migrating: Brings a shared store to this release's schema. An embedded store always gets
            there.
        takes_key: Lets a new embedded store take a service key that exists already. Without it,
            such a key means that its store is lost.
        timeouts: Timeouts of a shared store.

    Raises:
        SetupError: The store or the key cannot be used as they are; the message says why.
        RowNotAuthenticError: Somebody else changed the store's own row.
    """
    if url.startswith(addresses.SCHEMES):
        address = addresses.parse(url, password_file, timeouts or addresses.Timeouts())
        listening = _listening(url, listen_url, password_file) or address
        key = _shared_key(service_key_path, address.label)
        return _shared(address, listening, key, clock=clock, reach=reach, migrating=migrating)
    _listening(url, listen_url, password_file)
    return _embedded(url, service_key_path, clock=clock, reach=reach, takes_key=takes_key)


def check(
    url: str,
    service_key_path: Path | None,
    listen_url: str | None = None,
    *,
    password_file: Path | None = None,
    migrating: bool = False,
) -> None:
    """Refuses a store that `open_store` would refuse, and changes nothing.

    A server may run on the store meanwhile. For the arguments see `open_store`.

    Raises:
        SetupError: The store or its key cannot be used as they are; the message says why.
        RowNotAuthenticError: Somebody else changed the store's own row.
    """
    _listening(url, listen_url, password_file)
    if url.startswith(addresses.SCHEMES):
        address = addresses.parse(url, password_file)
        postgresql.require_driver()
        seal = seals.Seal(_shared_key(service_key_path, address.label))
        with _named(address.label), closing(postgresql.connected(address)) as database:
            if not migrating:
                migrate.require(database)
            if database.read(migrate.check) in _SERVED:
                _check_own_row(database.read(_own_row), seal)
        return
    path = sqlite.path_of(url)
    key_path = Path(service_key_path or sqlite.service_key_of(url))
    for folder in (path.parent, *([] if key_path.exists() else [key_path.parent])):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SetupError(
                f"{folder} is not a folder that the server's user may write; make it, or change "
                "its owner"
            )
    if not path.exists():
        _refuse_lost(path, key_path)
    elif not service_key.is_unfinished(key_path, path):
        with _named(path):
            sqlite.check(path)
            seal = seals.Seal(service_key.load(key_path, store=path))
            with sqlite.reading(path) as connection:
                if migrate.check(connection) in _SERVED:
                    _check_own_row(_own_row(connection), seal)


def _check_own_row(row: schema.Cells | None, seal: seals.Seal) -> None:
    """Checks a key against the store's own row; None is the row of an empty store.

    Raises:
        SetupError: Another service key sealed the store, or in another encoding.
        RowNotAuthenticError: Somebody changed the row.
    """
    if row is None:
        return
    seal.require_key(row[2])
    if row[3] != seals.ENCODING:
        raise SetupError(
            f"the store's rows carry seals in encoding {row[3]}, and this release writes encoding "
            f"{seals.ENCODING}: start the release that made the store"
        )
    seal.check("meta", row)


def _listening(
    url: str, listen_url: str | None, password_file: Path | None
) -> addresses.Address | None:
    """Parses the url for notifications, if there is one.

    Raises:
        SetupError: It is not the url of a PostgreSQL, or the store is not in PostgreSQL.
    """
    if listen_url is None:
        return None
    if not (url.startswith(addresses.SCHEMES) and listen_url.startswith(addresses.SCHEMES)):
        raise SetupError(
            "KEYFOLD_STORE_LISTEN is a second way to a store in PostgreSQL: write "
            "postgresql://user@host/database in both it and KEYFOLD_STORE, or leave it out"
        )
    return addresses.parse(listen_url, password_file)


def in_use(url: str) -> bool:
    """Says whether another process serves from an embedded store, so that a start would fail."""
    return not url.startswith(addresses.SCHEMES) and is_locked(sqlite.path_of(url))


def warnings(url: str, password_file: Path | None = None) -> list[str]:
    """Looks into a store for what can drop or change what Keyfold writes (protocol S10).

    It changes nothing, and finds nothing in a store that does not exist or cannot be reached.
    """
    with contextlib.suppress(StoreUnavailableError, SetupError):
        if url.startswith(addresses.SCHEMES):
            with closing(postgresql.connected(addresses.parse(url, password_file))) as database:
                found = database.read(database.dialect.extras)
        elif not sqlite.path_of(url).exists():
            return []
        else:
            with sqlite.reading(sqlite.path_of(url)) as connection:
                found = extras.of_sqlite(connection)
        return [extras.warning(extra) for extra in found]
    return []


def _clear(database: Database, path: Path) -> None:
    """Clears a file of what was erased, if a server could not while it served (protocol D4)."""
    newest = database.read(erasing.uncleared)
    try:
        if newest and database.clear_traces(math.inf):
            database.write(lambda connection: erasing.cleared(connection, newest))
    except (StoreUnavailableError, LostRaceError) as error:
        log.warning("%s: the file was not cleared of what was erased: %s", path, error)


def _warn_of_extras(database: Database, label: object) -> None:
    for extra in database.read(database.dialect.extras):
        log.warning("%s: %s", label, extras.warning(extra))


def migrate_store(url: str, *, password_file: Path | None = None) -> str:
    """Brings a shared store to this release's schema; needs no service key.

    Returns:
        The store's name for messages: its host and database.

    Raises:
        SetupError: The store cannot be migrated; the message says why.
    """
    address = addresses.parse(url, password_file)
    with _named(address.label):
        database = postgresql.connected(address)
        try:
            migrate.upgrade(database)
        finally:
            database.close()
    return address.label


@contextmanager
def _named(label: object) -> Iterator[None]:
    try:
        yield
    except StoreUnavailableError as error:
        raise SetupError(f"{label}: {error.message}") from error
    except LostRaceError as error:
        raise SetupError(
            f"{label}: other servers create the store at the same time; start again"
        ) from error


def _embedded(
    url: str,
    service_key_path: str | Path | None,
    *,
    clock: Clock,
    reach: Callable[[str], None],
    takes_key: bool,
) -> SqlStore:
    path = sqlite.path_of(url)
    key_path = Path(service_key_path or sqlite.service_key_of(url))
    lock = FileLock(path)
    try:
        with _named(path):
            if not path.exists() or service_key.is_unfinished(key_path, path):
                _begin(path, key_path, takes_key=takes_key)
            else:
                # These checks change nothing, so another program's file stays as it is.
                sqlite.check(path)
                with sqlite.reading(path) as connection:
                    migrate.check(connection)
            seal = seals.Seal(service_key.load(key_path, store=path))
            sqlite.close_to_others(path)
            database = sqlite.connected(path)
            with _closed_unless_good(database):
                migrate.upgrade(database)
                uid = _claim(database, seal, clock)
                _clear(database, path)
                _warn_of_extras(database, path)
    except BaseException:
        lock.release()
        raise
    return SqlStore(database, seal, uid, clock=clock, reach=reach, release=lock.release)


def _begin(path: Path, key_path: Path, *, takes_key: bool) -> None:
    """Makes the file of a new embedded store, and its service key unless it takes one.

    Raises:
        SetupError: The service key exists, so the store is lost; or a file cannot be made.
    """
    if not key_path.exists():
        service_key.make(key_path, path, lambda: sqlite.make(path))
        return
    if not takes_key:
        _refuse_lost(path, key_path)
    sqlite.make(path)


def _refuse_lost(path: Path, key_path: Path) -> None:
    """Refuses a store that is missing although its service key exists."""
    if key_path.exists():
        raise SetupError(
            f"the store {path} is missing, but its service key {key_path} exists: put the store's "
            "file back, or mount its disk; only to begin a new, empty store under this key, make "
            f"an empty file first: install -m 600 /dev/null {path}"
        )


def _shared_key(path: str | Path | None, label: str) -> ServiceKey:
    if path is None:
        raise SetupError(
            f"the store {label} needs a service key, the same for every replica: make one with "
            f"`(umask 077 && head -c {service_key.SIZE} /dev/urandom > FILE)`, keep a copy, and "
            "name the file in KEYFOLD_SERVICE_KEY"
        )
    return service_key.load(Path(path), store=label)


def _shared(
    address: addresses.Address,
    listening: addresses.Address,
    key: ServiceKey,
    *,
    clock: Clock,
    reach: Callable[[str], None],
    migrating: bool,
) -> SqlStore:
    seal = seals.Seal(key)
    with _named(address.label):
        database = postgresql.connected(address)
        with _closed_unless_good(database):
            if migrating:
                migrate.upgrade(database)
            else:
                migrate.require(database)
            uid = _claim(database, seal, clock)
            postgresql.warn(database, address)
            _warn_of_extras(database, address.label)
    if not postgresql.notifies(database):
        return SqlStore(database, seal, uid, clock=clock, reach=reach)
    from keyfold_server.store.postgresql.notifications import NotifyingStore

    def connect() -> BoundedSession:
        return postgresql.session(listening)

    return NotifyingStore(database, seal, uid, connect, clock=clock, reach=reach)


@contextmanager
def _closed_unless_good(database: Database) -> Iterator[None]:
    try:
        yield
    except BaseException:
        database.close()
        raise


def _claim(database: Database, seal: seals.Seal, clock: Clock) -> bytes:
    """Makes the store's own row in an empty store; in any other store checks the key against it.

    Returns:
        The store's uid.

    Raises:
        SetupError: Another service key sealed the store, or in another encoding.
        RowNotAuthenticError: The row is missing, or somebody changed it.
    """
    row = database.read(_own_row)
    if row is None:
        row = database.write(lambda c: _make(c, seal, database.dialect, clock))
    _check_own_row(row, seal)
    uid: bytes = row[_UID]
    return uid


def _own_row(connection: Connection) -> schema.Cells | None:
    row = connection.execute(select(*schema.meta.c)).first()
    return tuple(row) if row is not None else None


def _make(connection: Connection, seal: seals.Seal, dialect: Dialect, clock: Clock) -> schema.Cells:
    if any(_count(connection, table) for table in schema.metadata.tables):
        # Another replica may have made the store since, and its row with it.
        row = _own_row(connection)
        if row is None:
            raise seals.not_authentic("meta")
        return row
    uid = secrets.token_bytes(_UID_SIZE)
    now = dialect.now(connection, clock)
    cells = seal.sealed("meta", (_ROW, uid, seal.service_key_id, seals.ENCODING, now))
    rows.write(connection, insert(schema.meta), [rows.named(schema.meta, cells)])
    log_head.begin(connection, seal)
    lineage.begin(connection, seal, dialect)
    return cells


def _count(connection: Connection, table: str) -> int:
    counted = select(func.count()).select_from(schema.metadata.tables[table])
    return connection.execute(counted).scalar_one()
