"""open_store: the one way to a store, and the checks before its first use."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, func, insert, select

from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.store import schema, service_key
from keyfold_server.store import seal as seals
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.migrations import migrate
from keyfold_server.store.postgresql import address as addresses
from keyfold_server.store.postgresql import connections as postgresql
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.sqlite import connections as sqlite_file
from keyfold_server.store.sqlite.lock import FileLock
from keyfold_server.store.tables import changes, lineage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.database.engine import Database
    from keyfold_server.store.postgresql.session import BoundedSession
    from keyfold_server.store.service_key import ServiceKey

_ROW: Final = 1
_UID_SIZE: Final = 16


def open_store(
    url: str,
    service_key_path: str | Path | None,
    *,
    clock: Clock,
    reach: Callable[[str], None] = no_failpoint,
    password_file: Path | None = None,
    listen_url: str | None = None,
    migrating: bool = False,
    timeouts: addresses.Timeouts | None = None,
) -> SqlStore:
    """Opens a store; an embedded one is made with its service key where there is none.

    Args:
        url: `sqlite:///` and the path of the store's file, or `postgresql://user@host/database`.
        service_key_path: The service key's file; None: beside an embedded store. A shared
            store's must be named, and be there.
        clock: Time.
        reach: Called with each of `marks.FAILPOINTS` that a mutation passes.
        password_file: File of the database's password.
        listen_url: Where a shared store is listened to, if not by the first url: past a pooler
            that passes no notifications on.
        migrating: Whether to bring a shared store to this release's schema. An embedded one
            is brought to it in any case.
        timeouts: How long a shared store may take.

    Raises:
        SetupError: The store or the key cannot be used as they are; the message says why.
        RowNotAuthenticError: The store's own row was changed by somebody else.
    """
    if url.startswith(addresses.SCHEMES):
        address = addresses.parse(url, password_file, timeouts or addresses.Timeouts())
        listening = _listening(url, listen_url, password_file) or address
        key = _shared_key(service_key_path, address.label)
        return _shared(address, listening, key, clock=clock, reach=reach, migrating=migrating)
    _listening(url, listen_url, password_file)
    return _embedded(url, service_key_path, clock=clock, reach=reach)


def check(url: str, service_key_path: Path | None, listen_url: str | None = None) -> None:
    """Refuses a url that no store can be opened by, without opening one.

    Raises:
        SetupError: It cannot; the message says why.
    """
    if url.startswith(addresses.SCHEMES):
        address = addresses.parse(url)
        postgresql.require_driver()
        _shared_key(service_key_path, address.label)
    else:
        sqlite_file.path_of(url)
    _listening(url, listen_url, None)


def _listening(
    url: str, listen_url: str | None, password_file: Path | None
) -> addresses.Address | None:
    """Returns where to listen, if that is said.

    Raises:
        SetupError: It is no PostgreSQL's url, or the store itself is none.
    """
    if listen_url is None:
        return None
    if not (url.startswith(addresses.SCHEMES) and listen_url.startswith(addresses.SCHEMES)):
        raise SetupError(
            "KEYFOLD_STORE_LISTEN is a second way to a store in PostgreSQL: write "
            "postgresql://user@host/database in it and in KEYFOLD_STORE, or leave it out"
        )
    return addresses.parse(listen_url, password_file)


def migrate_store(url: str, *, password_file: Path | None = None) -> str:
    """Brings a shared store to this release's schema, which needs no service key.

    Returns:
        What to call the store.

    Raises:
        SetupError: It cannot be migrated; the message says why.
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
        raise SetupError(f"{label}: others begin the store, too; start again") from error


def _embedded(
    url: str,
    service_key_path: str | Path | None,
    *,
    clock: Clock,
    reach: Callable[[str], None],
) -> SqlStore:
    path = sqlite_file.path_of(url)
    beside = f"{url.removeprefix('sqlite:///')}.service-key"
    key_path = Path(service_key_path or beside)
    lock = FileLock(path)
    try:
        with _named(path):
            new = not path.exists()
            if not new:
                # Before anything is done to it: another program's file stays as it is.
                sqlite_file.check(path)
                with sqlite_file.reading(path) as connection:
                    migrate.check(connection)
            # The key first: a process that dies in between leaves a key without a store, which
            # the next one takes; the other way round nobody could tell the store from an old one.
            seal = seals.Seal(service_key.load(key_path, store=path, new=new))
            if new:
                sqlite_file.make(path)
            sqlite_file.close_to_others(path)
            database = sqlite_file.connected(path)
            with _closed_unless_good(database):
                migrate.upgrade(database)
                _claim(database, seal, clock)
    except BaseException:
        lock.release()
        raise
    return SqlStore(database, seal, clock=clock, reach=reach, release=lock.release)


def _shared_key(path: str | Path | None, label: str) -> ServiceKey:
    if path is None:
        raise SetupError(
            f"the store {label} needs a service key, the same for every replica: make one with "
            f"`(umask 077 && head -c {service_key.SIZE} /dev/urandom > FILE)`, keep a copy, and "
            "name the file in KEYFOLD_SERVICE_KEY"
        )
    return service_key.load(Path(path), store=label, new=False)


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
            _claim(database, seal, clock)
            postgresql.warn(database, address)
    if not postgresql.notifies(database):
        return SqlStore(database, seal, clock=clock, reach=reach)
    from keyfold_server.store.postgresql.notifications import NotifyingStore

    def connect() -> BoundedSession:
        return postgresql.session(listening)

    return NotifyingStore(database, seal, connect, clock=clock, reach=reach)


@contextmanager
def _closed_unless_good(database: Database) -> Iterator[None]:
    try:
        yield
    except BaseException:
        database.close()
        raise


def _claim(database: Database, seal: seals.Seal, clock: Clock) -> None:
    """Makes the store's own row in an empty store, and in any other checks the key against it.

    Raises:
        SetupError: Another service key sealed the store, or another encoding was used.
        RowNotAuthenticError: The row is missing or was changed.
    """
    row = database.read(_own_row)
    if row is None:
        row = database.write(lambda c: _make(c, seal, database.dialect, clock))
    if row[2] != seal.service_key_id:
        raise SetupError(
            f"the store was sealed with the service key {row[2]}, and the file holds "
            f"{seal.service_key_id}: put the right one in its place"
        )
    if row[3] != seals.ENCODING:
        raise SetupError(
            f"the store's rows are sealed in encoding {row[3]}, and this release writes "
            f"{seals.ENCODING}: start the release that made it"
        )
    seal.check("meta", row)


def _own_row(connection: Connection) -> schema.Cells | None:
    row = connection.execute(select(*schema.meta.c)).first()
    return tuple(row) if row is not None else None


def _make(connection: Connection, seal: seals.Seal, dialect: Dialect, clock: Clock) -> schema.Cells:
    if any(_count(connection, table) for table in schema.metadata.tables):
        # Another replica may have made it since; its row is then all that there is.
        row = _own_row(connection)
        if row is None:
            raise seals.not_authentic("meta")
        return row
    uid = secrets.token_bytes(_UID_SIZE)
    now = dialect.now(connection, clock)
    cells = seal.sealed("meta", (_ROW, uid, seal.service_key_id, seals.ENCODING, now))
    names = schema.meta.columns.keys()
    connection.execute(insert(schema.meta), [dict(zip(names, cells, strict=True))])
    changes.begin(connection, seal)
    lineage.begin(connection, seal, dialect)
    return cells


def _count(connection: Connection, table: str) -> int:
    counted = select(func.count()).select_from(schema.metadata.tables[table])
    return connection.execute(counted).scalar_one()
