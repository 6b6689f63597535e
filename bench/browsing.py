"""`console`: what keyfold-console takes of a machine while visitors read its pages.

A real server on SQLite with clusters in it, a real console, and visitors who open one page after
another. The figures set what the Helm chart asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from bench import servers, stock
from bench.goals import Figure, Plan, percentile
from bench.processes import cpu_seconds, memory_of
from postgres import free_port

_CLUSTERS: Final = 1_000
_CLUSTERS_QUICK: Final = 300
_PAGES: Final = 80
_PAGES_QUICK: Final = 30
_VISITORS: Final = 4
_PATHS: Final = ("/", "/clusters", f"/clusters/{stock.cluster(0)}", "/events")
_READY: Final = 30.0
"""Seconds in which the console must answer."""


def measure(plan: Plan) -> list[Figure]:
    """Measures `console`."""
    stock.stocked(plan.folder, _CLUSTERS_QUICK if plan.quick else _CLUSTERS)
    pages = _PAGES_QUICK if plan.quick else _PAGES
    with servers.one(plan.folder) as server:
        return asyncio.run(_measured(server.address, pages))


async def _measured(target: str, pages: int) -> list[Figure]:
    async with _console(target) as (pid, url), aiohttp.ClientSession(url) as browser:
        # Pages once each: what the process loads only then does not count as a page's cost.
        for path in _PATHS:
            await _open(browser, path)
        idle = memory_of(pid)
        took: list[float] = []
        waiting = iter(range(pages))

        async def visit() -> None:
            for number in waiting:
                began = time.perf_counter()
                await _open(browser, _PATHS[number % len(_PATHS)])
                took.append((time.perf_counter() - began) * 1e3)

        began, cpu = time.perf_counter(), cpu_seconds(pid)
        await asyncio.gather(*(visit() for _ in range(_VISITORS)))
        seconds, used = time.perf_counter() - began, cpu_seconds(pid) - cpu
        busy = memory_of(pid)
    return [
        Figure("console", f"pages per second, {_VISITORS} visitors", pages / seconds, "", pages),
        Figure("console", "CPU of the console, per page", used / pages * 1e3, "ms", pages),
        Figure("console", "a page, p99", percentile(took, 0.99), "ms", pages),
        Figure("console", "memory before the visitors", idle.now, "MiB", 1),
        Figure("console", "memory at its peak", busy.peak, "MiB", 1),
    ]


async def _open(browser: aiohttp.ClientSession, path: str) -> None:
    async with browser.get(path) as answer:
        answer.raise_for_status()
        await answer.read()


@asynccontextmanager
async def _console(target: str) -> AsyncIterator[tuple[int, str]]:
    """Runs a console in front of a server; gives its process id and its address."""
    url = f"http://127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("keyfold-console"),
        *("run", "--target", target, "--listen", url.removeprefix("http://")),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        ends = time.monotonic() + _READY
        async with aiohttp.ClientSession(url) as browser:
            while time.monotonic() < ends:
                with contextlib.suppress(aiohttp.ClientError):
                    await _open(browser, "/readyz")
                    break
                await asyncio.sleep(0.1)
        yield process.pid, url
    finally:
        process.terminate()
        await process.wait()
