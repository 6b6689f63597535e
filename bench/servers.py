"""Sets up the cases' servers: settings, root keys, and replicas on one real PostgreSQL.

It starts PostgreSQL with the same code as the tests.
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
    f"KEYFOLD_{what}": "1000000"
    for what in (
        "KMS_RATE_PER_KEY",
        "KMS_RATE_PER_ACCOUNT",
        "KMS_RATE_PER_PROVIDER",
        "RATE_PER_CALLER",
        "RATE_PER_ORGANIZATION",
    )
}
"""Rates too high to matter: the cases measure the server, not how it spares a customer's KMS."""


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """Returns a server's environment, without any settings of this process.

    Args:
        folder: The folder of the server's store and root keys. The function makes the root keys if
            they are missing.
        **settings: Settings in lower case, without their prefix. They replace the common ones.
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


def command() -> list[str]:
    """Returns the command line of a server."""
    return [str(Path(sys.executable).with_name("keyfold-server"))]


@contextmanager
def one(folder: Path, with_kms: dict[str, str] | None = None, **settings: str) -> Iterator[Server]:
    """Runs one server on SQLite.

    Args:
        folder: The folder of its files.
        with_kms: The result of `kms.Kms.installed` for a server that calls that KMS.
        **settings: See `environment`.
    """
    with running(
        "keyfold-server", command(), environment(folder, **settings) | (with_kms or {})
    ) as server:
        yield server


@contextmanager
def replicas(folder: Path, count: int, **settings: str) -> Iterator[list[Server]]:
    """Runs replicas on one PostgreSQL, each in a process of its own.

    Args:
        folder: The folder of their files.
        count: The number of replicas.
        **settings: See `environment`.

    Raises:
        SkippedError: This machine does not have PostgreSQL, and cannot install it.
    """
    with on_postgres(folder, **settings) as shared, ExitStack() as stack:
        yield [
            stack.enter_context(running(f"replica {n}", command(), shared)) for n in range(count)
        ]


@contextmanager
def on_postgres(folder: Path, **settings: str) -> Iterator[dict[str, str]]:
    """Runs a PostgreSQL with a new store, and gives the environment of the store's replicas.

    Args:
        folder: The folder of the replicas' files.
        **settings: See `environment`.

    Raises:
        SkippedError: This machine does not have PostgreSQL, and cannot install it.
    """
    with database() as server:
        name = server.create()
        migrate_store(server.url(name), password_file=server.password_file)
        store = {
            "store": server.url(name),
            "store_password_file": str(server.password_file),
            "service_key": str(postgres.a_service_key(folder)),
            "metrics": "off",
        }
        yield environment(folder, **(store | settings))


@contextmanager
def database(**settings: str) -> Iterator[postgres.Server]:
    """Runs a PostgreSQL with durable writes.

    Args:
        **settings: Further settings of PostgreSQL.

    Raises:
        SkippedError: This machine does not have PostgreSQL, and cannot install it.
    """
    try:
        server = postgres.Server(_POSTGRES, durable=True, **settings)
    except pytest.skip.Exception as without:
        raise SkippedError(str(without)) from None
    with contextlib.closing(_Ending(server)):
        server.start()
        yield server


class _Ending:
    """Ends a PostgreSQL server, and removes its folder."""

    def __init__(self, database: postgres.Server) -> None:
        self._database = database

    def close(self) -> None:
        self._database.destroy()
