"""Where root keys are, beside where the vendor's regions are: the settings' table, applied.

Invariant: a place that the table does not know is never called wrong, and where residency is
demanded never called right. It must not know a provider: where a key is comes in as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keyfold_server.domain.errors import KeyElsewhereError

Table = Mapping[str, Mapping[str, tuple[str, ...]]]
"""By the vendor's region and the provider's type: the places there, each as `KeyLocation` says."""

_REGION: Final = re.compile(r"[a-z]+(?:-[a-z]+)+-?[0-9]+")
"""How providers write their regions: `eu-west-1`, `europe-west1`, `us-gov-west-1`."""


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """Where a root key is, as far as its uri tells.

    Attributes:
        type: The provider's type, never `PLATFORM`.
        region: The provider's own name of the region; empty where its uris do not tell.
        host: The uri's host, with its port where it has one; the whole uri where it has no host.
    """

    type: str
    region: str
    host: str

    @property
    def name(self) -> str:
        """What the table lists: the region, and the host where no region is told."""
        return self.region or self.host


@dataclass(frozen=True, slots=True)
class ResidencyReport:
    """What a status says about where a root key is.

    Attributes:
        key_region: The provider's own name of its region, empty where its uri does not tell.
        notices: One line each for people; empty where nothing is to be said.
        refused: Why the key would be refused there, were it named now; empty: it would not be.
    """

    key_region: str = ""
    notices: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ResidencyPolicy:
    """The vendor's regions, and where in each provider they are.

    Attributes:
        table: What the settings name; a region without an entry is taken for the provider's own
            region of that name.
        required: Whether a key in another region, or in one that cannot be told, is refused.
    """

    table: Table = field(default_factory=dict)
    required: bool = False

    def places(self, region: str, type_: str) -> tuple[str, ...]:
        """Returns what the table lists for a region and provider type; empty: nothing."""
        return self.table.get(region, {}).get(type_, ())

    def provider_region(self, region: str, type_: str) -> str:
        """Returns a provider's own name of a region: the table's first, else the same name."""
        return next(iter(self.places(region, type_)), region)

    def knows(self, region: str, type_: str, key_region: str) -> bool:
        """Says whether it is known where a region is in a provider that has a `key_region`."""
        form = _form(key_region)
        return (
            bool(self.places(region, type_))
            or region == key_region
            or (form is not None and form == _form(region))
        )

    def notice(self, region: str, key: KeyLocation) -> str:
        """Returns the line that points a key in another region out; empty where it is not known.

        Without an entry of the table a key is known to be elsewhere where the region is named as
        its provider names regions, and is another one. Where residency is demanded, it is the line
        that the key would be refused with.
        """
        if self.required:
            return self._refusal(region, key)
        places = self.places(region, key.type)
        if places:
            if key.name in places:
                return ""
            return f"the root key is in {key.name}, and region {region} in {' or '.join(places)}"
        if key.region == region or not self.knows(region, key.type, key.region):
            return ""
        return (
            f"the root key is in {key.region}, another region than {region}; if it belongs "
            f"there, {_remedy(region, key)}"
        )

    def check(self, region: str, key: KeyLocation) -> None:
        """Refuses a key whose place is not the region's, where residency is demanded.

        Raises:
            KeyElsewhereError: It is in another region, or nobody can tell in which.
        """
        refusal = self._refusal(region, key) if self.required else ""
        if refusal:
            raise KeyElsewhereError(refusal, region=region, field="key_spec.uri")

    def _refusal(self, region: str, key: KeyLocation) -> str:
        places = self.places(region, key.type)
        if key.name in places or (not places and key.region == region):
            return ""
        if places:
            return (
                f"the root key is in {key.name}, and region {region} takes keys in "
                f"{' or '.join(places)} alone: this server demands residency; name a key there"
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
    """Returns how a name is written, or None where no provider writes a region so.

    `eu-west-1` and `us-east-2` are written alike, `europe-west1` otherwise: a vendor whose regions
    are named as one provider's are not told that another provider's keys are elsewhere.
    """
    if _REGION.fullmatch(name) is None:
        return None
    return re.sub(r"[0-9]+", "0", re.sub(r"[a-z]+", "a", name))


def _remedy(region: str, key: KeyLocation) -> str:
    return f'have {key.type} = "{key.name}" added to the settings\' table [regions."{region}"]'
