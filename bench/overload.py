"""`shed`: more calls at once than a server takes, all to a KMS that hangs.

Every cluster asks its KMS for each call, so none is answered from memory and none joins another's
load. A small and a large flood, each to a fresh server: a call that does not fit may cost what gRPC
itself keeps of it until its refusal is sent, and nothing of ours.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Final, NamedTuple

from bench import calls, kms, servers
from bench.goals import Figure, Plan
from bench.processes import Server

LIMIT: Final = 1_000
"""KEYFOLD_MAX_CONCURRENT_CALLS."""

FLOODS: Final = (2, 10)
"""Calls of the small and of the large flood, as multiples of the limit."""

GOAL: Final = 16.0
"""KiB for each further call: what gRPC keeps of one until it has been refused, and no more."""

_LIMIT_QUICK: Final = 50
_CLUSTERS: Final = 40
_CONNECTIONS: Final = 8
_WITHIN: Final = 9.0
"""Seconds for each call: more than the server gives a KMS."""

_SHED: Final = calls.Outcome("RESOURCE_EXHAUSTED", retry=True)
_UNSAID: Final = (
    calls.Outcome("RESOURCE_EXHAUSTED", retry=False),
    calls.Outcome("CANCELLED", retry=False),
)
"""How gRPC itself turns calls away that no handler has seen: nobody learns why, or until when."""


class _Flood(NamedTuple):
    """What came of a flood.

    Attributes:
        ended: Calls, by how they ended.
        grown: MiB by which it raised the most that the server ever had in memory.
    """

    ended: Counter[calls.Outcome]
    grown: float

    @property
    def calls(self) -> int:
        """Calls of the flood."""
        return self.ended.total()


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    limit = _LIMIT_QUICK if plan.quick else LIMIT
    small, large = (asyncio.run(_flood(plan, limit, times)) for times in FLOODS)
    shed = large.ended[_SHED]
    unsaid = sum(large.ended[outcome] for outcome in _UNSAID)
    failed = large.calls - shed - unsaid
    further = (large.grown - small.grown) * 1024 / (large.calls - small.calls)
    of = f"of {large.calls:,} calls at once, limit {limit:,}"
    return [
        Figure("shed", f"{of}: RESOURCE_EXHAUSTED with RetryInfo", shed, "", large.calls),
        Figure("shed", f"{of}: turned away without it", unsaid, "", large.calls, 0),
        Figure("shed", f"{of}: let in, and failed with their KMS", failed, "", large.calls),
        Figure("shed", f"memory for {small.calls:,} calls", small.grown, "MiB", 1),
        Figure("shed", f"memory for {large.calls:,} calls", large.grown, "MiB", 1),
        Figure("shed", "memory for each further call", further, "KiB", 1, GOAL),
    ]


async def _flood(plan: Plan, limit: int, times: int) -> _Flood:
    folder = plan.folder / str(times)
    folder.mkdir()
    async with kms.serving() as service:
        with servers.one(
            folder, service.installed(folder), max_concurrent_calls=str(limit)
        ) as server:
            async with calls.client(server.address, _CONNECTIONS) as client:
                return await _flooded(service, server, client, limit * times)


async def _flooded(service: kms.Kms, server: Server, client: calls.Client, count: int) -> _Flood:
    blobs = {}
    for number in range(_CLUSTERS):
        name = f"tenant-{number}"
        await client.enable(name, calls.key_spec(f"bench:{name}.key"), ttl=0)
        blobs[name] = await client.wrap(name)
    for name in blobs:
        service.hang(name)
    before = server.memory().peak
    turns = itertools.islice(itertools.cycle(blobs.items()), count)
    ended = await asyncio.gather(*(client.outcome(n, blob, _WITHIN) for n, blob in turns))
    service.heal()
    return _Flood(Counter(ended), server.memory().peak - before)
