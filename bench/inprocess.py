"""The same work without gRPC: request bytes to reply bytes on one warm replica in this process.

It shows what the service's own code costs, and shows a change in that code with less noise than a
whole call does. It does not measure the server.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from google.protobuf.message import Message

from bench import cases
from bench.figures import aligned
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server import bootstrap
from keyfold_server.access.policy.development import Development
from keyfold_server.domain.rights import Caller, Identity
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.rpc.call_log import Facts
from keyfold_server.rpc.handlers.data import DataMethods
from keyfold_server.rpc.handlers.life import LifeMethods
from keyfold_server.service.data.call import Call, NeedsLoad
from keyfold_server.service.replica import Replica
from keyfold_server.settings import Settings

_REPEATS: Final = 15
_REPEATS_QUICK: Final = 5

_ROUNDS: Final = 5
"""Attempts until all is in memory. The loads in between: the cluster, its first use (D6), the
cluster again, its key."""

_CALLER: Final = Caller(Development().rights(Identity(("local",), "loopback")))
"""The caller that a server without a policy takes every caller for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the smallest and the median CPU µs per key of several repeats."""

    name: str
    smallest: float
    median: float


def rows(measured: list[Row]) -> list[list[str]]:
    """Returns the rows of the table."""
    head = ["CPU µs per key, in process", "min", "median"]
    return [head, *([r.name, f"{r.smallest:.2f}", f"{r.median:.2f}"] for r in measured)]


def table(measured: list[Row]) -> str:
    """Returns the table as text."""
    return aligned(rows(measured))


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Measures a replica that has its store and its root keys in `folder`."""
    return asyncio.run(_measure(folder, _REPEATS_QUICK if quick else _REPEATS))


async def _measure(folder: Path, repeats: int) -> list[Row]:
    # The server processes have already warned that these root keys are for development.
    logging.getLogger("keyfold_server.providers").setLevel(logging.ERROR)
    keys = KeyFile(folder / "root-keys.json")
    keys.create(cases.ROOT_KEY)
    settings = Settings(store=f"sqlite:///{folder / 'in-process.db'}", local_keys=keys.path)
    replica, close = bootstrap.replica(settings)
    try:
        await replica.start()
        try:
            await LifeMethods(replica).table()["Enable"](
                cases.enabling().SerializeToString(), _CALLER, math.inf, Facts()
            )
            return await _rows(replica, repeats)
        finally:
            await replica.stop()
    finally:
        close()


async def _rows(replica: Replica, repeats: int) -> list[Row]:
    methods = DataMethods(replica.data_plane).table()

    def core(method: str, request: Message) -> Callable[[], bytes]:
        """Returns the whole warm path of one call, as a function without arguments."""
        return partial(methods[method], request.SerializeToString(), Call(_CALLER.rights), Facts())

    async def warm(method: str, request: Message) -> bytes:
        """Makes one call, and loads what is missing in memory."""
        for _ in range(_ROUNDS):
            try:
                return core(method, request)()
            except NeedsLoad as lacking:
                await replica.loads.satisfy(lacking.needs, Call(_CALLER.rights), math.inf)
        raise RuntimeError(f"{method} still misses keys after {_ROUNDS} attempts")

    key = os.urandom(cases.KEY_SIZE)
    keys = [os.urandom(cases.KEY_SIZE) for _ in range(1_000)]
    plain = pb.WrapResponse.FromString(await warm("Wrap", cases.wrapping(key, context=False)))
    bound = pb.WrapResponse.FromString(await warm("Wrap", cases.wrapping(key)))
    batch = pb.BatchWrapResponse.FromString(await warm("BatchWrap", cases.batch_wrapping(keys)))
    wrapped = [result.answer.wrapped_key for result in batch.results]
    calls: list[tuple[str, str, int, Message]] = [
        ("Wrap, no context", "Wrap", 1, cases.wrapping(key, context=False)),
        ("Wrap, two pairs", "Wrap", 1, cases.wrapping(key)),
        ("Unwrap, no context", "Unwrap", 1, cases.unwrapping(plain.wrapped_key, context=False)),
        ("Unwrap, two pairs", "Unwrap", 1, cases.unwrapping(bound.wrapped_key)),
        ("BatchWrap of 100", "BatchWrap", 100, cases.batch_wrapping(keys[:100])),
        ("BatchWrap of 1,000", "BatchWrap", 1_000, cases.batch_wrapping(keys)),
        (
            "BatchWrap of 1,000, two pairs with each",
            "BatchWrap",
            1_000,
            cases.batch_wrapping(keys, own_context=True),
        ),
        ("BatchUnwrap of 1,000", "BatchUnwrap", 1_000, cases.batch_unwrapping(wrapped)),
    ]
    figures = []
    for name, method, items, request in calls:
        costs = _costs(core(method, request), items, repeats)
        figures.append(Row(name, min(costs), median(costs)))
        await asyncio.sleep(0)  # Lets the replica poll its store.
    return figures


def _costs(work: Callable[[], object], items: int, repeats: int) -> list[float]:
    """Returns CPU µs per item for each repeat; a repeat takes about 20 ms."""
    work()
    count = max(1, 2_000 // items)
    costs = []
    gc.collect()
    for _ in range(repeats):
        before = time.thread_time_ns()
        for _ in range(count):
            work()
        costs.append((time.thread_time_ns() - before) / count / items / 1_000)
    return costs
