"""The schema's versions: Alembic, run from here with our connection and without its own logging.

A revision's name is the schema's number, one for each release that changes it. A release serves
on its own schema N and on N+1 (protocol S6): so a store is migrated first, while the former
release serves on, and what N still reads is taken away with N+2 at the earliest.
"""

from __future__ import annotations

import threading
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import column, inspect, select, table

from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.store.database import faults
from keyfold_server.store.schema import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

    from keyfold_server.store.database.engine import Database

_SCRIPTS: Final = Path(__file__).parent
_VERSION_TABLE: Final = "alembic_version"
_LOCK: Final[Select[Any]] = (
    select(column("version_num")).select_from(table(_VERSION_TABLE)).with_for_update()
)

_PATIENCE: Final = 60.0
"""Seconds for which one that migrates waits for another one that does."""

_PAUSE: Final = 0.2

_alembic: Final = threading.Lock()
"""Alembic keeps what it runs in globals of the process."""


class SchemaAge(Enum):
    """How a store's schema stands to this release's."""

    EMPTY = "empty"
    OLDER = "older"
    CURRENT = "current"
    NEXT = "next"


def check(connection: Connection) -> SchemaAge:
    """Tells how old a store's schema is.

    Raises:
        SetupError: This release cannot serve on it, or it is another program's database.
    """
    tables = set(inspect(connection).get_table_names())
    strange = tables - set(metadata.tables) - {_VERSION_TABLE}
    if strange and _VERSION_TABLE not in tables:
        raise SetupError(
            "the database that the store's url names is another program's; name one of its own"
        )
    scripts = ScriptDirectory.from_config(_config())
    current = MigrationContext.configure(connection).get_current_revision()
    own = scripts.get_current_head()
    if current is None:
        return SchemaAge.EMPTY
    if current == own:
        return SchemaAge.CURRENT
    if current in {script.revision for script in scripts.walk_revisions()}:
        return SchemaAge.OLDER
    if own is not None and current.isdecimal() and int(current) == int(own) + 1:
        return SchemaAge.NEXT
    raise SetupError(
        f"the store has schema {current}, which this release does not know: it serves on {own} "
        "and the one after; start the release that made it, or one before that, or restore a "
        "backup from before it"
    )


def require(database: Database) -> None:
    """Refuses a store whose schema this release does not serve on.

    Raises:
        SetupError: It is older or newer, there is none yet, or it is another program's database.
    """
    age = database.read(check)
    if age in (SchemaAge.EMPTY, SchemaAge.OLDER):
        what = "no schema yet" if age is SchemaAge.EMPTY else "the schema of an older release"
        raise SetupError(
            f"the store has {what}: run `keyfold-server migrate` once, or set "
            "KEYFOLD_MIGRATE=auto and each server does so at its start"
        )


def upgrade(database: Database) -> None:
    """Brings a store to this release's schema; a newer one is left alone.

    Any number may do so at once: each takes the version's row first and looks again under its
    lock; in an empty store the first table that two of them make is what they meet at.

    Raises:
        SetupError: This release cannot serve on it, or it is another program's database.
        StoreUnavailableError: The store could not be changed, or others held it too long.
    """
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            with _alembic:
                return database.migrate(_upgrade)
        except faults.LostRaceError as error:
            if time.monotonic() > ends:
                raise StoreUnavailableError(
                    "others migrate the store without a pause; migrate again later"
                ) from error
        except StoreUnavailableError as error:
            if time.monotonic() > ends or not faults.was_held(error):
                raise
        time.sleep(_PAUSE)


def _upgrade(connection: Connection) -> None:
    if check(connection) is not SchemaAge.EMPTY:
        connection.execute(_LOCK).all()
    if check(connection) in (SchemaAge.EMPTY, SchemaAge.OLDER):
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    # A percent sign would begin an interpolation.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
