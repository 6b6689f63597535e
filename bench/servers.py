"""How the cases' servers are set up: settings, root keys, and replicas on one real PostgreSQL.

PostgreSQL is started as the tests do it: the parts of `tests/` that start one are used here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

import postgres
from bench.cases import ROOT_KEY
from bench.goals import SkippedError
from bench.processes import Server, running
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.store.opening import migrate_store

ROOT: Final = Path(__file__).resolve().parents[1]
"""The repository."""

_POSTGRES: Final = "15"

_UNHURRIED: Final = {
    f"KEYFOLD_KMS_RATE_PER_{what}": "1000000" for what in ("KEY", "ACCOUNT", "PROVIDER")
}
"""What is measured is the server, not the rates at which it spares a customer's KMS."""


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """Returns an environment in which no setting but ours reaches a server.

    Args:
        folder: Of its store, and of its root keys, which are made where there are none.
        **settings: Over those that every server has; without their prefix, in lower case.
    """
    keys = folder / "root-keys.json"
    if not keys.exists():
        KeyFile(keys).create(ROOT_KEY)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("KEYFOLD_")}
    return (
        inherited
        | {
            "KEYFOLD_LISTEN": "127.0.0.1:0",
            "KEYFOLD_STORE": f"sqlite:///{folder / 'keyfold.db'}",
            "KEYFOLD_LOCAL_KEYS": str(keys),
        }
        | _UNHURRIED
        | {f"KEYFOLD_{name.upper()}": value for name, value in settings.items()}
    )


def command(*arguments: str) -> list[str]:
    """Returns the command line of a server, or of one of its own commands."""
    return [str(Path(sys.executable).with_name("keyfold-server")), *arguments]


@contextmanager
def one(folder: Path, with_kms: dict[str, str] | None = None, **settings: str) -> Iterator[Server]:
    """Runs one server on SQLite.

    Args:
        folder: Of its files.
        with_kms: What `kms.Kms.installed` returned, where the server is to call that.
        **settings: As in `environment`.
    """
    with running(
        "keyfold-server", command(), environment(folder, **settings) | (with_kms or {})
    ) as server:
        yield server


@contextmanager
def replicas(
    folder: Path, count: int, with_kms: dict[str, str] | None = None, **settings: str
) -> Iterator[list[Server]]:
    """Runs replicas on one PostgreSQL, each a process; see `one`.

    Raises:
        SkippedError: There is no PostgreSQL on this machine, nor can it be installed.
    """
    with _database() as database, ExitStack() as stack:
        name = database.create()
        migrate_store(database.url(name), password_file=database.password_file)
        shared = environment(
            folder,
            store=database.url(name),
            store_password_file=str(database.password_file),
            service_key=str(postgres.a_service_key(folder)),
            metrics="off",
            **settings,
        )
        yield [
            stack.enter_context(running(f"replica {n}", command(), shared | (with_kms or {})))
            for n in range(count)
        ]


@contextmanager
def _database() -> Iterator[postgres.Server]:
    try:
        database = postgres.Server(_POSTGRES)
    except pytest.skip.Exception as without:
        raise SkippedError(str(without)) from None
    with contextlib.closing(_Ending(database)):
        database.start()
        yield database


class _Ending:
    """Ends a PostgreSQL server, folder and all."""

    def __init__(self, database: postgres.Server) -> None:
        self._database = database

    def close(self) -> None:
        self._database.destroy()
