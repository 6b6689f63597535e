"""Rechecks: Recheck proves root keys now, ahead of the sweep.

A recheck only asks. What an answer means is decided where every other answer is: a refusal counts
as any refusal does (protocol F2), and an opened KEK proves its root key for this replica alone. So
whoever may call it can neither revoke a region nor restore one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.cluster import Generation, existing
from keyfold_server.domain.errors import (
    CouldNotTellError,
    DeadlineError,
    InvalidRecheckError,
    KeyfoldError,
    KeyNotUsedError,
    KmsError,
    RefusedError,
)
from keyfold_server.domain.health import Health
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.ports import Clock, KeyUser
from keyfold_server.domain.region_names import check_regions
from keyfold_server.domain.rights import Caller, Rights
from keyfold_server.service.fleet.confirmations import Confirmations, PendingReplica
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.loading.loads import Checked, Loads
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.storage import Storage

MOST_KEYS: Final = 256
"""Root keys that one Recheck of a uri proves."""

_AT_ONCE: Final = 8
"""Regions of one call that are proven at once."""

_BEFORE_DEADLINE: Final = 0.5
"""Seconds before the caller's deadline at which Recheck answers."""

_RPC: Final = "Recheck"


@dataclass(frozen=True, slots=True)
class RecheckRequest:
    """The request of Recheck: it names a cluster or a key, not both.

    Attributes:
        cluster: The cluster's name, or empty.
        regions: The names of the cluster's regions to prove; empty: all that are in service.
        key_uri: The uri of the root keys, or empty.
    """

    cluster: str
    regions: tuple[str, ...]
    key_uri: str


@dataclass(frozen=True, slots=True)
class Rechecked:
    """What the KMS answered about the root key of a region.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
        generation: The generation whose KEK the KMS was to open; None: it did not come to that.
        error: Why the KMS did not open the KEK, or why nobody knows; None: it did.
        can_wrap: Whether the root key wraps; None: nobody knows.
        wrap_error: Why it does not wrap, or why nobody knows; None: it does, or nobody asked.
    """

    cluster: str
    region: str
    generation: Generation | None
    error: KeyfoldError | None
    can_wrap: bool | None = None
    wrap_error: KeyfoldError | None = None

    @property
    def health(self) -> Health:
        """The health that the answer shows; UNKNOWN: the KMS was not asked."""
        if self.error is None:
            return Health.HEALTHY
        return Health.of(self.error) if isinstance(self.error, KmsError) else Health.UNKNOWN

    @property
    def can_unwrap(self) -> bool | None:
        """Whether the root key unwraps; None: nobody knows."""
        told = not isinstance(self.error, CouldNotTellError) and self.health is not Health.UNKNOWN
        return self.error is None if told else None


@dataclass(frozen=True, slots=True)
class RecheckResult:
    """How a Recheck ended.

    Attributes:
        found: What the KMS answered, by cluster and region.
        confirmed: The names of the replicas that have dropped the keys that were refused; empty if
            none was.
        pending: The replicas that have not confirmed that they did.
        more: Whether further root keys have the uri.
    """

    found: tuple[Rechecked, ...]
    confirmed: tuple[str, ...] = ()
    pending: tuple[PendingReplica, ...] = ()
    more: bool = False


class Rechecks:
    """Carries out Recheck."""

    def __init__(
        self,
        storage: Storage,
        loads: Loads,
        kek_wrapper: KekWrapper,
        health: HealthRecorder,
        confirmations: Confirmations,
        clock: Clock,
        wait: float,
        *,
        check_serving: Callable[[], None],
    ) -> None:
        """Joins Recheck to memory, KMS, store and the other replicas.

        Args:
            storage: The store.
            loads: Unwraps KEKs, and deals with the answers.
            kek_wrapper: Tries whether root keys wrap.
            health: Records what this replica observes of keys.
            confirmations: Knows which replicas have dropped the keys.
            clock: Time.
            wait: Most seconds to wait for the other replicas.
            check_serving: Raises if this replica must not use keys.
        """
        self._storage = storage
        self._loads = loads
        self._kek_wrapper = kek_wrapper
        self._health = health
        self._confirmations = confirmations
        self._clock = clock
        self._wait = wait
        self._check_serving = check_serving

    async def recheck(
        self, caller: Caller, request: RecheckRequest, deadline: float
    ) -> RecheckResult:
        """Proves root keys now. A key that does not work is part of the result.

        Args:
            caller: The caller.
            request: What to prove.
            deadline: The caller's deadline in monotonic seconds.

        Raises:
            InvalidRecheckError: The request names both a cluster and a key, or neither.
            ClusterNotFoundError: The cluster does not exist, or the caller may not see it.
            RegionNotFoundError: It has no such region, or the caller may not see that.
            NotAllowedError: The caller may not recheck it.
            KeyNotUsedError: No region that the caller may recheck uses a key of this uri.
            WrongRegionError: This replica serves none of the regions. Where it serves some, the
                others have this error in the result.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if bool(request.cluster) == bool(request.key_uri) or (request.key_uri and request.regions):
            raise InvalidRecheckError(
                "Recheck proves either the regions of a cluster or a root key; set cluster, with "
                "regions if you like, or key_uri alone",
                field="cluster" if request.cluster else "key_uri",
            )
        more = False
        if request.cluster:
            places = await self._regions(caller.rights, request)
        else:
            places = await self._users(caller.rights, request.key_uri)
            more = len(places) > MOST_KEYS
        served = self._kek_wrapper.served
        if places and not any(served.serves(region) for _, region in places):
            served.check_each((region for _, region in places), request.cluster or None)
        self._check_serving()
        ends = deadline - _BEFORE_DEADLINE
        room = asyncio.Semaphore(_AT_ONCE)
        found = await asyncio.gather(*(self._proven(*p, room, ends) for p in places[:MOST_KEYS]))
        confirmed, pending = await self._confirmed(found, ends)
        return RecheckResult(tuple(found), confirmed, pending, more)

    async def _regions(self, rights: Rights, request: RecheckRequest) -> list[tuple[str, str]]:
        """Returns the regions of a cluster that a request means, each after the cluster's name."""
        name, regions = request.cluster, request.regions
        check_name(name, "cluster")
        check_regions(regions, "regions")
        rights.check_named(_RPC, name, regions)
        cluster = existing(await self._storage.run(self._storage.store.cluster, name), name)
        wanted = regions or tuple(
            region.name
            for region in cluster.regions
            if region.in_service and rights.sees(name, cluster.organization, region.name)
        )
        rights.check_cluster(_RPC, name, cluster.organization, wanted)
        for region in regions:
            cluster.region(region)
        return [(name, region) for region in wanted]

    async def _users(self, rights: Rights, key_uri: str) -> list[tuple[str, str]]:
        """Returns a region for each root key of a uri, as far as the caller may recheck it.

        It is one that this replica serves, where the root key has one.
        """
        elsewhere: dict[str, KeyUser] = {}
        serves = self._kek_wrapper.served.serves

        def may(user: KeyUser) -> bool:
            if not rights.covers(_RPC, user.cluster, user.organization, user.region):
                return False
            if not serves(user.region):
                elsewhere.setdefault(user.root, user)
                return False
            return True

        here = await self._storage.run(self._storage.store.users_of, key_uri, may)
        there = {user.root for user in here}
        users = [*here, *(user for root, user in elsewhere.items() if root not in there)]
        if not users:
            raise KeyNotUsedError(
                "no enabled region that you may recheck uses a root key of this uri; write the uri "
                "as GetStatus shows it",
                field="key_uri",
            )
        return [(user.cluster, user.region) for user in users]

    async def _proven(
        self, cluster: str, region: str, room: asyncio.Semaphore, ends: float
    ) -> Rechecked:
        """Has the root key of a region unwrap, and wrap if it unwraps."""
        generation: Generation | None = None
        try:
            async with asyncio.timeout(self._left(ends)), room:
                checked = await self._loads.check(cluster, region)
                generation = checked.generation
                if checked.error is not None:
                    return Rechecked(cluster, region, generation, checked.error)
                return await self._wrapping(checked)
        except TimeoutError:
            late = DeadlineError("the deadline passed before the KMS had answered; allow more time")
            return Rechecked(cluster, region, generation, late)
        except KeyfoldError as error:
            return Rechecked(cluster, region, generation, error)

    async def _wrapping(self, checked: Checked) -> Rechecked:
        """Has a root key that unwraps wrap, too (protocol F5)."""
        cluster, region, generation = checked.cluster, checked.region, checked.generation
        error: KeyfoldError | None = None
        try:
            await self._kek_wrapper.prove_wrap(cluster, region, generation)
        except KeyfoldError as denied:
            error = denied
        if error is None or isinstance(error, KmsError):
            self._health.wrapping(region, generation, error)
        can = True if error is None else False if isinstance(error, RefusedError) else None
        return Rechecked(cluster.name, region, generation, None, can, error)

    async def _confirmed(
        self, found: Sequence[Rechecked], ends: float
    ) -> tuple[tuple[str, ...], tuple[PendingReplica, ...]]:
        """Waits until the other replicas have dropped the keys that were refused."""
        refused = {
            each.generation.current.root_id
            for each in found
            if each.generation is not None and isinstance(each.error, RefusedError)
        }
        try:
            async with asyncio.timeout(self._left(ends)):
                numbers = [await self._loads.announcements.told(root) for root in refused]
        except TimeoutError:
            # The store has not taken the refusal yet, so nobody else can know of it.
            confirmed, pending = self._confirmations.told(0, None)
            return tuple(confirmed), tuple(pending)
        told = [number for number in numbers if number is not None]
        if not told:
            return (), ()
        ends = min(ends, self._clock.monotonic() + self._wait)
        confirmed, pending = await self._confirmations.wait(max(told), ends)
        return tuple(confirmed), tuple(pending)

    def _left(self, ends: float) -> float:
        return max(0.0, ends - self._clock.monotonic())
