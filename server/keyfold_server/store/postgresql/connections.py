"""PostgreSQL: the store's connections, and how transactions begin.

Keyfold limits every wait: for a connection, a statement, a lock, a pause inside a transaction, and
the whole transaction. So if a server hangs, or a network swallows everything, a call fails and no
thread waits for ever. Each BEGIN sets what the session must know, in one round trip. Only the poll
prepares its statements, which are always the same, and stops where it meets a session that does not
have them. So a pooler may give each transaction another session (PgBouncer's transaction mode).
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, QueuePool, create_engine, event, func, select, text
from sqlalchemy.exc import DBAPIError, DisconnectionError

from keyfold_server.domain.errors import SetupError
from keyfold_server.store.database import extras, faults, traces
from keyfold_server.store.database.dialect import (
    ACCESS_MODE,
    POSTGRESQL,
    AccessMode,
)
from keyfold_server.store.database.engine import Database
from keyfold_server.store.postgresql import clearing, pipeline

if TYPE_CHECKING:
    from sqlalchemy import Connection, ExceptionContext

    from keyfold_server.store.postgresql.address import Address, Timeouts
    from keyfold_server.store.postgresql.session import BoundedSession

log = logging.getLogger(__name__)

_POOL_SIZE: Final = 4
"""Connections that stay open."""

_OVERFLOW: Final = 8
"""Further connections that may open at peaks."""

_POOL_WAIT: Final = 5.0
"""Seconds that a transaction waits for a connection."""

_OLDEST: Final = 1800
"""Seconds after which the pool renews a connection, since proxies in between drop old ones."""

_PIPELINED: Final = replace(
    POSTGRESQL, trip=pipeline.run, finish=pipeline.finish, clear=clearing.clear
)

_TELLS_TIMELINE: Final = text(
    "SELECT has_function_privilege('pg_catalog.pg_control_system()', 'execute') "
    "AND has_function_privilege('pg_catalog.pg_walfile_name(pg_lsn)', 'execute')"
)


def require_driver() -> None:
    """Refuses to go on without the driver.

    Raises:
        SetupError: The driver is not installed.
    """
    if find_spec("psycopg") is None:
        raise SetupError("the driver for PostgreSQL is missing; install keyfold[server,postgres]")


def connected(where: Address) -> Database:
    """Connects to a store, and finds out what its server can do.

    Raises:
        SetupError: The driver is not installed.
        StoreUnavailableError: The server did not let us in.
    """
    require_driver()
    engine = _engine(where, _POOL_SIZE, _OVERFLOW)
    for_polling = replace(where, timeouts=_for_polling(where.timeouts))
    polling = _engine(for_polling, 1, 0, prepares=True)
    database = Database(_PIPELINED, engine, polling)
    try:
        version = database.read(lambda c: c.execute(text("SELECT version()")).scalar_one())
    except BaseException:
        database.close()
        raise
    if not str(version).startswith("PostgreSQL"):
        # Another server with PostgreSQL's protocol may lack notifications. The poll suffices.
        plain = replace(
            _PIPELINED,
            undeferred=None,
            notify=None,
            timeline=None,
            extras=extras.none,
            clear=traces.clear_nothing,
        )
        return Database(plain, engine, polling)
    if not database.read(lambda c: c.execute(_TELLS_TIMELINE).scalar_one()):
        return Database(replace(_PIPELINED, timeline=None), engine, polling)
    return database


def _for_polling(timeouts: Timeouts) -> Timeouts:
    """Returns the limits of polls.

    This side's comes first. On a primary that nobody told of its successor a heartbeat waits for
    the one before it, whose commit no standby confirms. If the server ended that wait, this would
    look like an answer, and `Hosts` would never look for the successor.
    """
    most = min(timeouts.poll, timeouts.answer)
    return replace(
        timeouts,
        answer=most,
        statement=max(timeouts.statement, 2 * most),
        lock=max(timeouts.lock, 2 * most),
        idle=min(timeouts.idle, most),
    )


def notifies(database: Database) -> bool:
    """Returns whether the server has notifications."""
    return database.dialect.notify is not None


def warn(database: Database, where: Address) -> None:
    """Logs settings with which the server may lose what it has confirmed (protocol S2)."""
    names = ("synchronous_standby_names", "synchronous_commit", "fsync", "full_page_writes")
    ask = select(*(func.current_setting(name, True) for name in names))  # noqa: FBT003  if missing: NULL
    standbys, commit, *safe = database.read(lambda c: tuple(c.execute(ask).one()))
    if "off" in (commit, *safe):
        log.warning(
            "%s: the database may lose changes in a crash; switch synchronous_commit, fsync and "
            "full_page_writes on",
            where.label,
        )
    if standbys == "" or commit == "local":
        log.warning(
            "%s: the database does not replicate synchronously, so a failover may take back "
            "changes, revocations among them; replicas then refuse until an operator reconciles",
            where.label,
        )
    if database.dialect.timeline is None:
        log.warning(
            "%s: the database does not show which server answers, so after a failover Revoke may "
            "miss replicas whose registration was lost; let the user call pg_control_system and "
            "pg_walfile_name",
            where.label,
        )
    mode = where.url.query.get("sslmode")
    if mode is not None and not str(mode).startswith("verify-"):
        log.warning(
            "%s: sslmode %s does not verify which host answers; verify-full does",
            where.label,
            mode,
        )


def session(where: Address) -> BoundedSession:
    """Opens a connection outside any pool.

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
    # The driver prepares nothing: behind a pooler the next transaction may get another session.
    connect = partial(BoundedSession.connect, autocommit=True, prepare_threshold=None)
    since = time.monotonic()
    made, host = where.hosts.connect(parameters, lambda each: connect(**each))
    if host is not None:
        made.silent = partial(where.hosts.doubt, host)
        made.stale = partial(where.hosts.doubted, host, since)
    made.ends = time.monotonic() + where.timeouts.answer
    made.watch()
    return made


def _engine(where: Address, size: int, overflow: int, *, prepares: bool = False) -> Engine:
    from keyfold_server.store.postgresql.session import Preparing

    preparing = Preparing(on=prepares)
    engine = create_engine(
        where.url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=overflow,
        pool_timeout=_POOL_WAIT,
        pool_recycle=_OLDEST,
        hide_parameters=True,
        # Otherwise each new session would look up a type that no table has.
        use_native_hstore=False,
    )

    def connect(
        _dialect: object, _record: object, _args: object, parameters: Any
    ) -> BoundedSession:
        made = _connected(where, parameters)
        made.preparing = preparing
        return made

    begin = _begin(where.timeouts)

    def on_begin(connection: Connection) -> None:
        access = connection.get_execution_options().get(ACCESS_MODE, AccessMode.READ)
        driver: Any = connection.connection.driver_connection
        driver.ends = None if access.is_long else time.monotonic() + where.timeouts.answer
        driver.begins = begin[access]

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "begin", on_begin)
    event.listen(engine, "do_execute", pipeline.send)
    event.listen(engine, "do_executemany", pipeline.send)
    event.listen(engine, "checkout", _on_checkout)
    event.listen(engine, "checkin", _on_checkin)
    event.listen(engine, "handle_error", _on_error)
    event.listen(engine, "invalidate", _on_invalidate)
    return engine


def _on_checkout(driver: Any, _record: object, _proxy: object) -> None:
    """Has the pool open another connection in place of one to a host that answers no more."""
    if driver.stale():
        raise DisconnectionError("the host of this connection does not answer")


def _on_checkin(driver: Any, _record: object) -> None:
    if driver is not None:
        driver.ends, driver.begins = None, ()


def _on_error(context: ExceptionContext) -> None:
    """Gives up a session on a standby; the next session may find the new primary."""
    error = context.sqlalchemy_exception
    if isinstance(error, DBAPIError) and faults.sqlstate(error) == faults.READ_ONLY:
        context.is_disconnect = True


def _on_invalidate(driver: Any, _record: object, error: object) -> None:
    """Asks a host last whose server lacks changes: another one may have taken over from it."""
    if error is None:
        driver.silent()


def _begin(timeouts: Timeouts) -> dict[AccessMode, tuple[str, str]]:
    def local(**seconds: float) -> str:
        each = (f"set_config('{n}', '{int(s * 1000)}', true)" for n, s in seconds.items())
        return f"SELECT {', '.join(each)}"

    usual = {
        "statement_timeout": timeouts.statement,
        "idle_in_transaction_session_timeout": timeouts.idle,
    }
    long = dict.fromkeys(usual, 0.0)
    # Writes lock rows before they read them, so each statement must see what is committed by then.
    # Reads see one moment; otherwise a log that grows meanwhile would not match its head.
    reads = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    writes = "BEGIN ISOLATION LEVEL READ COMMITTED"
    return {
        AccessMode.READ: (reads, local(**usual)),
        AccessMode.EXPORT: (reads, local(**long)),
        AccessMode.WRITE: (writes, local(**usual, lock_timeout=timeouts.lock)),
        AccessMode.MIGRATE: (writes, local(**long, lock_timeout=timeouts.migrating)),
    }
