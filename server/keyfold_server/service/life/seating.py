"""Seating: which seat each region of a request takes, once all of its keys are admitted."""

from __future__ import annotations

from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.seats import SeatClaim
from keyfold_server.service.life.each_region import for_each_region
from keyfold_server.service.root_keys.admission import Admitted
from keyfold_server.service.root_keys.seats import Seats


async def seated(
    seats: Seats, admitted: Admitted, cluster: str, organization: str | None
) -> tuple[dict[str, RootKey], tuple[SeatClaim, ...]]:
    """Tries the keys that ask for a seat as each seat of the owner, until their KMS accepts one.

    Returns:
        The root keys by region, as Keyfold calls them, and the seats that the change has to take.

    Raises:
        KmsError: The KMS of a key accepts none; the message names each region where that is so.
    """
    chosen = await for_each_region(
        {
            region: seats.choose(keys, cluster, organization, region)
            for region, keys in admitted.seated.items()
        },
        cluster,
    )
    roots = {**admitted.roots, **{region: key.root for region, key in chosen.items()}}
    return roots, tuple(key.claim for key in chosen.values() if key.claim is not None)
