"""Geos: named groups of the vendor's regions, as the settings' table of regions forms them.

A geo is for keys that serve several regions: one multi-Region key has a replica in each region of
its geo. A geo has at least one region, since only a region's row names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from keyfold_server.domain.errors import UnknownGeoError
from keyfold_server.domain.keyspec import check_name

_SHOWN: Final = 10
"""Most names of geos in an error message."""


@dataclass(frozen=True, slots=True)
class Geos:
    """The geos of the settings.

    Attributes:
        table: The regions of each geo, sorted; never empty for a geo.
    """

    table: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(geos_of_regions: Mapping[str, Iterable[str]]) -> Geos:
        """Returns the geos of regions, given the names of the geos that each region is in."""
        table: dict[str, set[str]] = {}
        for region, geos in geos_of_regions.items():
            for geo in geos:
                table.setdefault(geo, set()).add(region)
        return Geos({geo: tuple(sorted(table[geo])) for geo in sorted(table)})

    def regions(self, geo: str, field_path: str = "geo") -> tuple[str, ...]:
        """Returns the regions of a geo, sorted.

        Args:
            geo: The geo's name.
            field_path: The path of the request field, for the error.

        Raises:
            InvalidNameError: The name is not one that a geo can have.
            UnknownGeoError: The settings have no such geo.
        """
        check_name(geo, field_path)
        found = self.table.get(geo)
        if found is None:
            raise UnknownGeoError(f"there is no geo {geo}: {self._known()}", field=field_path)
        return found

    def missing(self, geo: str, there: Iterable[str]) -> tuple[str, ...]:
        """Returns the regions of a geo that are not among others; of an unknown geo, none."""
        return tuple(sorted(set(self.table.get(geo, ())).difference(there)))

    def _known(self) -> str:
        if not self.table:
            return (
                "the settings name none; have it added as geo to the settings' table "
                "[regions.NAME] of each of its regions"
            )
        names = list(self.table)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"the settings have {', '.join(names[:_SHOWN])}{more}"
