"""PostgreSQL: its connections, and how transactions begin.

Every wait has an end of our own: connecting, a statement, a lock, a pause inside a transaction,
and the whole transaction as this side sees it. So a server that hangs, or a network that
swallows everything, makes a call fail and never a thread stay. What a session must know is said
with each BEGIN, in one round trip, and nothing is prepared: so a pooler that gives each
transaction another session (PgBouncer's transaction mode) does no harm.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, QueuePool, create_engine, event, func, select, text
from sqlalchemy.exc import DBAPIError

from keyfold_server.domain.errors import SetupError
from keyfold_server.store.database import faults
from keyfold_server.store.database.dialect import (
    ACCESS_MODE,
    POSTGRESQL,
    AccessMode,
    unknown_timeline,
)
from keyfold_server.store.database.engine import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection, ExceptionContext

    from keyfold_server.store.postgresql.address import Address, Timeouts
    from keyfold_server.store.postgresql.session import BoundedSession

log = logging.getLogger(__name__)

_POOL_SIZE: Final = 4
_OVERFLOW: Final = 8
_POOL_WAIT: Final = 5.0
_OLD: Final = 1800
"""Seconds after which a connection is made anew, so that none outlives what stands between."""

_TELLS_TIMELINE: Final = text(
    "SELECT has_function_privilege('pg_catalog.pg_control_system()', 'execute') "
    "AND has_function_privilege('pg_catalog.pg_walfile_name(pg_lsn)', 'execute')"
)


def require_driver() -> None:
    """Refuses to go on without the driver.

    Raises:
        SetupError: It is not installed.
    """
    if find_spec("psycopg") is None:
        raise SetupError("the driver for PostgreSQL is missing; install keyfold[server,postgres]")


def connected(where: Address) -> Database:
    """Returns the connections of a store; asks the server which of its kind it is.

    Raises:
        SetupError: The driver is not installed.
        StoreUnavailableError: The server did not let us in.
    """
    require_driver()
    engine = _engine(where, _POOL_SIZE, _OVERFLOW)
    polling = _engine(replace(where, timeouts=_for_polling(where.timeouts)), 1, 0)
    database = Database(POSTGRESQL, engine, polling)
    try:
        version = database.read(lambda c: c.execute(text("SELECT version()")).scalar_one())
    except BaseException:
        database.close()
        raise
    if not str(version).startswith("PostgreSQL"):
        # What speaks its protocol need not have its notifications: the poll suffices.
        other = replace(POSTGRESQL, notify=lambda _connection: None, timeline=unknown_timeline)
        return Database(other, engine, polling)
    if not database.read(lambda c: c.execute(_TELLS_TIMELINE).scalar_one()):
        return Database(replace(POSTGRESQL, timeline=unknown_timeline), engine, polling)
    return database


def _for_polling(timeouts: Timeouts) -> Timeouts:
    most = min(timeouts.poll, timeouts.answer)
    return replace(
        timeouts,
        answer=most,
        statement=min(timeouts.statement, most),
        lock=min(timeouts.lock, most),
        idle=min(timeouts.idle, most),
    )


def notifies(database: Database) -> bool:
    """Tells whether the server has notifications."""
    return database.dialect.notify is POSTGRESQL.notify


def warn(database: Database, where: Address) -> None:
    """Says in the log where the server may lose what it has confirmed (protocol S2)."""
    names = ("synchronous_standby_names", "synchronous_commit", "fsync", "full_page_writes")
    ask = select(*(func.current_setting(name, True) for name in names))  # noqa: FBT003  if missing: NULL
    standbys, commit, *safe = database.read(lambda c: tuple(c.execute(ask).one()))
    if "off" in (commit, *safe):
        log.warning(
            "%s: the database is set up to lose changes in a crash; switch synchronous_commit, "
            "fsync and full_page_writes on",
            where.label,
        )
    if standbys == "" or commit == "local":
        log.warning(
            "%s: the database does not replicate synchronously, so a failover may take back "
            "changes, revocations among them; replicas then refuse until an operator reconciles",
            where.label,
        )
    if database.dialect.timeline is unknown_timeline:
        log.warning(
            "%s: the database does not tell one server from the next, so after a failover Revoke "
            "may miss replicas whose registration was lost; let the user call pg_control_system "
            "and pg_walfile_name",
            where.label,
        )
    mode = where.url.query.get("sslmode")
    if mode is not None and not str(mode).startswith("verify-"):
        log.warning(
            "%s: sslmode %s does not make sure which host answers; verify-full does",
            where.label,
            mode,
        )


def session(where: Address) -> BoundedSession:
    """Opens a connection of its own, outside any pool.

    Raises:
        psycopg.Error: The server did not let us in.
    """
    made = where.url.get_dialect()()
    _, parameters = made.create_connect_args(where.url)
    return _connected(where, dict(parameters))


def _connected(where: Address, parameters: dict[str, Any]) -> BoundedSession:
    from keyfold_server.store.postgresql.session import BoundedSession

    password = where.password()
    if password is not None:
        parameters["password"] = password
    # Nothing is prepared: with a pooler the next transaction may run in another session.
    made = BoundedSession.connect(autocommit=True, prepare_threshold=None, **parameters)
    made.ends = time.monotonic() + where.timeouts.answer
    made.watch()
    return made


def _engine(where: Address, size: int, overflow: int) -> Engine:
    engine = create_engine(
        where.url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=overflow,
        pool_timeout=_POOL_WAIT,
        pool_recycle=_OLD,
        hide_parameters=True,
        # It would ask each new session for types that no table has.
        use_native_hstore=False,
    )

    def connect(
        _dialect: object, _record: object, _args: object, parameters: Any
    ) -> BoundedSession:
        return _connected(where, parameters)

    begin = _begin(where.timeouts)

    def on_begin(connection: Connection) -> None:
        access = connection.get_execution_options().get(ACCESS_MODE, AccessMode.READ)
        driver: Any = connection.connection.driver_connection
        driver.ends = None if access.is_long else time.monotonic() + where.timeouts.answer
        connection.exec_driver_sql(begin[access])

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "begin", on_begin)
    event.listen(engine, "checkin", _on_checkin)
    event.listen(engine, "handle_error", _on_error)
    return engine


def _on_checkin(driver: Any, _record: object) -> None:
    if driver is not None:
        driver.ends = None


def _on_error(context: ExceptionContext) -> None:
    """Gives up a session that became a standby's: the next one may find the new primary."""
    error = context.sqlalchemy_exception
    if isinstance(error, DBAPIError) and faults.sqlstate(error) == faults.READ_ONLY:
        context.is_disconnect = True


def _begin(timeouts: Timeouts) -> dict[AccessMode, str]:
    def local(**seconds: float) -> str:
        return "".join(f"; SET LOCAL {n} = {int(s * 1000)}" for n, s in seconds.items())

    usual = local(
        statement_timeout=timeouts.statement, idle_in_transaction_session_timeout=timeouts.idle
    )
    long = local(statement_timeout=0, idle_in_transaction_session_timeout=0)
    # Rows are locked before they are read, so each statement shall see what is committed by
    # then. Reads see one moment, or a chain that grows meanwhile would not fit its head.
    reads = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    writes = "BEGIN ISOLATION LEVEL READ COMMITTED"
    return {
        AccessMode.READ: reads + usual,
        AccessMode.EXPORT: reads + long,
        AccessMode.WRITE: writes + usual + local(lock_timeout=timeouts.lock),
        AccessMode.MIGRATE: writes + long + local(lock_timeout=timeouts.migrating),
    }
