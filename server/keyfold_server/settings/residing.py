"""Where the vendor's regions are, and whether keys must be there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator

from keyfold_server.domain.errors import InvalidNameError
from keyfold_server.domain.keyspec import PLATFORM, check_name


def _listed(value: object) -> object:
    """Returns one place as a list of it."""
    return [value] if isinstance(value, str) else value


Places = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed)]
"""A provider's own names of regions, or hosts of its keys' uris: one, or a list."""


class Residing(BaseModel):
    """The settings of regions."""

    regions: dict[str, dict[str, Annotated[Places, Field(min_length=1)]]] = Field(
        default_factory=dict,
        description="In the file: a table [regions.NAME] for each region of yours that a provider "
        'names otherwise, with the provider\'s own name by type, such as AWS_KMS = "eu-west-1", or '
        "a list of them. For types whose uris tell no region: the hosts of the uris.",
    )
    residency: Literal["note", "require"] = Field(
        default="note",
        description="What is done about a root key that is in another region than the one that it "
        "is named for: point it out in the status and the log (note), or refuse it, and likewise "
        "one of which nobody can tell where it is (require). Keys in use stay in use.",
    )

    @field_validator("regions")
    @classmethod
    def _named(cls, value: dict[str, dict[str, Places]]) -> dict[str, dict[str, Places]]:
        for region, places in value.items():
            try:
                check_name(region, f"regions.{region[:32]}")
            except InvalidNameError as error:
                raise ValueError(error.message) from None
            if PLATFORM in places:
                raise ValueError(
                    f"regions.{region} names {PLATFORM}, which stands for a key of another type; "
                    "name that type"
                )
        return value
