"""`client`: what the Python client costs the program that calls.

The bare stub is gRPC's own: it builds the request and gives a deadline, and reads nothing of the
answer. The server is the echo, so that the program is what takes the time.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Final

import grpc

import keyfold
from bench import cases
from bench.goals import Figure, Plan
from bench.processes import running
from keyfold.transport.channel import endpoint
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as stubs

UNARY: Final = 1.15
"""The most by which a call of the client may cost more CPU than one of the bare stub."""

_ROUNDS: Final = 300
_ROUNDS_QUICK: Final = 15
_CALLS: Final = 20
"""Calls of one measurement, about 5 ms. Both kinds take turns, so others disturb them alike."""

_WRAPPED: Final = bytes(122)
_WITHIN: Final = 10.0


def measure(plan: Plan) -> list[Figure]:
    """Measures both clients."""
    rounds = _ROUNDS_QUICK if plan.quick else _ROUNDS
    command = [sys.executable, str(Path(__file__).with_name("echo.py")), "grpc"]
    with running("echo", command, os.environ) as echo:
        found = {
            "Client": _threads(echo.address, rounds),
            "AsyncClient": asyncio.run(_tasks(echo.address, rounds)),
        }
    return [
        Figure("client", f"Unwrap, {name} / bare stub: CPU", ratio, "x", rounds, UNARY)
        for name, ratio in found.items()
    ]


def _request() -> pb.UnwrapRequest:
    return pb.UnwrapRequest(cluster=cases.CLUSTER, wrapped_key=_WRAPPED, context=cases.CONTEXT)


def _threads(address: str, rounds: int) -> float:
    with keyfold.Client(address) as client, endpoint(address, None).channel() as channel:
        stub = stubs.KeyManagementServiceStub(channel)

        def bare() -> None:
            stub.Unwrap(_request(), timeout=_WITHIN)

        def ours() -> None:
            client.unwrap(cases.CLUSTER, _WRAPPED, context=cases.CONTEXT)

        def cost(call: Callable[[], None]) -> float:
            began = time.process_time()
            for _ in range(_CALLS):
                call()
            return time.process_time() - began

        ratios = []
        for _ in range(rounds + 1):
            costs = {each: cost(each) for each in random.sample((bare, ours), 2)}
            ratios.append(costs[ours] / costs[bare])
    return median(ratios[1:])  # The first round connects.


async def _tasks(address: str, rounds: int) -> float:
    channel: grpc.aio.Channel
    async with (
        keyfold.AsyncClient(address) as client,
        endpoint(address, None).aio_channel() as channel,
    ):
        stub = stubs.KeyManagementServiceStub(channel)

        async def bare() -> None:
            await stub.Unwrap(_request(), timeout=_WITHIN)

        async def ours() -> None:
            await client.unwrap(cases.CLUSTER, _WRAPPED, context=cases.CONTEXT)

        async def cost(call: Callable[[], Awaitable[None]]) -> float:
            began = time.process_time()
            for _ in range(_CALLS):
                await call()
            return time.process_time() - began

        ratios = []
        for _ in range(rounds + 1):
            costs = {each: await cost(each) for each in random.sample((bare, ours), 2)}
            ratios.append(costs[ours] / costs[bare])
    return median(ratios[1:])
