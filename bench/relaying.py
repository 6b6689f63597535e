"""`relay`: what keyfold-relay carries in a second, and how soon an event arrives.

A real server on SQLite, a real relay and a receiver of webhooks in this process share the machine.
First the relay works off a backlog, which the store got while neither ran. Then clusters are made
at a steady rate, and each event's own time is compared with the time when its batch arrived.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from aiohttp import web

from bench import calls, servers, stock
from bench.goals import Figure, Plan, percentile
from bench.processes import cpu_seconds, memory_of
from keyfold_server.providers.local.key_file import KeyFile

RATE_GOAL: Final = 5_000.0
"""Least events per second."""

ARRIVAL_GOAL: Final = 2_000.0
"""Most milliseconds from an event until it has arrived, at the p99."""

_BACKLOG: Final = 50_000
_BACKLOG_QUICK: Final = 2_000
_LIVE: Final = 300
_LIVE_QUICK: Final = 20
_PAUSE: Final = 0.05
"""Seconds between two changes."""

_SECRET: Final = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"  # noqa: S105  of this benchmark alone
_BATCH: Final = 500


def measure(plan: Plan) -> list[Figure]:
    """Measures `relay`."""
    backlog = _BACKLOG_QUICK if plan.quick else _BACKLOG
    live = _LIVE_QUICK if plan.quick else _LIVE
    return asyncio.run(_measured(plan.folder, backlog, live))


class _Receiver:
    """Takes everything, and notes when each event arrived."""

    def __init__(self) -> None:
        self.count = 0
        self.delays: list[float] = []
        self.url = ""
        self._came = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_post("/", self._receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            yield
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        events = json.loads(await request.read())
        now = time.time()
        self.count += len(events)
        self.delays += (now - datetime.fromisoformat(one["time"]).timestamp() for one in events)
        self._came.set()
        return web.Response(status=204)

    async def has(self, count: int) -> None:
        """Waits until so many events have arrived."""
        while self.count < count:
            self._came.clear()
            await self._came.wait()


async def _measured(folder: Path, backlog: int, live: int) -> list[Figure]:
    servers.environment(folder)
    keys = KeyFile(folder / "root-keys.json")
    for number in range(stock.ROOT_KEYS):
        keys.create(f"root-{number}")
    receiver = _Receiver()
    async with receiver.serving():
        with servers.one(folder) as server:
            async with _relay(folder, server.address, receiver.url):
                # The entry about the cursor itself.
                await receiver.has(1)
        before = receiver.count
        await asyncio.to_thread(stock.add, folder, backlog)
        with servers.one(folder) as server:
            async with _relay(folder, server.address, receiver.url) as pid:
                # The relay's start does not count, and neither does its first batch.
                await receiver.has(before + 1)
                first, began, cpu = receiver.count, time.perf_counter(), cpu_seconds(pid)
                served = server.cpu()
                await receiver.has(before + backlog)
                took = time.perf_counter() - began
                used, served = cpu_seconds(pid) - cpu, server.cpu() - served
                carried = receiver.count - first
                receiver.delays.clear()
                await _changes(server.address, live)
                await receiver.has(before + backlog + live)
                taken = memory_of(pid)
    delays = [delay * 1e3 for delay in receiver.delays]
    return [
        Figure(
            "relay",
            "a backlog, events per second",
            carried / took,
            "",
            carried,
            RATE_GOAL,
            at_least=True,
        ),
        Figure("relay", "CPU of the relay, per event", used / carried * 1e6, "us", carried),
        Figure("relay", "memory of the relay, at its peak", taken.peak, "MiB", 1),
        Figure("relay", "CPU of the server, per event", served / carried * 1e6, "us", carried),
        Figure("relay", "event to arrival, p50", percentile(delays, 0.50), "ms", len(delays)),
        Figure(
            "relay",
            "event to arrival, p99",
            percentile(delays, 0.99),
            "ms",
            len(delays),
            ARRIVAL_GOAL,
        ),
    ]


async def _changes(address: str, count: int) -> None:
    async with calls.client(address) as client:
        for number in range(count):
            await client.enable(f"live-{number}", calls.key_spec(f"local:root-{number % 10}"))
            await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def _relay(folder: Path, target: str, url: str) -> AsyncIterator[int]:
    """Runs a relay from a server to an url; gives its process id."""
    (folder / "whsec").write_text(_SECRET, encoding="utf-8")
    file = folder / "relay.toml"
    file.write_text(
        f'[keyfold]\ntarget = "{target}"\n[targets.bench]\nkind = "webhook"\nurl = "{url}"\n'
        f'secrets = ["file:{folder / "whsec"}"]\nallow_addresses = ["127.0.0.1/32"]\n'
        f"batch = {_BATCH}\n",
        encoding="utf-8",
    )
    program = Path(sys.executable).with_name("keyfold-relay")
    process = await asyncio.create_subprocess_exec(
        program, "run", file, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()
