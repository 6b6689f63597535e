"""`coalesce`: what 64 callers of one client get, and cost the server, with and without coalescing.

The server runs as in production, on `asgi`. All callers are in this process, and each calls again
as soon as it has its answer. The runs with and without coalescing, and those of the least client
that is possible (`least`), take turns, so other work of the machine disturbs all alike.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import keyfold
from bench import cases, contenders
from bench.contenders import Service
from bench.goals import Figure, Plan
from bench.least import AsyncLeast, Least

SERVER: Final = 8.0
"""The most CPU µs of the server for a key."""

RATE: Final = 10.0
"""The least keys per second with coalescing beside those without."""

IDLE: Final = 1.03
"""The most by which coalescing may lengthen the p50 of a caller who is alone."""

_CALLERS: Final = 64
_SECONDS: Final = 0.4
_ROUNDS: Final = 12
_ROUNDS_QUICK: Final = 2
_SINGLE: Final = 50
"""Calls in a row of the caller who is alone."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run gave: keys per second, and CPU µs of server and client for each."""

    rate: float
    server: float
    client: float

    @property
    def cpu(self) -> float:
        """CPU µs of both for a key."""
        return self.server + self.client


_ALONE: Final = "alone"
_TOGETHER: Final = "together"
_LEAST: Final = "least"
_WAYS: Final = (_ALONE, _TOGETHER, _LEAST)
"""The clients: without coalescing, with it, and the least one."""

_Runs = dict[str, list[_Run]]

Call = Callable[[Any, bytes], Any]
"""Calls with a client, given a wrapped key."""

_CALLS: Final[dict[str, Call]] = {
    "Wrap": lambda client, _: client.wrap(
        cases.CLUSTER, cases.REGION, bytes(cases.KEY_SIZE), context=cases.CONTEXT
    ),
    "Unwrap": lambda client, wrapped: client.unwrap(cases.CLUSTER, wrapped, context=cases.CONTEXT),
}


def measure(plan: Plan) -> list[Figure]:
    """Measures both clients, with both methods."""
    rounds = _ROUNDS_QUICK if plan.quick else _ROUNDS
    found: list[Figure] = []
    with contenders.keyfold(plan.folder, "asgi") as service:
        options: dict[str, Any] = {"token": lambda: service.token}
        with keyfold.Client(service.address, **options) as client:
            keys = [os.urandom(cases.KEY_SIZE) for _ in range(_CALLERS)]
            made = [
                client.wrap(cases.CLUSTER, cases.REGION, key, context=cases.CONTEXT) for key in keys
            ]
        wrapped = [one.wrapped_key for one in made]
        for name in _CALLS:
            runs = _threads(service, options, name, wrapped, rounds)
            found += _figures(f"{name}, 64 threads", runs)
            runs = asyncio.run(_tasks(service, options, name, wrapped, rounds))
            found += _figures(f"{name}, 64 tasks", runs)
        found += _idle(service, options, wrapped[0], rounds)
    return found


def _figures(what: str, runs: _Runs) -> list[Figure]:
    alone, together, least = (runs[way] for way in _WAYS)
    count = len(together)

    def beside(others: list[_Run]) -> float:
        return median(b.rate / a.rate for a, b in zip(alone, others, strict=True))

    def cheaper(others: list[_Run]) -> float:
        return median(a.cpu / b.cpu for a, b in zip(alone, others, strict=True))

    def figure(name: str, value: float, unit: str, goal: float | None = None) -> Figure:
        return Figure("coalesce", f"{what}: {name}", value, unit, count, goal, at_least=unit == "x")

    return [
        figure("server's CPU for a key", median(one.server for one in together), "µs", SERVER),
        figure("the same without coalescing", median(one.server for one in alone), "µs"),
        figure("client's CPU for a key", median(one.client for one in together), "µs"),
        figure("the same without coalescing", median(one.client for one in alone), "µs"),
        figure("keys per second", median(one.rate for one in together), ""),
        figure("beside without coalescing", beside(together), "x", RATE),
        figure("keys for the same CPU of both", cheaper(together), "x"),
        figure("least client: server's CPU for a key", median(one.server for one in least), "µs"),
        figure("least client: its own CPU for a key", median(one.client for one in least), "µs"),
        figure("least client: keys per second beside", beside(least), "x"),
        figure("least client: keys for the same CPU", cheaper(least), "x"),
    ]


class _Meter:
    """Measures a run, from when it is made."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server, self._client = service.cpu(), time.process_time()
        self._began = time.perf_counter()

    def run(self, keys: int) -> _Run:
        """Returns what the run gave."""
        took = time.perf_counter() - self._began
        server, client = self._service.cpu() - self._server, time.process_time() - self._client
        return _Run(keys / took, server / keys * 1e6, client / keys * 1e6)


def _threads(
    service: Service, options: dict[str, Any], method: str, wrapped: list[bytes], rounds: int
) -> _Runs:
    runs: _Runs = {way: [] for way in _WAYS}
    call = _CALLS[method]
    with ExitStack() as stack:
        clients: dict[str, Any] = {
            way: stack.enter_context(
                keyfold.Client(service.address, coalesce=way == _TOGETHER, **options)
            )
            for way in (_ALONE, _TOGETHER)
        }
        clients[_LEAST] = stack.enter_context(Least(service, method))

        def work(client: Any) -> int:
            counts = [0] * _CALLERS
            until = time.perf_counter() + _SECONDS

            def caller(place: int) -> None:
                while time.perf_counter() < until:
                    call(client, wrapped[place])
                    counts[place] += 1

            callers = [threading.Thread(target=caller, args=(n,)) for n in range(_CALLERS)]
            for one in callers:
                one.start()
            for one in callers:
                one.join()
            return sum(counts)

        for number in range(rounds + 1):
            for way in random.sample(_WAYS, len(_WAYS)):
                meter = _Meter(service)
                run = meter.run(work(clients[way]))
                if number:  # The first round connects.
                    runs[way].append(run)
    return runs


async def _tasks(
    service: Service, options: dict[str, Any], method: str, wrapped: list[bytes], rounds: int
) -> _Runs:
    runs: _Runs = {way: [] for way in _WAYS}
    call = _CALLS[method]
    async with AsyncExitStack() as stack:
        clients: dict[str, Any] = {
            way: await stack.enter_async_context(
                keyfold.AsyncClient(service.address, coalesce=way == _TOGETHER, **options)
            )
            for way in (_ALONE, _TOGETHER)
        }
        clients[_LEAST] = await stack.enter_async_context(AsyncLeast(service, method))

        async def work(client: Any) -> int:
            until = time.perf_counter() + _SECONDS

            async def caller(place: int) -> int:
                count = 0
                while time.perf_counter() < until:
                    await call(client, wrapped[place])
                    count += 1
                return count

            return sum(await asyncio.gather(*map(caller, range(_CALLERS))))

        for number in range(rounds + 1):
            for way in random.sample(_WAYS, len(_WAYS)):
                meter = _Meter(service)
                run = meter.run(await work(clients[way]))
                if number:  # The first round connects.
                    runs[way].append(run)
    return runs


def _idle(service: Service, options: dict[str, Any], wrapped: bytes, rounds: int) -> list[Figure]:
    """Measures a caller who is alone: calls in a row, in turns."""
    with ExitStack() as stack:
        clients = {
            how: stack.enter_context(keyfold.Client(service.address, coalesce=how, **options))
            for how in (False, True)
        }

        def p50(client: keyfold.Client) -> float:
            took = []
            for _ in range(_SINGLE):
                began = time.perf_counter()
                client.unwrap(cases.CLUSTER, wrapped, context=cases.CONTEXT)
                took.append(time.perf_counter() - began)
            return median(took)

        ratios = []
        for _ in range(rounds * 10 + 1):
            found = {how: p50(clients[how]) for how in random.sample((False, True), 2)}
            ratios.append(found[True] / found[False])
    what = "Unwrap, one caller: p50 beside that without coalescing"
    return [Figure("coalesce", what, median(ratios[1:]), "x", len(ratios) - 1, IDLE)]
