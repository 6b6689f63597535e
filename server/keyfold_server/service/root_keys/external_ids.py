"""External ids: what Keyfold shows to AWS so that a role knows for which customer Keyfold asks.

Keyfold issues each id once, at random, and keeps it for good (protocol C2). If callers chose the
ids, one customer's role could be used in another customer's name; if Keyfold derived them from a
key, rotating that key would break the customers' trust policies.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from keyfold_server.domain import owners
from keyfold_server.domain.errors import ExternalIdNotIssuedError, RateLimitedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.log import AuditEvent
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.provider import TakesExternalIds
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.limits import Bucket
from keyfold_server.service.storage import Storage

_BYTES: Final = 24
"""Random bytes of an external id. It is written as 48 hexadecimal digits, which AWS accepts and
shells pass on unchanged."""

_PER_HOUR: Final = 1_000
"""New ids that one caller may have issued in an hour on each replica, and as many at once. The
store keeps each id for good, so a caller must not be able to fill it with them."""

_CALLERS: Final = 10_000
"""Callers whose new ids are counted at once."""

_HOUR: Final = 3_600.0
"""Seconds."""


class ExternalIds:
    """Issues external ids and puts them into root keys.

    An id belongs to an organization where one is named, else to a cluster's name.
    """

    def __init__(
        self,
        kms: KmsClient,
        storage: Storage,
        clock: Clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Takes the providers, which say who needs an id, and the store, which keeps the ids."""
        self._kms = kms
        self._storage = storage
        self._clock = clock
        self._random = random
        self._issued_for: dict[str, Bucket] = {}

    def charge(self, caller: str) -> None:
        """Counts a new id, or a reserved seat, for a caller.

        Raises:
            RateLimitedError: The caller has had as many issued as it may in an hour.
        """
        now = self._clock.monotonic() / _HOUR
        bucket = self._issued_for.get(caller)
        if bucket is None:
            if len(self._issued_for) >= _CALLERS:
                self._issued_for = {c: b for c, b in self._issued_for.items() if not b.full(now)}
            bucket = self._issued_for.setdefault(caller, Bucket(_PER_HOUR, now))
        wait = bucket.wait(now)
        if wait:
            raise RateLimitedError(
                f"Keyfold issues at most {_PER_HOUR:,} identities an hour for one caller; wait",
                retry_after=wait * _HOUR,
            )
        bucket.take(now)

    async def issued_to(self, cluster: str | None, organization: str | None) -> str | None:
        """Returns the external id of an organization or cluster, or None before the first issue."""
        owner = owners.of(cluster, organization)
        if owner is None:
            return None
        return await self._storage.run(self._storage.store.external_id, owner)

    async def issue(
        self, cluster: str | None, organization: str | None, event: AuditEvent, named: str | None
    ) -> str:
        """Returns the external id of an organization or cluster; the first time, issues it.

        Args:
            cluster: The cluster's name, or None.
            organization: The organization's name, or None.
            event: Who asked, for the entry of the log that the issue is.
            named: The name of the cluster that the entry concerns, or None.

        Raises:
            ValueError: Neither is named.
        """
        owner = owners.of(cluster, organization)
        if owner is None:
            raise ValueError("an external id needs an organization or a cluster")
        found = await self.issued_to(cluster, organization)
        if found is not None:
            return found
        # If another replica was faster, the store returns the id that the other one issued.
        return await self._storage.run(
            self._storage.store.issue_external_id,
            owner,
            self._random(_BYTES).hex(),
            event,
            named,
        )

    async def needed_for(self, root: RootKey) -> bool:
        """Says whether the provider takes an external id with this root key's principal."""
        provider = await self._kms.provider(root.type)
        return isinstance(provider, TakesExternalIds) and provider.needs_external_id(root)

    async def added_to(
        self, root: RootKey, cluster: str | None, organization: str | None, region: str
    ) -> RootKey:
        """Returns a root key as Keyfold calls it: with its owner's external id, if it needs one.

        One that has an external id already, which is a seat's, stays as it is.

        Raises:
            ExternalIdNotIssuedError: It needs one, and Keyfold has not issued one to the owner.
        """
        if root.external_id or not await self.needed_for(root):
            return root
        owner = owners.of(cluster, organization)
        if owner is None:
            raise ExternalIdNotIssuedError(
                "an external id is issued for an organization or a cluster; name one of them",
                field="organization",
            )
        external_id = await self.issued_to(cluster, organization)
        if external_id is not None:
            return replace(root, external_id=external_id)
        raise ExternalIdNotIssuedError(
            f"no external id was issued for {owner.replace(':', ' ', 1)}; call GetAccessPolicy for "
            "it (keyfold access-policy), have the customer put what it shows in place, then ask "
            "again",
            cluster=cluster,
            region=region or None,
            field="key_spec.auth_principal",
        )
