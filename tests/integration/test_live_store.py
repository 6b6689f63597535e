"""The store suite on a database of the user's, as `make live-store` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import postgres

TESTS: Final = Path(__file__).parents[1]

SOME: Final = "test_a_cluster_reads_as_it_was_written or test_replicas_follow_a_name"


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A server with a database that belongs to a user without further rights."""
    server = postgres.Server("15", durable=False)
    server.start()
    server.run(f"CREATE ROLE app LOGIN PASSWORD '{server.password}'")
    server.run("CREATE DATABASE theirs OWNER app")
    server.run("CREATE TABLE theirs (x int)", "theirs")
    yield server
    server.destroy()


def run(server: postgres.Server, **settings: str) -> tuple[int, str]:
    """Runs the suite, and returns its exit code and output."""
    environment = {"PYTHONPATH": str(TESTS), "PASSWORD_FILE": str(server.password_file)}
    done = subprocess.run(
        [sys.executable, "-m", "contract.live_store"],
        cwd=TESTS.parent,
        env={**os.environ, **environment, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def url(server: postgres.Server, database: str = "theirs") -> str:
    """Returns a database's url for its user."""
    return f"postgresql://app@127.0.0.1:{server.port}/{database}"


def test_the_suite_leaves_a_database_as_it_was(server: postgres.Server) -> None:
    """It runs in schemas of its own, needs no rights beside making them, and drops them."""
    code, told = run(server, URL=url(server), TESTS=SOME)
    assert code == 0, told
    assert "on 127.0.0.1/theirs: PostgreSQL 15" in told
    assert " passed" in told
    assert server.password not in told
    left = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'keyfold%'"
    assert server.run(left, "theirs") == []
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert server.run(tables, "theirs") == [("theirs",)]


def test_a_database_that_loses_what_it_confirmed_fails(server: postgres.Server) -> None:
    """The suite can fail: a trigger that drops rows of the log is found."""
    server.run("CREATE DATABASE lossy OWNER app")
    server.run(
        "CREATE FUNCTION lose() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF to_regclass('log') IS NOT NULL THEN "
        "CREATE OR REPLACE RULE lose AS ON DELETE TO log DO INSTEAD NOTHING; "
        "END IF; END $$; "
        "CREATE EVENT TRIGGER lose ON ddl_command_end WHEN TAG IN ('CREATE INDEX') "
        "EXECUTE FUNCTION lose()",
        "lossy",
    )
    code, told = run(server, URL=url(server, "lossy"), TESTS="test_what_is_old_goes")
    assert code == 1, told
    assert "1 failed" in told


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("", "live-store: give URL=postgresql://user@host/database"),
        ("sqlite:///x", "live-store: "),
        ("postgresql://app:secret@h/d", "holds a password"),
        ("postgresql://app@h/d?options=-cx%3Dy", "must not have options"),
        ("postgresql://app@127.0.0.1:1/d", "live-store: the database did not answer"),
    ],
)
def test_what_cannot_begin_says_why(server: postgres.Server, asked: str, said: str) -> None:
    """Exit code 2, one line, and no secret in it."""
    code, told = run(server, URL=asked)
    assert (code, said in told) == (2, True), told
    assert "secret" not in told
    assert "Traceback" not in told
