"""`isolation`: what a customer whose KMS hangs, or throttles, does to the latency of others.

One server, and all customers call at a steady rate the whole time, the sick one too: only the
health of its KMS differs between windows, which take turns. Half of the others are warm; the rest
ask their own, healthy KMS for each call, so that they need the threads that the sick one holds.
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
"""The goal, as a multiple of the other callers' p99."""

SICK: Final = "sick"
HEALTHY: Final = "healthy"
"""The mood of the sick customer's KMS with which each round of windows begins."""

_WARM: Final = "warm"
_ASKING: Final = "asking its KMS each time"
_KINDS: Final = (_WARM, _ASKING)

_RATES: Final = {_WARM: 250.0, _ASKING: 80.0, SICK: 60.0}
"""Calls per second of all customers of a kind."""

_CUSTOMERS: Final = 20
"""Of each healthy kind; the sick one has as many clusters as its account has calls at once."""

_SICK_CLUSTERS: Final = 8
_ROUNDS: Final = 11
_SETTLE: Final = 0.7
"""Seconds after a change of mood that do not count; a KMS that throttled is spared for 0.5."""

_WINDOW: Final = 1.6
_QUICK: Final = (2, 1.4)
_SICK_WITHIN: Final = 1.0
"""Seconds that the sick customer's callers wait."""

Windows = dict[str, list[list[float]]]
"""Latencies in ms of each window of a kind of customer."""


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    return figures("isolation", asyncio.run(_measured(plan)))


def figures(case: str, measured: Mapping[str, Windows]) -> list[Figure]:
    """Returns the figures of a case from its windows by mood, the healthy ones first."""
    (_, well), *moods = measured.items()
    found = []
    for kind in _KINDS:
        healthy = well[kind]
        found.append(_p99(case, f"others, {kind}: p99, all KMSs healthy", healthy))
        for mood, windows_ in moods:
            sick = windows_[kind]
            found.append(_p99(case, f"others, {kind}: p99, one's KMS {mood}", sick))
            found.append(
                Figure(
                    case,
                    f"others, {kind}: one's KMS {mood}, pairwise",
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
        plan: How the case is to be run.
        moods: What makes that KMS so, in the order of the windows; the first one heals it.
        traffic: The customers, prepared.
        heals: No call of the sick customer may fail in a healthy window.

    Raises:
        WrongAnswerError: Calls failed that should not, or none did that should.
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
            # Calls that began in the window and are still under way will be in these lists, too.
            for kind in _KINDS:
                measured[mood][kind].append(taken[kind])
            if mood == HEALTHY and not heals:
                continue
            if (traffic.sick_failed > 0) is (mood == HEALTHY):
                raise WrongAnswerError(f"{traffic.sick_failed} calls failed while one's KMS {mood}")
    finally:
        moods[HEALTHY]()
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
    return measured


async def _pause(seconds: float, flows: list[asyncio.Task[None]]) -> None:
    """Waits, unless a flow fails: a call of a healthy customer that fails is no latency."""
    done, _ = await asyncio.wait(flows, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for flow in done:
        flow.result()


class Traffic:
    """All customers' calls.

    Attributes:
        sick_failed: Calls of the sick customer that failed, of those that began in the window.
    """

    def __init__(
        self,
        client: calls.Client,
        key: Callable[[str, str, int], res.KeySpec],
        sick_clusters: int = _SICK_CLUSTERS,
    ) -> None:
        """Takes what is called.

        Args:
            client: Calls the server.
            key: The root key of a cluster, by its customer's kind, its name and its number.
            sick_clusters: How many clusters the sick customer has.
        """
        self._client = client
        self._key = key
        self._sick_clusters = sick_clusters
        self._blobs: dict[str, dict[str, bytes]] = {kind: {} for kind in _RATES}
        self._taken: dict[str, list[float]] | None = None
        self._window = 0
        self.sick_failed = 0

    async def prepare(self) -> None:
        """Makes the customers."""
        for kind, count, ttl in (
            (_WARM, _CUSTOMERS, None),
            (_ASKING, _CUSTOMERS, 0),
            (SICK, self._sick_clusters, 0),
        ):
            for number in range(count):
                name = f"{kind.split()[0]}-{number}"
                await self._client.enable(name, self._key(kind, name, number), ttl)
                self._blobs[kind][name] = await self._client.wrap(name)

    def begin(self) -> dict[str, list[float]]:
        """Begins a window; returns where latencies of calls that begin in it will be."""
        self._taken = {kind: [] for kind in _KINDS}
        self._window += 1
        self.sick_failed = 0
        return self._taken

    def end(self) -> None:
        """Ends the window."""
        self._taken = None

    async def flow(self, kind: str, rate: float) -> None:
        """Calls at a steady rate, whatever becomes of the calls, until it is cancelled."""
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
        if outcome.code != "OK" and window == self._window:
            self.sick_failed += 1
