"""A process of replicas that only follow a store, for `fleet`.

Each replica is what a server has of one: a store with its own connections, the thread that polls at
its real pace, and the notifications. It has no KEK to drop, and nobody watches it, so the figures
leave out what a server then does in its memory. The process answers lines on stdin: `polls` with
the polls so far and its CPU seconds, `applied` with the time at which the last of its replicas had
applied each entry of the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

# As `run.py` does, because this file is a program of its own.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from keyfold_server.domain.log import Entry
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.timing import Timing
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.fleet.changes import Audience, Changes, replica_name
from keyfold_server.service.fleet.staleness import Moment
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.storage import Storage
from keyfold_server.service.supervisor import Supervisor
from keyfold_server.service.tasks import Tasks
from keyfold_server.store.opening import open_store

_APPLIED: dict[int, float] = {}
"""Monotonic seconds at which the last replica had applied each entry. The event loop writes it."""


class _Nothing:
    """Stands in for memory and audience: takes every call, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class _Replica(Changes):
    """A replica that counts its polls, and notes when it has applied what.

    Attributes:
        polls: The polls so far. The thread that polls writes it.
    """

    polls = 0

    def beat(self) -> Heartbeat:
        self.polls += 1
        return super().beat()

    def apply(
        self,
        noted: Sequence[Entry],
        ours: Mapping[int, bytes],
        began: Moment,
        applied: threading.Event,
        *,
        complete: bool,
    ) -> None:
        super().apply(noted, ours, began, applied, complete=complete)
        now = time.monotonic()
        for entry in noted:
            _APPLIED[entry.number] = now


def _replica(url: str, key: str, password: str, supervisor: Supervisor) -> _Replica:
    clock = SystemClock()
    store = open_store(url, key, clock=clock, password_file=Path(password))
    timing = Timing()
    return _Replica(
        Heartbeat(replica_name(), 0, b"", timing.store_max_staleness, 0),
        Storage(store),
        cast("Loads", _Nothing()),
        clock,
        timing,
        Tasks(),
        supervisor.watch("poll"),
        cast("Audience", _Nothing()),
    )


async def _main(url: str, key: str, password: str, count: int) -> None:
    # Each would warn that this PostgreSQL has no standby.
    logging.getLogger("keyfold_server.store").setLevel(logging.ERROR)
    supervisor = Supervisor(SystemClock())
    replicas = [_replica(url, key, password, supervisor) for _ in range(count)]
    for replica in replicas:
        await replica.start()
    print("ready", flush=True)
    while question := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if question == "polls":
            polls = sum(replica.polls for replica in replicas)
            print(json.dumps({"polls": polls, "cpu": time.process_time()}), flush=True)
        else:
            print(json.dumps(_APPLIED), flush=True)
            _APPLIED.clear()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
    # The threads that poll would go on; what they hold ends with the process.
    os._exit(0)
