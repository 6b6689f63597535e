"""Loads: how KEKs come into memory.

A load belongs to the service, not to the call that began it (protocol W1): callers wait under
their own deadlines, and one that gives up cancels nothing. Callers that need the same KEK share
one load, but never one that was overtaken: a load remembers the view and the root key's count of
invalidations that it began under, and is discarded if either has changed when it ends (protocol
R2). What a load that brings no key means for the KEKs in memory is in `failures`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.cluster import Cluster, Generation, existing
from keyfold_server.domain.envelope import Kek
from keyfold_server.domain.errors import (
    CouldNotTellError,
    DeadlineError,
    KekMismatchError,
    KeyfoldError,
    NotAsked,
    OverloadedError,
    RateLimitedError,
    RefusedError,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Identity
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.cache_entries import CachedKek, ClusterView, RegionView
from keyfold_server.service.data.call import Call, Need
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.loading.announcements import Announcements, AnnounceRefusal
from keyfold_server.service.loading.failures import REREAD_TIMEOUT, KmsFailures
from keyfold_server.service.loading.freshness import Freshness
from keyfold_server.service.loading.reads import Reads
from keyfold_server.service.loading.shared_loads import SharedLoad, SharedLoads
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

BeforeFirstUse = Callable[[Cluster, str, Identity], Awaitable[None]]
"""Called with the cluster as memory has it, the region of the KEK, and the caller."""


async def _unjoined(_cluster: Cluster, _region: str, _caller: Identity) -> None:
    raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class _Unwrap:
    """A running unwrap.

    Attributes:
        kek_id: The KEK that is being unwrapped.
        view: The cluster's view when the unwrap began.
    """

    kek_id: bytes
    view: ClusterView


@dataclass(frozen=True, slots=True)
class Checked:
    """A KEK that a KMS was asked to open.

    Attributes:
        cluster: The cluster as the store had it.
        region: The region's name.
        generation: The KEK's generation.
        error: Why the KMS did not open it, or could not be asked; None: it did.
    """

    cluster: Cluster
    region: str
    generation: Generation
    error: KeyfoldError | None


class Loads:
    """Brings what calls need into memory, and drops what must leave it.

    Attributes:
        served: The regions whose KEKs may come into memory.
        freshness: Refreshes root keys in use before their proofs expire.
        announcements: Announces refusals to the other replicas.
        before_first_use: Takes away the mark of a cluster that was never used, before a KEK of it
            is loaded for a call, and drops the cluster from memory (`FirstUses.record`).
    """

    def __init__(
        self,
        cache: KeyCache,
        kms: KmsClient,
        storage: Storage,
        health: HealthRecorder,
        clock: Clock,
        timing: Timing,
        announce: AnnounceRefusal,
        tasks: Tasks,
    ) -> None:
        """Joins the loads to memory, KMS and store; see `Announcements` for `announce`."""
        self.before_first_use: BeforeFirstUse = _unjoined
        self._cache = cache
        self._kms = kms
        self._storage = storage
        self._health = health
        self._clock = clock
        self._tasks = tasks
        self.served: Final = kms.served
        self._reads = Reads(cache, storage, clock, timing, tasks, self.served)
        self._shared = SharedLoads(cache, tasks)
        self._running: set[_Unwrap] = set()
        self.freshness = Freshness(cache, clock, timing.provider_budget + 1.0, self.refresh)
        self.announcements = Announcements(cache, clock, announce, self.prove, tasks)
        self._failures = KmsFailures(
            cache,
            self._reads,
            health,
            clock,
            timing,
            self.announcements,
            self.freshness.schedule,
        )

    # What calls need

    async def satisfy(
        self, needs: Sequence[Need], call: Call, deadline: float, *, uses: bool = True
    ) -> None:
        """Fetches what a call needs.

        Args:
            needs: The needs that the core named.
            call: The call. Its `failed` gets what could not be had by the deadline, its `own` the
                KEKs that were opened for it.
            deadline: Monotonic seconds until which to wait. The loads go on after that.
            uses: Whether a KEK that is loaded for the call counts as used (protocol D6).
        """
        waiters = {asyncio.ensure_future(self._meet(need, call, uses=uses)): need for need in needs}
        left = max(0.0, deadline - self._clock.monotonic())
        done, late = await asyncio.wait(waiters, timeout=left)
        for waiter in late:
            waiter.cancel()
            call.failed[waiters[waiter]] = DeadlineError(
                "the deadline passed while a key was being fetched; allow more time"
            )
        for waiter in done:
            waiter.result()

    async def _meet(self, need: Need, call: Call, *, uses: bool) -> None:
        try:
            if need.kek_id:
                await self._open(need, call, uses=uses)
            else:
                await self._reads.for_call(need.cluster, call)
        except KeyfoldError as error:
            call.failed[need] = error

    async def _open(self, need: Need, call: Call, *, uses: bool) -> None:
        """Opens a KEK for a call, or finds out which cluster has it."""
        view = self._cache.view(need.cluster)
        if view is None:
            return
        found = view.keks.get(need.kek_id)
        if found is None:
            owner = await self._storage.run(self._storage.store.owner_of, need.kek_id)
            if owner == need.cluster:
                call.read.discard(need.cluster)
            else:
                call.owners[need.kek_id] = owner
            return
        region, generation = found
        # Before anything is written or asked for a KEK that may not be opened here.
        view.check_opens(need.kek_id)
        if view.cluster.unused and uses:
            # The call finds the cluster gone from memory, and reads it again.
            caller = call.rights.identity
            await self.before_first_use(view.cluster, region.region.name, caller)
            return
        if region.ttl == 0:
            # Never shared at TTL 0, so that the KMS's own log shows each call (protocol F1).
            outcome = await asyncio.shield(self._tasks.start(self._load(view, region, generation)))
        else:
            opened = view.open.get(need.kek_id)
            if opened is not None and self._clock.monotonic() < opened.root.proof + opened.ttl:
                # Another call's load ended since this one looked: when it looks again, it finds it.
                return
            shared = self._join(view, region, generation)
            outcome = await asyncio.shield(shared.task)
            if shared.kek_id != need.kek_id and not isinstance(
                outcome, CouldNotTellError | NotAsked
            ):
                # Another KEK's load. It may have brought the proof; its KEK, and why that may have
                # been refused, do not concern this one (protocol F4).
                return
        if isinstance(outcome, KeyfoldError):
            call.failed[need] = outcome
        elif outcome is not None and outcome.began >= call.arrived:
            call.own[need.kek_id] = outcome

    # Loads

    def _join(self, view: ClusterView, region: RegionView, generation: Generation) -> SharedLoad:
        """Joins or starts the load of a KEK, or of another KEK that proves the same root key."""
        return self._shared.join(view, generation, lambda: self._load(view, region, generation))

    async def _load(
        self, view: ClusterView, region: RegionView, generation: Generation
    ) -> CachedKek | KeyfoldError | None:
        """Unwraps a KEK and counts the result. None: overtaken, so the call must look again."""
        unwrap = _Unwrap(generation.kek_id, view)
        self._running.add(unwrap)
        try:
            outcome = await self._unwrapped(view, region, generation)
        finally:
            self._running.discard(unwrap)
        result = outcome.reason if isinstance(outcome, KeyfoldError) else telemetry.OK
        telemetry.LOADS.labels("OVERTAKEN" if outcome is None else result).inc()
        return outcome

    async def _unwrapped(
        self, view: ClusterView, region: RegionView, generation: Generation
    ) -> CachedKek | KeyfoldError | None:
        wrap = generation.current
        root = self._cache.root(wrap.root_id)
        invalidations = root.invalidations
        binding = view.cluster.binding(region.region.name, generation)
        began = self._clock.monotonic()
        # A root key in use is asked about ahead of all other calls (protocol F8).
        in_use = generation.kek_id in view.open
        try:
            unwrapped = await self._kms.unwrap(
                wrap.root, wrap.key_version, wrap.ciphertext, binding, proof=in_use
            )
            key = binding.open_payload(unwrapped.plaintext)
        except (RefusedError, KekMismatchError) as error:
            return await self._failures.refused(view, region, generation, error)
        except CouldNotTellError as error:
            self._failures.could_not_tell(root, region.region.name, generation, began, error)
            return error
        except (OverloadedError, RateLimitedError) as error:
            if in_use:
                self._failures.not_asked(root, generation, began, error)
            return error
        except KeyfoldError as error:
            return error
        kek = Kek(generation.kek_id, view.cluster.name, region.region.name, generation.number, key)
        if not self._cache.holds(view) or root.invalidations != invalidations:
            return None
        opened = CachedKek(kek, view, region, root, began)
        root.proven(began)
        view.refused.pop(generation.kek_id, None)
        self._health.succeeded(region.region.name, generation)
        if region.ttl > 0 and not view.cluster.unused:
            self._cache.put_kek(opened)
            self.freshness.schedule_refresh(root)
        return opened

    async def refused(
        self,
        cluster: Cluster,
        region: str,
        generation: Generation,
        error: RefusedError | KekMismatchError,
    ) -> None:
        """Applies a refusal that a change met, as if a load had met it (protocol F2).

        Args:
            cluster: The cluster as the store had it when the KMS was called.
            region: The region's name.
            generation: The KEK that the KMS refused to open.
            error: The KMS's answer.
        """
        if self._cache.view(cluster.name) is None:
            with contextlib.suppress(KeyfoldError, TimeoutError):
                await self._reads.now(cluster.name, REREAD_TIMEOUT)
        view = self._cache.view(cluster.name)
        if view is not None and view.cluster.version == cluster.version:
            await self._failures.refused(view, view.regions[region], generation, error)

    async def check(self, cluster: str, region: str) -> Checked:
        """Unwraps a region's newest KEK now, in a load that no other call has begun.

        The answer counts as that of any load: a proof, a refusal (protocol F2), or neither.

        Raises:
            ClusterNotFoundError: The cluster does not exist.
            RegionNotFoundError: The cluster has no such region.
            RevokedError: The region is revoked.
            WrongRegionError: This replica does not serve the region.
            KeyfoldError: The store did not give the cluster.
        """
        while True:
            # The newest row, so that nobody proves the key from which a region has just moved.
            found = existing(await self._reads.now(cluster, REREAD_TIMEOUT), cluster)
            generation = found.region(region).newest
            view = self._cache.view(cluster)
            if view is None or view.cluster != found:
                continue  # A change has overtaken the read.
            here = view.regions[region]
            view.check_usable(here)
            view.check_opens(generation.kek_id)
            load = self._load(view, here, generation)
            outcome = await asyncio.shield(self._tasks.start(load))
            if outcome is not None:
                error = outcome if isinstance(outcome, KeyfoldError) else None
                return Checked(found, region, generation, error)

    # Freshness

    def refresh_on_grace(self, opened: CachedKek, now: float) -> None:
        """Refreshes the root key of a KEK that served on grace, unless it is too early to retry."""
        if now >= max(opened.root.unknown_until, opened.root.not_asked_until):
            self.refresh(opened)

    def refresh(self, opened: CachedKek) -> None:
        """Starts or joins a load that proves a KEK's root key, if the KEK is still in memory."""
        found = opened.view.keks[opened.kek.kek_id]
        if self._cache.holds(opened.view) and opened.view.open.get(opened.kek.kek_id) is opened:
            self._join(opened.view, *found)

    def prove(self, opened: CachedKek) -> asyncio.Task[CachedKek | KeyfoldError | None] | None:
        """Starts an unwrap of exactly this KEK (protocol F4).

        Returns:
            The load, or None if the KEK is no longer in memory.
        """
        view, kek_id = opened.view, opened.kek.kek_id
        if not self._cache.holds(view) or view.open.get(kek_id) is not opened:
            return None
        return self._tasks.start(self._load(view, *view.keks[kek_id]))

    # Invalidation

    def invalidate(self, cluster: str) -> None:
        """Drops a changed cluster: its view, its KEKs, and running reads that may be older."""
        self._reads.forget(cluster)
        self._cache.drop_cluster(cluster)

    def distrust(self, cluster: str) -> None:
        """Drops a cluster whose rows in the store serve nobody, and remembers what it was."""
        self._reads.forget(cluster)
        self._cache.distrust(cluster)

    def root_refused(self, root_id: str, repeated_kek: bytes | None = None) -> None:
        """Drops every KEK under a root key whose refusal another replica announced (protocol F2).

        Args:
            root_id: The root key's id.
            repeated_kek: None for a refusal of the root key, a first one or one that was met again
                (protocol F2b). Else the one KEK that was refused again under a root key that opens
                other KEKs. It counts where that KEK was opened since; elsewhere it flushes nothing
                (protocol F4).
        """
        root = self._cache.known_root(root_id)
        if root is None:
            return
        if repeated_kek is None or any(opened.kek.kek_id == repeated_kek for opened in root.open):
            self._cache.drop_root(root)
            return
        for unwrap in [unwrap for unwrap in self._running if unwrap.kek_id == repeated_kek]:
            # It began before this announcement. Only dropping its view makes it overtaken.
            self._cache.drop_cluster(unwrap.view.cluster.name)

    def drop_all(self) -> None:
        """Drops everything."""
        self._reads.forget_all()
        self._cache.drop_all()
