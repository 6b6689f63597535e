"""The seats that a batch of changes takes: read under their locks, and checked there.

So of two changes that take one seat, one gets it, and the other one drops out.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from keyfold_server.domain.errors import SeatTakenError
from keyfold_server.store.tables import identities

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keyfold_server.domain.changes import Change
    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.domain.seats import IssuedSeat, SeatClaim
    from keyfold_server.store.database.trip import Answer, Step
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal


class TakenSeats:
    """The seats that the changes of a batch take.

    Attributes:
        locking: The steps that lock and read them.
    """

    def __init__(self, wanted: Sequence[Change]) -> None:
        """Takes the changes."""
        names = {claim.seat for change in wanted for claim in change.seats}
        self.locking: list[Step] = identities.locking_seats(names)
        self._found: dict[str, IssuedSeat] = {}
        self._taken: dict[str, IssuedSeat] = {}

    def take(self, answers: Sequence[Answer], seal: Seal) -> None:
        """Takes the answers to `locking`."""
        rows = chain.from_iterable(answer.rows for answer in answers)
        self._found = {each.seat.name: each for each in identities.seats_of(rows, seal)}

    def check(self, claims: Iterable[SeatClaim]) -> None:
        """Refuses a change whose seats are not all reserved for it.

        Raises:
            SeatTakenError: Another cluster-region has taken one, or it is not the owner's.
        """
        for claim in claims:
            found = self._taken.get(claim.seat) or self._found.get(claim.seat)
            if found is None or found.used or found.owner != claim.owner:
                raise SeatTakenError(
                    f"seat {claim.seat} was taken by another request while the key was proven; "
                    "nothing was stored: ask again",
                    region=claim.region,
                )

    def made(self, claims: Iterable[SeatClaim], cluster: Cluster) -> None:
        """Gives seats to the regions of a cluster that take them."""
        for claim in claims:
            self._taken[claim.seat] = replace(
                self._found[claim.seat],
                cluster=cluster.name,
                cluster_uid=cluster.uid,
                taken_in=claim.region,
            )

    def rows(self, seal: Seal) -> list[Cells]:
        """Returns the rows of the seats that were given, by name."""
        return [identities.seat_row(self._taken[name], seal) for name in sorted(self._taken)]
