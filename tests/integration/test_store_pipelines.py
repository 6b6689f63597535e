"""Statements that go to PostgreSQL together: from a failure on, none of them runs (S13)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, Final

import psycopg
import pytest

import postgres
from keyfold_server.store.postgresql import address, connections
from keyfold_server.store.postgresql.session import BoundedSession, Preparing
from proxy import Proxy, Way

INSERT: Final = b"INSERT INTO kept VALUES ($1)"
BEGIN: Final = ("BEGIN", "SELECT set_config('statement_timeout', '5000', true)")


class Bench:
    """A database with one table, and a session of a store behind a proxy."""

    def __init__(self, stack: ExitStack) -> None:
        self._server = server = postgres.shared("15")
        self._name = server.create()
        stack.callback(server.drop, self._name)
        self._run("CREATE TABLE kept (number BIGINT)")
        self.proxy = stack.enter_context(Proxy(server.port))
        url = server.url(self._name).replace(str(server.port), str(self.proxy.port))
        where = address.parse(url, server.password_file)
        self.session: BoundedSession = stack.enter_context(closing(connections.session(where)))
        self.session.begins = BEGIN

    def _run(self, statement: str) -> list[tuple[Any, ...]]:
        return self._server.run(statement, self._name)

    def kept(self) -> list[int]:
        """Returns what is committed."""
        return [number for (number,) in self._run("SELECT number FROM kept ORDER BY number")]

    def end_session(self) -> None:
        """Ends the session, as an administrator does."""
        self._run(f"SELECT pg_terminate_backend({self.session.info.backend_pid}, 5000)")


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Gives an empty table."""
    with ExitStack() as stack:
        yield Bench(stack)


def test_the_answers_come_in_order(bench: Bench) -> None:
    """S13: each statement has its rows and its count, and a statement runs for each parameter."""
    inserted, read, nothing = bench.session.exchange(
        [
            (INSERT, [[3], [1], [2]]),
            (b"SELECT number, $1::text FROM kept ORDER BY number", [["x"]]),
            (b"DELETE FROM kept WHERE number = $1", []),
        ],
        commit=True,
    )
    assert (inserted.rows, inserted.count) == ([], 3)
    assert read.rows == [(1, "x"), (2, "x"), (3, "x")]
    assert (nothing.rows, nothing.count) == ([], 0)
    assert bench.kept() == [1, 2, 3]


def test_a_failure_skips_what_follows(bench: Bench) -> None:
    """S13: neither the statements behind a failure nor the commit run, and the error is known."""
    commands = [(INSERT, [[1]]), (b"SELECT 1 / $1::int", [[0]]), (INSERT, [[2]])]
    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        bench.session.exchange(commands, commit=True)
    assert not caught.value.committing  # type: ignore[attr-defined]
    bench.session.rollback()
    assert bench.kept() == []
    # The session goes on.
    bench.session.begins = BEGIN
    bench.session.exchange([(INSERT, [[4]])], commit=True)
    assert bench.kept() == [4]


PREPARED: Final = b"SELECT count(*) FROM pg_prepared_statements"


def prepared(bench: Bench, *commands: tuple[bytes, list[list[Any]]]) -> list[Any]:
    """Runs statements in a transaction of their own, and returns the rows of the last one."""
    bench.session.begins = BEGIN
    return bench.session.exchange(list(commands), commit=True)[-1].rows


def test_a_session_plans_each_statement_once(bench: Bench) -> None:
    """S12: a poll's statements come again each second, and planning is most of what they cost."""
    bench.session.preparing = Preparing(on=True)
    count: list[tuple[bytes, list[list[Any]]]] = [(PREPARED, [[]])]
    insert: list[tuple[bytes, list[list[Any]]]] = [(INSERT, [[1], [2]])]
    # The setting of the beginning, this statement, and the count itself.
    assert prepared(bench, *insert, *count) == [(3,)]
    assert prepared(bench, *insert, *count) == [(3,)]
    # A larger number has another type, and what was prepared stays.
    assert prepared(bench, (INSERT, [[1 << 40], [3]]), *count) == [(4,)]
    assert bench.kept() == [1, 1, 2, 2, 3, 1 << 40]


def test_a_statement_stays_prepared_where_its_transaction_fails(bench: Bench) -> None:
    """S13: the session knows what it has, and that nothing behind the failure is there."""
    bench.session.preparing = Preparing(on=True)
    fails = (b"SELECT 1 / $1::int", [[0]])
    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        prepared(bench, (INSERT, [[1]]), fails, (b"SELECT $1::int + 1", [[1]]))
    assert not caught.value.committing  # type: ignore[attr-defined]
    bench.session.rollback()
    assert prepared(bench, (INSERT, [[1]]), (b"SELECT $1::int + 1", [[1]])) == [(2,)]
    assert bench.kept() == [1]


def test_a_session_that_lacks_a_statement_prepares_none(bench: Bench) -> None:
    """A pooler may give the next transaction another session, which lacks it, or has it already."""
    for between in (["DEALLOCATE ALL"], []):
        bench.session.preparing = preparing = Preparing(on=True)
        bench.session._planned = frozenset()
        prepared(bench, (INSERT, [[1]]))
        for statement in between:
            bench.session.execute(statement.encode())
        if not between:
            bench.session._planned = frozenset()
        with pytest.raises(psycopg.Error) as caught:
            prepared(bench, (INSERT, [[2]]))
        assert caught.value.sqlstate == ("26000" if between else "42P05")
        assert not caught.value.committing  # type: ignore[attr-defined]
        bench.session.rollback()
        assert not preparing.on
        prepared(bench, (INSERT, [[3]]))
    assert bench.kept() == [1, 1, 3, 3]


def test_a_parameter_that_cannot_be_sent(bench: Bench) -> None:
    """S13: then nothing goes to the server, and the session goes on."""
    with pytest.raises(psycopg.DataError):
        bench.session.exchange([(b"SELECT $1::text", [["\0"]])], commit=True)
    bench.session.begins = BEGIN
    bench.session.exchange([(INSERT, [[1]])], commit=True)
    assert bench.kept() == [1]


def test_a_session_that_ended_before_the_commit(bench: Bench) -> None:
    """R6: the server said so before it got the statements, so nothing was committed."""
    bench.session.exchange([(INSERT, [[1]])])
    bench.end_session()
    with pytest.raises(psycopg.errors.AdminShutdown) as caught:
        bench.session.exchange([(INSERT, [[2]])], commit=True)
    assert not caught.value.committing  # type: ignore[attr-defined]
    assert bench.kept() == []


def test_a_connection_that_is_lost_with_a_commit(bench: Bench) -> None:
    """R6: nobody knows whether the server has committed, and the error says so."""
    bench.session.exchange([(INSERT, [[1]])])
    bench.proxy.set(Way.DROP)
    with pytest.raises(psycopg.OperationalError) as caught:
        bench.session.exchange([(INSERT, [[2]])], commit=True)
    assert caught.value.committing  # type: ignore[attr-defined]


def test_a_pause_after_a_trip_ends(bench: Bench) -> None:
    """S8: the server ends a session that pauses inside a transaction after a pipeline."""
    bench.session.begins = (
        "BEGIN",
        "SELECT set_config('idle_in_transaction_session_timeout', '50', true)",
    )
    bench.session.exchange([(INSERT, [[1]])])
    there = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {bench.session.info.backend_pid}"
    ends = time.monotonic() + 20
    while bench._run(there) != [(0,)]:
        assert time.monotonic() < ends
