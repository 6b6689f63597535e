"""`isolation`: what a customer whose KMS hangs or throttles does to the latency of others.

All customers of one server, the sick one too, call at a steady rate the whole time. Only the health
of the sick customer's KMS differs from window to window. Half of the other customers are warm. The
rest call their own, healthy KMS for each call, so they need the threads that the sick one holds.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from statistics import median
from typing import Any, Final

from bench import calls, kms, servers
from bench.cases import WrongAnswerError
from bench.goals import Figure, Plan, pairwise, percentile
from keyfold.v1 import resources_pb2 as res

GOAL: Final = 1.2
"""Most that the other customers' p99 may grow, as a factor."""

SICK: Final = "sick"
HEALTHY: Final = "healthy"
"""The first mood of the sick customer's KMS in each round of windows."""

_WARM: Final = "warm"
_CALLING: Final = "calling their KMS each time"
_KINDS: Final = (_WARM, _CALLING)

_RATES: Final = {_WARM: 250.0, _CALLING: 80.0, SICK: 60.0}
"""Calls per second of all customers of a kind together."""

_CUSTOMERS: Final = 20
"""Customers of each healthy kind."""

_SICK_CLUSTERS: Final = 8
"""Clusters of the sick customer: as many as its account may have calls at once."""

_ROUNDS: Final = 11
_SETTLE: Final = 0.7
"""Seconds after a change of mood that do not count. A server spares a throttling KMS for 0.5 s."""

_WINDOW: Final = 1.6
_QUICK: Final = (2, 1.4)
_SICK_WITHIN: Final = 1.0
"""Seconds that the sick customer's callers wait."""

Windows = dict[str, list[list[float]]]
"""Latencies in ms, by kind of customer, for each window."""


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    return figures("isolation", asyncio.run(_measured(plan)))


def figures(case: str, measured: Mapping[str, Windows]) -> list[Figure]:
    """Returns the figures of a case, from its windows by mood; the healthy mood comes first."""
    (_, well), *moods = measured.items()
    found = []
    for kind in _KINDS:
        healthy = well[kind]
        found.append(_p99(case, f"others, {kind}: p99 while every KMS is healthy", healthy))
        for mood, windows_ in moods:
            sick = windows_[kind]
            found.append(_p99(case, f"others, {kind}: p99 while one KMS {mood}", sick))
            found.append(
                Figure(
                    case,
                    f"others, {kind}: pairwise ratio while one KMS {mood}",
                    pairwise(healthy, sick),
                    "x",
                    sum(map(len, sick)),
                    GOAL,
                )
            )
    return found


def _p99(case: str, what: str, windows: Sequence[Sequence[float]]) -> Figure:
    value = median(percentile(window, 0.99) for window in windows)
    return Figure(case, what, value, "ms", sum(map(len, windows)))


async def _measured(plan: Plan) -> dict[str, Windows]:
    async with kms.serving() as service:
        moods = {
            HEALTHY: service.heal,
            "hangs": lambda: service.hang(SICK),
            "throttles": lambda: service.throttle(SICK),
        }
        with servers.one(plan.folder, service.installed(plan.folder)) as server:
            async with calls.client(server.address, 4) as client:
                traffic = Traffic(client, _key)
                await traffic.prepare()
                return await windows(plan, moods, traffic)


def _key(kind: str, name: str, number: int) -> res.KeySpec:
    account = SICK if kind == SICK else name
    return calls.key_spec(f"bench:{account}.key{number}")


async def windows(
    plan: Plan, moods: Mapping[str, Callable[[], None]], traffic: Traffic, *, heals: bool = True
) -> dict[str, Windows]:
    """Lets all customers call while the sick one's KMS changes its mood from window to window.

    Args:
        plan: The plan of the case.
        moods: A function for each mood that puts that KMS into the mood, in the order of the
            windows. The first one heals it.
        traffic: The prepared customers.
        heals: Whether every call of the sick customer must succeed in a healthy window.

    Raises:
        WrongAnswerError: The sick customer's calls failed in a healthy window, or all of them
            succeeded in a sick one.
    """
    rounds, seconds = _QUICK if plan.quick else (_ROUNDS, _WINDOW)
    measured: dict[str, Windows] = {mood: defaultdict(list) for mood in moods}
    flows = [asyncio.create_task(traffic.flow(kind, rate)) for kind, rate in _RATES.items()]
    try:
        for _, mood in itertools.product(range(rounds), moods):
            moods[HEALTHY]()
            if mood != HEALTHY:
                moods[mood]()
            await _pause(_SETTLE, flows)
            taken = traffic.begin()
            await _pause(seconds, flows)
            traffic.end()
            # Calls that are still under way add their latencies to these lists later.
            for kind in _KINDS:
                measured[mood][kind].append(taken[kind])
            if mood == HEALTHY and not heals:
                continue
            if (traffic.sick_failed > 0) is (mood == HEALTHY):
                raise WrongAnswerError(
                    f"{traffic.sick_failed} calls failed in a window of the mood `{mood}`"
                )
    finally:
        moods[HEALTHY]()
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
    return measured


async def _pause(seconds: float, flows: list[asyncio.Task[None]]) -> None:
    """Waits, and raises the error of a healthy customer's call that fails meanwhile."""
    done, _ = await asyncio.wait(flows, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for flow in done:
        flow.result()


class Traffic:
    """Makes all customers' calls.

    Attributes:
        sick_failed: Number of the sick customer's calls that began in the window and failed.
    """

    def __init__(
        self,
        client: calls.Client,
        key: Callable[[str, str, int], res.KeySpec],
        sick_clusters: int = _SICK_CLUSTERS,
    ) -> None:
        """Describes the customers; `prepare` makes their clusters.

        Args:
            client: The client of the server.
            key: Returns a cluster's root key, from its customer's kind, its name and its number.
            sick_clusters: Number of the sick customer's clusters.
        """
        self._client = client
        self._key = key
        self._sick_clusters = sick_clusters
        self._blobs: dict[str, dict[str, bytes]] = {kind: {} for kind in _RATES}
        self._taken: dict[str, list[float]] | None = None
        self._window = 0
        self.sick_failed = 0

    async def prepare(self) -> None:
        """Makes the customers' clusters, and a wrapped key in each."""
        for kind, count, ttl in (
            (_WARM, _CUSTOMERS, None),
            (_CALLING, _CUSTOMERS, 0),
            (SICK, self._sick_clusters, 0),
        ):
            for number in range(count):
                name = f"{kind.split()[0]}-{number}"
                await self._client.enable(name, self._key(kind, name, number), ttl)
                self._blobs[kind][name] = await self._client.wrap(name)

    def begin(self) -> dict[str, list[float]]:
        """Begins a window; returns lists that will hold the latencies of calls that begin in it."""
        self._taken = {kind: [] for kind in _KINDS}
        self._window += 1
        self.sick_failed = 0
        return self._taken

    def end(self) -> None:
        """Ends the window."""
        self._taken = None

    async def flow(self, kind: str, rate: float) -> None:
        """Makes calls at a steady rate, without waiting for answers, until it is cancelled."""
        turns = itertools.cycle(self._blobs[kind].items())
        call: Callable[[str, bytes], Coroutine[Any, Any, None]] = (
            self._sick_call if kind == SICK else lambda n, b: self._call(kind, n, b)
        )
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(call(*next(turns)))
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def _call(self, kind: str, name: str, blob: bytes) -> None:
        taken = self._taken
        began = time.perf_counter()
        await self._client.unwrap(name, blob)
        if taken is not None:
            taken[kind].append((time.perf_counter() - began) * 1e3)

    async def _sick_call(self, name: str, blob: bytes) -> None:
        window = self._window if self._taken is not None else None
        outcome = await self._client.outcome(name, blob, _SICK_WITHIN)
        if outcome != "OK" and window == self._window:
            self.sick_failed += 1
