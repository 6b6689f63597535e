"""`keyusage`: what it costs to ask who needs a root key, among 100,000 cluster-regions.

One store has 500 root keys, and another one root key that half as many cluster-regions use.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Final

from bench import calls, servers, stock
from bench.cases import WrongAnswerError
from bench.goals import Figure, Plan, percentile
from bench.scale import CLUSTERS, CLUSTERS_QUICK

GOAL: Final = 50.0
"""Most milliseconds of an answer about one key, at the p50."""

_ASKED: Final = 500
_ASKED_QUICK: Final = 50
_PAGE: Final = 1_000


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    count = CLUSTERS_QUICK if plan.quick else CLUSTERS
    many, one = plan.folder / "many", plan.folder / "one"
    stock.stocked(many, count)
    seconds = asyncio.run(_each(many, _ASKED_QUICK if plan.quick else _ASKED))
    of = f"one of {stock.ROOT_KEYS} keys, {count:,} cluster-regions"
    figures = [
        _figure(f"{of}: first page, p50", percentile(seconds, 0.50) * 1e3, len(seconds), GOAL),
        _figure(f"{of}: first page, p99", percentile(seconds, 0.99) * 1e3, len(seconds)),
    ]
    stock.stocked(one, count // 2, root_keys=1)
    pages, grown = asyncio.run(_all(one, count // 2))
    of = f"a key that {count // 2:,} cluster-regions use"
    return [
        *figures,
        _figure(f"{of}: page of {_PAGE:,}, p50", percentile(pages, 0.50) * 1e3, len(pages)),
        _figure(f"{of}: page of {_PAGE:,}, slowest", max(pages) * 1e3, len(pages)),
        Figure("keyusage", f"{of}: all pages", sum(pages), "s", 1),
        Figure("keyusage", f"{of}: growth of memory over all pages", grown, "MiB", 1),
    ]


def _figure(what: str, value: float, samples: int, goal: float | None = None) -> Figure:
    return Figure("keyusage", what, value, "ms", samples, goal)


async def _each(folder: Path, wanted: int) -> list[float]:
    """Times the question about random keys, one by one."""
    seconds = []
    with servers.one(folder) as server:
        async with calls.client(server.address) as client:
            for number in random.sample(range(stock.ROOT_KEYS), wanted):
                began = time.perf_counter()
                answer = await client.key_usage(f"local:root-{number}")
                seconds.append(time.perf_counter() - began)
                if not answer.uses or answer.safe_to_disable:
                    raise WrongAnswerError("ListKeyUsage lacks uses")
    return seconds


async def _all(folder: Path, count: int) -> tuple[list[float], float]:
    """Times each page of a key that everything uses; returns also the growth of memory, in MiB."""
    seconds: list[float] = []
    found, token = 0, ""
    with servers.one(folder) as server:
        async with calls.client(server.address) as client:
            # Only the first page counts all uses.
            total = (await client.key_usage("local:root-0", _PAGE)).total
            before = server.memory().now
            while True:
                began = time.perf_counter()
                answer = await client.key_usage("local:root-0", _PAGE, token)
                seconds.append(time.perf_counter() - began)
                found += len(answer.uses)
                token = answer.next_page_token
                if not token:
                    break
            if (found, total) != (count, count):
                raise WrongAnswerError(f"ListKeyUsage found {found} uses of {count}")
            return seconds, server.memory().now - before
