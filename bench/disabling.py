"""`disable`: the time from a key's end at OpenBao until the last of three replicas refuses it.

The customer disables the key, deletes it, or takes the permission to decrypt away, in turns. For
each replica a loop calls Unwrap of the key's cluster, so every replica has the key in memory. First
somebody calls Recheck right afterwards, as a customer's own automation does, under the longest
`cache_ttl`. Then nobody does, under several. The time begins before the customer's call to OpenBao,
and ends when the last replica's first refusal has arrived, so it is an upper bound.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from bench import calls, servers
from bench.cases import WrongAnswerError
from bench.goals import Figure, Plan, SkippedError, percentile
from contract.counterparts import NotInstalledError
from contract.vault_transit import VaultCounterpart
from e2e import provider_sites
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.keyspec import RootKey

RECHECK_GOAL: Final = 5.0
"""Most seconds from the customer's call to the last replica's refusal, with Recheck."""

WITHOUT_GOAL: Final = 15.0
"""Most seconds beyond `cache_ttl`, without Recheck."""

_REPLICAS: Final = 3
_RECHECKED: Final = 30
_TTLS: Final = (0, 5, 60)
"""Values of `cache_ttl` in seconds: the smallest, and the default among others."""

_EACH: Final = 12
"""Clusters for each of them."""

_QUICK: Final = (3, (0, 1), 3)
"""Runs with Recheck, values of `cache_ttl`, and clusters for each, at the small size."""

_LONGEST_TTL: Final = 900
_PAUSES: Final = (0.01, 0.1)
"""Seconds between two calls of a replica, with Recheck and without."""

_REFUSED: Final = "FAILED_PRECONDITION"
_PATIENCE: Final = 120.0
"""Seconds beyond `cache_ttl` after which a replica that still unwraps has failed."""


class _Recheck(NamedTuple):
    """A run with Recheck.

    Attributes:
        refused: Seconds from the customer's call to the last replica's first refusal.
        answered: Seconds that Recheck took.
        pending: Number of replicas that its answer names as pending.
    """

    refused: float
    answered: float
    pending: int


def measure(plan: Plan) -> list[Figure]:
    """Measures the case, or raises SkippedError without OpenBao or PostgreSQL."""
    counterparts = plan.folder / "counterparts"
    counterparts.mkdir()
    with provider_sites.opened(("vault",), counterparts) as sites:
        site = sites["vault"]
        if isinstance(site, NotInstalledError):
            raise SkippedError(str(site))
        given = provider_sites.settings([site], plan.folder / "keyfold.toml")
        assert isinstance(site.there, VaultCounterpart)  # noqa: S101  the site's own counterpart
        settings = {k.removeprefix("KEYFOLD_").lower(): v for k, v in given.items() if v}
        with servers.replicas(plan.folder, _REPLICAS, **settings) as replicas:
            addresses = [replica.address for replica in replicas]
            return asyncio.run(_measured(addresses, site.there, plan))


async def _measured(addresses: list[str], there: VaultCounterpart, plan: Plan) -> list[Figure]:
    runs, ttls, each = _QUICK if plan.quick else (_RECHECKED, _TTLS, _EACH)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(calls.client(a)) for a in addresses]
        customers = _Customers(clients, there)
        rechecked = [await customers.recheck(turn) for turn in range(runs)]
        without = dict(
            zip(
                ttls,
                await asyncio.gather(*(customers.wait_all(ttl, each) for ttl in ttls)),
                strict=True,
            )
        )
    refused = [run.refused for run in rechecked]
    answered = [run.answered for run in rechecked]
    pending = sum(run.pending for run in rechecked)
    ends = f"key's end to refusal on each of {_REPLICAS} replicas"
    figures = [
        Figure("disable", f"with Recheck: {ends}, p50", percentile(refused, 0.5), "s", runs),
        Figure("disable", f"with Recheck: {ends}, slowest", max(refused), "s", runs, RECHECK_GOAL),
        Figure("disable", "Recheck to its answer, p50", percentile(answered, 0.5), "s", runs),
        Figure("disable", "unconfirmed replicas", pending, "", runs, 0),
    ]
    for ttl, times in without.items():
        what = f"cache_ttl {ttl} s: {ends}"
        figures += [
            Figure("disable", f"{what}, p50", percentile(times, 0.5), "s", each),
            Figure("disable", f"{what}, slowest", max(times), "s", each, ttl + WITHOUT_GOAL),
        ]
    return figures


class _Customers:
    """Clusters with root keys of their own at one OpenBao, and what their customers do there."""

    def __init__(self, clients: list[calls.Client], there: VaultCounterpart) -> None:
        """Takes a client of each replica, and OpenBao."""
        self._clients = clients
        self._there = there
        self._count = 0
        self._dice = random.Random(17)  # noqa: S311  no secret depends on it
        self._ways: list[Callable[[RootKey], None]] = [
            there.disable,
            lambda key: there.deny(key, "unwrap"),
            self._delete,
        ]
        # Each change of a permission writes the whole policy.
        self._one_by_one = asyncio.Lock()

    async def recheck(self, turn: int) -> _Recheck:
        """Ends a key and calls Recheck, through one replica after the other."""
        name, key, blob = await self._warm(_LONGEST_TTL)
        polls = self._polls(name, blob, _LONGEST_TTL, _PAUSES[0])
        began = time.monotonic()
        await self._end(key, turn)
        asked = time.monotonic()
        reply = await self._clients[turn % len(self._clients)].recheck(key.uri)
        answered = time.monotonic()
        last = await self._last(polls, name, blob)
        return _Recheck(last - began, answered - asked, len(reply.pending))

    async def wait_all(self, ttl: int, count: int) -> list[float]:
        """Ends keys of as many clusters; returns the seconds to the last replica's refusal."""
        return await asyncio.gather(*(self._wait(ttl, turn) for turn in range(count)))

    async def _wait(self, ttl: int, turn: int) -> float:
        name, key, blob = await self._warm(ttl)
        polls = self._polls(name, blob, ttl, _PAUSES[1])
        # The key's proof may be new or old.
        await asyncio.sleep(self._dice.uniform(0.0, ttl))
        began = time.monotonic()
        await self._end(key, turn)
        return await self._last(polls, name, blob) - began

    async def _warm(self, ttl: int) -> tuple[str, RootKey, bytes]:
        """Makes a cluster with a key of its own, which every replica then has in memory."""
        self._count += 1
        name = f"tenant-{self._count:03}"
        key = await asyncio.to_thread(self._key)
        spec = res.KeySpec(type=key.type, uri=key.uri, auth_principal=key.principal)
        await self._clients[0].enable(name, spec, ttl)
        blob = await self._clients[0].wrap(name)
        for _ in range(2):
            await asyncio.gather(*(client.unwrap(name, blob) for client in self._clients))
        return name, key, blob

    def _key(self) -> RootKey:
        key = self._there.create_key()
        self._there.server.call("POST", f"{self._path(key)}/config", deletion_allowed=True)
        return key

    async def _end(self, key: RootKey, turn: int) -> None:
        """Ends a key, each time in another way."""
        async with self._one_by_one:
            await asyncio.to_thread(self._ways[turn % len(self._ways)], key)

    def _delete(self, key: RootKey) -> None:
        self._there.server.call("DELETE", self._path(key))

    def _path(self, key: RootKey) -> str:
        return f"{self._there.mount}/keys/{key.uri.rpartition('/')[2]}"

    def _polls(self, name: str, blob: bytes, ttl: int, pause: float) -> list[asyncio.Task[float]]:
        ends = time.monotonic() + 2 * ttl + _PATIENCE
        return [
            asyncio.create_task(_until_refused(client, name, blob, ends, pause))
            for client in self._clients
        ]

    async def _last(self, polls: list[asyncio.Task[float]], name: str, blob: bytes) -> float:
        """Returns the time of the last first refusal, once every replica has refused twice."""
        last = max(await asyncio.gather(*polls))
        again = await asyncio.gather(*(c.outcome(name, blob) for c in self._clients))
        if set(again) != {_REFUSED}:
            raise WrongAnswerError(f"replicas that had refused answered {again}")
        return last


async def _until_refused(
    client: calls.Client, name: str, blob: bytes, ends: float, pause: float
) -> float:
    """Returns the time of a replica's first refusal."""
    while time.monotonic() < ends:
        outcome = await client.outcome(name, blob)
        if outcome == _REFUSED:
            return time.monotonic()
        if outcome != "OK":
            raise WrongAnswerError(f"a replica answered {outcome} before it refused")
        await asyncio.sleep(pause)
    raise WrongAnswerError(f"a replica still unwraps under a key that has ended: {name}")
