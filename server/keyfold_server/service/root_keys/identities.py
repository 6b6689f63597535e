"""Identities: what Keyfold issued to an organization, or holds ready for it (protocol C2)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Final

from keyfold_server.domain import owners
from keyfold_server.domain.seats import IssuedSeat, SeatPool
from keyfold_server.service.storage import Storage

_MOST: Final = 1_000
"""Most identities of one answer. Those that are reserved come first."""

FREE_SHOWN: Final = 20
"""The most free seats of a provider and region that an answer counts: how many there are exactly
shows one customer what the others take."""


class IdentityState(Enum):
    """Whether an identity is in use."""

    FREE = "FREE"
    RESERVED = "RESERVED"
    USED = "USED"


@dataclass(frozen=True, slots=True)
class Identity:
    """An external id, a seat, or the free seats of a provider and region.

    Attributes:
        is_seat: Whether it is a seat, or free seats.
        state: Whether it is in use.
        provider: The provider's type; empty: any.
        region: The region; empty: any.
        value: The external id, or the seat's name; empty for free seats.
        principals: The seat's principals.
        cluster: The cluster that took the seat; empty: none did.
        created_at: When it was issued, in milliseconds of Unix time, or None.
        count: Of free seats: how many, up to `FREE_SHOWN`; else 1.
    """

    is_seat: bool
    state: IdentityState
    provider: str = ""
    region: str = ""
    value: str = ""
    principals: tuple[str, ...] = ()
    cluster: str = ""
    created_at: int | None = None
    count: int = 1


class Identities:
    """Lists identities."""

    def __init__(self, storage: Storage, pool: SeatPool) -> None:
        """Takes the store, and the seats of the settings."""
        self._storage = storage
        self._pool = pool

    async def of_organization(self, name: str) -> list[Identity]:
        """Returns an organization's identities, then the seats that are free for anybody.

        Args:
            name: The organization's name. The caller may see it.
        """
        store = self._storage.store
        issued = await self._storage.run(store.issued_to, owners.of_organization(name))
        found = []
        if issued.external_id:
            found.append(
                Identity(
                    is_seat=False,
                    state=IdentityState.USED,
                    value=issued.external_id,
                    created_at=issued.external_id_at,
                )
            )
        found += map(_of_seat, sorted(issued.seats, key=lambda seat: seat.used))
        return [*found[:_MOST], *await self._free()]

    async def _free(self) -> list[Identity]:
        if not self._pool.seats:
            return []
        issued = await self._storage.run(self._storage.store.issued_seats)
        names = {each.seat.name for each in issued}
        free = Counter((s.provider, s.region) for s in self._pool.seats if s.name not in names)
        return [
            Identity(
                is_seat=True,
                state=IdentityState.FREE,
                provider=provider,
                region=region,
                count=min(count, FREE_SHOWN),
            )
            for (provider, region), count in sorted(free.items())
        ]


def _of_seat(issued: IssuedSeat) -> Identity:
    seat = issued.seat
    return Identity(
        is_seat=True,
        state=IdentityState.USED if issued.used else IdentityState.RESERVED,
        provider=seat.provider,
        region=seat.region,
        value=seat.name,
        principals=seat.principals,
        cluster=issued.cluster,
        created_at=issued.created_at,
    )
