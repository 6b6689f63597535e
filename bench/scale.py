"""`scale`: one server with 100,000 clusters: its start, a status, a cold call, and its memory."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from statistics import median
from typing import Final

from bench import calls, servers, stock
from bench.goals import Figure, Plan, percentile

START_GOAL: Final = 5.0
"""Most seconds of a start."""

STATUS_GOAL: Final = 5.0
"""Most milliseconds of a GetStatus, at the p50."""

CLUSTERS: Final = 100_000
CLUSTERS_QUICK: Final = 2_000
_STARTS: Final = 5
_STATUSES: Final = 2_000
_STATUSES_QUICK: Final = 100
_COLD: Final = 5_000
_COLD_QUICK: Final = 100
_WARMING: Final = 50
"""Clusters that the case uses before it times any."""


def measure(plan: Plan) -> list[Figure]:
    """Measures `scale`."""
    count = CLUSTERS_QUICK if plan.quick else CLUSTERS
    stock.stocked(plan.folder, count)
    starts = []
    for _ in range(_STARTS):
        began = time.perf_counter()
        with servers.one(plan.folder):
            starts.append(time.perf_counter() - began)
    wanted = _STATUSES_QUICK if plan.quick else _STATUSES
    first, again = asyncio.run(_statuses(plan.folder, count, wanted))
    seconds, grown = asyncio.run(_cold(plan.folder, count, _COLD_QUICK if plan.quick else _COLD))
    of = f"{count:,} cluster-regions"
    return [
        Figure("scale", f"{of}: start to ready, median", median(starts), "s", len(starts)),
        Figure("scale", f"{of}: start to ready, slowest", max(starts), "s", _STARTS, START_GOAL),
        _status(f"{of}: first GetStatus, p50", first, 0.50, STATUS_GOAL),
        _status(f"{of}: first GetStatus, p99", first, 0.99, None),
        _status(f"{of}: second GetStatus, p50", again, 0.50, STATUS_GOAL),
        _status(f"{of}: second GetStatus, p99", again, 0.99, None),
        _status(f"{of}: Wrap of a cold cluster, p50", seconds, 0.50, None),
        _status(f"{of}: Wrap of a cold cluster, p99", seconds, 0.99, None),
        Figure("scale", f"{of}: memory of a cluster in use", grown, "KiB", len(seconds)),
    ]


def _status(what: str, seconds: list[float], part: float, goal: float | None) -> Figure:
    value = percentile(seconds, part) * 1e3
    return Figure("scale", what, value, "ms", len(seconds), goal)


async def _statuses(folder: Path, count: int, wanted: int) -> tuple[list[float], list[float]]:
    """Times GetStatus of random clusters one by one, and then of the same ones again."""
    names = [stock.cluster(n) for n in random.sample(range(count), wanted)]
    with servers.one(folder) as server:
        async with calls.client(server.address) as client:
            rounds: list[list[float]] = []
            for _ in range(2):
                seconds = []
                for name in names:
                    began = time.perf_counter()
                    await client.status(name)
                    seconds.append(time.perf_counter() - began)
                rounds.append(seconds)
    return rounds[0], rounds[1]


async def _cold(folder: Path, count: int, wanted: int) -> tuple[list[float], float]:
    """Times the first Wrap of random clusters one by one.

    Returns:
        The seconds of each, and the KiB by which the server's memory grew for each.
    """
    seconds = []
    with servers.one(folder) as server:
        async with calls.client(server.address) as client:
            # What the first calls bring into memory is not a cluster's.
            for name in (stock.cluster(n) for n in range(_WARMING)):
                await client.wrap(name)
            before = server.memory().now
            for name in (stock.cluster(n) for n in random.sample(range(_WARMING, count), wanted)):
                began = time.perf_counter()
                await client.wrap(name)
                seconds.append(time.perf_counter() - began)
            return seconds, (server.memory().now - before) * 1024 / wanted
