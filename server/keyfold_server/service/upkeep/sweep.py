"""The sweep: checks keys regularly, those that no caller uses included (protocol F4, F5).

Each replica unwraps every KEK in its memory that was used since the last sweep, by itself, because
a customer's policy may tell clusters apart. Each root key also wraps and unwraps once, and is
described, for each region that uses it, called by one of the replicas that serve the region. The
sweep only asks; what an answer means is decided where every other answer is. A root key's slot
comes from its id, which is a digest, so that the root keys are spread over the interval, however
many they are.
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

from keyfold_server.domain.cluster import Cluster, Generation, Region
from keyfold_server.domain.errors import (
    ClusterBannedError,
    CouldNotTellError,
    KeyfoldError,
    KmsError,
    NotAsked,
    OverloadedError,
    RateLimitedError,
    RefusedError,
    RowNotAuthenticError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.ports import Sample
from keyfold_server.service.data.cache_entries import NEVER, RootState
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.storage import Storage
from keyfold_server.service.supervisor import Supervisor, Watched
from keyfold_server.service.tasks import Tasks
from keyfold_server.service.upkeep.auto_rotation import AutoRotation
from keyfold_server.service.upkeep.turns import SLOTS, Turns

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Root keys under way at once."""

_FOLLOWED: Final = 4
"""Root keys whose regions are rotated at once. Each may take hours, outside its turn."""

_PAUSE: Final = 0.1
"""Seconds between two KEKs of one root key; half of its rate is left for callers."""


class Sweep:
    """Checks keys, slot by slot.

    Attributes:
        turns: Knows whose turn it is, and how long a slot has waited.
    """

    def __init__(
        self,
        cache: KeyCache,
        loads: Loads,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        storage: Storage,
        turns: Turns,
        check_serving: Callable[[], None],
        auto_rotation: AutoRotation,
    ) -> None:
        """Joins the sweep to memory, KMS and store.

        Args:
            cache: The KEKs in memory.
            loads: Proves the KEKs in memory.
            kek_wrapper: Has root keys wrap and unwrap.
            health: Records what the sweep observes.
            storage: The store.
            turns: Knows whose turn it is.
            check_serving: Raises if this replica must not use keys.
            auto_rotation: Rotates the regions that follow a root key.
        """
        self._cache = cache
        self._loads = loads
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._storage = storage
        self.turns = turns
        self._check_serving = check_serving
        self._auto_rotation = auto_rotation
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._following = asyncio.Semaphore(_FOLLOWED)
        self._under_way: set[tuple[object, ...]] = set()
        self._claiming = asyncio.Lock()
        self._tasks = Tasks()
        self._failing = False

    def start(self, supervisor: Supervisor) -> asyncio.Task[None]:
        """Begins to run every slot once per interval."""
        watched = supervisor.watch("sweep")
        # At random, so that replicas that start together do not ask together.
        slots = itertools.count(random.randrange(SLOTS))  # noqa: S311

        async def begin() -> None:
            # A turn may last longer than an interval. `_alone` keeps a second one from the same
            # work.
            self._tasks.start(self._watched_turn(watched, next(slots) % SLOTS))

        return supervisor.start("sweep_slots", begin, self.turns.interval / SLOTS)

    async def stop(self) -> None:
        """Ends the turns that are under way."""
        await self._tasks.drain(0)

    async def _watched_turn(self, watched: Watched, slot: int) -> None:
        with watched.turn():
            await self.turn(slot)

    async def turn(self, slot: int) -> None:
        """Checks the root keys of one slot, 0 to 255; does nothing while this replica is stale."""
        try:
            self._check_serving()
        except KeyfoldError:
            return
        await asyncio.gather(
            *(self._in_memory(root) for root in self._cache.roots(_prefix(slot))),
            self._in_store(slot),
        )

    async def _in_store(self, slot: int) -> None:
        """Checks the root keys of a slot that it claims, whether they are in memory or not."""
        with self._alone("slot", slot) as alone:
            if not alone:
                return  # The turn before this one still waits for the store.
            try:
                # One slot at a time, so that callers never wait for a store behind turns that it
                # answers more slowly than they begin.
                async with self._claiming:
                    samples = await self.turns.claim(_prefix(slot))
            except KeyfoldError as error:
                if not self._failing:
                    log.warning("the sweep checks only keys in memory: %s", error.reason)
                self._failing = True
                return
        self._failing = False
        by_root: dict[str, list[Sample]] = {}
        for sample in samples:
            by_root.setdefault(sample.root, []).append(sample)
        await asyncio.gather(*(self._root(chosen) for chosen in by_root.values()))
        self.turns.ended(slot)

    async def _in_memory(self, root: RootState) -> None:
        """Proves by itself each KEK under a root key that was used since the last turn."""
        used = [opened for opened in root.open if opened.used_at > opened.swept]
        with self._alone("memory", root.root_id) as alone:
            for opened in used if alone else ():
                if opened is not used[0]:
                    await asyncio.sleep(_PAUSE)
                # Hold the place for one KEK only: thousands of them take half an hour.
                async with self._at_once:
                    task = self._loads.prove(opened)
                    if task is None:
                        continue
                    opened.swept = opened.used_at
                    if isinstance(await asyncio.shield(task), CouldNotTellError | NotAsked):
                        # The other KEKs would fare the same. They stay used, for the next turn.
                        opened.swept = NEVER
                        return

    async def _root(self, samples: Sequence[Sample]) -> None:
        """Asks about a root key in each region that uses it, and has the regions follow it.

        It asks in one region after the other, and goes no further where it could not ask: every
        region's answer would take this process's one way to that KMS. So a KMS that hangs takes
        one place of the sweep for one call, however many regions have its key.
        """
        asked: list[tuple[str, RootKey, str]] = []
        by_region = [list(g) for _, g in itertools.groupby(samples, lambda one: one.region)]
        # In any order, so that a KMS that throttles now and then keeps no region waiting for ever.
        random.shuffle(by_region)
        for place, chosen in enumerate(by_region):
            region = chosen[0].region
            with self._alone("store", region, chosen[0].root) as alone:
                if not alone:
                    continue
                try:
                    follows, newest = await self._asked(chosen)
                except (CouldNotTellError, OverloadedError, RateLimitedError) as error:
                    for unasked in by_region[place:]:
                        self.turns.could_not_ask(unasked[0])
                        if isinstance(error, CouldNotTellError):
                            self._health.away(unasked[0].region, unasked[0].root, error)
                    break
            if follows is not None and newest:
                asked.append((region, follows, newest))
        for region, follows, newest in asked:
            # To the sweep, older versions are root keys of their own, with the same clusters. And
            # two regions of a cluster would race for its row, so they follow one after the other.
            with self._alone("follow", replace(follows, external_id="")) as alone:
                if alone:
                    async with self._following:
                        await self._auto_rotation.follow(region, follows, newest)

    async def _asked(self, chosen: Sequence[Sample]) -> tuple[RootKey | None, str]:
        """Asks about the chosen KEKs of a region's root key.

        Returns:
            The root key if a cluster follows it there, else None; and the version under which it
            wraps, or an empty string if it does not wrap.

        Raises:
            CouldNotTellError: The KMS could not be asked.
            OverloadedError: Keyfold's own limits kept it from asking; RateLimitedError, too.
        """
        newest = ""
        follows = None
        async with self._at_once:
            for sample in chosen:
                try:
                    region, version = await self._ask(sample, wrap=sample is chosen[0])
                except (CouldNotTellError, OverloadedError, RateLimitedError):
                    raise
                except KeyfoldError as error:
                    log.warning("the sweep could not check %s: %s", sample.cluster, error.reason)
                    if isinstance(error, RowNotAuthenticError | ClusterBannedError):
                        self._health.unreadable(sample.region, sample.kek)
                    continue
                self.turns.could_ask(sample)
                newest = newest or version
                if region is not None and sample.followed:
                    follows = region.newest.current.root
        return follows, newest

    @contextmanager
    def _alone(self, *work: object) -> Iterator[bool]:
        """Says whether a piece of work is free, and reserves it while the context lasts."""
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
            The region if its KEK opens, else None; and the version under which its root key wraps,
            or an empty string if wrapping was not tried or is refused.

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
            self._health.failed(region.name, generation, error)
            raise
        except KmsError as error:
            if sample.refused:
                self._health.failed(region.name, generation, error, already_refused=True)
        if opens:
            self._health.succeeded(region.name, generation)
        if wrap:
            # After the answer to unwrapping, without which it says nothing about health.
            self._health.wrapping(region.name, generation, denied)
            await self._describe(region.name, generation)
        return region if opens else None, version

    async def _describe(self, region: str, generation: Generation) -> None:
        """Asks whether a root key can be described, so that the status names what lacks."""
        try:
            if await self._kek_wrapper.prove_describe(region, generation):
                self._health.describing(region, generation, None)
        except RefusedError as error:
            self._health.describing(region, generation, error)
        except KeyfoldError:
            # Wrapping and unwrapping have just been answered, so this says nothing that matters.
            return


def _enabled(cluster: Cluster | None, sample: Sample) -> Region | None:
    """Returns a sample's region if it is still as it was when the store chose it, else None."""
    regions = cluster.regions if cluster is not None else ()
    for region in regions:
        if (
            region.name == sample.region
            and region.in_service
            and region.newest.current.root_id == sample.root
        ):
            return region
    return None


def _prefix(slot: int) -> str:
    """Returns the first byte, in hex, of the ids of a slot's root keys."""
    return f"{slot:02x}"
