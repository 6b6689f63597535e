"""Traces: bytes of erased rows that are still in the database's files (protocol D4).

A database keeps the bytes of a deleted row until it needs the room, and its log of changes has them
for a while. What stays after this is in docs/operations.md.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

_LOOKS: Final = 1_000
"""Steps of SQLite's machine between two looks at the clock."""


def clear_sqlite(driver: sqlite3.Connection, most: float) -> bool:
    """Writes the file anew, with nothing but what is there, and cuts the log of changes off.

    `secure_delete` overwrites a row where it was last. But when SQLite moved the row to another
    page before, it may have left a copy behind, and the log of changes has every page that was ever
    written since its beginning. What is there for SQLite to find does not tell whether it did.

    Args:
        driver: The connection.
        most: Seconds after which it gives up.
    """
    ends = time.monotonic() + most
    driver.set_progress_handler(lambda: int(time.monotonic() > ends), _LOOKS)
    try:
        driver.execute("VACUUM").close()
        rewritten = True
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        rewritten = False
    finally:
        driver.set_progress_handler(None, 0)
    busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return rewritten and not busy


def clear_nothing(_driver: object, _most: float) -> bool:
    """Does nothing, for a server that clears up by itself in its own time."""
    return True
