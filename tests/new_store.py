"""New embedded stores, copied from a file that has the schema: its tables cost most of a start.

For tests of what is done with a store. A test of how a store begins lets `open_store` make it.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from keyfold_server.store.migrations import migrate
from keyfold_server.store.sqlite import connections as sqlite


def lay(file: Path, service_key: Path) -> None:
    """Lays down an empty file with the schema, and a service key of its own.

    Whoever opens it first makes the store's own row: no two stores of a run are the same.

    Args:
        file: The store's file, which does not exist yet.
        service_key: Its key's file, which does not exist yet.
    """
    assert not file.exists()
    shutil.copy(_migrated(), file)
    service_key.touch(0o600, exist_ok=False)
    service_key.write_bytes(secrets.token_bytes(32))


def _remove(folder: Path, maker: int) -> None:
    # A program that a test forked ends, too, and others still need the folder.
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _migrated() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="keyfold-new-store-"))
    atexit.register(_remove, folder, os.getpid())
    file = folder / "store.db"
    sqlite.make(file)
    with closing(sqlite.connected(file)) as database:
        migrate.upgrade(database)
    return file
