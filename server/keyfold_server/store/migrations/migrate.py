"""Checks and upgrades a store's schema with Alembic, on our connection and without its logging.

A revision's name is the schema's number, which rises with each release that changes the schema. A
release serves on its own schema N and on N+1 (protocol S6). So an operator migrates a store first,
while the former release serves on. A migration to N+1 must therefore only add; what release N reads
goes with N+2 at the earliest.
"""

from __future__ import annotations

import functools
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
"""Seconds for which `upgrade` waits while other processes migrate."""

_PAUSE: Final = 0.2
"""Seconds between two tries of `upgrade`."""

_alembic: Final = threading.Lock()
"""Held while Alembic runs, because it keeps its state in globals of the process."""


class SchemaAge(Enum):
    """A store's schema, compared with this release's."""

    EMPTY = "empty"
    OLDER = "older"
    CURRENT = "current"
    NEXT = "next"


def check(connection: Connection) -> SchemaAge:
    """Compares a store's schema with this release's.

    Raises:
        SetupError: This release does not serve on it, or it is another program's database.
    """
    tables = set(inspect(connection).get_table_names())
    strange = tables - set(metadata.tables) - {_VERSION_TABLE}
    if strange and _VERSION_TABLE not in tables:
        raise SetupError(
            "the database that the store's url names is another program's; name another database"
        )
    current = MigrationContext.configure(connection).get_current_revision()
    own, known = _revisions(_SCRIPTS)
    if current is None:
        return SchemaAge.EMPTY
    if current == own:
        return SchemaAge.CURRENT
    if current in known:
        return SchemaAge.OLDER
    if own is not None and current.isdecimal() and int(current) == int(own) + 1:
        return SchemaAge.NEXT
    raise SetupError(
        f"the store has schema {current}, which this release does not know: it serves on {own} "
        "and the one after; start the release that made that schema, or the release before it, or "
        "restore an older backup"
    )


def require(database: Database) -> None:
    """Refuses a store whose schema this release does not serve on.

    Raises:
        SetupError: The schema is older or too new, the store has no schema yet, or it is another
            program's database.
    """
    age = database.read(check)
    if age in (SchemaAge.EMPTY, SchemaAge.OLDER):
        what = "no schema yet" if age is SchemaAge.EMPTY else "the schema of an older release"
        raise SetupError(
            f"the store has {what}: run `keyfold-server migrate` once, or set "
            "KEYFOLD_MIGRATE=auto and each server does so at its start"
        )


def upgrade(database: Database) -> None:
    """Brings a store to this release's schema, and leaves a newer one alone.

    Any number of processes may do so at once. Each locks the version's row first and checks the
    schema again under the lock. In an empty store they collide at the first table, and those that
    lose try again.

    Raises:
        SetupError: This release does not serve on it, or it is another program's database.
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
                    "other processes keep migrating the store; migrate again later"
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


@functools.cache
def _revisions(scripts: Path) -> tuple[str | None, frozenset[str]]:
    """Returns the newest revision in a folder and all that are there, of a package that stays."""
    directory = ScriptDirectory(str(scripts))
    known = frozenset(script.revision for script in directory.walk_revisions())
    return directory.get_current_head(), known


def _config() -> Config:
    config = Config()
    # Otherwise a percent sign in the path would begin an interpolation.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
