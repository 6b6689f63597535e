"""open_store: the one way to a store, and the checks before its first use."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, func, insert, select

from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.store import changes, engine, migrate, schema, service_key
from keyfold_server.store import seal as seals
from keyfold_server.store.file_lock import FileLock
from keyfold_server.store.marks import nowhere
from keyfold_server.store.sql import SqlStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.service_key import ServiceKey

_ROW: Final = 1
_UID_SIZE: Final = 16


def open_store(
    url: str,
    service_key_path: str | Path,
    *,
    clock: Clock,
    reach: Callable[[str], None] = nowhere,
) -> SqlStore:
    """Opens a store, and makes it and its service key where there is none.

    Args:
        url: `sqlite:///` and the path of the store's file.
        service_key_path: The service key's file.
        clock: Time.
        reach: Called with each of `marks.MARKS` that a mutation passes.

    Raises:
        SetupError: The store or the key cannot be used as they are; the message says why.
        RowNotAuthenticError: The store's own row was changed by somebody else.
    """
    path = engine.sqlite_path(url)
    lock = FileLock(path)
    try:
        new = not path.exists()
        # The key first: a process that dies in between leaves a key without a store, which
        # the next one takes; the other way round nobody could tell the store from an old one.
        key = service_key.load(Path(service_key_path), store=path, new=new)
        if new:
            engine.make_file(path)
        engine.check_file(path)
        return _opened(path, key, lock, clock=clock, reach=reach)
    except StoreUnavailableError as error:
        lock.release()
        raise SetupError(f"{path}: {error.message}") from error
    except BaseException:
        lock.release()
        raise


def _opened(
    path: Path, key: ServiceKey, lock: FileLock, *, clock: Clock, reach: Callable[[str], None]
) -> SqlStore:
    database = engine.open_sqlite(path)
    seal = seals.Seal(key)
    try:
        migrate.upgrade(database)
        database.write(lambda c: _claim(c, seal, int(clock.wall() * 1000)))
    except BaseException:
        database.close()
        raise
    return SqlStore(database, seal, clock=clock, reach=reach, release=lock.release)


def _claim(connection: Connection, seal: seals.Seal, now: int) -> None:
    """Makes the store's own row in an empty store, and in any other checks the key against it.

    Raises:
        SetupError: Another service key sealed the store, or another encoding was used.
        RowNotAuthenticError: The row is missing or was changed.
    """
    row = connection.execute(select(*schema.meta.c)).first()
    if row is None:
        if any(_count(connection, table) for table in schema.metadata.tables):
            raise seals.not_authentic("meta")
        uid = secrets.token_bytes(_UID_SIZE)
        cells = seal.sealed("meta", (_ROW, uid, seal.service_key_id, seals.ENCODING, now))
        names = schema.meta.columns.keys()
        connection.execute(insert(schema.meta), [dict(zip(names, cells, strict=True))])
        changes.begin(connection, seal)
        return
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
    seal.check("meta", tuple(row))


def _count(connection: Connection, table: str) -> int:
    counted = select(func.count()).select_from(schema.metadata.tables[table])
    return connection.execute(counted).scalar_one()
