"""`lag`: how late the event loop takes its turns while everything that a server does goes on.

For each transport one server serves warm calls, cold misses, changes, lists of clusters and of
events, scrapes of its metrics, exports of its store, and a sweep every ten seconds. Its own metric
says how late its loop was, and for how much of that its own computing can be to blame. Beside it an
idle event loop in a process of its own measures how late the machine wakes a loop that has nothing
to do: on a busy machine, that is most of the lag.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import grpc

from bench import calls, metrics, servers, stock
from bench.cases import REGION
from bench.contenders import TRANSPORTS
from bench.goals import Figure, Plan, percentile
from bench.processes import Server
from keyfold.v1 import event_service_pb2 as events
from keyfold.v1 import event_service_pb2_grpc as event_stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as stubs
from keyfold.v1 import resources_pb2 as res

GOAL: Final = 20.0
"""Milliseconds of lag at the p99.9."""

_PART: Final = 0.999

_CLUSTERS: Final = 5_000
_CACHED: Final = 200
"""Clusters in the store, and in the server's memory. So almost every cold call is a miss."""

_SECONDS: Final = 60.0
_SECONDS_QUICK: Final = 10.0

_RATES: Final[Mapping[str, float]] = {
    "warm": 200.0,
    "cold": 40.0,
    "change": 3.0,
    "list": 2.0,
    "events": 2.0,
    "scrape": 2.0,
    "export": 0.1,
}
"""Calls of each kind per second."""

_BUCKET: Final = re.compile(
    r'^keyfold_event_loop_(lag|held)_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE
)

_ALL: Final = float("inf")

Turns = dict[str, dict[float, float]]
"""How many turns were late by at most so many seconds: in all, and by the server's computing."""

_IDLE: Final = """
import asyncio, sys, time
async def watch(seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        due = time.monotonic() + 0.05
        await asyncio.sleep(0.05)
        print(max(0.0, time.monotonic() - due))
asyncio.run(watch(float(sys.argv[1])))
"""


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    found = []
    for transport in TRANSPORTS:
        folder = plan.folder / transport
        stock.stocked(folder, _CLUSTERS)
        found += asyncio.run(_measured(folder, transport, plan))
    return found


async def _measured(folder: Path, transport: str, plan: Plan) -> list[Figure]:
    seconds = _SECONDS_QUICK if plan.quick else _SECONDS
    shown = f"127.0.0.1:{metrics.free_port()}"
    settings = {"transport": transport, "metrics": shown, "cache_clusters": str(_CACHED)}
    with servers.one(folder, None, sweep_interval="10s", **settings) as server:
        async with _traffic(server, folder, shown, settings) as flows:
            await asyncio.sleep(2.0)
            before = await asyncio.to_thread(_turns, shown)
            beside = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _IDLE, str(seconds), stdout=subprocess.PIPE
            )
            output, _ = await beside.communicate()
            after = await asyncio.to_thread(_turns, shown)
            for flow in flows:
                if flow.done():
                    flow.result()  # Raises what ended it.
    idle = [float(line) * 1000 for line in output.split()]
    of, late = f"{transport}: p99.9 of", percentile(idle, _PART)
    lag, held = (_bound(before, after, what) for what in ("lag", "held"))
    count = int(after["lag"][_ALL] - before["lag"][_ALL])
    return [
        Figure("lag", f"{of} the loop's lag", lag, "ms", count, GOAL),
        Figure("lag", f"{of} an idle loop's lag beside it", late, "ms", len(idle)),
        Figure("lag", f"{of} the lag by computing", held, "ms", count, GOAL),
    ]


def _bound(before: Turns, after: Turns, what: str) -> float:
    """Returns the smallest bucket's bound, in ms, that p99.9 of the turns do not exceed."""
    turns = {bound: number - before[what][bound] for bound, number in after[what].items()}
    return min(bound for bound, held in turns.items() if held >= _PART * turns[_ALL]) * 1000


@contextlib.asynccontextmanager
async def _traffic(
    server: Server, folder: Path, shown: str, settings: Mapping[str, str]
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Lets everything happen that a server does, until the block ends."""
    async with (
        calls.client(server.address, 2) as client,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        service = stubs.KeyManagementServiceStub(channel)
        log = event_stubs.EventServiceStub(channel)
        warm = [stock.cluster(number) for number in range(20)]
        wrapped = {name: await client.wrap(name) for name in warm}

        async def unwrap() -> None:
            name = random.choice(warm)  # noqa: S311  no secret depends on it
            await client.unwrap(name, wrapped[name])

        async def miss() -> None:
            await client.wrap(_any_cluster())

        async def change() -> None:
            region = res.RegionSpec(region=REGION)
            request = pb.RotateRequest(
                cluster=_any_cluster(), region_specs=[region], new_generation=True
            )
            await service.Rotate(request, timeout=calls.WITHIN)

        async def clusters() -> None:
            await service.ListClusters(pb.ListClustersRequest(page_size=100), timeout=calls.WITHIN)

        async def entries() -> None:
            await log.ListEvents(events.ListEventsRequest(page_size=100), timeout=calls.WITHIN)

        def export() -> None:
            to = folder / f"export-{time.monotonic_ns()}"
            command = [*servers.command(), "export", "--out", str(to)]
            environment = servers.environment(folder, **settings)
            subprocess.run(command, env=environment, check=True, capture_output=True)
            to.unlink()

        works: dict[str, Callable[[], Awaitable[object]]] = {
            "warm": unwrap,
            "cold": miss,
            "change": change,
            "list": clusters,
            "events": entries,
            "scrape": lambda: asyncio.to_thread(metrics.scraped, shown),
            "export": lambda: asyncio.to_thread(export),
        }
        flows = [asyncio.create_task(_flow(works[kind], rate)) for kind, rate in _RATES.items()]
        try:
            yield flows
        finally:
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)


async def _flow(work: Callable[[], Awaitable[object]], rate: float) -> None:
    """Does a work at a steady rate, one after the other, until it is cancelled."""
    due = time.monotonic()
    while True:
        await work()
        due = max(due + 1 / rate, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


def _any_cluster() -> str:
    return stock.cluster(random.randrange(20, _CLUSTERS))  # noqa: S311  no secret depends on it


def _turns(shown: str) -> Turns:
    """Returns how many turns were late by at most each bound, since the server's start."""
    turns: Turns = {"lag": {}, "held": {}}
    for what, bound, count in _BUCKET.findall(metrics.scraped(shown)):
        turns[what][float(bound)] = float(count)
    return turns
