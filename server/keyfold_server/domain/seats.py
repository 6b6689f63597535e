"""Seats: the vendor's own principals, each set aside for one cluster-region (protocol C2).

A customer who grants a key to a seat can tell in their key policy and in their audit log which
cluster-region uses it. So a seat is issued once, as an external id is: first reserved for an owner,
who puts it into the key's policy, then used by one cluster-region, and never again by another one,
also once that one is gone.

A key spec asks for a seat with the word `seat` in place of the principal. What Keyfold stores with
a region is the seat's own principal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.keyspec import KeySpec

SEAT: Final = "seat"
"""The word that asks for a seat where a key spec names its principal."""

MOST_RESERVED: Final = 64
"""Most seats that one owner may have reserved and not used, for one provider and region. Without a
bound, one customer could take the whole pool."""

_ASKS: Final = re.compile(r"(?P<before>(?:[^/:\s]+/)?)seat")
"""The word alone or, where a principal begins with the customer's part, behind it: TENANT/seat."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One seat of the pool in the settings.

    Attributes:
        name: Its name, which nothing else ever has.
        provider: The provider's type.
        region: The vendor's name of the region for whose keys it is.
        principal: The principal as which Keyfold calls the KMS, or, where the customer's part comes
            first (Azure), what follows that.
        also: Further principals of the vendor that use the key, and that the customer must permit.
    """

    name: str
    provider: str
    region: str
    principal: str
    also: tuple[str, ...] = ()

    @property
    def principals(self) -> tuple[str, ...]:
        """Every principal of the seat."""
        return (self.principal, *self.also)


@dataclass(frozen=True, slots=True)
class IssuedSeat:
    """A seat that Keyfold has issued to an owner.

    Attributes:
        seat: The seat as it was when it was issued.
        owner: The owner for whom it is reserved (`owners`).
        created_at: When it was reserved, in milliseconds of Unix time.
        cluster: The name of the cluster that took it; empty: none did.
        cluster_uid: That cluster's uid; empty: none took it.
        taken_in: The region of that cluster that took it; empty: none did.
    """

    seat: Seat
    owner: str
    created_at: int
    cluster: str = ""
    cluster_uid: bytes = b""
    taken_in: str = ""

    @property
    def used(self) -> bool:
        """Whether a cluster-region has taken it."""
        return bool(self.cluster_uid)


@dataclass(frozen=True, slots=True)
class Issued:
    """What Keyfold issued to one owner.

    Attributes:
        external_id: The external id; empty: none.
        external_id_at: When it was issued, in milliseconds of Unix time; 0: it was not.
        seats: The seats, in the order in which they were issued.
    """

    external_id: str = ""
    external_id_at: int = 0
    seats: tuple[IssuedSeat, ...] = ()


@dataclass(frozen=True, slots=True)
class SeatClaim:
    """What a change of a cluster takes: a reserved seat for one of its regions.

    Attributes:
        seat: The seat's name.
        owner: The owner for whom it has to be reserved.
        region: The region that takes it.
    """

    seat: str
    owner: str
    region: str


def asks_for_seat(principal: str) -> bool:
    """Says whether a key spec's principal asks for a seat."""
    return _ASKS.fullmatch(principal) is not None


def seated(asked: str, principal: str) -> str:
    """Returns the principal that a key spec means which asks for a seat.

    Args:
        asked: The principal of the key spec.
        principal: The seat's.
    """
    return asked.removesuffix(SEAT) + principal


def meets(asked: KeySpec | None, had: KeySpec) -> bool:
    """Says whether a region that has a key has the one that is asked for, as whichever seat.

    Args:
        asked: The key that is asked for.
        had: The region's key, with a seat's own principal if it has one.
    """
    if asked is None or not asks_for_seat(asked.principal):
        return asked == had
    before = asked.principal.removesuffix(SEAT)
    given = had.principal.startswith(before) and had.principal != before
    return given and asked == replace(had, principal=asked.principal)


def names_seat(principal: str, seat: str) -> bool:
    """Says whether a principal is that of a seat, behind the customer's part or alone."""
    given, own = principal.casefold(), seat.casefold()
    return given == own or given.endswith(f"/{own}")


@dataclass(slots=True)
class SeatPool:
    """The seats of the settings, and those that are issued, as far as this process knows them.

    Attributes:
        seats: Those of the settings, in the order in which Keyfold issues them.
    """

    seats: Sequence[Seat] = ()
    _issued: dict[str, Seat] = field(default_factory=dict)

    def of(self, provider: str, region: str) -> tuple[Seat, ...]:
        """Returns the seats of the settings for a provider and region."""
        return tuple(s for s in self.seats if (s.provider, s.region) == (provider, region))

    def learn(self, issued: Iterable[IssuedSeat]) -> None:
        """Takes in seats that are issued; the settings may not have them any more."""
        self._issued.update((each.seat.name, each.seat) for each in issued)

    def named_by(self, provider: str, principal: str) -> Seat | None:
        """Returns the seat that a principal belongs to, or None."""
        for seat in (*self.seats, *self._issued.values()):
            if seat.provider == provider and any(names_seat(principal, p) for p in seat.principals):
                return seat
        return None

    def asked(self, provider: str, principal: str) -> str:
        """Returns what asks for a seat in place of the principal of one; others stay."""
        seat = self.named_by(provider, principal)
        if seat is None or not names_seat(principal, seat.principal):
            return principal
        return principal[: len(principal) - len(seat.principal)] + SEAT

    def lost(self, issued: Iterable[IssuedSeat]) -> list[IssuedSeat]:
        """Returns those of the issued seats that the settings do not have any more.

        Raises:
            SetupError: The settings have a seat of such a name with another principal, or a seat of
                another name with such a principal. It would be a seat that is issued twice.
        """
        by_name = {seat.name: seat for seat in self.seats}
        by_principal = {p.casefold(): seat for seat in self.seats for p in seat.principals}
        lost = []
        for each in issued:
            was = each.seat
            now = by_name.get(was.name)
            if now is None:
                lost.append(each)
            elif (now.provider, now.region, now.principal) != (
                was.provider,
                was.region,
                was.principal,
            ):
                raise SetupError(
                    f"KEYFOLD_SEATS: seat {was.name} was issued as {was.provider} principal "
                    f"{was.principal} for region {was.region}, and is another one now; an issued "
                    "seat stays what it is: give the new one a name of its own"
                )
            for principal in was.principals:
                other = by_principal.get(principal.casefold())
                if other is not None and other.name != was.name:
                    raise SetupError(
                        f"KEYFOLD_SEATS: principal {principal} of seat {other.name} was issued as "
                        f"seat {was.name}, and no principal is issued twice; take seat "
                        f"{other.name} out"
                    )
        return lost
