"""`revoke`: the time from a call of Revoke until the last of eight replicas refuses.

Each replica is a process on the same PostgreSQL. For each replica a loop calls Unwrap of the
cluster that is being revoked, and all other clusters stay warm. The loop takes the time when an
answer arrives, so the time includes the call's way and the loop's pause, and is an upper bound.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from bench import calls, servers
from bench.cases import ROOT_KEY, WrongAnswerError
from bench.goals import Figure, Plan, percentile

GOAL: Final = 1_000.0
"""Most milliseconds from Revoke to refusal on every replica, at the p99."""

_REPLICAS: Final = 8
_REVOKED: Final = 120
_WARM: Final = 80
"""Number of further clusters, which stay warm on every replica."""

_QUICK: Final = (2, 6, 4)
"""Replicas, revoked and warm clusters at the small size."""

_PAUSE: Final = 0.01
"""Seconds between two calls of a replica. Eight loops that never pause would load the machine."""

_LONGEST: Final = 15.0
"""Seconds after which a replica that still unwraps has failed."""

_REFUSED: Final = "FAILED_PRECONDITION"
_AT_ONCE: Final = 8


class _Run(NamedTuple):
    """One revocation.

    Attributes:
        answered: Milliseconds from the call to its answer.
        refused: Milliseconds from the call to the last replica's first refusal.
        pending: Number of replicas that the answer names as pending.
    """

    answered: float
    refused: float
    pending: int


def measure(plan: Plan) -> list[Figure]:
    """Measures the case, or raises SkippedError if PostgreSQL cannot be started."""
    count, revoked, warm = _QUICK if plan.quick else (_REPLICAS, _REVOKED, _WARM)
    with servers.replicas(plan.folder, count) as replicas:
        runs = asyncio.run(_runs([r.address for r in replicas], revoked, warm))
    what = f"on each of {count} replicas"
    return [
        _figure(f"Revoke to refusal {what}, p50", [r.refused for r in runs], 0.50, None),
        _figure(f"Revoke to refusal {what}, p99", [r.refused for r in runs], 0.99, GOAL),
        _figure("Revoke to its answer, p50", [r.answered for r in runs], 0.50, None),
        _figure("Revoke to its answer, p99", [r.answered for r in runs], 0.99, None),
        Figure("revoke", "unconfirmed replicas", sum(r.pending for r in runs), "", len(runs), 0),
    ]


def _figure(what: str, values: list[float], part: float, goal: float | None) -> Figure:
    return Figure("revoke", what, percentile(values, part), "ms", len(values), goal)


async def _runs(addresses: list[str], revoked: int, warm: int) -> list[_Run]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(calls.client(a)) for a in addresses]
        blobs = await _warmed(clients, revoked + warm)
        names = list(blobs)[:revoked]
        return [
            await _revoked(clients, clients[turn % len(clients)], name, blobs[name])
            for turn, name in enumerate(names)
        ]


async def _warmed(clients: list[calls.Client], count: int) -> dict[str, bytes]:
    """Makes clusters, and unwraps a key of each on every replica; returns the wrapped keys."""
    blobs: dict[str, bytes] = {}
    left = iter(range(count))

    async def work() -> None:
        for number in left:
            name = f"tenant-{number:03}"
            await clients[0].enable(name, calls.key_spec(f"local:{ROOT_KEY}"))
            blobs[name] = await clients[0].wrap(name)
            await asyncio.gather(*(c.unwrap(name, blobs[name]) for c in clients))

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return dict(sorted(blobs.items()))


async def _revoked(
    clients: list[calls.Client], through: calls.Client, name: str, blob: bytes
) -> _Run:
    """Revokes one cluster through one replica, while a loop for each replica calls it."""
    await asyncio.gather(*(c.unwrap(name, blob) for c in clients))
    began = time.perf_counter()
    polls = [asyncio.create_task(_until_refused(c, name, blob)) for c in clients]
    reply = await through.revoke(name)
    answered = time.perf_counter()
    refused = max(await asyncio.gather(*polls))
    for again in await asyncio.gather(*(c.outcome(name, blob) for c in clients)):
        if again != _REFUSED:
            raise WrongAnswerError(f"a replica that had refused answered {again}")
    return _Run((answered - began) * 1e3, (refused - began) * 1e3, len(reply.pending))


async def _until_refused(client: calls.Client, name: str, blob: bytes) -> float:
    """Returns the time of a replica's first refusal."""
    ends = time.perf_counter() + _LONGEST
    while time.perf_counter() < ends:
        outcome = await client.outcome(name, blob)
        if outcome == _REFUSED:
            return time.perf_counter()
        if outcome != "OK":
            raise WrongAnswerError(f"a replica answered {outcome} before it refused")
        await asyncio.sleep(_PAUSE)
    raise WrongAnswerError(f"a replica still unwraps {_LONGEST:g} s after Revoke")
