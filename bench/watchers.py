"""`watchers`: how soon a change reaches each of a thousand streams of a replica, and what it costs.

Two replicas share a PostgreSQL. Clusters are revoked through one of them. The streams are at the
other, each on a connection of its own, as the caches of a thousand programs have them. That replica
hears of changes by NOTIFY, or only by its poll, as behind a pooler that passes no notifications on.
Each round revokes the same clusters by the same schedule: first without streams and then with all
of them, so that the replica's calls of the store can be compared.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import calls, metrics, servers
from bench.cases import ROOT_KEY, WrongAnswerError
from bench.goals import Figure, Plan, percentile
from bench.processes import Server, cpu_seconds, running
from keyfold_server.domain.timing import Timing


class _Way(NamedTuple):
    """The way in which the watched replica hears of changes.

    Attributes:
        name: Its name in the table.
        goal: Most milliseconds from Revoke to its arrival at each stream.
        changes: Number of Revokes in a round, each of another cluster.
        pause: Seconds between two of them.
    """

    name: str
    goal: float
    changes: int
    pause: float


_NOTIFY: Final = _Way("NOTIFY", 1_000.0, 60, 0.4)
_ALONE: Final = _Way("poll alone", 1_500.0 * Timing().store_poll, 30, 1.2)

_CASES: Final = (("grpc", _NOTIFY), ("grpc", _ALONE), ("asgi", _NOTIFY))
"""The transports and ways. What a transport does differently does not depend on the way."""

_STREAMS: Final = 1_000
_REST: Final = 10.0
"""Seconds in which nothing changes while the streams are open. Heartbeats come every 5 seconds."""

_ARRIVE: Final = 5.0
"""Seconds after the last Revoke of a round in which its state has to arrive."""

_QUICK: Final = (_CASES[:2], 100, 4, 1.0, 2.0)
"""The same at the small size: cases, streams, Revokes, and both times."""

_OPEN_WITHIN: Final = 180.0
_POLLS: Final = 1.05
"""Most polls with streams, as a factor of those without. A poll after one that reads a change comes
sooner, and how many changes one poll reads is chance."""

_JITTER: Final = 0.9
"""Part of the pause by which each Revoke may be later, so that no poll keeps step with them."""


class _Round(NamedTuple):
    """A round of Revokes.

    Attributes:
        began: When Revoke of each cluster was called, in monotonic seconds.
        store: The watched replica's calls of the store during the round, by operation.
        cpu: The watched replica's CPU seconds during the round.
    """

    began: Mapping[str, float]
    store: Mapping[str, int]
    cpu: float


def measure(plan: Plan) -> list[Figure]:
    """Measures the case, or raises SkippedError if PostgreSQL cannot be started."""
    full = (_CASES, _STREAMS, _NOTIFY.changes, _REST, _ARRIVE)
    cases, streams, most, rest, arrive = _QUICK if plan.quick else full
    found: list[Figure] = []
    names = [f"tenant-{number:02}" for number in range(most)]
    with (
        servers.on_postgres(plan.folder) as shared,
        running("the changing replica", servers.command(), shared) as changing,
    ):
        asyncio.run(_enabled(changing.address, names))
        for transport, way in cases:
            shown = f"127.0.0.1:{metrics.free_port()}"
            own = {"KEYFOLD_TRANSPORT": transport, "KEYFOLD_METRICS": shown}
            if way is _ALONE:
                own["KEYFOLD_STORE_LISTEN"] = _nobody(shared["KEYFOLD_STORE"])
            with running("the watched replica", servers.command(), shared | own) as watched:
                pair = _Pair(changing, watched, shown, way, arrive)
                measured = asyncio.run(pair.measured(streams, names, rest))
            found += [
                replace(each, what=f"{transport}, {way.name}: {each.what}") for each in measured
            ]
    return found


def _nobody(url: str) -> str:
    """Returns the url of a PostgreSQL with a port at which nobody listens."""
    return re.sub(r":\d+/", f":{metrics.free_port()}/", url, count=1)


class _Pair:
    """Two replicas of one store: changes go through one, and streams watch the other."""

    def __init__(
        self, changing: Server, watched: Server, shown: str, way: _Way, arrive: float
    ) -> None:
        """Joins the replicas.

        Args:
            changing: The replica that changes go through.
            watched: The other one.
            shown: The address of its metrics.
            way: The way in which the watched replica hears of changes.
            arrive: Seconds in which the last state has to arrive.
        """
        self._changing = changing
        self._watched = watched
        self._shown = shown
        self._way = way
        self._arrive = arrive

    async def measured(self, streams: int, names: list[str], rest: float) -> list[Figure]:
        """Makes both rounds, which revoke some of the clusters; returns their figures."""
        revoked = names[: self._way.changes]
        async with calls.client(self._changing.address) as client:
            await _restored(client, names)
            alone = await self._round(client, revoked)
            await _restored(client, names)
            began, cpu = time.monotonic(), self._watched.cpu()
            async with _Readers.open(self._watched.address, streams) as readers:
                opened, opening = time.monotonic() - began, self._watched.cpu() - cpu
                cpu = self._watched.cpu()
                await asyncio.sleep(rest)
                resting = (self._watched.cpu() - cpu) / rest
                read = readers.cpu()
                watched = await self._round(client, revoked)
                read = readers.cpu() - read
                arrived = await readers.close()
        delays = _delays(watched, arrived, streams)
        changes = len(revoked)
        count, goal = changes * streams, self._way.goal
        spread = [(max(times) - min(times)) * 1e3 for times in map(arrived.get, revoked) if times]
        polls, without = watched.store["poll"], alone.store["poll"]
        spent = (watched.cpu - alone.cpu) / count * 1e6
        return [
            _figure(
                f"Revoke to each of {streams:,} streams, p50", percentile(delays, 0.5), "ms", count
            ),
            _figure("Revoke to each stream, p99", percentile(delays, 0.99), "ms", count, goal),
            _figure("Revoke to each stream, latest", max(delays), "ms", count, goal),
            _figure("first stream to last, p50", percentile(spread, 0.5), "ms", changes),
            _figure("first stream to last, latest", max(spread), "ms", changes),
            _figure(f"polls during {changes} Revokes, without streams", without, "", 1),
            _figure("polls with the streams", polls, "", 1, round(without * _POLLS)),
            _figure("reads of what was revoked", watched.store["named"], "", 1, changes),
            _figure("CPU of the server, per state told", spent, "us", count),
            _figure("CPU of the readers, per state told", read / count * 1e6, "us", count),
            _figure("CPU of the server at rest, of a core", resting * 100, "%", 1),
            _figure(f"all streams open, each with {len(names)} states", opened, "s", 1),
            _figure("CPU of the server for that", opening, "s", 1),
        ]

    async def _round(self, client: calls.Client, names: list[str]) -> _Round:
        """Revokes clusters by a schedule, which is the same in each round."""
        dice = random.Random(17)  # noqa: S311  no secret depends on it
        store, cpu, started = self._store(), self._watched.cpu(), time.monotonic()
        revoking = []
        for number, name in enumerate(names):
            due = started + self._way.pause * (number + dice.uniform(0.0, _JITTER))
            await asyncio.sleep(due - time.monotonic())
            revoking.append(asyncio.create_task(_revoked(client, name)))
        began = dict(await asyncio.gather(*revoking))
        ends = started + self._way.pause * len(names) + self._arrive
        await asyncio.sleep(ends - time.monotonic())
        after = self._store()
        spent = {what: after[what] - store.get(what, 0) for what in after}
        return _Round(began, spent, self._watched.cpu() - cpu)

    def _store(self) -> dict[str, int]:
        return metrics.store_calls(self._shown)


def _figure(what: str, value: float, unit: str, samples: int, goal: float | None = None) -> Figure:
    return Figure("watchers", what, value, unit, samples, goal)


async def _enabled(address: str, names: list[str]) -> None:
    async with calls.client(address) as client:
        for name in names:
            await client.enable(name, calls.key_spec(f"local:{ROOT_KEY}"))


async def _restored(client: calls.Client, names: list[str]) -> None:
    for name in names:
        await client.restore(name)


async def _revoked(client: calls.Client, name: str) -> tuple[str, float]:
    """Revokes a cluster; returns its name, and when the call began."""
    began = time.monotonic()
    await client.revoke(name)
    return name, began


def _delays(made: _Round, arrived: Mapping[str, list[float]], streams: int) -> list[float]:
    """Returns the milliseconds from each Revoke to each stream."""
    delays = []
    for cluster, began in made.began.items():
        # The snapshot told of the epoch before.
        times = arrived[cluster]
        if len(times) != streams:
            raise WrongAnswerError(f"{cluster} came to {len(times)} of {streams} streams")
        delays += [(at - began) * 1e3 for at in times]
    return delays


class _Readers:
    """The readers of all streams, in a process of their own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Takes the process of `streams.py`."""
        self._process = process

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str, streams: int) -> AsyncIterator[_Readers]:
        """Opens streams, each on a connection of its own, and ends the readers with the block."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, Path(__file__).with_name("streams.py"), address, str(streams), "1"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )
        try:
            assert process.stdout is not None  # noqa: S101  it is a pipe
            async with asyncio.timeout(_OPEN_WITHIN):
                if await process.stdout.readline() != b"open\n":
                    raise WrongAnswerError("a stream ended before it had a snapshot")
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    def cpu(self) -> float:
        """Returns the CPU seconds of the readers so far."""
        return cpu_seconds(self._process.pid)

    async def close(self) -> dict[str, list[float]]:
        """Ends the readers; returns when each stream told of each cluster's last epoch."""
        output, _ = await self._process.communicate(b"")
        read: dict[str, Any] = json.loads(output)
        return {cluster: times for cluster, _, times in sorted(read["first"])}
