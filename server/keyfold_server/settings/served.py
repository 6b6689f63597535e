"""The settings of the regions that a replica serves, and of where the others are served."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, field_validator
from pydantic_settings import NoDecode

from keyfold_server.domain.errors import InvalidNameError
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.served_regions import EVERY
from keyfold_server.settings.forms import MAX_PORT

MOST_SERVED: Final = 100
"""Most regions that a replica may serve by name: each heartbeat tells them to the other replicas.
One that serves more of them serves all."""

MOST_PLACES: Final = 1_000
"""Most regions whose addresses the settings may hold."""

LONGEST_ADDRESS: Final = 255
"""Most characters of an address: it goes to callers in an error, whose size is bounded."""

_ADDRESS: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):(?P<port>[1-9][0-9]{0,4})"
)
"""HOST:PORT; an IPv6 address stands in brackets."""


def _names(value: object) -> object:
    """Splits names that are written with commas. An empty one stays, and is refused."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _table(value: object) -> object:
    """Returns the table of a text such as `eu=eu.example:7443,us=us.example:7443`."""
    if not isinstance(value, str):
        return value
    table: dict[str, str] = {}
    for part in value.split(",") if value.strip() else ():
        region, equals, address = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(
                f"{part[:64].strip()!r} is not REGION=HOST:PORT; write such pairs, separated by "
                "commas"
            )
        if region in table:
            raise ValueError(f"names region {region[:64]} twice; give each region one address")
        table[region] = address
    return table


Served = Annotated[
    tuple[str, ...], NoDecode, BeforeValidator(_names), PlainSerializer(",".join, return_type=str)
]
"""Names of regions: separated by commas, or as a list in the file."""


class ServedSettings(BaseModel):
    """The settings of the regions that a replica serves."""

    serves: Served = Field(
        default=(EVERY,),
        description="The regions that this replica serves, separated by commas, such as "
        f"eu-west-1,eu-central-1; at most {MOST_SERVED}. It calls the KMSs of these regions alone, "
        "holds no KEK of another, and needs no credentials for another's KMSs. Calls that need "
        "another region get WRONG_REGION; Revoke works for every region. *: every region.",
    )
    served_at: Annotated[dict[str, str], NoDecode, BeforeValidator(_table)] = Field(
        default_factory=dict,
        description="The address of each region's replicas, which an error WRONG_REGION tells the "
        "caller: in the file a table [served_at] with lines such as eu-west-1 = "
        '"eu.keyfold.example:7443", and in the environment eu-west-1=eu.keyfold.example:7443, '
        "separated by commas. The name * stands for replicas that serve every region. All replicas "
        "can have the same table. Keyfold itself connects to none of these addresses.",
    )

    @field_validator("serves")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not any(value):
            raise ValueError(
                f"is empty; name the regions that this replica serves, or write {EVERY}"
            )
        if EVERY in value:
            if len(value) > 1:
                raise ValueError(f"{EVERY} stands for every region; write it alone, or names alone")
            return value
        if len(value) > MOST_SERVED:
            raise ValueError(
                f"names {len(value)} regions, and may name at most {MOST_SERVED}; write {EVERY} "
                "for a replica that serves all"
            )
        for region in value:
            _check(region)
            if value.count(region) > 1:
                raise ValueError(f"names region {region} twice; name each region once")
        return value

    @field_validator("served_at")
    @classmethod
    def _addresses(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > MOST_PLACES:
            raise ValueError(f"has {len(value)} addresses, and may have at most {MOST_PLACES}")
        for region, address in value.items():
            if region != EVERY:
                _check(region)
            form = _ADDRESS.fullmatch(address) if len(address) <= LONGEST_ADDRESS else None
            if form is None or int(form["port"]) > MAX_PORT:
                raise ValueError(
                    f"the address of {region} must be HOST:PORT, such as keyfold.example:7443, of "
                    f"at most {LONGEST_ADDRESS} characters"
                )
        return value


def _check(region: str) -> None:
    try:
        check_name(region, f"region {region[:64]!r}")
    except InvalidNameError as error:
        raise ValueError(error.message) from None
