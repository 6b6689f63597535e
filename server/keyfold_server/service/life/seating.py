"""Seating: which seat each region of a request takes, once all of its keys are admitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keyfold_server.domain.cluster import Generation
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.seats import SeatClaim
from keyfold_server.service.life.each_region import for_each_region
from keyfold_server.service.root_keys.admission import Admitted
from keyfold_server.service.root_keys.seats import Seats


@dataclass(frozen=True, slots=True)
class Seating:
    """The root keys of a request, those that asked for a seat as the one that they got.

    Attributes:
        roots: The root keys by region, as Keyfold calls them.
        claims: The seats that the change has to take.
        first: For each region whose key asked for a seat: the generation that proved the key,
            with which a new region begins.
    """

    roots: Mapping[str, RootKey]
    claims: tuple[SeatClaim, ...]
    first: Mapping[str, Generation]


async def seated(
    seats: Seats, admitted: Admitted, cluster: str, organization: str | None
) -> Seating:
    """Tries the keys that ask for a seat as each seat of the owner, until their KMS accepts one.

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
    return Seating(
        {**admitted.roots, **{region: key.root for region, (key, _) in chosen.items()}},
        tuple(key.claim for key, _ in chosen.values() if key.claim is not None),
        {region: made for region, (_, made) in chosen.items()},
    )
