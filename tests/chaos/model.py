"""The behavioural model: what a cluster is, and what a request may make of it.

It says nothing of time: not when a key service can be asked, nor what is in a replica's memory.
States are values that compare by what they hold. Where an outcome depends on what the model does
not know (which keys a Restore could prove), every possible one is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final


@dataclass(frozen=True, slots=True)
class Region:
    """A region as it should be.

    Attributes:
        uri: Its root key.
        generations: How many KEKs it has had; the newest wraps, all unwrap.
        revoked: Whether its use is forbidden.
    """

    uri: str
    generations: int = 1
    revoked: bool = False


State = tuple[tuple[str, Region], ...] | None
"""A cluster: its regions by name, sorted; None where there is none."""


@dataclass(frozen=True, slots=True)
class Request:
    """A change that somebody asks for.

    Attributes:
        method: Enable, AddRegions, Rotate, Revoke or Restore.
        regions: The regions that it names; empty: all.
        uris: The root key for each region that is given one.
        fresh: Rotate also makes a new generation.
    """

    method: str
    regions: tuple[str, ...] = ()
    uris: tuple[tuple[str, str], ...] = ()
    fresh: bool = False


KINDS: Final = ("Enable", "AddRegions", "Rotate", "Revoke", "Restore")


def state_of(regions: Mapping[str, Region]) -> State:
    """Returns a cluster of these regions."""
    return tuple(sorted(regions.items()))


def outcomes(state: State, request: Request) -> frozenset[State]:
    """Returns what a cluster may be after a request that was carried out; empty: it must not be.

    Every change is all of it or none (protocol S5, S8, R1); Restore alone goes region by region
    (R7).
    """
    if refusals(state, request):
        return frozenset()
    there = dict(state or ())
    match request.method:
        case "Enable" | "AddRegions":
            return frozenset({state_of({n: Region(u) for n, u in request.uris} | there)})
        case "Rotate":
            uris = dict(request.uris)
            for name in request.regions:
                old = there[name]
                number = old.generations + request.fresh
                there[name] = replace(old, uri=uris.get(name, old.uri), generations=number)
            return frozenset({state_of(there)})
        case "Revoke":
            for name in request.regions or tuple(there):
                there[name] = replace(there[name], revoked=True)
            return frozenset({state_of(there)})
        case "Restore":
            wanted = [n for n in request.regions or there if there[n].revoked]
            return frozenset(
                state_of(there | {n: replace(there[n], revoked=False) for n in proven})
                for count in range(len(wanted) + 1)
                for proven in combinations(wanted, count)
            )
    raise ValueError(request.method)


def refusals(state: State, request: Request) -> frozenset[str]:
    """Returns the reasons for which the cluster's state refuses a request; empty: it does not."""
    return frozenset(_refusals(state, request))


def _refusals(state: State, request: Request) -> Iterator[str]:
    if state is None:
        if request.method != "Enable":
            yield "CLUSTER_NOT_FOUND"
        return
    there, uris = dict(state), dict(request.uris)
    if request.method == "Enable":
        if any(region.revoked for region in there.values()):
            yield "REVOKED"
        elif uris != {name: region.uri for name, region in there.items()}:
            yield "CLUSTER_EXISTS"
        return
    if request.method == "AddRegions":
        if any(name in there and there[name].uri != uri for name, uri in uris.items()):
            yield "REGION_EXISTS"
        return
    if any(name not in there for name in request.regions):
        yield "REGION_NOT_FOUND"
    if request.method == "Rotate" and any(
        name in there and there[name].revoked for name in request.regions
    ):
        yield "REVOKED"
