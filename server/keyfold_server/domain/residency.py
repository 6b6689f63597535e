"""Residency: whether root keys are in the regions that use them, by the settings' table.

A location that the table does not know is never called wrong. Where the settings require
residency, it is never called right. This module knows no provider: it gets a key's location as
plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keyfold_server.domain.errors import KeyElsewhereError
from keyfold_server.domain.geos import Geos

Table = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Locations by vendor's region and provider's type, each as `KeyLocation.name` writes it."""

_REGION: Final = re.compile(r"[a-z]+(?:-[a-z]+)+-?[0-9]+")
"""The forms in which providers write regions: `eu-west-1`, `europe-west1`, `us-gov-west-1`."""


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """The location of a root key, as far as its uri tells.

    Attributes:
        type: The provider's type, never `PLATFORM`.
        region: The provider's own name of the region; empty if its uris do not tell.
        host: The uri's host, with its port if it has one; the whole uri if it has no host.
    """

    type: str
    region: str
    host: str

    @property
    def name(self) -> str:
        """The name that the table lists: the region, or the host if the region is not known."""
        return self.region or self.host


@dataclass(frozen=True, slots=True)
class ResidencyReport:
    """What a status says about the location of a root key.

    Attributes:
        key_region: The provider's own name of the key's region; empty if its uri does not tell.
        notices: Lines for people; may be empty.
        refused: Why the server would refuse the key for this region today; empty if it would not.
    """

    key_region: str = ""
    notices: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ResidencyPolicy:
    """The settings of the vendor's regions: their places and geos, and whether keys must be there.

    Attributes:
        table: The locations of the vendor's regions. A region without an entry is taken to be
            the provider's own region of that name.
        required: Whether the server refuses a key in another region, or in an unknown one.
        geos: The geos that the regions form.
    """

    table: Table = field(default_factory=dict)
    required: bool = False
    geos: Geos = field(default_factory=Geos)

    def locations(self, region: str, type_: str) -> tuple[str, ...]:
        """Returns the locations that the table lists for a region and provider type."""
        return self.table.get(region, {}).get(type_, ())

    def provider_region(self, region: str, type_: str) -> str:
        """Returns a provider's own name of a region: the table's first, else the same name."""
        return next(iter(self.locations(region, type_)), region)

    def knows(self, region: str, type_: str, key_region: str) -> bool:
        """Says whether a region's location is known in a provider with a region `key_region`."""
        form = _form(key_region)
        return (
            bool(self.locations(region, type_))
            or region == key_region
            or (form is not None and form == _form(region))
        )

    def notice(self, region: str, key: KeyLocation) -> str:
        """Returns the line that points out a key in another region; empty if none is needed.

        Without an entry in the table, a key is known to be elsewhere only if the region is named
        in the form of its provider's regions and the names differ. Where residency is required,
        the line is the message with which the server would refuse the key.
        """
        if self.required:
            return self._refusal(region, key)
        locations = self.locations(region, key.type)
        if locations:
            if key.name in locations:
                return ""
            return f"the root key is in {key.name}, and region {region} in {' or '.join(locations)}"
        if key.region == region or not self.knows(region, key.type, key.region):
            return ""
        return (
            f"the root key is in {key.region}, another region than {region}; if it belongs "
            f"there, {_remedy(region, key)}"
        )

    def check(self, region: str, key: KeyLocation) -> None:
        """Refuses a key outside its region, if residency is required.

        Raises:
            KeyElsewhereError: The key is in another region, or in an unknown one.
        """
        refusal = self._refusal(region, key) if self.required else ""
        if refusal:
            raise KeyElsewhereError(refusal, region=region, field="key_spec.uri")

    def _refusal(self, region: str, key: KeyLocation) -> str:
        locations = self.locations(region, key.type)
        if key.name in locations or (not locations and key.region == region):
            return ""
        if locations:
            return (
                f"the root key is in {key.name}, and region {region} takes only keys in "
                f"{' or '.join(locations)}: this server demands residency; name a key there"
            )
        if key.region:
            return (
                f"the root key is in {key.region}, and nothing says that region {region} is there: "
                f"this server demands residency; name a key in region {region}, or "
                f"{_remedy(region, key)}"
            )
        return (
            f"nothing says in which region {key.host} is, and this server demands residency; if "
            f"it belongs to region {region}, {_remedy(region, key)}"
        )


def _form(name: str) -> str | None:
    """Returns the form of a region's name, or None if no provider writes regions in that form.

    `eu-west-1` and `us-east-2` have the same form, `europe-west1` another. So a vendor that names
    its regions as one provider does gets no notices about another provider's keys.
    """
    if _REGION.fullmatch(name) is None:
        return None
    return re.sub(r"[0-9]+", "0", re.sub(r"[a-z]+", "a", name))


def _remedy(region: str, key: KeyLocation) -> str:
    return f'have {key.type} = "{key.name}" added to the settings\' table [regions."{region}"]'
