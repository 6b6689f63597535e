"""`operations`: how fast one operation goes through many cluster-regions, and what it holds.

The root keys are LOCAL and the rates are out of the way, so the store and Keyfold's own work set
the pace. `--whole` takes 100,000 cluster-regions.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import keyfold
from bench import servers, stock
from bench.cases import WrongAnswerError
from bench.goals import Figure, Plan
from bench.processes import Server
from keyfold.models.operations import Operation

_REGIONS: Final = 5_000
_REGIONS_QUICK: Final = 300
_REGIONS_WHOLE: Final = 100_000
_RATE: Final = "1000000"


def measure(plan: Plan) -> list[Figure]:
    """Measures `operations`."""
    count = _REGIONS_QUICK if plan.quick else _REGIONS_WHOLE if plan.whole else _REGIONS
    folder = plan.folder / "operations"
    stock.stocked(folder, count)
    scope = keyfold.OperationScope.principal("")
    figures = []
    with _served(folder) as server, keyfold.Client(server.address) as client:
        rotate = keyfold.OperationAction.rotate()
        began = time.perf_counter()
        client.start_operation("census", rotate, scope, dry_run=True, timeout=300)
        figures.append(_figure(count, "census", time.perf_counter() - began, "s"))
        before = server.memory().now
        for what, action in (
            ("rotate", rotate),
            ("recheck", keyfold.OperationAction.recheck()),
            ("policy", keyfold.OperationAction.set_policy(keyfold.RegionPolicy(auto_rotate=True))),
        ):
            began = time.perf_counter()
            client.start_operation(what, action, scope, max_concurrency=64)
            operation = _ended(client, what)
            seconds = time.perf_counter() - began
            if operation.done != count:
                raise WrongAnswerError(f"the operation {what} has not done all: {operation}")
            figures.append(_figure(count, f"{what}, a second", count / seconds, "/s"))
        figures.append(_figure(count, "growth of memory", server.memory().now - before, "MiB"))
    return figures


def _served(folder: Path) -> AbstractContextManager[Server]:
    """Returns a server whose rates nothing reaches."""
    return servers.one(
        folder, kms_rate_per_key=_RATE, kms_rate_per_account=_RATE, kms_rate_per_provider=_RATE
    )


def _figure(count: int, what: str, value: float, unit: str) -> Figure:
    return Figure("operations", f"{count:,} cluster-regions: {what}", value, unit, 1)


def _ended(client: keyfold.Client, name: str) -> Operation:
    while True:
        operation = client.wait_operation(name)
        if operation.ended:
            return operation
