"""Real PostgreSQL servers for tests: each in a folder of its own, on a free port of loopback.

PostgreSQL refuses to run as root, so there it runs as another user. A server ends with the test
session, by its process id, however that ends.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import ctypes
import functools
import hashlib
import hmac
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql

from fakes import FakeClock
from keyfold_server.store.opening import migrate_store, open_store
from keyfold_server.store.postgresql.address import Timeouts
from keyfold_server.store.schema import metadata
from keyfold_server.store.sql.store import SqlStore

VERSIONS: Final = ("15", "16", "18")
USER: Final = "keyfold"

_SCRIPT: Final = Path(__file__).parents[1] / "scripts" / "postgres.sh"
_READY: Final = 20.0
_PR_SET_PDEATHSIG: Final = 1

_TABLES: Final = [table.name for table in metadata.sorted_tables]
"""The tables of the schema, parents first."""

_TEMPLATE: Final = "keyfold_template"

_CLOCK: Final = """
CREATE SCHEMA {time};
CREATE TABLE {time}.now (ms BIGINT NOT NULL);
CREATE FUNCTION {own}.clock_timestamp() RETURNS timestamptz LANGUAGE sql
AS 'SELECT coalesce((SELECT to_timestamp(ms / 1000.0) FROM {time}.now),
                    pg_catalog.clock_timestamp())';
"""
"""Statements that put a clock for tests in front of the server's own."""


@dataclass(frozen=True)
class Schemas:
    """Schemas of a database for tests.

    Attributes:
        own: The store's tables, and the clock for tests.
        saved: Their saved state.
        time: The time that the clock tells.
    """

    own: str = "public"
    saved: str = "saved"
    time: str = "test_time"


@functools.cache
def programs(version: str) -> Path:
    """Returns the folder of a version's programs; skips the test if they are not installed."""
    done = subprocess.run(
        [_SCRIPT, version], capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@functools.cache
def shared(version: str) -> Server:
    """Returns the server that tests share, which no test stops and which is not durable."""
    server = Server(version, durable=False)
    server.start()
    return server


def owner() -> pwd.struct_passwd | None:
    """Returns the user to run a server as, or None for the tests' own user."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def free_port() -> int:
    """Returns a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One PostgreSQL server with a folder of its own.

    Attributes:
        port: Its port of 127.0.0.1.
        folder: Its folder; the data are in `data`, the log is `log`.
        password_file: File of its user's password.
    """

    def __init__(self, version: str, *, durable: bool = True, **settings: str) -> None:
        """Makes the folder; `start` starts the server.

        Args:
            version: 15, 16 or 18.
            durable: Whether what was committed is on the disk.
            settings: Further settings of the server.
        """
        self._bin = programs(version)
        self._owner = owner()
        self._settings = {
            "fsync": "on" if durable else "off",
            "shared_buffers": "32MB",
            "max_connections": "200",
            "log_min_messages": "warning",
            **settings,
        }
        self.folder = Path(tempfile.mkdtemp(prefix="keyfold-postgres-"))
        self._data = self.folder / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self._idle: list[str] = []
        self._sessions: dict[str, psycopg.Connection[Any]] = {}
        self.password_file = self.folder / "password"
        self.password = secrets.token_hex(16)
        self.password_file.write_text(self.password + "\n")
        if self._owner is not None:
            for path in (self.folder, self.password_file):
                os.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        atexit.register(self.destroy)
        self._initialize()

    def _initialize(self) -> None:
        # This collation ignores punctuation, so that code that needs an order by bytes fails
        # without one.
        icu = ["--locale-provider=icu", "--icu-locale=en-US-u-ka-shifted"]
        self.put("verifier", verifier(self.password).encode())
        command = [
            *(str(self._bin / "initdb"), "-D", str(self._data), "-U", USER, "--encoding=UTF8"),
            *("--locale=C", "--auth=scram-sha-256", "--no-sync"),
            f"--pwfile={self.folder / 'verifier'}",
        ]
        # Not every build knows this setting.
        if self._run([*command, *icu]).returncode != 0:
            done = self._run(command)
            assert done.returncode == 0, done.stderr

    @property
    def pid(self) -> int:
        """The id of the server's own process, whose children serve the sessions."""
        assert self._process is not None
        return self._process.pid

    def as_owner(self) -> dict[str, Any]:
        """Returns arguments that start a process as the server's user."""
        owner = self._owner
        if owner is None:
            return {"cwd": self.folder}
        return {
            "cwd": self.folder,
            "user": owner.pw_uid,
            "group": owner.pw_gid,
            "extra_groups": [],
        }

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, **self.as_owner()
        )

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # This is safe after a fork: it calls one function of the C library.
                preexec_fn=end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
                **self.as_owner(),
            )
        ends = time.monotonic() + _READY
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                if time.monotonic() > ends or self._process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.02)
            else:
                return

    def put(self, name: str, contents: bytes) -> None:
        """Puts a file into the server's folder that only the server can read."""
        path = self.folder / name
        path.touch(0o600)
        path.write_bytes(contents)
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def standby(self, **settings: str) -> Server:
        """Starts a standby that follows this server until `promote`."""
        made = Server.__new__(Server)
        made.__dict__.update(self.__dict__)
        made.folder = Path(tempfile.mkdtemp(prefix="keyfold-postgres-"))
        made._data, made._process, made._sessions = made.folder / "data", None, {}
        made.port = free_port()
        made._settings = {**self._settings, **settings}
        if self._owner is not None:
            os.chown(made.folder, self._owner.pw_uid, self._owner.pw_gid)
        atexit.register(made.destroy)
        source = f"host=127.0.0.1 port={self.port} user={USER} password={self.password}"
        done = self._run(
            [
                *(str(self._bin / "pg_basebackup"), "-d", source, "-D", str(made._data)),
                *("--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync"),
            ]
        )
        assert done.returncode == 0, done.stderr
        made.start()
        return made

    def promote(self) -> None:
        """Promotes a standby, and returns once it takes writes."""
        self.run("SELECT pg_promote(true, 20)")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT is pg_ctl's mode fast, SIGQUIT its mode immediate."""
        process, self._process = self._process, None
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)

    def crash(self) -> None:
        """Ends the server as `pg_ctl stop -m immediate` does, and starts it again."""
        self.stop(signal.SIGQUIT)
        self.start()

    def destroy(self) -> None:
        """Stops the server and removes its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """Opens a session of the server's own user; every statement is a transaction."""
        parameters = {"host": "127.0.0.1", "port": self.port, "user": USER, **options}
        parameters.setdefault("password", self.password)
        return psycopg.connect(
            dbname=database, autocommit=True, connect_timeout=5, gssencmode="disable", **parameters
        )

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs one statement in a session of its own and returns its rows."""
        with self.connect(database) as session:
            done = session.execute(statement.encode())
            return done.fetchall() if done.description is not None else []

    def session(self, database: str) -> psycopg.Connection[Any]:
        """Returns the tests' own session in a database, which stays open until the server stops.

        To begin and end a session takes far longer than what tests do in it.
        """
        found = self._sessions.get(database)
        if found is None or found.closed:
            found = self._sessions[database] = self.connect(database)
        return found

    def url(self, database: str) -> str:
        """Returns a database's url as the store takes it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template0") -> str:
        """Makes a database and returns its name."""
        name = f"keyfold_{next(self._names)}"
        self._make(name, template)
        return name

    def _make(self, name: str, template: str) -> None:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self.connect() as session:
            session.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def drop(self, name: str) -> None:
        """Removes a database, even one in use."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with self.connect() as session:
            session.execute(statement.format(sql.Identifier(name)))

    def borrow(self) -> str:
        """Lends a database with empty tables and a test's clock; see `give_back`."""
        return self._idle.pop() if self._idle else self.create(self.migrated)

    def give_back(self, name: str) -> None:
        """Empties a lent database, which is far faster than a new copy."""
        schemas = self.schemas(name)
        self._carry_out(f"{_emptied(schemas)}DELETE FROM {schemas.time}.now;", name)
        self._idle.append(name)

    def save(self, name: str) -> None:
        """Saves a store's state."""
        own, saved = (schemas := self.schemas(name)).own, schemas.saved
        kept = (f"CREATE TABLE {saved}.{t} AS TABLE {own}.{t};" for t in _TABLES)
        fresh = f"DROP SCHEMA IF EXISTS {saved} CASCADE; CREATE SCHEMA {saved};"
        self._carry_out(fresh + "".join(kept), name)

    def go_back(self, name: str) -> None:
        """Restores a store's saved state."""
        own, saved = (schemas := self.schemas(name)).own, schemas.saved
        back = (f"INSERT INTO {own}.{t} SELECT * FROM {saved}.{t};" for t in _TABLES)
        self._carry_out(_emptied(schemas) + "".join(back), name)

    def _carry_out(self, statements: str, database: str) -> None:
        self.session(database).execute(statements.encode())

    def schemas(self, _name: str) -> Schemas:
        """Returns the schemas of a lent database."""
        return Schemas()

    @functools.cached_property
    def migrated(self) -> str:
        """The name of a database to copy, which has the schema and a test's clock."""
        self._make(_TEMPLATE, "template0")
        migrate_store(self.url(_TEMPLATE), password_file=self.password_file)
        self.run(clock_for(Schemas()), _TEMPLATE)
        self.run(f"ALTER ROLE {USER} SET search_path = public, pg_catalog")
        return _TEMPLATE

    def open(
        self,
        database: str,
        service_key: Path,
        clock: FakeClock | None = None,
        *,
        reach: Callable[[str], None] = lambda _mark: None,
        migrating: bool = False,
        timeouts: Timeouts | None = None,
    ) -> SqlStore:
        """Opens the store in a database."""
        return open_store(
            self.url(database),
            service_key,
            clock=clock or FakeClock(),
            reach=reach,
            password_file=self.password_file,
            migrating=migrating,
            timeouts=timeouts,
        )


class Bouncer:
    """PgBouncer in transaction mode: each transaction may get another session.

    Attributes:
        port: Its port of 127.0.0.1.
    """

    def __init__(self, server: Server) -> None:
        """Starts PgBouncer in front of a server, with fewer sessions than a store's pool."""
        self.port = free_port()
        program = programs("pgbouncer") / "pgbouncer"
        server.put("users", f'"{USER}" "{server.password}"\n'.encode())
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": server.folder / "users",
            "pool_mode": "transaction",
            "default_pool_size": 3,
        }
        lines = ["[databases]", f"* = host=127.0.0.1 port={server.port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        server.put("pgbouncer.ini", "\n".join(lines).encode())
        self._process = subprocess.Popen(
            [program, "-q", server.folder / "pgbouncer.ini"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **server.as_owner(),
        )
        ends = time.monotonic() + _READY
        while time.monotonic() < ends:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        raise AssertionError("pgbouncer did not start")

    def close(self) -> None:
        """Stops PgBouncer."""
        self._process.kill()
        self._process.wait(10)


class DatabaseClock(FakeClock):
    """A clock that the server of a copy of `Server.migrated` follows."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__()
        self._session = server.session(database)
        self._now = f"{server.schemas(database).time}.now"
        self._session.execute(f"DELETE FROM {self._now}".encode())
        self._session.execute(f"INSERT INTO {self._now} VALUES (0)".encode())
        self.set(self.wall())

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self.set(self.wall())

    def set(self, wall: float) -> None:
        """Sets the server's clock to seconds of Unix time."""
        self._session.execute(f"UPDATE {self._now} SET ms = %s".encode(), [int(wall * 1000)])


def a_service_key(folder: Path) -> Path:
    """Makes a service key's file, as an operator does."""
    path = folder / "service.key"
    path.touch(0o600)
    path.write_bytes(secrets.token_bytes(32))
    return path


def clock_for(schemas: Schemas) -> str:
    """Returns the statements that make the clock for tests."""
    return _CLOCK.format(own=schemas.own, time=schemas.time)


def _emptied(schemas: Schemas) -> str:
    return "".join(f"DELETE FROM {schemas.own}.{t};" for t in reversed(_TABLES))


def verifier(password: str) -> str:
    """Returns what a server keeps of a password, for one round of SCRAM's derivation.

    The 4096 rounds of PostgreSQL's own cost each connection milliseconds, and these passwords are
    random.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    first, *rest = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256$1:{first}${':'.join(rest)}"


def end_with_parent() -> None:
    """Has this process end when the thread ends that started it; for `preexec_fn`, on Linux."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
