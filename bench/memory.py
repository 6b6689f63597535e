"""`memory`: whether KEYFOLD_CACHE_CLUSTERS bounds a server's memory, however many clusters it uses.

The store is that of `scale`. The case reads a server's memory when the server has used as many
clusters as it may keep, and again when it has used many more.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from bench import calls, servers, stock
from bench.goals import Figure, Plan
from bench.scale import CLUSTERS, CLUSTERS_QUICK

GOAL: Final = 1.15
"""Most that memory may grow after the cache is full, as a factor."""

_USED: Final = {2_000: 8_000, 20_000: 25_000}
"""Number of clusters that the case uses, each once, by KEYFOLD_CACHE_CLUSTERS."""

_USED_QUICK: Final = {200: 600, 1_000: 2_000}
_AT_ONCE: Final = 32


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    count = CLUSTERS_QUICK if plan.quick else CLUSTERS
    figures = []
    for limit, used in (_USED_QUICK if plan.quick else _USED).items():
        touched = count if plan.whole else used
        folder = plan.folder / str(limit)
        stock.stocked(folder, count)
        empty, full, after = asyncio.run(_memory(folder, limit, touched))
        what = f"KEYFOLD_CACHE_CLUSTERS={limit:,}"
        figures += [
            Figure("memory", f"{what}: at the start", empty, "MiB", 1),
            Figure("memory", f"{what}: {limit:,} clusters used", full, "MiB", 1),
            Figure("memory", f"{what}: {touched:,} clusters used", after, "MiB", 1),
            Figure("memory", f"{what}: ratio of the last two", after / full, "x", 1, GOAL),
        ]
    return figures


async def _memory(folder: Path, limit: int, touched: int) -> tuple[float, float, float]:
    """Returns MiB at the start, with the cache just full, and after one use of every cluster."""
    with servers.one(folder, cache_clusters=str(limit)) as server:
        async with calls.client(server.address, 2) as client:
            empty = server.memory().now
            await _use(client, range(limit))
            full = server.memory().now
            await _use(client, range(limit, touched))
            return empty, full, server.memory().now


async def _use(client: calls.Client, numbers: range) -> None:
    left = iter(numbers)

    async def work() -> None:
        for number in left:
            await client.wrap(stock.cluster(number))

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
