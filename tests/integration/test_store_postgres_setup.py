"""Setting up a PostgreSQL store: urls, passwords, TLS, the service key, the schema's versions."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg import Error, OperationalError
from psycopg.errors import ConnectionTimeout

import postgres
from builders import NOW, enabled
from certificates import self_signed
from fakes import FakeClock
from keyfold.checks import FAILED
from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.domain.ports import ClusterFilter, Heartbeat
from keyfold_server.store import opening
from keyfold_server.store.postgresql import address
from keyfold_server.store.postgresql import connections as postgresql
from keyfold_server.store.postgresql.hosts import Host, Hosts
from keyfold_server.store.schema import metadata
from keyfold_server.store.sql.store import SqlStore
from next_schema import NEXT, OWN, UNKNOWN, NextRelease

BEAT = Heartbeat("one", 0, b"", 120.0, NOW)

MIGRATE = """
import sys
from pathlib import Path
from keyfold_server.store.opening import migrate_store
migrate_store(sys.argv[1], password_file=Path(sys.argv[2]))
"""


@pytest.fixture
def server() -> postgres.Server:
    """Gives a server that tests share."""
    return postgres.shared("15")


@pytest.fixture
def empty(server: postgres.Server) -> Iterator[str]:
    """Gives the name of a database without a schema."""
    name = server.create()
    yield name
    server.drop(name)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Gives a service key's file."""
    return postgres.a_service_key(tmp_path)


# Urls and passwords


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@h/db", "holds a password"),
        ("postgres://u@h/db?password=secret", "holds a password"),
        ("postgresql://u@h/db?sslpassword=secret", "holds a password"),
        ("postgresql://u@h/db?sslmod=secret", "unknown option sslmod"),
        ("postgresql://u@h", "must name host and database"),
        ("postgresql:///db", "must name host and database"),
        ("postgresql://u@h:port/db", "is malformed"),
    ],
)
def test_a_url_that_is_refused(url: str, said: str, key: Path) -> None:
    """A url that cannot work, or that holds a secret, is refused without repeating it."""
    with pytest.raises(SetupError, match=said) as caught:
        opening.open_store(url, key, clock=FakeClock())
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://u@db.example/k", "verify-full"),
        ("postgresql://u@10.1.2.3/k", "verify-full"),
        ("postgresql://u@db.example/k?sslmode=require", "require"),
        ("postgresql://u@/k?host=a.example:5432&host=b.example:5432", "verify-full"),
        ("postgresql://u@/k?host=localhost:1&host=b.example:5432", "verify-full"),
        ("postgresql://u@127.0.0.1/k", None),
        ("postgresql://u@[::1]:5432/k", None),
        ("postgresql://u@localhost/k", None),
        ("postgresql://u@/k?host=localhost:1&host=127.0.0.1:2", None),
        ("postgresql://u@/k?host=/var/run/postgresql", None),
    ],
)
def test_tls_is_the_default_for_other_hosts(url: str, mode: str | None) -> None:
    """Connections to another machine use TLS and verify the host, unless the url differs."""
    query = address.parse(url).url.query
    assert query.get("sslmode") == mode
    assert ("sslrootcert" in query) == (mode == "verify-full")


def test_of_several_hosts_the_primary_is_chosen() -> None:
    """S2: among several hosts the url asks for the one that takes writes."""
    several = address.parse("postgresql://u@/k?host=a:1&host=b:2")
    assert several.url.query["target_session_attrs"] == "read-write"
    assert 2 * float(str(several.url.query["connect_timeout"])) < several.timeouts.poll
    assert several.label == "a:1,b:2/k"


class FailingOver:
    """Hosts of which one is the primary, and some do not answer."""

    def __init__(self) -> None:
        self.primary, self.away = "b", set[str]()
        self.asked: list[str] = []

    def connect(self, parameters: dict[str, Any]) -> str:
        """Connects as the driver does."""
        assert parameters == {"dbname": "k", "host": parameters["host"], "port": "1"}
        name = str(parameters["host"])
        self.asked.append(name)
        if name in self.away:
            raise ConnectionTimeout("connection timeout expired")
        if name != self.primary:
            raise OperationalError("session is read-only")
        return name


def test_a_host_that_is_away_holds_up_one_connection() -> None:
    """S2: after a failover, connections find the new primary without waiting for the dead host."""
    clock, them = FakeClock(), FailingOver()
    hosts = Hosts(clock.monotonic)

    def asked() -> str:
        them.asked = []
        with contextlib.suppress(Error):
            url = {"host": "a,b,c", "port": "1,1,1", "dbname": "k"}
            made, host = hosts.connect(url, them.connect)
            assert made
            assert host == Host(them.primary, "1")
        return "".join(them.asked)

    assert asked() == "ab"
    assert asked() == "b"
    them.away.add("b")
    assert asked() == "bac"
    assert asked() == "ac"
    clock.advance(6.0)
    assert asked() == "acb"
    assert asked() == "ac"
    them.primary = "c"
    assert asked() == "ac"
    assert asked() == "c"
    opened = clock.monotonic()
    assert not hosts.doubted(Host("c", "1"), opened)
    hosts.doubt(Host("c", "1"))
    assert hosts.doubted(Host("c", "1"), opened)
    them.primary = "b"
    them.away = set()
    clock.advance(6.0)
    assert asked() == "ab"
    them.primary = "c"
    assert asked() == "bac"
    them.away = {"a", "b", "c"}
    assert asked() == "cab"
    clock.advance(6.0)
    assert sorted(asked()) == ["a", "b", "c"]
    them.away, them.primary = set(), "a"
    clock.advance(6.0)
    assert asked()[-1] == "a"


def test_a_host_that_is_doubted_is_asked_after_one_that_was_away() -> None:
    """S2: a primary that confirms nothing, and takes connections, does not hide its successor."""
    clock, them = FakeClock(), FailingOver()
    hosts = Hosts(clock.monotonic)
    url = {"host": "a,b,c", "port": "1,1,1", "dbname": "k"}
    them.primary, them.away = "a", {"b", "c"}
    hosts.connect(url, them.connect)
    them.primary = "none"
    with pytest.raises(Error):
        hosts.connect(url, them.connect)
    # All three have been away or doubted, and b and c are there again.
    clock.advance(6.0)
    them.primary, them.away = "c", set()
    hosts.doubt(Host("a", "1"))
    them.asked = []
    hosts.connect(url, them.connect)
    assert them.asked == ["b", "c"]


def test_a_connection_that_nobody_took_is_closed() -> None:
    """A host that took the connection and does not answer keeps no half-open one of ours."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        hosts = f"host=127.0.0.1:{silent.getsockname()[1]}&host=127.0.0.1:{closed.getsockname()[1]}"
        gc.disable()
        try:
            with pytest.raises(OperationalError):
                postgresql.session(address.parse(f"postgresql://u@/k?{hosts}"))
            taken, _ = silent.accept()
            with taken:
                taken.settimeout(5.0)
                while taken.recv(1024):
                    pass
        finally:
            gc.enable()


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("sqlite:///keyfold.db", "postgresql://u@127.0.0.1/k"),
        ("postgresql://u@127.0.0.1/k", "sqlite:///keyfold.db"),
        ("postgresql://u@127.0.0.1/k", "mysql://u@127.0.0.1/k"),
    ],
)
def test_a_url_to_listen_on_that_is_not_postgresql(url: str, listen: str, key: Path) -> None:
    """A url to listen on must be PostgreSQL's, and so must the store's; the check says so."""
    with pytest.raises(SetupError, match="KEYFOLD_STORE_LISTEN is a second way"):
        opening.check(url, key, listen)
    with pytest.raises(SetupError, match="KEYFOLD_STORE_LISTEN is a second way"):
        opening.open_store(url, key, clock=FakeClock(), listen_url=listen)


def test_the_check_refuses_what_opening_refuses(
    server: postgres.Server, tmp_path: Path, key: Path
) -> None:
    """The check tries the database, its schema and the service key, and changes nothing."""
    url, password = server.url(server.create()), server.password_file
    with pytest.raises(SetupError, match="the store has no schema yet"):
        opening.check(url, key, password_file=password)
    opening.check(url, key, password_file=password, migrating=True)
    with pytest.raises(SetupError, match="the store has no schema yet"):
        opening.check(url, key, password_file=password)
    opening.migrate_store(url, password_file=password)
    opening.check(url, key, password_file=password)
    opening.open_store(url, key, clock=FakeClock(), password_file=password).close()
    opening.check(url, key, password_file=password)
    other, wrong = tmp_path / "other", tmp_path / "password"
    other.write_bytes(bytes(32))
    other.chmod(0o600)
    wrong.write_text("wr0ng-s3cret\n")
    for used, file, words in (
        (other, password, "service key"),
        (key, wrong, "rejects the user's name or password"),
    ):
        with pytest.raises(SetupError, match=words) as checked:
            opening.check(url, used, password_file=file)
        with pytest.raises(SetupError) as opened:
            opening.open_store(url, used, clock=FakeClock(), password_file=file)
        assert checked.value.message == opened.value.message


def test_a_wrong_password(server: postgres.Server, tmp_path: Path, key: Path) -> None:
    """The message says what to check, and neither it nor its causes hold the password."""
    wrong = tmp_path / "password"
    wrong.write_text("wr0ng-s3cret\n")
    with pytest.raises(SetupError, match="rejects the user's name or password") as caught:
        opening.open_store(server.url("postgres"), key, clock=FakeClock(), password_file=wrong)
    assert "wr0ng" not in "".join(traceback.format_exception(caught.value))
    wrong.unlink()
    with pytest.raises(SetupError, match=r"cannot read .*: No such file"):
        opening.open_store(server.url("postgres"), key, clock=FakeClock(), password_file=wrong)


def test_a_password_from_the_environment(
    server: postgres.Server, key: Path, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    """PGPASSWORD is the other way in, and no repr shows the password."""
    with pytest.raises(SetupError, match="asks for a password"):
        opening.migrate_store(server.url(empty))
    monkeypatch.setenv("PGPASSWORD", server.password)
    assert opening.migrate_store(server.url(empty)) == f"127.0.0.1/{empty}"
    store = opening.open_store(server.url(empty), key, clock=FakeClock())
    shown = [repr(part) for part in (store, *store.parts, store.parts[0].engine)]
    store.close()
    assert server.password not in "".join(shown)


def test_a_changed_password(server: postgres.Server, tmp_path: Path, key: Path, empty: str) -> None:
    """Each connection reads the file, so the password may change while a server runs."""
    server.run("CREATE ROLE changing LOGIN SUPERUSER PASSWORD 'first'")
    try:
        file = tmp_path / "password"
        file.write_text("first")
        url = server.url(empty).replace(postgres.USER, "changing", 1)
        store = opening.open_store(url, key, clock=FakeClock(), password_file=file, migrating=True)
        server.run("ALTER ROLE changing PASSWORD 'second'")
        file.write_text("second")
        server.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename='changing'"
        )
        assert store.poll(BEAT) == []
        assert store.cluster("acme") is None
        store.close()
        server.drop(empty)
    finally:
        server.run("DROP ROLE changing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database": "nowhere"}, "the database or the user does not exist"),
        ({"user": "nobody"}, "rejects the user's name or password"),
        ({"port": "free"}, "nothing listens"),
    ],
)
def test_a_database_that_is_not_there(
    server: postgres.Server, key: Path, change: dict[str, str], said: str
) -> None:
    """The message is in our words, and names only host and database."""
    port = postgres.free_port() if "port" in change else server.port
    user, name = change.get("user", postgres.USER), change.get("database", "postgres")
    with pytest.raises(SetupError, match=f"^127.0.0.1/{name}: .*{said}") as caught:
        opening.open_store(
            f"postgresql://{user}@127.0.0.1:{port}/{name}",
            key,
            clock=FakeClock(),
            password_file=server.password_file,
        )
    assert server.password not in "".join(traceback.format_exception(caught.value))


def test_a_host_that_does_not_answer(key: Path) -> None:
    """A server that accepts a connection and says nothing does not hold a thread."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SetupError, match="did not answer"):
            opening.open_store(
                f"postgresql://u@127.0.0.1:{port}/k?connect_timeout=2", key, clock=FakeClock()
            )


def test_a_missing_driver(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the driver, the message names the extra to install."""
    monkeypatch.setattr(postgresql, "find_spec", lambda _name: None)
    with pytest.raises(SetupError, match=r"install keyfold\[server,postgres\]"):
        opening.open_store("postgresql://u@127.0.0.1/k", key, clock=FakeClock())
    assert importlib.util.find_spec("psycopg") is not None


def test_tls_to_the_database(tmp_path: Path, key: Path) -> None:
    """The host's certificate must come from the authority that the url names."""
    private, certificate = self_signed("localhost")
    server = postgres.Server("15", durable=False, ssl="on")
    try:
        for name, text in (("server.key", private), ("server.crt", certificate)):
            server.put(f"data/{name}", text)
        server.start()
        name = server.create(server.migrated)
        ours, others = tmp_path / "ours.pem", tmp_path / "others.pem"
        ours.write_bytes(certificate)
        others.write_bytes(self_signed("localhost")[1])
        base = f"postgresql://{postgres.USER}@localhost:{server.port}/{name}?sslmode=verify-full"

        def opened(ca: Path) -> SqlStore:
            return opening.open_store(
                f"{base}&sslrootcert={ca}",
                key,
                clock=FakeClock(),
                password_file=server.password_file,
            )

        store = opened(ours)
        enabled(store)
        shown = server.run(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
            "WHERE application_name = 'keyfold-server'"
        )
        assert shown == [(True,)]
        store.close()
        with pytest.raises(SetupError, match="does not trust the authority"):
            opened(others)
        with pytest.raises(SetupError, match="does not exist"):
            opened(tmp_path / "nothing.pem")
    finally:
        server.destroy()


# The service key


def test_the_service_key_must_be_given(server: postgres.Server, empty: str, tmp_path: Path) -> None:
    """A1: no server makes a shared store's key, because each replica would make its own."""
    opening.migrate_store(server.url(empty), password_file=server.password_file)
    with pytest.raises(SetupError, match=r"needs a service key.*KEYFOLD_SERVICE_KEY"):
        opening.open_store(
            server.url(empty), None, clock=FakeClock(), password_file=server.password_file
        )
    missing = tmp_path / "missing.key"
    with pytest.raises(SetupError, match="the same for every replica"):
        server.open(empty, missing)
    assert not missing.exists()


def test_another_service_key(
    server: postgres.Server, empty: str, key: Path, tmp_path: Path
) -> None:
    """A1: a replica with another key than the store's does not start."""
    server.open(empty, key, migrating=True).close()
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(SetupError, match=r"the service key .* sealed the store"):
        server.open(empty, postgres.a_service_key(folder))


def test_what_the_server_warns_of(
    server: postgres.Server, empty: str, key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S2: the log warns of a database that may lose a commit, or take one back."""
    with caplog.at_level(logging.WARNING):
        server.open(empty, key, migrating=True).close()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "may lose changes in a crash" in caplog.messages[0]
    assert "does not replicate synchronously" in caplog.messages[1]
    assert server.password not in caplog.text


def test_synchronous_replication_is_what_counts(
    tmp_path: Path, key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S2: no warning if commits wait for a standby; a warning if a setting turns that off."""
    server = postgres.Server("15")

    def told() -> list[str]:
        caplog.clear()
        server.open(name, key).close()
        return caplog.messages

    try:
        server.start()
        name = server.create(server.migrated)
        server.open(name, key).close()
        # From now on a commit would wait. Opening the store commits nothing.
        server.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
        server.run("SELECT pg_reload_conf()")
        assert told() == []
        with server.connect() as session:
            session.execute("SET synchronous_commit = local")
            session.execute(f"ALTER DATABASE {name} SET synchronous_commit = local".encode())
        [message] = told()
        assert "does not replicate synchronously" in message
    finally:
        server.destroy()


# The schema


@pytest.mark.parametrize("version", postgres.VERSIONS)
def test_migrations_make_the_schema(version: str, key: Path) -> None:
    """The migrations build the schema that the code uses, and text compares by its bytes."""
    server = postgres.shared(version)
    name = server.create()
    store = server.open(name, key, migrating=True)
    with store.parts[0].engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.close()
    collations = server.run(
        "SELECT table_name, column_name, collation_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'text'",
        name,
    )
    assert len(collations) > 30
    assert {collation for _, _, collation in collations} == {"C"}
    server.drop(name)


def test_pages_go_by_bytes(server: postgres.Server, empty: str, key: Path) -> None:
    """Pages come in SQLite's order, whatever the database's own collation is."""
    words = ["a", "a-b", "a-c", "a0", "a1", "ab", "b", "b-1", "b0"]
    store = server.open(empty, key, migrating=True)
    for word in reversed(words):
        enabled(store, word)
    plain = server.run('SELECT name COLLATE "default" FROM clusters ORDER BY 1', empty)
    assert [name for (name,) in plain] != words
    pages, after = [], ""
    while page := store.clusters(ClusterFilter(), after, 2):
        pages += [c.name for c in page if not isinstance(c, Exception)]
        after = pages[-1]
    store.close()
    assert pages == words


def test_a_store_without_a_schema(server: postgres.Server, empty: str, key: Path) -> None:
    """S6: a server migrates PostgreSQL only if its settings say so; else it says what to do."""
    with pytest.raises(SetupError, match=r"run `keyfold-server migrate`.*KEYFOLD_MIGRATE=auto"):
        server.open(empty, key)
    assert server.run("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", empty) == [(0,)]


def test_another_programs_database(server: postgres.Server, empty: str, key: Path) -> None:
    """The store does not take over another program's database."""
    server.run("CREATE TABLE songs (title TEXT)", empty)
    with pytest.raises(SetupError, match="another program's"):
        server.open(empty, key, migrating=True)


def test_many_migrate_at_once(server: postgres.Server, empty: str, tmp_path: Path) -> None:
    """S6: replicas that start together on an empty database all serve, on one store."""
    key = postgres.a_service_key(tmp_path)
    start = threading.Barrier(6)

    def begin(_turn: int) -> SqlStore:
        start.wait()
        return server.open(empty, key, migrating=True)

    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(begin, range(6)))
    for turn, store in enumerate(stores):
        enabled(store, f"c-{turn}")
    assert len(stores[0].poll(BEAT)) == 6
    for store in stores:
        store.close()
    assert server.run("SELECT version_num FROM alembic_version", empty) == [(OWN,)]
    assert server.run("SELECT count(*) FROM meta", empty) == [(1,)]


def test_processes_migrate_at_once(server: postgres.Server, empty: str) -> None:
    """S6: processes that only migrate may also run together."""
    command = [sys.executable, "-c", MIGRATE, server.url(empty), str(server.password_file)]
    several = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(p.communicate(timeout=50)[1], p.returncode) for p in several] == [(b"", 0)] * 3
    assert server.run("SELECT version_num FROM alembic_version", empty) == [(OWN,)]


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NextRelease:
    """Gives what acts as the release after this one."""
    return NextRelease(tmp_path, monkeypatch)


def test_schemas_of_other_releases(
    server: postgres.Server, empty: str, key: Path, release: NextRelease
) -> None:
    """S6: a release serves on its own schema and the next; others are refused with what to do."""
    server.open(empty, key, migrating=True).close()
    release.use(newer=True)
    with pytest.raises(SetupError, match="older release: run `keyfold-server migrate`"):
        server.open(empty, key)
    release.use(newer=False)
    old = server.open(empty, key)  # serves, and goes on while the store is migrated
    release.use(newer=True)
    new = server.open(empty, key, migrating=True)
    seen = enabled(old)
    assert new.cluster("acme") == seen
    release.use(newer=False)
    again = server.open(empty, key, migrating=True)
    assert again.cluster("acme") == seen
    assert len(again.poll(BEAT)) == 1
    for store in (old, new, again):
        store.close()
    assert server.run("SELECT version_num FROM alembic_version", empty) == [(NEXT,)]
    server.run(f"UPDATE alembic_version SET version_num = '{UNKNOWN}'", empty)
    for migrating in (False, True):
        with pytest.raises(
            SetupError, match=rf"schema {UNKNOWN}.*serves on {OWN} and the one after"
        ):
            server.open(empty, key, migrating=migrating)


def test_the_same_schemas_in_a_file(tmp_path: Path, release: NextRelease) -> None:
    """S6: an embedded store follows the same rule, and migrates itself."""

    def opened() -> SqlStore:
        url = f"sqlite:///{tmp_path / 'keyfold.db'}"
        return opening.open_store(url, tmp_path / "service.key", clock=FakeClock())

    store = opened()
    seen = enabled(store)
    store.close()
    for newer in (True, False):
        release.use(newer=newer)
        store = opened()
        assert store.cluster("acme") == seen
        store.close()


def test_who_reads_holds_a_migration_up_only(
    server: postgres.Server, empty: str, key: Path, release: NextRelease
) -> None:
    """S6: a migration waits for readers in short turns, so that nobody queues behind it."""
    store = server.open(empty, key, migrating=True)
    release.use(newer=True)
    with ThreadPoolExecutor(1) as pool, server.connect(empty) as reader:
        with reader.transaction():
            reader.execute("SELECT * FROM observations")
            url, password = server.url(empty), server.password_file
            migration = pool.submit(opening.migrate_store, url, password_file=password)
            for _ in range(10):
                assert store.observations(["root:none"]) == {}
            assert not migration.done()
        migration.result(30)
    store.close()
    assert server.run("SELECT version_num FROM alembic_version", empty) == [(NEXT,)]


def test_a_user_without_rights(server: postgres.Server, empty: str, key: Path) -> None:
    """If the database's user lacks a right, the message says which, in our words."""
    server.open(empty, key, migrating=True).close()
    server.run(f"CREATE ROLE humble LOGIN PASSWORD '{server.password}'")
    try:
        with pytest.raises(SetupError, match="lacks a right"):
            opening.open_store(
                server.url(empty).replace(postgres.USER, "humble", 1),
                key,
                clock=FakeClock(),
                password_file=server.password_file,
            )
    finally:
        server.run("DROP ROLE humble")


def test_a_standby(tmp_path: Path, key: Path) -> None:
    """S2: a standby can be read, but it is not a store, because a heartbeat is a write."""
    primary = postgres.Server("15", durable=False)
    standby = None
    try:
        primary.start()
        name = primary.create(primary.migrated)
        store = primary.open(name, key)
        seen = enabled(store)
        standby = primary.standby()
        copy = standby.open(name, key)
        assert copy.cluster("acme") == seen
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="a standby"):
                copy.poll(BEAT)
        with pytest.raises(StoreUnavailableError, match="a standby"):
            copy.register(BEAT)
        # With both hosts in one url, the driver finds the one that takes writes, in any order.
        url = (
            f"postgresql://{postgres.USER}@/{name}?host=127.0.0.1:{standby.port}"
            f"&host=127.0.0.1:{primary.port}"
        )
        either = opening.open_store(
            url, key, clock=FakeClock(), password_file=primary.password_file
        )
        assert len(either.poll(BEAT)) == 1
        store.close()
        primary.stop()
        with pytest.raises(StoreUnavailableError):
            either.poll(BEAT)
        standby.promote()
        assert len(either.poll(BEAT)) == 1
        assert copy.poll(BEAT) is not None
        copy.close()
        either.close()
    finally:
        for server in filter(None, (standby, primary)):
            server.destroy()


def test_the_command_migrates(
    server: postgres.Server, empty: str, key: Path, tmp_path: Path
) -> None:
    """`keyfold-server migrate` makes the schema and shows no password, nor do the settings."""
    environment = {
        **os.environ,
        "KEYFOLD_STORE": server.url(empty),
        "KEYFOLD_STORE_PASSWORD_FILE": str(server.password_file),
        "KEYFOLD_SERVICE_KEY": str(key),
    }

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "keyfold_server", *words],
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )

    before = run("check")
    assert before.returncode == FAILED
    assert "FAILURE         store schema: it has none yet" in before.stdout
    assert "-> run `keyfold-server migrate` once" in before.stdout
    for _ in range(2):
        done = run("migrate")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"127.0.0.1/{empty} has the schema of this release\n"
    after = run("check")
    assert after.returncode == 0, after.stdout
    assert "store clock: the clocks of this machine and the database agree" in after.stdout
    assert server.password not in after.stdout + after.stderr
    hidden = run("check", KEYFOLD_STORE="postgresql://u:s3cret@127.0.0.1/db")
    assert hidden.returncode == FAILED
    assert "KEYFOLD_STORE_PASSWORD_FILE" in hidden.stdout
    assert "s3cret" not in hidden.stdout + hidden.stderr
    printed = run("--print-settings")
    assert server.url(empty) in printed.stdout
    assert server.password not in printed.stdout + printed.stderr
    for words in (["--print-settings"], ["migrate"]):
        refused = run(*words, KEYFOLD_STORE="postgresql://u:s3cret@127.0.0.1/db")
        assert refused.returncode == 2
        assert "KEYFOLD_STORE_PASSWORD_FILE" in refused.stderr
        assert "s3cret" not in refused.stdout + refused.stderr
