"""Runs the store suite on a database of your own: `make live-store URL=postgresql://…`.

    URL             the database, as KEYFOLD_STORE takes it; its user may make schemas in it
    PASSWORD_FILE   the file with the user's password, as KEYFOLD_STORE_PASSWORD_FILE takes it
    TESTS           only the tests that match this expression, as for `pytest -k`

Each store of the suite is in a schema of its own, `keyfold_live_…`, beside what the database holds
already. The run drops these schemas at its end, and changes nothing else.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy import make_url

import postgres
import store_vector
from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.store.opening import migrate_store
from keyfold_server.store.postgresql import address

EXIT_USAGE: Final = 2

SUITE: Final = sorted(Path(__file__).parent.glob("test_store*.py"))

TIMEOUT: Final = 300
"""Most seconds for one test: the database may be far away."""

_PREFIX: Final = "keyfold_live_"


class LiveDatabase(postgres.Server):
    """A database of the user's. A schema in it stands for each database of the tests.

    Attributes:
        label: Its host and name.
        migrated: What `create` takes for a store with the schema and a test's clock.
    """

    def __init__(self, url: str, password_file: Path | None) -> None:
        """Opens nothing yet.

        Raises:
            SetupError: A store cannot be in a database with such a url.
        """
        self.label = address.parse(url, password_file).label
        self._parsed = make_url(url)
        if "options" in self._parsed.query:
            raise SetupError("the url must not have options: the suite sets search_path there")
        self.password_file = password_file  # type: ignore[assignment]
        self.migrated = "migrated"
        self._run_name = f"{_PREFIX}{secrets.token_hex(4)}"
        self._names = itertools.count(1)
        self._idle: list[str] = []
        self._sessions: dict[str, psycopg.Connection[Any]] = {}
        self._made: list[str] = []

    def schemas(self, name: str) -> postgres.Schemas:
        """Returns the schemas that stand for a database."""
        return postgres.Schemas(name, f"{name}_saved", f"{name}_time")

    def url(self, database: str) -> str:
        """Returns the url of a store in its own schema. pg_catalog comes after the tests' clock."""
        path = {"options": f"-csearch_path={database},pg_catalog"}
        return self._parsed.update_query_dict(path).render_as_string(hide_password=False)

    def connect(self, database: str = "public", **options: Any) -> psycopg.Connection[Any]:
        """Opens a session; every statement is a transaction."""
        where = address.parse(self.url(database), self.password_file)
        parameters = {**where.url.get_dialect()().create_connect_args(where.url)[1], **options}
        if (password := where.password()) is not None:
            parameters.setdefault("password", password)
        return psycopg.connect(autocommit=True, prepare_threshold=None, **parameters)

    def create(self, template: str = "") -> str:
        """Makes the schema of a store and returns its name."""
        name = f"{self._run_name}_{next(self._names)}"
        self._made.append(name)
        self.run(f"CREATE SCHEMA {name}")
        if template == self.migrated:
            migrate_store(self.url(name), password_file=self.password_file)
            self.run(postgres.clock_for(self.schemas(name)), name)
        return name

    def drop(self, name: str) -> None:
        """Removes the schemas of a store."""
        each = self.schemas(name)
        self.run(f"DROP SCHEMA IF EXISTS {each.own}, {each.saved}, {each.time} CASCADE")
        self._made.remove(name)

    def tidy(self) -> None:
        """Removes all that the run made."""
        for session in self._sessions.values():
            session.close()
        for name in list(self._made):
            self.drop(name)


class Suite:
    """Gives the suite the user's database in place of its own stores."""

    def __init__(self, database: LiveDatabase) -> None:
        self._database = database

    def pytest_configure(self) -> None:
        """Puts the database in place of the tables of stores, before a test module reads them."""
        from contract import test_store

        postgres.shared = lambda _version: self._database  # type: ignore[assignment]
        store_vector.KINDS = ("postgresql",)
        test_store.STORES.clear()
        test_store.STORES["live"] = partial(test_store.Postgres, "live")
        for stores in (test_store.EVERY_TEST, test_store.SHARED):
            stores[:] = ["live"]


@contextmanager
def opened(url: str, password_file: Path | None) -> Iterator[LiveDatabase]:
    """Yields the database, and removes all that was made there at the end.

    Raises:
        SetupError: It cannot be used; the message says why.
        psycopg.Error: It did not let us in.
    """
    database = LiveDatabase(url, password_file)
    database.run("SELECT 1")
    try:
        yield database
    finally:
        database.tidy()


def main() -> int:
    """Runs the suite, and returns pytest's exit code, or 2 if it could not begin."""
    url, file = os.environ.get("URL", ""), os.environ.get("PASSWORD_FILE")
    if not url:
        sys.stderr.write("live-store: give URL=postgresql://user@host/database\n")
        return EXIT_USAGE
    only = ["-k", tests] if (tests := os.environ.get("TESTS")) else []
    try:
        with opened(url, Path(file) if file else None) as database:
            [[version]] = database.run("SELECT version()")
            sys.stdout.write(f"on {database.label}: {version}\n")
            sys.stdout.flush()
            options = ["-p", "no:cacheprovider", f"--timeout={TIMEOUT}", "-q", *only]
            return int(pytest.main([*options, *map(str, SUITE)], plugins=[Suite(database)]))
    except KeyfoldError as error:
        sys.stderr.write(f"live-store: {error.message}\n")
    except psycopg.Error as error:
        sys.stderr.write(f"live-store: the database did not answer: {error}\n")
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
