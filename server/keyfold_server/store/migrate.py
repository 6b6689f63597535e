"""The schema's versions: Alembic, run from here with our connection and without its own logging."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from keyfold_server.domain.errors import SetupError
from keyfold_server.store.schema import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from keyfold_server.store.engine import Database

_SCRIPTS: Final = Path(__file__).parent / "migrations"
_VERSION_TABLE: Final = "alembic_version"


def check(connection: Connection) -> bool:
    """Tells whether a store has the newest schema; False: it is older, or empty.

    Raises:
        SetupError: A newer release made it, or it is another program's database.
    """
    tables = set(inspect(connection).get_table_names())
    strange = tables - set(metadata.tables) - {_VERSION_TABLE}
    if strange and _VERSION_TABLE not in tables:
        raise SetupError(
            "the database that the store's url names is another program's; name one of its own"
        )
    scripts = ScriptDirectory.from_config(_config())
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {s.revision for s in scripts.walk_revisions()}:
        raise SetupError(
            f"the store has schema {current}, which this release does not know: a newer one made "
            "it; start that release, or restore a backup from before it"
        )
    return current == scripts.get_current_head()


def upgrade(database: Database) -> None:
    """Brings a store to the newest schema; what was done before is not done again.

    Raises:
        SetupError: A newer release made it, or it is another program's database.
    """

    def work(connection: Connection) -> None:
        if not check(connection):
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    database.write(work)


def _config() -> Config:
    config = Config()
    # A percent sign would begin an interpolation.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
