"""`kms-calls`: what a replica asks a KMS to keep 10,000 KEKs under 500 root keys in use.

A whole replica on a clock that is turned, as the tests of many replicas have it: an hour of use
takes minutes. Every root key is in use all the time, through another of its KEKs each time; the
sweep has its turns at their times.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final
from unittest import mock

from bench.goals import Figure, Plan
from integration.test_fleet import STEP, TTL, Fleet, served, warm_up
from keyfold_server.domain.timing import Timing
from keyfold_server.service.upkeep import sweep
from replicas import Member

_KEKS: Final = 10_000
_ROOT_KEYS: Final = 500
_HOURS: Final = 1.0
_QUICK: Final = (200, 10, 0.1)

_HOUR: Final = 3_600.0


class NotServedError(Exception):
    """A call would have waited for a KMS."""


@dataclass
class _Asked:
    """Calls of one replica.

    Attributes:
        refresh: Unwraps that kept root keys fresh.
        keks: Unwraps of the sweep, of KEKs in use.
        roots: Wraps and unwraps of the sweep, of root keys.
    """

    refresh: int = 0
    keks: int = 0
    roots: int = 0

    @property
    def every(self) -> int:
        """All of them."""
        return self.refresh + self.keks + self.roots


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    keks, roots, hours = _QUICK if plan.quick else (_KEKS, _ROOT_KEYS, _HOURS)
    asked = asyncio.run(_asked(plan, keks, roots, hours))
    ttls = hours * _HOUR / TTL
    of = f"{keks:,} KEKs under {roots:,} root keys, TTL {TTL:g} s"

    def hourly(what: str, calls: int) -> Figure:
        return Figure("kms-calls", what, calls / hours, "", calls)

    each = keks * ttls / hours
    return [
        Figure("kms-calls", f"{of}: per TTL", asked.refresh / ttls, "", asked.refresh, roots),
        Figure(
            "kms-calls",
            "the same per root key and TTL",
            asked.refresh / ttls / roots,
            "",
            asked.refresh,
        ),
        hourly("per hour: root keys kept fresh", asked.refresh),
        hourly("per hour: the sweep, each KEK in use by itself", asked.keks),
        hourly("per hour: the sweep, each root key wraps and unwraps", asked.roots),
        hourly("per hour, in all", asked.every),
        Figure("kms-calls", "per hour if each KEK were asked for each TTL", each, "", 0),
    ]


async def _asked(plan: Plan, keks: int, roots: int, hours: float) -> _Asked:
    """Returns the calls of one replica, those that made it warm not among them."""
    fleet = Fleet(plan.folder)
    asked, taken = _Asked(), 0
    # The clock is turned, and the sweep's pauses between two KEKs would be real ones.
    try:
        with mock.patch.object(sweep, "_PAUSE", 0.0):
            fleet.stock(keks, roots)
            member = await fleet.member()
            await warm_up(member, keks)
            for step in range(int(hours * _HOUR / STEP)):
                await fleet.after(STEP)
                before = fleet.calls()
                await _use(member, step, keks, roots)
                asked.refresh += fleet.calls() - before
                due = int((step + 1) * STEP / Timing().sweep * sweep.SLOTS)
                await _sweep(member, range(taken, due), asked)
                taken = due
        return asked
    finally:
        await fleet.close()


async def _sweep(member: Member, turns: range, asked: _Asked) -> None:
    """Has the sweep take its turns."""
    house = member.house
    unwraps, wraps = house.calls(), house.calls("wrap")
    for turn in turns:
        await member.replica.sweep.turn(turn % sweep.SLOTS)
    wrapped = house.calls("wrap") - wraps
    asked.keks += house.calls() - unwraps - wrapped
    asked.roots += 2 * wrapped


async def _use(member: Member, step: int, keks: int, roots: int) -> None:
    """Has a replica refresh what is due, and use one KEK under each root key."""
    await member.look()
    first = step * roots % keks
    if served(member, range(first, first + roots)) != roots:
        raise NotServedError("a KEK in use was not served from memory")
