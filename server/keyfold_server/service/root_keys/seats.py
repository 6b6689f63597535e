"""Seats: reserves them, finds the one that a key accepts, and keeps others from naming them (C2).

A reserved seat is taken in the transaction that stores the region, so two changes never get one
seat. A seat that a key link's proof or TestKey tries stays reserved: only cluster-regions use them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from keyfold_server.domain import owners
from keyfold_server.domain.cluster import Cluster, Generation, Region
from keyfold_server.domain.errors import (
    CouldNotTellError,
    KekMismatchError,
    KeyNotGrantedError,
    KmsError,
    RefusedError,
    SeatNotReservedError,
    SeatsExhaustedError,
    SeatTakenError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionSpec, RootKey
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.provider import TakesExternalIds
from keyfold_server.domain.seats import (
    MOST_RESERVED,
    IssuedSeat,
    Seat,
    SeatClaim,
    SeatPool,
    asks_for_seat,
    names_seat,
    seated,
)
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

_R = TypeVar("_R")

_TRIES: Final = 16
"""Most tries of a change that others take the seats from."""

_MOST_TRIED: Final = 64
"""Most seats of a link's users that the proof of its key tries, as many as an owner may reserve."""

_WARNED: Final = 20
"""Most seats that the log names one by one at the start."""


@dataclass(frozen=True, slots=True)
class SeatedKey:
    """A root key as the principal of a seat.

    Attributes:
        root: The root key.
        seat: The seat.
        claim: What the change that uses it has to take; None: the region has the seat already.
        change: The task of that change.
    """

    root: RootKey
    seat: Seat
    claim: SeatClaim | None
    change: asyncio.Task[object] | None = field(repr=False)


async def again_if_taken(work: Callable[[], Awaitable[_R]]) -> _R:
    """Carries out a change, and does so again where another one took its seat first."""
    for _ in range(_TRIES - 1):
        try:
            return await work()
        except SeatTakenError:
            continue
    return await work()


class Seats:
    """Gives seats to owners, and to their clusters' regions.

    Attributes:
        pool: The seats that this process knows.
    """

    def __init__(
        self,
        kms: KmsClient,
        storage: Storage,
        kek_wrapper: KekWrapper,
        pool: SeatPool,
        clock: Clock,
    ) -> None:
        """Joins the seats to the store and to the KMSs.

        Args:
            kms: The providers, which know the forms of principals.
            storage: The store, which keeps what is issued.
            kek_wrapper: Proves keys.
            pool: The seats of the settings.
            clock: Time.
        """
        self.pool: Final = pool
        self._kms = kms
        self._storage = storage
        self._kek_wrapper = kek_wrapper
        self._clock = clock
        self._tried: dict[str, asyncio.Task[object]] = {}

    async def start(self) -> None:
        """Learns which seats are issued, and tells of those that the settings have lost.

        Raises:
            SetupError: The settings would issue a seat twice.
        """
        issued = await self._storage.run(self._storage.store.issued_seats)
        lost = self.pool.lost(issued)
        self.pool.learn(issued)
        for each in lost[:_WARNED]:
            held = f"region {each.taken_in} of cluster {each.cluster}" if each.used else each.owner
            log.warning(
                "the settings no longer have seat %s, which is issued to %s: keep its principal "
                "%s, or keys stop that only it may use",
                each.seat.name,
                held,
                each.seat.principal,
            )
        if len(lost) > _WARNED:
            log.warning("the settings no longer have %d issued seats in all", len(lost))

    def checked(self, root: RootKey, region: Region | None) -> RootKey:
        """Refuses a root key whose principal is a seat's, unless the region has that seat.

        The answer says nothing of whose seat it is, or whether anybody's (protocol C1).

        Args:
            root: The root key that a caller names.
            region: The region that is to use it, if it exists.

        Returns:
            The root key; if the region has the seat, with what the KMS is shown for it.

        Raises:
            KeyNotGrantedError: It is a seat's.
        """
        if not self.of_seat(root):
            return root
        current = None if region is None else region.newest.current.root
        if current is not None and (current.type, current.principal) == (root.type, root.principal):
            return replace(root, external_id=current.external_id)
        raise KeyNotGrantedError(
            f"principal {root.principal} is a seat's, and Keyfold itself gives seats out: ask for "
            f"one with auth_principal {self.pool.asked(root.type, root.principal)}",
            region=None if region is None else region.name,
            field="key_spec.auth_principal",
        )

    def kept(self, specs: Sequence[RegionSpec], current: Cluster) -> tuple[RegionSpec, ...]:
        """Returns specs; those that ask for a seat for the key of a region that has one, as it is.

        So a request with `seat` can be repeated, and a rotation to a newer version of the key stays
        with the region's seat.
        """
        there = {region.name: region.key_spec for region in current.regions}
        return tuple(
            replace(spec, key_spec=there[spec.region])
            if spec.key_spec is not None
            and spec.region in there
            and asks_for_seat(spec.key_spec.principal)
            and spec.key_spec == self._asked(there[spec.region])
            else spec
            for spec in specs
        )

    def of_seat(self, root: RootKey) -> bool:
        """Says whether a root key's principal is a seat's, as far as this process knows."""
        given = root.principal
        if not given or asks_for_seat(given):
            return False
        return self.pool.named_by(root.type, given) is not None

    def _asked(self, spec: KeySpec) -> KeySpec:
        return replace(spec, principal=self.pool.asked(spec.type, spec.principal))

    async def keys(
        self,
        root: RootKey,
        cluster: str | None,
        organization: str | None,
        region: str,
        current: Region | None = None,
        *,
        users: Collection[str] = (),
    ) -> list[SeatedKey]:
        """Returns a root key as each seat that its region may use.

        The seat that the region has comes first, then those of a link's users, then those that are
        reserved for the owner, in the order of their reservation; last those that this replica is
        trying for another change.

        Args:
            root: The root key, whose principal asks for a seat.
            cluster: The cluster's name, or None.
            organization: The organization's name, or None.
            region: The region's name.
            current: The region as it is, if it exists.
            users: The principals of the regions that use a link, for the proof of its key: each
                region keeps its own seat under another key. At most 64 are tried.

        Raises:
            SeatNotReservedError: There is no such seat.
            InvalidKeySpecError: The provider takes no such principal.
        """
        owner = owners.of(cluster, organization)
        issued = [] if owner is None else await self._issued(owner, root.type, region)
        had = "" if current is None else current.newest.current.root.principal
        own = [s for s in issued if s.used and s.cluster == cluster and s.taken_in == region]
        own = [s for s in own if had and names_seat(had, s.seat.principal)]
        if users:
            own += _used_by(users, issued)
        free = [s for s in issued if not s.used]
        change = asyncio.current_task()
        free.sort(key=lambda each: self._is_tried(each.seat.name, change))
        found = [
            SeatedKey(
                await self._as_seat(root, each.seat),
                each.seat,
                None if each.used else SeatClaim(each.seat.name, each.owner, region),
                change,
            )
            for each in (*own, *free)
        ]
        if not found:
            raise SeatNotReservedError(
                f"no seat is reserved for {_text(owner)} for {root.type} keys in region {region}; "
                "call GetAccessPolicy with this key spec (keyfold access-policy), have the "
                "customer put what it shows in place, then ask again",
                cluster=cluster,
                region=region,
                field="key_spec.auth_principal",
            )
        return found

    async def choose(
        self, keys: Sequence[SeatedKey], cluster: str, organization: str | None, region: str
    ) -> tuple[SeatedKey, Generation]:
        """Returns the first of some keys that its KMS accepts: the one whose seat to take.

        With it comes the generation that proved it, with which a new region can begin.

        Raises:
            RefusedError: The KMS accepts none; the message names the seats that were tried.
            CouldNotTellError: The KMS accepts none, and gave no answer for one of them.
        """
        failed: list[KmsError] = []
        now = int(self._clock.wall() * 1000)
        for key in keys:
            if key.change is not None:
                self._tried[key.seat.name] = key.change
            try:
                made = await self._kek_wrapper.create(
                    cluster, organization, region, key.root, 1, now
                )
            except (RefusedError, CouldNotTellError, KekMismatchError) as error:
                failed.append(error)
                continue
            return key, made
        # "Refused" only if all of them were: one that could not be asked may be the right one.
        first = next((e for e in failed if not isinstance(e, RefusedError)), failed[0])
        told = first.at(region=region)
        tried = ", ".join(key.seat.name for key in keys)
        told.message = f"{first.message}; tried as seat {tried}, reserved for this owner"
        told.args = (told.message,)
        raise told

    async def reserve(
        self,
        root: RootKey,
        cluster: str | None,
        organization: str | None,
        region: str,
        count: int,
        issue: Callable[[str, Sequence[Seat], int], Awaitable[list[IssuedSeat]]],
        current: Region | None,
    ) -> list[SeatedKey]:
        """Returns a root key as each seat that its region may use, and reserves what is missing.

        Args:
            root: The root key, whose principal asks for a seat.
            cluster: The cluster's name, or None.
            organization: The organization's name, or None.
            region: The region's name.
            count: How many seats there are to be.
            issue: Reserves seats of a pool for an owner until it has a number of them.
            current: The region as it is, if it exists.

        Raises:
            SeatsExhaustedError: The pool has not as many, or the owner may not have as many.
        """
        owner = owners.of(cluster, organization)
        if owner is None:
            raise ValueError("a seat needs an organization or a cluster")
        try:
            found = await self.keys(root, cluster, organization, region, current)
        except SeatNotReservedError:
            found = []
        if len(found) >= count:
            return found
        if count > MOST_RESERVED:
            raise SeatsExhaustedError(
                f"an owner may have at most {MOST_RESERVED} reserved seats for a provider and "
                "region; ask for fewer, and use those first",
                field="seats",
            )
        pool = self.pool.of(root.type, region)
        if not pool:
            raise SeatsExhaustedError(
                f"the server has no seats for {root.type} keys in region {region}; the vendor has "
                "to add [[seats]] to its settings",
                region=region,
                field="key_spec.auth_principal",
            )
        # What the provider refuses must not cost a seat.
        await self._as_seat(root, pool[0])
        own = sum(key.claim is None for key in found)
        self.pool.learn(await issue(owner, pool, count - own))
        return await self.keys(root, cluster, organization, region, current)

    async def _issued(self, owner: str, provider: str, region: str) -> list[IssuedSeat]:
        found = await self._storage.decide(self._storage.store.issued_to, owner)
        return [s for s in found.seats if (s.seat.provider, s.seat.region) == (provider, region)]

    async def _as_seat(self, root: RootKey, seat: Seat) -> RootKey:
        """Returns a root key as Keyfold calls it with a seat."""
        provider = await self._kms.provider(root.type)
        found = provider.canonical(
            replace(root, principal=seated(root.principal, seat.principal), external_id="")
        )
        if isinstance(provider, TakesExternalIds) and provider.needs_external_id(found):
            # The vendor's own role, which serves one cluster-region: its name tells which.
            return replace(found, external_id=seat.name)
        return found

    def _is_tried(self, seat: str, change: asyncio.Task[object] | None) -> bool:
        """Says whether another change that is under way has tried a seat, and may take it."""
        task = self._tried.get(seat)
        if task is not None and task.done():
            del self._tried[seat]
            return False
        return task is not None and task is not change


def named(specs: Sequence[RegionSpec], roots: Mapping[str, RootKey]) -> tuple[RegionSpec, ...]:
    """Returns specs whose key specs name the principals of the seats that were chosen."""
    return tuple(
        replace(spec, key_spec=replace(spec.key_spec, principal=roots[spec.region].principal))
        if spec.key_spec is not None and asks_for_seat(spec.key_spec.principal)
        else spec
        for spec in specs
    )


def _used_by(principals: Collection[str], issued: Sequence[IssuedSeat]) -> list[IssuedSeat]:
    """Returns the seats that some principals are, in the order in which they were issued."""
    given = {principal.casefold() for principal in principals}
    given |= {principal.partition("/")[2] for principal in given}  # TENANT/PRINCIPAL
    return [s for s in issued if s.used and s.seat.principal.casefold() in given][:_MOST_TRIED]


def _text(owner: str | None) -> str:
    return "nobody" if owner is None else owner.replace(":", " ", 1)
