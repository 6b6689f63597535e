"""`kms-calls`: what a replica asks a KMS to keep 10,000 KEKs under 500 root keys in use.

A whole replica on a clock that is turned, as the tests of many replicas have it: an hour of use
takes a minute. Every root key is in use all the time, through another of its KEKs each time.
"""

from __future__ import annotations

import asyncio
from typing import Final

from bench.goals import Figure, Plan
from integration.test_fleet import STEP, TTL, Fleet, served, warm_up
from replicas import Member

_KEKS: Final = 10_000
_ROOT_KEYS: Final = 500
_HOURS: Final = 1.0
_QUICK: Final = (200, 10, 0.1)

_HOUR: Final = 3_600.0


class NotServedError(Exception):
    """A call would have waited for a KMS."""


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    keks, roots, hours = _QUICK if plan.quick else (_KEKS, _ROOT_KEYS, _HOURS)
    asked = asyncio.run(_asked(plan, keks, roots, hours))
    ttls = hours * _HOUR / TTL
    of = f"{keks:,} KEKs under {roots:,} root keys, TTL {TTL:g} s"
    return [
        Figure("kms-calls", f"{of}: per TTL", asked / ttls, "", asked, roots),
        Figure("kms-calls", "the same per root key and TTL", asked / ttls / roots, "", asked),
        Figure("kms-calls", "the same per hour", asked / hours, "", asked),
        Figure("kms-calls", "per hour if each KEK were asked for", keks * ttls / hours, "", 0),
    ]


async def _asked(plan: Plan, keks: int, roots: int, hours: float) -> int:
    """Returns the calls of one replica, those that made it warm not among them."""
    fleet = Fleet(plan.folder)
    try:
        fleet.stock(keks, roots)
        member = await fleet.member()
        await warm_up(member, keks)
        warm = fleet.unwraps(member)
        for step in range(int(hours * _HOUR / STEP)):
            await fleet.after(STEP)
            await _use(member, step, keks, roots)
        return fleet.unwraps(member) - warm
    finally:
        await fleet.close()


async def _use(member: Member, step: int, keks: int, roots: int) -> None:
    """Has a replica refresh what is due, and use one KEK under each root key."""
    await member.look()
    first = step * roots % keks
    if served(member, range(first, first + roots)) != roots:
        raise NotServedError("a KEK in use was not served from memory")
