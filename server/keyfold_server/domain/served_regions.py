"""The regions that a replica serves: those whose KMSs it may call.

A replica that serves some regions alone holds no other region's KEKs, and needs no credentials for
another region's KMSs. A *control replica* serves every region.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        """Refuses a region that the replica does not serve.

        Raises:
            WrongRegionError: It does not serve the region.
        """
        error = self.refusal(region, cluster)
        if error is not None:
            raise error

    def refusal(self, region: str, cluster: str | None = None) -> WrongRegionError | None:
        """Returns the error that `check` raises, or None."""
        if self.serves(region):
            return None
        if not region:
            return self._uncontrolled("a KMS call for no region")
        place = self.places.get(region, self.places.get(EVERY))
        return WrongRegionError(
            f"this replica does not serve region {region}; "
            + _call(place, f"which address serves region {region}"),
            cluster=cluster,
            region=region,
            served_at=place,
        )

    def check_all(self, what: str) -> None:
        """Refuses what needs a control replica.

        Args:
            what: What needs it, for the message.

        Raises:
            WrongRegionError: The replica serves some regions alone.
        """
        if self.names is not None:
            raise self._uncontrolled(what)

    def _uncontrolled(self, what: str) -> WrongRegionError:
        place = self.places.get(EVERY)
        return WrongRegionError(
            f"{what} needs a replica that serves every region, and this one serves only {self}; "
            + _call(place, "where such a replica answers"),
            served_at=place,
        )


def _call(place: str | None, asked: str) -> str:
    return f"ask the operator {asked}" if place is None else f"call {place}"
