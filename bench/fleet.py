"""`fleet`: what the polls of up to 200 replicas cost one PostgreSQL, and how late the last one is.

The replicas are those of `fleet_members`, in a few processes beside PostgreSQL on the same machine.
The case looks at them at rest, while somebody revokes now and then, and while ten changes are made
each second, each by a Revoke of its own. CPU is counted for PostgreSQL and for the replicas apart,
so it tells what a database of its own would have to give.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import postgres
from bench import servers
from bench.goals import Figure, Plan, percentile
from bench.processes import ServerError, cpu_seconds
from builders import a_cluster, a_request, an_event, enabling
from keyfold_server.domain.changes import Change, revoked
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import migrate_store, open_store
from keyfold_server.store.sql.store import SqlStore

LATE: Final = 1_000.0
"""Most milliseconds from a Revoke until the last replica has applied it, at the p99."""

_SIZES: Final = (20, 60, 200)
_SIZES_QUICK: Final = (3,)
_AT_MOST: Final = 50
"""Replicas in one process."""

_PER_SECOND: Final = 10
"""Changes a second while there are many."""

_SECONDS: Final = 10.0
_SECONDS_QUICK: Final = 1.0
_LONE: Final = 10
"""Revokes made one by one, with a second between two of them."""

_SETTLE: Final = 3.0
"""Seconds that all replicas get to apply the last change. A replica polls each second anyway."""

_END_WITHIN: Final = 10.0
_CONNECTIONS: Final = 1_000

_SESSIONS: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


class _Spent(NamedTuple):
    """Polls so far, and CPU seconds of the replicas and of PostgreSQL."""

    polls: int
    replicas: float
    database: float


@dataclass(frozen=True)
class _Members:
    """A process of replicas."""

    process: subprocess.Popen[str]
    said: IO[str]
    asked: IO[str]

    def ask(self, question: str) -> Any:
        """Asks the process a question, and returns its answer."""
        print(question, file=self.asked, flush=True)
        return json.loads(self.said.readline())


@dataclass(frozen=True)
class _Place:
    """One PostgreSQL with a store, and the processes of its replicas so far."""

    database: postgres.Server
    arguments: Sequence[str]
    members: list[_Members]

    def spent(self) -> _Spent:
        """Returns what polls have cost so far."""
        each = [members.ask("polls") for members in self.members]
        return _Spent(
            sum(one["polls"] for one in each),
            sum(one["cpu"] for one in each),
            sum(_cpu(pid) for pid in _processes(self.database)),
        )

    def applied(self) -> dict[int, float]:
        """Returns when the last replica had applied each entry since the last question."""
        latest: dict[int, float] = {}
        found = [members.ask("applied") for members in self.members]
        for number in set.intersection(*(set(each) for each in found)):
            latest[int(number)] = max(each[number] for each in found)
        return latest


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    figures: list[Figure] = []
    with servers.database(max_connections=str(_CONNECTIONS)) as database, ExitStack() as stack:
        name = database.create()
        url, password = database.url(name), database.password_file
        migrate_store(url, password_file=password)
        key = postgres.a_service_key(plan.folder)
        opened = open_store(url, key, clock=SystemClock(), password_file=password)
        store = stack.enter_context(closing(opened))
        place = _Place(database, (url, str(key), str(password)), [])
        running = 0
        for size in _SIZES_QUICK if plan.quick else _SIZES:
            while running < size:
                count = min(size - running, _AT_MOST)
                place.members.append(stack.enter_context(_members(place.arguments, count)))
                running += count
            figures += _measured(size, place, store, _SECONDS_QUICK if plan.quick else _SECONDS)
    return figures


def _measured(size: int, place: _Place, store: SqlStore, seconds: float) -> list[Figure]:
    """Measures one number of replicas."""
    lone, many = min(_LONE, int(seconds)), int(seconds * _PER_SECOND)
    names = [f"c-{size}-{number}" for number in range(lone + many)]
    store.apply([enabling(a_cluster(name)) for name in names])
    time.sleep(_SETTLE)
    place.applied()
    before = place.spent()
    time.sleep(seconds)
    rest = _costs(f"{size} replicas at rest", before, place.spent(), seconds)
    figures = [
        *rest,
        *_changing(f"{size} replicas, a Revoke a second", place, store, names[:lone], 1),
        *_changing(
            f"{size} replicas, {_PER_SECOND} changes a second",
            place,
            store,
            names[lone:],
            _PER_SECOND,
        ),
    ]
    [(sessions,)] = place.database.run(_SESSIONS)
    own = sum(map(_memory, _processes(place.database)))
    return [
        *figures,
        Figure("fleet", f"{size} replicas: connections to PostgreSQL", sessions, "", 1),
        Figure("fleet", f"{size} replicas: memory of PostgreSQL", own, "MiB", 1),
    ]


def _changing(
    of: str, place: _Place, store: SqlStore, names: Sequence[str], rate: int
) -> list[Figure]:
    """Measures the polls while clusters are revoked, so many a second if the store can."""
    before, began = place.spent(), time.monotonic()
    made, took = _revoked(store, names, 1.0 / rate)
    passed = time.monotonic() - began
    return [
        *_costs(of, before, place.spent(), passed),
        Figure("fleet", f"{of}: made", len(made) / passed, "/s", len(made)),
        *_late(of, place, made, took),
    ]


def _costs(of: str, before: _Spent, after: _Spent, seconds: float) -> list[Figure]:
    polls = after.polls - before.polls
    database, replicas = after.database - before.database, after.replicas - before.replicas
    # While changes are made, their own CPU is in PostgreSQL's.
    return [
        Figure("fleet", f"{of}: polls a second", polls / seconds, "/s", polls),
        Figure("fleet", f"{of}: PostgreSQL's CPU", database / seconds * 100, "% of a core", 1),
        Figure("fleet", f"{of}: PostgreSQL's CPU for a poll", database / polls * 1e6, "µs", polls),
        Figure("fleet", f"{of}: a replica's CPU for a poll", replicas / polls * 1e6, "µs", polls),
    ]


def _revoked(
    store: SqlStore, names: Sequence[str], spacing: float
) -> tuple[dict[int, float], list[float]]:
    """Revokes clusters one by one.

    Returns:
        When each Revoke began, by the number of its entry; and the seconds to each commit.
    """
    began: dict[int, float] = {}
    took: list[float] = []
    due = time.monotonic()
    for name in names:
        time.sleep(max(0.0, due - time.monotonic()))
        due += spacing
        at = time.monotonic()
        decide = revoked(name, (), int(time.time() * 1000))
        change = Change(name, decide, an_event("rpc:cluster:revoke"), a_request(name, "revoke"))
        [result] = store.apply([change])
        took.append(time.monotonic() - at)
        if isinstance(result, Exception):
            raise result
        began[result.number] = at
    return began, took


def _late(of: str, place: _Place, began: dict[int, float], took: list[float]) -> list[Figure]:
    time.sleep(_SETTLE)
    applied = place.applied()
    if missing := began.keys() - applied.keys():
        raise ServerError(f"some replica has not applied {len(missing)} of {len(began)} changes")
    late = [applied[number] - at for number, at in began.items()]
    return [
        _delay(f"{of}: Revoke to its commit, p50", took, 0.50),
        _delay(f"{of}: Revoke to its commit, p99", took, 0.99),
        _delay(f"{of}: Revoke to the last replica, p50", late, 0.50),
        _delay(f"{of}: Revoke to the last replica, p99", late, 0.99, LATE),
    ]


def _delay(what: str, seconds: list[float], part: float, goal: float | None = None) -> Figure:
    return Figure("fleet", what, percentile(seconds, part) * 1e3, "ms", len(seconds), goal)


@contextmanager
def _members(arguments: Sequence[str], count: int) -> Iterator[_Members]:
    """Runs a process of replicas."""
    program = [sys.executable, str(Path(__file__).with_name("fleet_members.py"))]
    with subprocess.Popen(
        [*program, *arguments, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101  Popen makes both pipes
        assert process.stdin is not None  # noqa: S101
        try:
            if process.stdout.readline().strip() != "ready":
                raise ServerError(f"{count} replicas did not become ready")
            yield _Members(process, process.stdout, process.stdin)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_WITHIN)
            process.kill()


def _processes(database: postgres.Server) -> list[int]:
    """Returns the ids of PostgreSQL's own process and of all its children."""
    found = [database.pid]
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # The process's parent is the second word behind its name.
                text = (folder / "stat").read_text(encoding="utf-8")
                if int(text.rpartition(")")[2].split()[1]) == database.pid:
                    found.append(int(folder.name))
    return found


def _cpu(pid: int) -> float:
    """Returns the CPU seconds of a process of PostgreSQL, and of its children that have ended."""
    with contextlib.suppress(OSError, ServerError):
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return cpu_seconds(pid) + (int(words[13]) + int(words[14])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _memory(pid: int) -> float:
    """Returns a process's memory in MiB, with its share of what it shares with others."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0
