"""The settings of seats: the vendor's principals that Keyfold sets aside for one cluster-region."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from keyfold_server.domain.errors import InvalidNameError
from keyfold_server.domain.keyspec import MAX_URI, PLATFORM, check_name

_LEAST: Final = 2
"""Fewest characters of a seat's name, which AWS gets as the external id."""

Principal = Annotated[str, Field(min_length=1, max_length=MAX_URI)]


class SeatTable(BaseModel):
    """One table [[seats]] of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    provider: str
    region: str
    auth_principal: Principal
    principals: tuple[Principal, ...] = ()


class SeatSettings(BaseModel):
    """The settings of seats."""

    seats: list[SeatTable] | None = Field(
        default=None,
        description="In the file: a table [[seats]] for each seat, a principal of yours that "
        "Keyfold sets aside for one cluster-region. It has a name that no other seat ever has, the "
        "provider such as AWS_KMS, the region, the auth_principal as which Keyfold calls the KMS, "
        "and in principals those that use the key besides. Keyfold issues them in this order, each "
        "once and for good; see docs/organizations.md.",
    )

    @field_validator("seats")
    @classmethod
    def _each(cls, value: list[SeatTable] | None) -> list[SeatTable] | None:
        if value is not None and not value:
            raise ValueError("the pool is empty; write a [[seats]] table for each seat, or none")
        names: set[str] = set()
        principals: dict[str, str] = {}
        for index, seat in enumerate(value or ()):
            _check(seat, f"[[seats]] number {index + 1}")
            if seat.name.casefold() in names:
                raise ValueError(f"two seats are called {seat.name}; give each a name of its own")
            names.add(seat.name.casefold())
            for principal in (seat.auth_principal, *seat.principals):
                if principal.casefold() in principals:
                    raise ValueError(
                        f"principal {principal} is in seat {principals[principal.casefold()]} and "
                        f"in seat {seat.name}; a principal belongs to one seat, once"
                    )
                principals[principal.casefold()] = seat.name
        return value


def _check(seat: SeatTable, where: str) -> None:
    """Refuses a seat that cannot work by itself.

    Raises:
        ValueError: It cannot.
    """
    for name, what in ((seat.name, "name"), (seat.region, "region")):
        try:
            check_name(name, what)
        except InvalidNameError as error:
            raise ValueError(f"{where}: {error.message}") from None
    if len(seat.name) < _LEAST:
        raise ValueError(f"{where}: give it a name of at least {_LEAST} characters")
    if seat.provider == PLATFORM:
        raise ValueError(f"{where}: a seat is for customers' keys, and not for {PLATFORM}")
    for principal in (seat.auth_principal, *seat.principals):
        if not principal.isprintable() or " " in principal:
            raise ValueError(f"{where}: a principal has no spaces")
