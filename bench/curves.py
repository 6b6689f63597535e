"""`curves`: what a warm call costs as that grows with which it could grow.

The calls are those of the service's own code, from request bytes to reply bytes, in this process.
Each point is the least of several measurements in turns, because other work of the machine can only
add to a cost.
"""

from __future__ import annotations

import gc
import itertools
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from bench import committed, pictures
from bench.figures import markdown
from bench.goals import Figure, Plan
from builders import a_cluster, a_generation, a_region
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.rights import CachedPolicy
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.envelope import Kek
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing
from keyfold_server.rpc.call_log import Facts
from keyfold_server.rpc.handlers.data import DataMethods
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.data.cache_entries import CachedKek, ClusterView
from keyfold_server.service.data.call import Call
from keyfold_server.service.data.data_plane import DataPlane
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.data.keyring import Keyring
from keyfold_server.service.limits import Accounts

FLAT: Final = 1.25
"""The most by which a call that has no more work to do may become dearer, as a factor."""

_WORK: Final = ("context",)
"""The curves whose size is work."""

_ROUNDS: Final = 12
_ROUNDS_QUICK: Final = 3
_CALLS: Final = 600
"""Calls of one measurement, about 20 ms."""

_CALLER: Final = Identity(("spiffe://example.org/app",), "certificate")
_KEY: Final = os.urandom(32)

Works = dict[str, Callable[[], object]]
"""A call of each method."""

_PICTURES: Final = Path(__file__).parent / "pictures"


def measure(plan: Plan) -> list[Figure]:
    """Measures every curve; with `plan.commit` also draws them into README.md."""
    rounds = _ROUNDS_QUICK if plan.quick else _ROUNDS
    figures, texts, kept = [], [], {}
    for name, (size, sizes, make) in CURVES.items():
        works = {each: make(each) for each in sizes}
        lines = _costs(works, rounds)
        first, last = sizes[0], sizes[-1]
        for method, points in lines.items():
            grown = points[-1][1] / points[0][1]
            what = f"{name}, {method}: cost at {last:,} beside that at {first:,}"
            goal = None if name in _WORK else FLAT
            figures.append(Figure("curves", what, grown, "x", rounds * len(sizes), goal))
        kept[name] = {method: dict(points) for method, points in lines.items()}
        texts.append(_section(name, size, lines))
        if plan.commit:
            picture = pictures.curve(f"A warm call and {name}", size, "CPU µs", lines)
            _PICTURES.mkdir(exist_ok=True)
            (_PICTURES / f"{name.replace(' ', '-')}.svg").write_text(picture, encoding="utf-8")
    if plan.commit:
        committed.write("curves", kept, "\n\n".join([plan.circumstances, *texts]))
    return figures


def _section(name: str, size: str, lines: Mapping[str, pictures.Points]) -> str:
    head = [size, *(f"{x:,}" for x, _ in next(iter(lines.values())))]
    rows = [
        [f"{method}, CPU µs", *(f"{y:.1f}" for _, y in points)] for method, points in lines.items()
    ]
    file = f"pictures/{name.replace(' ', '-')}.svg"
    picture = f"![A warm call and {name}]({file})"
    return f"### {name.capitalize()}\n\n{picture}\n\n{markdown([head, *rows])}"


def _costs(works: Mapping[int, Works], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Returns the least CPU µs per call at each size, by method."""
    least: dict[str, dict[int, float]] = {}
    gc.collect()
    for _, (size, methods) in itertools.product(range(rounds), works.items()):
        for method, work in methods.items():
            work()
            began = time.thread_time_ns()
            for _ in range(_CALLS):
                work()
            cost = (time.thread_time_ns() - began) / _CALLS / 1000
            found = least.setdefault(method, {})
            found[size] = min(cost, found.get(size, cost))
    return {method: sorted(found.items()) for method, found in least.items()}


class _Service:
    """The data plane over a cache that this module fills."""

    def __init__(self, clusters: list[Cluster], rights: Rights) -> None:
        """Puts clusters into the cache, each with its KEKs open and freshly proven."""
        clock = SystemClock()
        cache = KeyCache(len(clusters))
        root = cache.root("bench")
        # Longer than any run: the proof must not expire while calls are measured.
        root.proven(clock.monotonic() + 3600)
        for cluster in clusters:
            view = ClusterView(cluster, Timing(), ServedRegions())
            cache.put_view(view)
            for region, generation in view.keks.values():
                kek = Kek(
                    generation.kek_id,
                    cluster.name,
                    region.region.name,
                    generation.number,
                    bytearray(secrets.token_bytes(32)),
                )
                cache.put_kek(CachedKek(kek, view, region, root, clock.monotonic()))
        keyring = Keyring(
            cache,
            clock,
            lambda _: None,
            lambda _opened, _now: None,
            Accounts(1_000, 1e9, "organization", clock),
        )
        self._methods = DataMethods(DataPlane(keyring)).table()
        self._rights = rights

    def call(self, method: str, request: Message) -> bytes:
        """Makes a call."""
        return self._methods[method](request.SerializeToString(), Call(self._rights), Facts())

    def works(self, wraps: list[pb.WrapRequest], opens: int = 0) -> Works:
        """Returns a Wrap of one request after the other, and an Unwrap of what they gave.

        Args:
            wraps: The requests.
            opens: How many of the wrapped keys the Unwraps take; 0 for all.
        """
        unwraps = [
            pb.UnwrapRequest(
                cluster=asked.cluster,
                wrapped_key=pb.WrapResponse.FromString(self.call("Wrap", asked)).wrapped_key,
                context=asked.context,
            ).SerializeToString()
            for asked in wraps[: opens or len(wraps)]
        ]
        return {
            "Wrap": self._turns("Wrap", [asked.SerializeToString() for asked in wraps]),
            "Unwrap": self._turns("Unwrap", unwraps),
        }

    def _turns(self, method: str, requests: list[bytes]) -> Callable[[], object]:
        core, rights, turn = self._methods[method], self._rights, itertools.cycle(requests)
        return lambda: core(next(turn), Call(rights), Facts())


def _everything() -> Rights:
    return _rights(1)


def _rights(grants: int) -> Rights:
    """Returns the caller's rights under a policy with so many grants, the last of which counts."""
    other = '[[grant]]\ncallers = ["{}"]\nroles = ["crypto"]\nclusters = ["other-{}"]\n'
    text = "".join(other.format(_CALLER.name, number) for number in range(grants - 1))
    text += f'[[grant]]\ncallers = ["{_CALLER.name}"]\nroles = ["crypto"]\n'
    return CachedPolicy(parse(text, "bench.toml")).rights(_CALLER)


def _wrap(cluster: str, region: str, context: Mapping[str, str] | None = None) -> pb.WrapRequest:
    return pb.WrapRequest(cluster=cluster, region=region, plaintext=_KEY, context=context)


def _of_regions(count: int) -> Works:
    names = [f"region-{number:02}" for number in range(count)]
    service = _Service([a_cluster("prod", [a_region(name) for name in names])], _everything())
    return service.works([_wrap("prod", name) for name in names])


def _of_generations(count: int) -> Works:
    generations = tuple(a_generation(number=number) for number in range(1, count + 1))
    region = replace(a_region("eu"), generations=generations)
    service = _Service([a_cluster("prod", [region])], _everything())
    return service.works([_wrap("prod", "eu")])


def _of_context(pairs: int) -> Works:
    context = {f"key-{number:02}": "x" * 20 for number in range(pairs)}
    service = _Service([a_cluster("prod", [a_region("eu")])], _everything())
    return service.works([_wrap("prod", "eu", context)])


def _of_grants(count: int) -> Works:
    service = _Service([a_cluster("prod", [a_region("eu")])], _rights(count))
    return service.works([_wrap("prod", "eu")])


def _of_cache(count: int) -> Works:
    clusters = [a_cluster(f"tenant-{number:05}", [a_region("eu")]) for number in range(count)]
    service = _Service(clusters, _everything())
    return service.works([_wrap(cluster.name, "eu") for cluster in clusters], _CALLS)


CURVES: Final[Mapping[str, tuple[str, tuple[int, ...], Callable[[int], Works]]]] = {
    "regions": ("regions of the cluster", (1, 4, 16, 64), _of_regions),
    "generations": ("generations of the region", (1, 10, 100, 1_000), _of_generations),
    "context": ("pairs of the context", (1, 2, 4, 8, 16), _of_context),
    "policy grants": ("grants of the policy", (1, 10, 100, 1_000), _of_grants),
    "cache size": ("clusters in memory", (10, 100, 1_000, 10_000), _of_cache),
}
"""What each curve counts, its sizes, and what makes the calls at a size."""
