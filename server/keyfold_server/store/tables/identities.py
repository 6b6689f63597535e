"""Identities: values that Keyfold issues once for each owner, for good (protocol C2).

An external id is one: AWS shows it to a customer's trust policy. A seat is one, too: a principal of
the vendor's, which a customer's key policy names. Whoever could change an identity could act as
another customer. So a row carries a MAC, and each issue is an entry of the log. A row changes at
most twice: a cluster-region takes a reserved seat, and the owner that a cluster was becomes an
erased one. If somebody removes an external id's row by hand, Keyfold issues a new value, and the
customer's trust policy refuses that one.
"""

from __future__ import annotations

import json
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Select, bindparam, insert, literal_column, select

from keyfold_server.domain.seats import IssuedSeat, Seat
from keyfold_server.store.database.trip import Step, looking_for, one_of
from keyfold_server.store.schema import Cells, identities
from keyfold_server.store.tables.rows import named

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keyfold_server.store.seal import Seal

_TABLE: Final = identities.name
_ADD: Final = insert(identities)
_READ: Final = select(*identities.c).where(
    identities.c.kind == bindparam("of_kind"), identities.c.owner == bindparam("of_owner")
)
VALUE, CREATED_AT = 2, 3
"""Places of values in a row."""


class IdentityKind(Enum):
    """The kind of an identity."""

    EXTERNAL_ID = "external_id"
    SEAT = "seat"


_IS_SEAT: Final = identities.c.kind == literal_column(f"'{IdentityKind.SEAT.value}'")
_SEATS: Final = select(*identities.c).where(_IS_SEAT).order_by(identities.c.value)


def reading(kind: IdentityKind, owner: str) -> Step:
    """Returns the step that reads an owner's rows; `of` and `seats_of` take what it returns."""
    return Step(_READ, [{"of_kind": kind.value, "of_owner": owner}])


def of(found: Sequence[Cells], seal: Seal) -> str | None:
    """Returns the external id that Keyfold issued for an owner, or None.

    Raises:
        RowNotAuthenticError: The row is not authentic.
    """
    if not found:
        return None
    seal.check(_TABLE, found[0])
    return str(found[0][VALUE])


def adding(owner: str, value: str, now: int, seal: Seal) -> Step:
    """Returns the step that keeps an external id for an owner that has none yet.

    If two transactions do so at once, the database refuses one, which then runs again and finds
    the other's value.
    """
    row = (IdentityKind.EXTERNAL_ID.value, owner, value, now, *[None] * 7)
    return Step(_ADD, [named(identities, sealed(row, seal))])


def sealed(values: Cells, seal: Seal) -> Cells:
    """Returns a row with its MAC."""
    return seal.sealed(_TABLE, values)


def reading_seats() -> Step:
    """Returns the step that reads every seat."""
    return Step(_SEATS)


def locking_seats(names: Iterable[str]) -> list[Step]:
    """Returns the steps that lock and read some seats, in the order of their names."""
    return looking_for(_locking, sorted(names))


@cache
def _locking(count: int) -> Select[Any]:
    own = select(*identities.c).where(_IS_SEAT, one_of(identities.c.value, count))
    return own.order_by(identities.c.value).with_for_update()


def seats_of(found: Iterable[Cells], seal: Seal) -> list[IssuedSeat]:
    """Returns the seats in some rows, in the order in which they were issued.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    seats = []
    for row in found:
        seal.check(_TABLE, row)
        _, owner, value, at, provider, region, principal, also, cluster, uid, taken_in, _ = row
        seat = Seat(value, provider, region, principal, tuple(json.loads(also)))
        seats.append(IssuedSeat(seat, owner, at, cluster or "", uid or b"", taken_in or ""))
    return sorted(seats, key=lambda each: (each.created_at, each.seat.name))


def adding_seats(seats: Iterable[IssuedSeat], seal: Seal) -> Step:
    """Returns the step that keeps seats which nobody has yet; the database refuses others."""
    return Step(_ADD, [named(identities, seat_row(each, seal)) for each in seats])


def seat_row(issued: IssuedSeat, seal: Seal) -> Cells:
    """Returns the row of a seat with its MAC."""
    seat = issued.seat
    values = (
        IdentityKind.SEAT.value,
        issued.owner,
        seat.name,
        issued.created_at,
        seat.provider,
        seat.region,
        seat.principal,
        json.dumps(seat.also, separators=(",", ":")),
        issued.cluster or None,
        issued.cluster_uid or None,
        issued.taken_in or None,
    )
    return sealed(values, seal)


def every(connection: Connection, seal: Seal) -> list[Cells]:
    """Reads all rows, ordered by kind, owner and value.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    columns = identities.c
    ordered = select(*columns).order_by(columns.kind, columns.owner, columns.value)
    found = [tuple(row) for row in connection.execute(ordered).all()]
    for row in found:
        seal.check(_TABLE, row)
    return found
