"""`mutations`: how many changes a second the store takes on SQLite, one by one and in groups.

The changes go to the store's own `apply`, as those of Enable and Revoke do, each with the record of
its request. No KMS is called and no call is made, so this is the store's share of a change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from bench import stock
from bench.goals import Figure, Plan
from builders import a_cluster, a_request, an_event, enabling
from keyfold_server.domain.changes import Change, revoked
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore

_ONE_BY_ONE: Final = 1_000
_GROUPS: Final = 20
_GROUP: Final = 500
"""Changes in one transaction."""

_ROUNDS: Final = 5

_QUICK: Final = (50, 1, 1)
"""Changes one by one, groups and rounds at the small size."""


class _Rates(NamedTuple):
    """Changes for each second that passed, and for each second of CPU of the whole process."""

    wall: float
    cpu: float


def measure(plan: Plan) -> list[Figure]:
    """Measures `mutations`, in a fresh store each round."""
    single, groups, rounds = _QUICK if plan.quick else (_ONE_BY_ONE, _GROUPS, _ROUNDS)
    found: dict[str, list[_Rates]] = {}
    for number in range(rounds):
        for what, rates in _round(plan.folder / str(number), single, groups).items():
            found.setdefault(what, []).append(rates)
    counts = {"one by one": single, f"in groups of {_GROUP}": groups * _GROUP}
    figures: list[Figure] = []
    for what, each in found.items():
        samples = rounds * counts[what.partition(", ")[2]]
        wall, cpu = [rates.wall for rates in each], [rates.cpu for rates in each]
        figures += [
            Figure("mutations", f"{what}: a second, median", median(wall), "/s", samples),
            Figure("mutations", f"{what}: a second of CPU, median", median(cpu), "/s", samples),
            Figure("mutations", f"{what}: a second of CPU, best", max(cpu), "/s", samples),
        ]
    return figures


def _round(folder: Path, single: int, groups: int) -> dict[str, _Rates]:
    """Enables clusters one by one and in groups, and then revokes them likewise."""
    folder.mkdir()
    store = open_store(f"sqlite:///{folder / 'keyfold.db'}", None, clock=SystemClock())
    try:
        alone = [stock.cluster(n) for n in range(single)]
        grouped = [stock.cluster(single + n) for n in range(groups * _GROUP)]
        found = {}
        for rpc, making in (("Enable", _enabling), ("Revoke", _revoking)):
            found[f"{rpc}, one by one"] = _rates(store, [[making(name)] for name in alone])
            some = [making(name) for name in grouped]
            batches = [some[first : first + _GROUP] for first in range(0, len(some), _GROUP)]
            found[f"{rpc}, in groups of {_GROUP}"] = _rates(store, batches)
        return found
    finally:
        store.close()


def _rates(store: SqlStore, batches: Sequence[Sequence[Change]]) -> _Rates:
    began, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        for result in store.apply(batch):
            if isinstance(result, Exception):
                raise result
    count = sum(map(len, batches))
    return _Rates(count / (time.perf_counter() - began), count / (time.process_time() - cpu))


def _enabling(name: str) -> Change:
    return enabling(a_cluster(name), a_request(name, "enable"))


def _revoking(name: str) -> Change:
    decide = revoked(name, (), int(time.time() * 1000))
    return Change(name, decide, an_event("rpc:cluster:revoke"), a_request(name, "revoke"))
