"""`cold`: thousands of Unwraps at once of one KEK that a replica does not have in memory.

Another replica makes the cluster, so that those that are flooded have never seen it. The KMS
counts who calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Final, NamedTuple

from bench import calls, kms, servers
from bench.goals import Figure, Plan
from bench.processes import Server

GOAL: Final = 1
"""The goal, in calls to the KMS."""

_CALLERS: Final = 3_000
_ROUNDS: Final = 4
_QUICK: Final = (200, 1)
_FLOODED: Final = 2
_SPREAD: Final = 3.0
"""Seconds in which every replica has surely polled the store since."""

_CONNECTIONS: Final = 8


class _Flood(NamedTuple):
    """One flood of one replica.

    Attributes:
        asked: Calls to the KMS.
        failed: Callers who got no key, cold or warm.
        cold: Seconds until all callers were answered.
        warm: Seconds of the same flood right after it.
    """

    asked: int
    failed: int
    cold: float
    warm: float


def measure(plan: Plan) -> list[Figure]:
    """Measures the case; raises SkippedError where there is no PostgreSQL."""
    callers, rounds = _QUICK if plan.quick else (_CALLERS, _ROUNDS)
    floods = asyncio.run(_floods(plan, callers, rounds))
    failed = sum(f.failed for f in floods)
    most = max(f.asked for f in floods)
    what = f"{callers:,} Unwraps at once of a cold KEK"
    return [
        Figure("cold", f"{what}: KMS calls, most", most, "", len(floods), GOAL),
        Figure("cold", "callers who got no key", failed, "", 2 * callers * len(floods), 0),
        _seconds(f"{what}: all answered, median", [f.cold for f in floods]),
        _seconds("the same once it is warm, median", [f.warm for f in floods]),
    ]


def _seconds(what: str, values: Sequence[float]) -> Figure:
    return Figure("cold", what, median(values), "s", len(values))


async def _floods(plan: Plan, callers: int, rounds: int) -> list[_Flood]:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(kms.serving())
        installed = service.installed(plan.folder)
        maker, *flooded = stack.enter_context(
            servers.replicas(plan.folder, 1 + _FLOODED, installed)
        )
        making = await stack.enter_async_context(calls.client(maker.address))
        clients = [
            (server, await stack.enter_async_context(calls.client(server.address, _CONNECTIONS)))
            for server in flooded
        ]
        blobs = {}
        for name in (f"cold-{turn}" for turn in range(rounds)):
            await making.enable(name, calls.key_spec(f"bench:{name}.key"))
            blobs[name] = await making.wrap(name)
        # A change that arrives in the middle of a flood drops the KEK, and rightly costs a call.
        await asyncio.sleep(_SPREAD)
        floods = []
        for name, blob in blobs.items():
            for server, client in clients:
                floods.append(await _flood(service, server, client, name, blob, callers))
        return floods


async def _flood(
    service: kms.Kms, server: Server, client: calls.Client, name: str, blob: bytes, callers: int
) -> _Flood:
    before = service.counts[server.pid]
    seconds = []
    asked = failed = 0
    for _ in range(2):
        began = time.perf_counter()
        ended = await asyncio.gather(*(client.outcome(name, blob) for _ in range(callers)))
        seconds.append(time.perf_counter() - began)
        failed += sum(outcome.code != "OK" for outcome in ended)
        asked = asked or service.counts[server.pid] - before
    return _Flood(asked, failed, *seconds)
