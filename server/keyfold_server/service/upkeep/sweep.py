"""The sweep: what nobody asks about is asked about all the same (protocol F4, F5).

Each KEK in this replica's memory that was used since the last sweep is proven by an unwrap of its
own, since a customer's policy may tell clusters apart; and each root key that an enabled region
uses wraps and unwraps once, by one replica of all. What an answer means is decided where every
other answer is: this only asks. Root keys have their turns by their ids, which are digests, so
that they are spread over the interval however many there are.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.errors import (
    CouldNotTellError,
    KeyfoldError,
    KmsError,
    NotAsked,
    OverloadedError,
    RateLimitedError,
    RowNotAuthenticError,
)
from keyfold_server.domain.health import COULD_NOT_TELL
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import Sample
from keyfold_server.service.data.cache_entries import NEVER, RootState
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks
from keyfold_server.service.upkeep.auto_rotation import AutoRotation

log = logging.getLogger(__name__)

SLOTS: Final = 256
"""Parts of an interval: one for each first byte of a root key id."""

AT_ONCE: Final = 16
"""Root keys that are asked at once."""

_FOLLOWED: Final = 4
"""Root keys whose regions are rotated at once: each may take hours, and keeps no other's turn."""

_PAUSE: Final = 0.1
"""Seconds between two KEKs of one root key: half of its rate is left for calls."""

_PART: Final = 0.75
"""Part of the interval for which a claim holds. Less than all of it, so that a replica whose turn
comes a little early need not wait for another interval."""

_STEP_BACK: Final = 0.95
"""The same for a replica that could not ask about a root key: it goes on where nobody else does,
and leaves the turn to whoever had it since."""

_TURNS: Final = 4
"""Turns for which a replica steps back so, before it tries again to be the one that asks."""


class Sweep:
    """Asks, slot by slot."""

    def __init__(
        self,
        cache: KeyCache,
        loads: Loads,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        storage: Storage,
        interval: float,
        check_serving: Callable[[], None],
        auto_rotation: AutoRotation,
    ) -> None:
        """Joins the sweep to memory, KMS and store.

        Args:
            cache: The KEKs in memory.
            loads: Proves them.
            kek_wrapper: Asks about root keys that are not in memory.
            health: Told of what was seen.
            storage: The store.
            interval: Seconds from one sweep to the next.
            check_serving: Raises where this replica must not use keys.
            auto_rotation: Told of root keys that wrap and unwrap.
        """
        self._cache = cache
        self._loads = loads
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._storage = storage
        self._interval = interval
        self._check_serving = check_serving
        self._auto_rotation = auto_rotation
        self._unheard: dict[str, int] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._following = asyncio.Semaphore(_FOLLOWED)
        self._under_way: set[tuple[object, ...]] = set()
        self._tasks = Tasks()
        self._failing = False

    async def keep(self) -> None:
        """Has each slot its turn once in each interval; for ever."""
        # Replicas that start together do not ask together.
        first = random.randrange(SLOTS)  # noqa: S311
        try:
            for turn in itertools.count(first):
                await asyncio.sleep(self._interval / SLOTS)
                # It may last longer than an interval; what is still under way then has no second.
                self._tasks.start(self.turn(turn % SLOTS))
        finally:
            await self._tasks.drain(0)

    async def turn(self, slot: int) -> None:
        """Asks about the root keys of one slot, 0 to 255; nobody where this replica is stale."""
        try:
            self._check_serving()
        except KeyfoldError:
            return
        prefix = f"{slot:02x}"
        try:
            samples = await self._claimed(prefix)
            self._failing = False
        except KeyfoldError as error:
            if not self._failing:
                log.warning("the sweep asks only about keys in memory: %s", error.reason)
            self._failing = True
            samples = []
        roots = [list(g) for _, g in itertools.groupby(samples, lambda sample: sample.root)]
        await asyncio.gather(
            *(self._in_memory(root) for root in self._cache.roots(prefix)),
            *(self._root(chosen) for chosen in roots),
        )

    async def _in_memory(self, root: RootState) -> None:
        """Proves each KEK under a root key that was used since the last turn by itself."""
        used = [opened for opened in root.open if opened.used_at > opened.swept]
        with self._alone("memory", root.root_id) as alone:
            for opened in used if alone else ():
                if opened is not used[0]:
                    await asyncio.sleep(_PAUSE)
                # Not for all of them: of a root key with thousands that takes half an hour.
                async with self._at_once:
                    task = self._loads.prove(opened)
                    if task is None:
                        continue
                    opened.swept = opened.used_at
                    if isinstance(await asyncio.shield(task), CouldNotTellError | NotAsked):
                        # The others are as little to be had; they stay used, for the next turn.
                        opened.swept = NEVER
                        return

    async def _claimed(self, prefix: str) -> list[Sample]:
        """Returns whom to ask about of the store's, where no other replica has."""
        store = self._storage.store
        samples = await self._storage.run(store.samples, prefix)
        if not samples:
            return []
        holds = int(self._interval * await self._part(samples) * 1000)
        ours = await self._storage.run(store.claim, f"sweep:{prefix}", holds)
        return samples if ours else []

    async def _part(self, samples: Sequence[Sample]) -> float:
        """Returns for which part of the interval another's claim of these root keys counts.

        A replica that is cut off from a key service must not be the one that asks it for ever,
        and one that is not cut off must not wait for it.
        """
        roots = {sample.root for sample in samples}
        unheard = roots & self._unheard.keys()
        for root in unheard:
            self._unheard[root] -= 1
            if not self._unheard[root]:
                del self._unheard[root]
        others = [f"root:{root}" for root in roots - unheard]
        seen = await self._storage.run(self._storage.store.observations, others)
        if any(observation.health in COULD_NOT_TELL for observation in seen.values()):
            return 0.0
        return _STEP_BACK if unheard else _PART

    async def _root(self, chosen: Sequence[Sample]) -> None:
        """Has a root key wrap, and open each chosen KEK; then has its regions follow it."""
        with self._alone("store", chosen[0].root) as alone:
            follows, newest = await self._asked(chosen) if alone else (None, "")
        if newest and follows is not None:
            # Its older versions are root keys of their own to the sweep, with the same regions.
            with self._alone("follow", replace(follows, external_id="")) as alone:
                if alone:
                    async with self._following:
                        await self._auto_rotation.follow(follows, newest)

    async def _asked(self, chosen: Sequence[Sample]) -> tuple[RootKey | None, str]:
        """Asks about a root key's chosen KEKs.

        Returns:
            The root key if a region follows it, and the version under which it wraps, empty where
            it does not.
        """
        newest = ""
        follows = None
        async with self._at_once:
            for sample in chosen:
                try:
                    region, version = await self._ask(sample, wrap=sample is chosen[0])
                except (CouldNotTellError, OverloadedError, RateLimitedError):
                    self._unheard[sample.root] = _TURNS
                    return None, ""
                except KeyfoldError as error:
                    log.warning("the sweep leaves %s out: %s", sample.cluster, error.reason)
                    if isinstance(error, RowNotAuthenticError):
                        self._health.unreadable(sample.kek)
                    continue
                self._unheard.pop(sample.root, None)
                newest = newest or version
                if region is not None and sample.followed:
                    follows = region.newest.current.root
        return follows, newest

    @contextmanager
    def _alone(self, *work: object) -> Iterator[bool]:
        """Says whether nobody else is at a piece of work, and keeps others from it meanwhile."""
        alone = work not in self._under_way
        self._under_way.add(work)
        try:
            yield alone
        finally:
            if alone:
                self._under_way.discard(work)

    async def _ask(self, sample: Sample, *, wrap: bool) -> tuple[Region | None, str]:
        """Asks about one KEK.

        Returns:
            The region if its KEK opens, and the version under which its root key wraps, empty
            where that was not asked or is refused.

        Raises:
            CouldNotTellError: The KMS could not be asked.
        """
        cluster = await self._storage.run(self._storage.store.cluster, sample.cluster)
        region = _enabled(cluster, sample)
        if cluster is None or region is None:
            return None, ""
        generation = region.newest
        denied: KmsError | None = None
        version = ""
        if wrap:
            try:
                version = await self._kek_wrapper.prove_wrap(cluster, region.name, generation)
            except KmsError as error:
                denied = error
        opens = False
        try:
            await self._kek_wrapper.prove_unwrap(
                cluster, region.name, generation, report_refusal=not sample.refused
            )
            opens = True
        except CouldNotTellError as error:
            self._health.failed(generation, error)
            raise
        except KmsError as error:
            if sample.refused:
                self._health.failed(generation, error, already_refused=True)
        if opens:
            self._health.succeeded(generation)
        if wrap:
            # Together with what was learned of unwrapping: alone it says nothing of health.
            self._health.wrapping(generation, denied)
        return region if opens else None, version


def _enabled(cluster: Cluster | None, sample: Sample) -> Region | None:
    """Returns a sample's region, if it may be asked about: revoked ones are not."""
    regions = cluster.regions if cluster is not None else ()
    for region in regions:
        if (
            region.name == sample.region
            and region.state is State.ENABLED
            and region.newest.current.root_id == sample.root
        ):
            return region
    return None
