"""`backlog`: what a replica pays that polls 300,000 entries of the log which it has not read.

A process of its own polls, page by page, until it has read every entry. It verifies each of them,
and keeps none. It calls the store as a replica's poll does, and drops nothing from a cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

# As `run.py` does, because the process that polls runs this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import postgres
from bench import servers
from bench.goals import Figure, Plan, SkippedError
from bench.processes import memory
from builders import an_event, enabled
from keyfold_server.domain.log import Attempt
from keyfold_server.domain.ports import POLL_PAGE, Heartbeat
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import migrate_store, open_store
from keyfold_server.store.sql.store import SqlStore

ENTRIES: Final = 300_000
_QUICK: Final = 10_000
_GROUP: Final = 2_000
"""Entries that one transaction writes."""

_STALENESS: Final = 120.0
_LATER: Final = 3_600.0
"""Most seconds that the process that polls may take."""


def measure(plan: Plan) -> list[Figure]:
    """Measures `backlog`, on PostgreSQL too if this machine has it."""
    count = _QUICK if plan.quick else ENTRIES
    figures = []
    url = f"sqlite:///{plan.folder / 'keyfold.db'}"
    figures += _measured("SQLite", count, url, plan.folder / "service.key", None)
    try:
        with _postgresql(plan.folder) as (url, key, password):
            figures += _measured("PostgreSQL", count, url, key, password)
    except SkippedError as skipped:
        print(f"backlog: PostgreSQL is left out: {skipped}", flush=True)
    return figures


@contextmanager
def _postgresql(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    with servers.database() as database:
        name = database.create()
        url, password = database.url(name), database.password_file
        migrate_store(url, password_file=password)
        own = folder / "postgresql"
        own.mkdir()
        yield url, postgres.a_service_key(own), password


def _measured(kind: str, count: int, url: str, key: Path, password: Path | None) -> list[Figure]:
    store = _opened(url, str(key), str(password) if password else None)
    try:
        _fill(store, count)
    finally:
        store.close()
    program = [sys.executable, __file__, url, str(key), *([str(password)] if password else [])]
    done = subprocess.run(program, check=True, capture_output=True, text=True, timeout=_LATER)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["entries"] != count:
        raise AssertionError(f"the process read {found['entries']} of {count} entries")
    of = f"{count:,} entries on {kind}"
    return [
        Figure("backlog", f"{of}: time", found["seconds"], "s", 1),
        Figure("backlog", f"{of}: CPU of the process that polls", found["cpu"], "s", 1),
        Figure("backlog", f"{of}: polls", found["polls"], "", 1, -(-(count + 1) // POLL_PAGE)),
        Figure("backlog", f"{of}: memory at the start", found["before"], "MiB", 1),
        Figure("backlog", f"{of}: memory at its peak", found["peak"], "MiB", 1),
    ]


def _fill(store: SqlStore, count: int) -> None:
    """Makes a cluster, and then attempts until the log has so many entries."""
    enabled(store)
    left = count - 1
    while left:
        some = min(left, _GROUP)
        store.attempted([Attempt("acme", an_event())] * some)
        left -= some


def _opened(url: str, key: str, password: str | None) -> SqlStore:
    path = Path(password) if password else None
    return open_store(url, key, clock=SystemClock(), password_file=path)


def _memory() -> Any:
    return memory(Path("/proc/self/status").read_text(encoding="utf-8"))


def _poll(url: str, key: str, password: str | None = None) -> dict[str, float]:
    """Polls a store from its first entry to its newest."""
    store = _opened(url, key, password)
    try:
        beat = Heartbeat("late", 0, b"", _STALENESS, int(time.time() * 1000))
        entries = polls = 0
        before, began, cpu = _memory().now, time.perf_counter(), time.process_time()
        while True:
            noted = store.poll(beat)
            polls += 1
            entries += len(noted)
            if len(noted) < POLL_PAGE:
                break
            beat = replace(beat, number=noted[-1].number, entry_id=noted[-1].entry_id)
        return {
            "entries": entries,
            "polls": polls,
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "before": before,
            "peak": _memory().peak,
        }
    finally:
        store.close()


if __name__ == "__main__":
    print(json.dumps(_poll(*sys.argv[1:])))
