"""Stores whose rows somebody edits behind Keyfold's back, in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import Connection, text

import postgres
from fakes import FakeClock
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.sql.store import SqlStore

STORES: Final = ("sqlite", "postgresql-15")

SPOIL: Final = "UPDATE clusters SET epoch = epoch + 1 WHERE name = 'acme'"
"""One edited value of cluster acme."""

GONE: Final = (
    "DELETE FROM wrap_history",
    "DELETE FROM wraps",
    "DELETE FROM generations",
    "DELETE FROM regions",
    "DELETE FROM clusters",
)
"""Statements that delete every cluster."""


class OpenStore(Protocol):
    """Opens a store, as a process of its own does."""

    def __call__(self, reach: Callable[[str], None] = no_failpoint) -> SqlStore:
        """Opens it; `reach` gets the name of each failpoint. SQLite has one such process."""
        ...


@contextmanager
def opener(kind: str, folder: Path) -> Iterator[OpenStore]:
    """Gives a function that opens one store again and again; closes what it opened."""
    with ExitStack() as stack:
        url, password = f"sqlite:///{folder / 'keyfold.db'}", None
        key = folder / "service.key"
        if kind != "sqlite":
            postgres.a_service_key(folder)
            server = postgres.shared(kind.removeprefix("postgresql-"))
            name = server.create(server.migrated)
            stack.callback(server.drop, name)
            url, password = server.url(name), server.password_file
        opened: list[SqlStore] = []

        def open_it(reach: Callable[[str], None] = no_failpoint) -> SqlStore:
            if kind == "sqlite":
                for store in opened:
                    store.close()
            opened.append(
                open_store(url, key, clock=FakeClock(), reach=reach, password_file=password)
            )
            return opened[-1]

        yield open_it
        for store in opened:
            store.close()


def edit(store: SqlStore, *statements: str) -> None:
    """Edits the store behind Keyfold's back."""
    database, _ = store.parts

    def run(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    database.write(run)
