"""External ids: what Keyfold shows to AWS so that a customer's role knows for whom it asks (C2).

Random, issued once and kept for good: an id that came from a caller would let one customer's role
be used in another's name, and one that was derived from a key would break with that key's rotation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from keyfold_server.domain.ports import Clock
from keyfold_server.service.storage import Storage

_BYTES: Final = 24
"""Of randomness; written as 48 hexadecimal digits, which AWS takes and no shell changes."""


class ExternalIds:
    """What was issued, by owner: the organization where one is named, else the cluster's name."""

    def __init__(
        self, storage: Storage, clock: Clock, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Joins them to the store that keeps them."""
        self._storage = storage
        self._clock = clock
        self._random = random

    async def of(self, organization: str | None, cluster: str | None) -> str | None:
        """Returns the external id of an organization or cluster, or None if none was issued."""
        owner = _owner(organization, cluster)
        if owner is None:
            return None
        return await self._storage.run(self._storage.store.external_id, owner)

    async def issue(self, organization: str | None, cluster: str | None) -> str:
        """Returns the external id of an organization or cluster, which is issued if there is none.

        Raises:
            ValueError: Neither is named.
        """
        owner = _owner(organization, cluster)
        if owner is None:
            raise ValueError("an external id needs an organization or a cluster")
        found = await self.of(organization, cluster)
        if found is not None:
            return found
        # Where another replica was first, the store answers with what that one issued.
        return await self._storage.run(
            self._storage.store.issue_external_id,
            owner,
            self._random(_BYTES).hex(),
            int(self._clock.wall() * 1000),
        )


def _owner(organization: str | None, cluster: str | None) -> str | None:
    """Returns under what the store keeps it; a cluster and an organization may share a name."""
    if organization:
        return f"organization:{organization}"
    return f"cluster:{cluster}" if cluster else None
