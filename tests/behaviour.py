"""The behavioural model: what a cluster is, what a request may make of it, and how a use may end.

Hypothesis drives a replica against this model, and the chaos suite compares its histories with it.
States are values. If an outcome depends on what the model does not know (which keys a Restore could
prove), the model gives every possible outcome. It knows no code of the server, and no clock: its
callers measure the ages, in seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

MEMORY: Final = 6.0
"""Seconds after which a replica has forgotten a refusal that is over: 5, with a margin."""

BELIEVED: Final = 16.0
"""Seconds for which an outage that is over may still count: its pause and the belief in it."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region as it should be.

    uri: The URI of its root key.
    generations: Number of KEKs it has had; the newest wraps, all unwrap.
    revoked: Whether its use is forbidden.
    """

    uri: str
    generations: int = 1
    revoked: bool = False


State = tuple[tuple[str, Region], ...] | None
"""A cluster as its regions by name, sorted; None: the cluster does not exist."""


@dataclass(frozen=True, slots=True)
class Request:
    """A change that a caller asks for.

    Attributes:
        method: Enable, AddRegions, Rotate, Revoke or Restore.
        regions: The regions that the request names; empty: all.
        uris: The root key of each region to which the request gives one.
        fresh: Whether Rotate also makes a new generation.
        into_revoked: Whether AddRegions adds even where all other regions are revoked.
    """

    method: str
    regions: tuple[str, ...] = ()
    uris: tuple[tuple[str, str], ...] = ()
    fresh: bool = False
    into_revoked: bool = False


# --- changes -----------------------------------------------------------------------------


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
        yield from _refusals_to_add(there, uris, into_revoked=request.into_revoked)
        return
    if any(name not in there for name in request.regions):
        yield "REGION_NOT_FOUND"
    if request.method == "Rotate" and any(
        name in there and there[name].revoked for name in request.regions
    ):
        yield "REVOKED"


def _refusals_to_add(
    there: Mapping[str, Region], uris: Mapping[str, str], *, into_revoked: bool
) -> Iterator[str]:
    new = any(name not in there for name in uris)
    if any(name in there and there[name].uri != uri for name, uri in uris.items()):
        yield "REGION_EXISTS"
    elif new and not into_revoked and all(region.revoked for region in there.values()):
        yield "CLUSTER_REVOKED"


@dataclass(frozen=True, slots=True)
class Asked:
    """The calls to the KMS that a change makes.

    Attributes:
        opens: The regions of which it unwraps every KEK.
        wraps: The root keys under which it wraps a KEK and unwraps it again.
    """

    opens: frozenset[str] = frozenset()
    wraps: frozenset[str] = frozenset()


def asked(request: Request, before: State, after: State) -> Asked:
    """Returns the calls that a change from one state to another needs (R7, S5).

    Revoke makes no call (R1), nor does a request that has nothing to change.
    """
    old, opens, wraps = dict(before or ()), set(), set()
    for name, region in after or ():
        was = old.get(name)
        if was is None:
            wraps.add(region.uri)
        elif was.revoked and not region.revoked:
            opens.add(name)
        elif request.method == "Rotate" and name in request.regions:
            opens.add(name)
            wraps.add(region.uri)
    return Asked(frozenset(opens), frozenset(wraps))


# --- uses --------------------------------------------------------------------------------


class Verdict(enum.Enum):
    """How a use may end."""

    SERVED = enum.auto()
    REFUSED = enum.auto()
    COULD_NOT_TELL = enum.auto()
    REVOKED = enum.auto()


@dataclass(frozen=True, slots=True)
class Power:
    """The state of a KEK's root key, and for how long the key has been in it.

    Attributes:
        on: Whether the version that wrapped the KEK is enabled.
        on_for: Seconds since it was switched last.
        out: Whether its KMS is out of reach.
        out_for: Seconds since that began or ended.
    """

    on: bool
    on_for: float
    out: bool
    out_for: float


def verdicts(power: Power, *, ttl: float, grace: float) -> frozenset[Verdict]:
    """Returns how a use of a KEK in an enabled region may end (protocol F1, F2).

    Args:
        power: Its root key.
        ttl: The region's cache TTL, seconds.
        grace: Its grace in an outage, seconds.
    """
    may = {Verdict.SERVED, Verdict.REFUSED, Verdict.COULD_NOT_TELL}
    if power.on and not power.out and min(power.on_for, power.out_for) >= MEMORY:
        return frozenset({Verdict.SERVED})
    if (power.out and power.out_for >= ttl + grace) or (
        not power.on and power.on_for >= ttl + grace
    ):
        may.discard(Verdict.SERVED)
    if not power.on and not power.out and power.on_for >= ttl and power.out_for >= BELIEVED:
        return frozenset({Verdict.REFUSED})
    return frozenset(may)
