"""The promises of a store in SQLite: one process, file modes, the disk, the schema."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, event

from audit_chain import verified_events
from builders import NOW, a_cluster, a_rotation, an_event, applied, enabled, enabling
from fakes import FakeClock
from keyfold_server.domain.changes import Change, with_regions
from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.store.migrations import migrate
from keyfold_server.store.opening import open_store
from keyfold_server.store.schema import metadata
from keyfold_server.store.sql.store import SqlStore
from lateness import in_time

NOBODY = 65534
BEAT = Heartbeat("one", 0, b"", 120.0, NOW)
OPEN = """
import sys
from fakes import FakeClock
from keyfold_server.domain.errors import SetupError
from keyfold_server.store.opening import open_store
try:
    open_store(sys.argv[1], sys.argv[2], clock=FakeClock())
except SetupError as error:
    sys.exit(str(error))
"""


def opened(folder: Path, name: str = "keyfold.db") -> SqlStore:
    """Opens the store of a folder."""
    return open_store(f"sqlite:///{folder / name}", folder / "service.key", clock=FakeClock())


def elsewhere(folder: Path) -> str:
    """Opens the store of a folder in another process, and returns why that refused."""
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", OPEN, f"sqlite:///{folder}/keyfold.db", f"{folder}/service.key"],
        env={**os.environ, "PYTHONPATH": tests},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip() if done.returncode else ""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Gives a new store."""
    made = opened(tmp_path)
    yield made
    made.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """S9: SQLite is for one process. The message names the file; later another may have it."""
    first = opened(tmp_path)
    assert f"another server uses the store {tmp_path}/keyfold.db" in elsewhere(tmp_path)
    with pytest.raises(SetupError, match="another server"):
        opened(tmp_path)
    first.close()
    assert elsewhere(tmp_path) == ""


def test_another_name_of_the_file_is_refused(tmp_path: Path, store: SqlStore) -> None:
    """S9: a symbolic link does not get around the lock."""
    (tmp_path / "link.db").symlink_to(tmp_path / "keyfold.db")
    with pytest.raises(SetupError, match="another server"):
        opened(tmp_path, "link.db")


def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    """Only their owner can read store, logs, lock and key, whatever the umask."""
    former = os.umask(0)
    try:
        with closing(opened(tmp_path)) as made:
            enabled(made)
            found = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    finally:
        os.umask(former)
    assert found == dict.fromkeys(
        ("keyfold.db", "keyfold.db-wal", "keyfold.db-shm", "keyfold.db.lock", "service.key"), 0o600
    )
    (tmp_path / "keyfold.db").chmod(0o644)
    opened(tmp_path).close()
    assert (tmp_path / "keyfold.db").stat().st_mode & 0o777 == 0o600


def test_a_store_that_vanished_is_not_made_anew(tmp_path: Path) -> None:
    """A1: a key without its store means that the store is lost, and Keyfold says so."""
    opened(tmp_path).close()
    key = tmp_path / "service.key"
    before = key.read_bytes()
    for path in tmp_path.glob("keyfold.db*"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(SetupError, match=r"is missing, but its service key .* exists"):
            opened(tmp_path)
        assert not (tmp_path / "keyfold.db").exists()
    # An operator who means a new store under the same key says so with an empty file.
    (tmp_path / "keyfold.db").touch(0o600)
    opened(tmp_path).close()
    assert key.read_bytes() == before


@pytest.mark.parametrize("died", ["before the store", "before the key", "before the schema"])
def test_a_first_start_that_died_goes_on(tmp_path: Path, died: str) -> None:
    """A1: if a process dies while it makes store and key, the next one makes them."""
    key, draft = tmp_path / "service.key", tmp_path / "service.key.new"
    draft.write_bytes(b"half of a")
    if died != "before the store":
        (tmp_path / "keyfold.db").touch(0o600)
    if died == "before the schema":
        draft.write_bytes(bytes(range(32)))
        draft.chmod(0o600)
        draft.rename(key)
    opened(tmp_path).close()
    assert not draft.exists()
    assert len(key.read_bytes()) == 32
    opened(tmp_path).close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "not a url",
    ],
)
def test_other_urls_are_refused(tmp_path: Path, url: str) -> None:
    """A url that this release cannot use is refused at once, and no message shows a password."""
    with pytest.raises(SetupError, match="sqlite:///") as caught:
        open_store(url, tmp_path / "service.key", clock=FakeClock())
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A file that is not a store stays as it is."""
    opened(tmp_path).close()
    (tmp_path / "keyfold.db").write_text("dear diary, " * 100)
    with pytest.raises(SetupError, match="is not a database"):
        opened(tmp_path)
    assert (tmp_path / "keyfold.db").read_text().startswith("dear diary")


def test_a_damaged_database(tmp_path: Path) -> None:
    """The message about a damaged file is in our words."""
    opened(tmp_path).close()
    with (tmp_path / "keyfold.db").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    with pytest.raises(SetupError, match="its file is"):
        opened(tmp_path)


def test_another_programs_database(tmp_path: Path) -> None:
    """The store does not take over another program's database."""
    opened(tmp_path).close()
    (tmp_path / "keyfold.db").unlink()
    with closing(sqlite3.connect(tmp_path / "keyfold.db")) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(SetupError, match="another program's"):
        opened(tmp_path)


def test_another_programs_database_stays_as_it_is(tmp_path: Path) -> None:
    """A refused file keeps its journal mode and its permissions."""
    file = tmp_path / "keyfold.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE theirs (id INTEGER)")
        other.commit()
    file.chmod(0o644)
    before = file.read_bytes()
    with pytest.raises(SetupError, match="another program's"):
        opened(tmp_path)
    assert file.read_bytes() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert {path.name for path in tmp_path.iterdir()} == {file.name, f"{file.name}.lock"}


def test_a_log_without_its_store(tmp_path: Path) -> None:
    """No new store begins beside the log of a lost one, which SQLite would replay into it."""
    (tmp_path / "keyfold.db-wal").write_bytes(b"old")
    with pytest.raises(SetupError, match="move the log away"):
        opened(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The message names a mistyped path."""
    with pytest.raises(SetupError, match="cannot be made"):
        opened(tmp_path / "missing")


@contextmanager
def held_back_by_rights() -> Iterator[None]:
    """Acts as a user to whom file modes apply, even if the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    """A read-only file is refused at the start, not at the first mutation."""
    opened(tmp_path).close()
    with TemporaryDirectory() as made:  # tmp_path is where its owner alone may enter
        folder = Path(made)
        for path in tmp_path.iterdir():
            shutil.copy(path, folder)
        (folder / "keyfold.db").chmod(0o400)
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        with (
            held_back_by_rights(),
            pytest.raises(SetupError, match="cannot be read and written: Permission denied"),
        ):
            opened(folder)


def test_a_store_that_becomes_read_only(store: SqlStore) -> None:
    """A read-only store gets its own message, in our words, and reads go on."""
    cluster = enabled(store)
    engine = store._database.engine
    event.listen(engine, "checkout", lambda c, *_: c.execute("PRAGMA query_only = ON"))
    with pytest.raises(StoreUnavailableError, match="it is read-only") as caught:
        enabled(store, "other")
    assert "attempt to write" not in str(caught.value)
    assert store.cluster("acme") == cluster


def test_a_full_disk(store: SqlStore) -> None:
    """A full disk fails the whole batch and leaves no part of it; reads go on."""
    cluster = enabled(store)
    engine = store._database.engine
    pages = "PRAGMA max_page_count = 60"
    event.listen(engine, "checkout", lambda c, *_: c.execute(pages).close())
    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        store.apply([enabling(a_cluster(f"c-{i}")) for i in range(500)])
    assert store.cluster("acme") == cluster
    assert store.cluster("c-0") is None
    assert [n.cluster for n in store.poll(BEAT)] == ["acme"]
    assert verified_events(store, "acme") == 1


def test_a_locked_store(store: SqlStore, tmp_path: Path) -> None:
    """A store waits for another program's lock, and then reports the lock."""
    event.listen(
        store._database.engine, "checkout", lambda c, *_: c.execute("PRAGMA busy_timeout = 50")
    )
    with closing(sqlite3.connect(tmp_path / "keyfold.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="its file stays locked"):
            enabled(store)
    enabled(store)


def test_a_mutation_takes_the_store_first(store: SqlStore) -> None:
    """S8: a change reads its rows under the write lock, so BEGIN IMMEDIATE comes first."""
    said: list[str] = []
    event.listen(
        store._database.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: said.append(statement),
    )
    enabled(store)
    assert said[0] == "BEGIN IMMEDIATE"
    said.clear()
    store.cluster("acme")
    assert said[0] == "BEGIN"


def test_a_poll_does_not_wait_for_other_connections(store: SqlStore) -> None:
    """W3: with every other connection taken, a healthy replica does not go stale."""
    engine = store._database.engine
    taken = [engine.connect() for _ in range(32)]
    with in_time(1.0):
        assert store.poll(BEAT) == []
    for connection in taken:
        connection.close()


def test_a_poll_gets_its_turn(store: SqlStore) -> None:
    """W3: while others write without a pause, a heartbeat waits for only a few of them."""
    ended = threading.Event()

    def write(thread: int) -> None:
        for i in itertools.takewhile(lambda _: not ended.is_set(), itertools.count()):
            enabled(store, f"c-{thread}-{i}")

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, thread) for thread in range(4)]
        try:
            with in_time(5.0):
                for _ in range(10):
                    store.poll(BEAT)
        finally:
            ended.set()
        for writer in writers:
            writer.result()


def test_replicas_of_a_dead_process_are_removed(tmp_path: Path) -> None:
    """S9: a process that has the file to itself knows that all other replicas are gone."""
    first = opened(tmp_path)
    first.register(BEAT)
    first.close()
    second = opened(tmp_path)
    second.register(Heartbeat("two", 0, b"", 120.0, NOW))
    assert [r.replica for r in second.replicas()] == ["two"]
    second.close()


def test_what_was_superseded_is_overwritten(tmp_path: Path) -> None:
    """S5: an old root key opens nothing of the live store, free pages included."""
    made = opened(tmp_path)
    seen = enabled(made)
    old = seen.regions[0].newest.current.ciphertext
    moved = a_rotation(seen.regions[0], "local:two")
    applied(made, Change("acme", with_regions(seen, [moved], NOW), an_event()))
    made.close()
    assert old is not None
    assert old not in (tmp_path / "keyfold.db").read_bytes()


def _layout(file: Path) -> dict[str, list[str]]:
    """Reads what SQLite has of each table and index: columns and constraints, in any order.

    A column that came later stands last in the file, and before the MAC in the code, which names
    columns and never counts on their order in the database.
    """
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute(query).fetchall()
    return {name: sorted(_parts(" ".join(sql.split()))) for name, sql in found}


def _parts(sql: str) -> list[str]:
    """Splits a statement that makes a table or index at the commas of its outer brackets."""
    head, _, body = sql.partition("(")
    parts, depth = [""], 0
    for character in body.rpartition(")")[0]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [head.strip(), *(part.strip() for part in parts)]


def test_migrations_make_the_schema(tmp_path: Path, store: SqlStore) -> None:
    """The migrations build exactly the schema that the code reads and writes."""
    with store._database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    plain = create_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    metadata.create_all(plain)
    plain.dispose()
    assert _layout(tmp_path / "keyfold.db") == _layout(tmp_path / "plain.db")


@pytest.mark.parametrize(
    "undone",
    ["log", "wraps", "observations", "clusters", "identities", "generation_uses"],
)
def test_a_migration_can_be_repeated(tmp_path: Path, undone: str) -> None:
    """The next start finishes a migration that died half-way."""
    opened(tmp_path).close()
    whole = _layout(tmp_path / "keyfold.db")
    with closing(sqlite3.connect(tmp_path / "keyfold.db")) as connection:
        connection.execute(f"DROP TABLE {undone}")
        connection.execute("DELETE FROM alembic_version")
        connection.commit()
    opened(tmp_path).close()
    assert _layout(tmp_path / "keyfold.db") == whole


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """S6: an older release does not touch a store that a much newer one migrated."""
    opened(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "keyfold.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(SetupError, match="schema 9999"):
        opened(tmp_path)


def test_migrating_leaves_logging_alone(tmp_path: Path) -> None:
    """The server's logging is its own: opening a store adds no handler and sets no level."""
    root, alembic = logging.getLogger(), logging.getLogger("alembic")
    before = (root.level, list(root.handlers), alembic.level, list(alembic.handlers))
    opened(tmp_path).close()
    assert (root.level, list(root.handlers), alembic.level, list(alembic.handlers)) == before


def test_the_schema_is_current_after_opening(store: SqlStore) -> None:
    """An open store has the newest schema."""
    assert store._database.read(migrate.check) is migrate.SchemaAge.CURRENT
