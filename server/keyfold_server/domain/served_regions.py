"""The regions that a replica serves: those whose KMSs it may call.

A replica that serves some regions alone holds no other region's KEKs, and needs no credentials for
another region's KMSs. A *control replica* serves every region.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from keyfold_server.domain.errors import WrongRegionError

EVERY: Final = "*"
"""Stands for every region: in the settings, and for the control replicas among the places."""


@dataclass(frozen=True, slots=True)
class ServedRegions:
    """The regions that a replica serves, and where the others are served.

    Attributes:
        names: The regions' names, or None for every region.
        places: The address at which a region's replicas answer, by region; that of the control
            replicas under `*`. Keyfold shows them to callers, and does nothing else with them.
    """

    names: frozenset[str] | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(names: Iterable[str], places: Mapping[str, str]) -> ServedRegions:
        """Makes one of the settings' names, of which `*` stands for every region."""
        served = frozenset(names)
        return ServedRegions(None if EVERY in served else served, places)

    @property
    def all(self) -> bool:
        """Whether this is a control replica, which serves every region."""
        return self.names is None

    def __str__(self) -> str:
        return EVERY if self.names is None else ", ".join(sorted(self.names))

    def serves(self, region: str) -> bool:
        """Says whether the replica serves a region."""
        return self.names is None or region in self.names

    def check(self, region: str, cluster: str | None = None) -> None:
        """Refuses a region that the replica does not serve; an empty name stands for no region.

        Raises:
            WrongRegionError: It does not serve the region.
        """
        if not self.serves(region):
            if not region:
                raise self._uncontrolled("a call to a KMS for no region")
            raise self._refusal([region], [region], cluster)

    def check_each(self, regions: Iterable[str], cluster: str | None = None) -> None:
        """Refuses a request as a whole if it needs a region that the replica does not serve.

        Raises:
            WrongRegionError: The replica does not serve one of the regions; the message names all
                of those, and an address that serves the whole request, if one is known.
        """
        if self.names is None:
            return
        needed = list(dict.fromkeys(regions))
        wrong = [region for region in needed if region not in self.names]
        if wrong:
            raise self._refusal(wrong, needed, cluster)

    def check_all(self, what: str) -> None:
        """Refuses what needs a control replica.

        Args:
            what: What needs it, for the message.

        Raises:
            WrongRegionError: The replica serves some regions alone.
        """
        if self.names is not None:
            raise self._uncontrolled(what)

    def _refusal(
        self, wrong: Sequence[str], needed: Sequence[str], cluster: str | None
    ) -> WrongRegionError:
        places = {self.places.get(region) for region in needed}
        place = places.pop() if len(places) == 1 else None
        if place is None:
            place = self.places.get(EVERY)
        names = f"region{'s' if len(wrong) > 1 else ''} {', '.join(wrong)}"
        asked = names if len(needed) == len(wrong) else f"regions {', '.join(needed)}"
        error = WrongRegionError(
            f"this replica does not serve {names}; "
            + _call(place, f"which address serves {asked}"),
            cluster=cluster,
            region=wrong[0],
            served_at=place,
        )
        error.regions = tuple(wrong)
        return error

    def _uncontrolled(self, what: str) -> WrongRegionError:
        place = self.places.get(EVERY)
        return WrongRegionError(
            f"{what} needs a replica that serves every region, and this one serves only {self}; "
            + _call(place, "where such a replica answers"),
            served_at=place,
        )


def _call(place: str | None, asked: str) -> str:
    return f"ask the operator {asked}" if place is None else f"call {place}"
