"""Policies: gives regions other policies, for operations.

Rotate can do that, too, together with a rotation. This change alone asks no KMS. Without
`auto_rotate` it needs no provider either, so any replica makes it. Its audit trail, rights and
compare-and-swap are those of Rotate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from keyfold_server.domain.changes import with_regions
from keyfold_server.domain.cluster import Cluster, Region, existing
from keyfold_server.domain.errors import KeyVersionPinnedError
from keyfold_server.domain.keyspec import RegionSpec
from keyfold_server.domain.lifecycle import Action
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.requests import MutationCall, MutationResult


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """A request for other policies.

    Attributes:
        cluster: The cluster's name.
        specs: One spec for each region, with nothing but its policy.
    """

    cluster: str
    specs: tuple[RegionSpec, ...]

    @property
    def named(self) -> tuple[str, ...]:
        """The regions that the request names."""
        return tuple(spec.region for spec in self.specs)


class Policies:
    """Changes the policies of regions."""

    def __init__(self, mutations: Mutations, kms: KmsClient) -> None:
        """Takes what carries out changes, and what knows which version of a key a uri names."""
        self._mutations = mutations
        self._kms = kms

    async def change(self, call: MutationCall[PolicyRequest]) -> MutationResult:
        """Gives the named regions their policies; those that have them already change nothing.

        Raises:
            StateError: A region is not in service.
            KeyVersionPinnedError: A policy has `auto_rotate`, and the region's key names a version.
        """
        return await self._mutations.run(
            call, lambda seen: self._change(call, existing(seen, call.cluster)), lambda done: done
        )

    async def _change(self, call: MutationCall[PolicyRequest], seen: Cluster) -> MutationResult:
        now = self._mutations.now()
        changed = []
        for spec in call.request.specs:
            region = seen.region(spec.region).moved(Action.ROTATE, seen.name, now)
            policy = region.policy if spec.policy is None else spec.policy
            if policy.auto_rotate:
                await self._check_not_pinned(seen, region)
            if policy != region.policy:
                changed.append(replace(region, policy=policy))
        if not changed:
            return await self._mutations.unchanged(call, seen)
        return await self._mutations.commit(call, with_regions(seen, changed, now))

    async def _check_not_pinned(self, cluster: Cluster, region: Region) -> None:
        pinned = await self._kms.pinned(region.newest.current.root)
        if pinned is not None:
            raise KeyVersionPinnedError(
                f"the uri of region {region.name}'s key names version {pinned}, so that it "
                "cannot follow the key; rotate it to the key without a version",
                cluster=cluster.name,
                region=region.name,
            )
