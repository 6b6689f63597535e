"""The settings of the vendor's regions, and of whether keys must be in them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator

from keyfold_server.domain.errors import InvalidNameError
from keyfold_server.domain.keyspec import PLATFORM, check_name

GEO: Final = "geo"
"""The field of a region's row that names geos. Providers' types are in capitals."""


def _listed(value: object) -> object:
    """Returns a list for a single place."""
    return [value] if isinstance(value, str) else value


Places = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed)]
"""A provider's own names of one region, or the hosts in the uris of its keys: one, or a list."""


class RegionSettings(BaseModel):
    """The settings of regions."""

    regions: dict[str, dict[str, Annotated[Places, Field(min_length=1)]]] = Field(
        default_factory=dict,
        description="In the file: a table [regions.NAME] for each of your regions that a provider "
        "knows by another name. It gives the provider's name for each type, such as AWS_KMS = "
        '"eu-west-1", or a list of names. For a type whose uris do not contain a region, give the '
        'hosts of its uris. The field geo gives the geo that the region is in, such as geo = "EU", '
        "or a list of geos; a geo's regions can share one multi-Region key.",
    )
    residency: Literal["note", "require"] = Field(
        default="note",
        description="What to do about a root key that is not in the region that uses it: show it "
        "in the status and the log (note), or refuse it (require). With require, Keyfold also "
        "refuses a key whose region it cannot determine. Keys in use stay in use.",
    )

    @field_validator("regions")
    @classmethod
    def _named(cls, value: dict[str, dict[str, Places]]) -> dict[str, dict[str, Places]]:
        for region, places in value.items():
            try:
                check_name(region, f"regions.{region[:32]}")
            except InvalidNameError as error:
                raise ValueError(error.message) from None
            for geo in places.get(GEO, ()):
                try:
                    check_name(geo, f"regions.{region}.geo")
                except InvalidNameError as error:
                    raise ValueError(error.message) from None
            if PLATFORM in places:
                raise ValueError(
                    f"regions.{region} names {PLATFORM}, which stands for a key of another type; "
                    "name that type"
                )
        return value
