"""Auto-rotation: regions whose policy says so follow their root key to its newest version.

Invariant: auto-rotation calls Rotate without a key spec, as a caller that may do nothing else, so
its audit trail, compare-and-swap and proofs are those of every rotation. If an operator changes the
cluster at the same time, the operator wins, and the next sweep looks again.

The sweep decides when to look. It knows the newest version from wrapping, so that Keyfold needs no
permission of its own to follow a key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.errors import (
    ClusterBannedError,
    ConflictError,
    KeyfoldError,
    RowNotAuthenticError,
)
from keyfold_server.domain.keyspec import RegionSpec, RootKey
from keyfold_server.domain.ports import Clock, ClusterFilter
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.requests import MutationCall
from keyfold_server.service.life.rotation import RotateRequest, Rotation
from keyfold_server.service.root_keys.resolution import Resolution
from keyfold_server.service.storage import Storage
from keyfold_server.service.upkeep.server_caller import RPC, SERVER_CALLER

log = logging.getLogger(__name__)

_PAUSE: Final = 0.3
"""Seconds between two rotations under one root key; most of its rate is left for callers."""

_PATIENCE: Final = 60.0
"""Seconds to wait for one rotation."""

_PAGE: Final = 100
"""Clusters to read at once."""

_Place = tuple[bytes, str]
"""A cluster's uid, and a region's name."""


class AutoRotation:
    """Follows root keys to their newest versions."""

    def __init__(
        self,
        resolution: Resolution,
        rotation: Rotation,
        kek_wrapper: KekWrapper,
        storage: Storage,
        clock: Clock,
    ) -> None:
        """Joins auto-rotation to the KMS, to Rotate, and to the store.

        Args:
            resolution: Resolves a region's key spec to the root key that it means today.
            rotation: Carries out Rotate.
            kek_wrapper: Proves keys before a rotation that failed is tried again.
            storage: The store.
            clock: Monotonic time.
        """
        self._resolution = resolution
        self._rotation = rotation
        self._kek_wrapper = kek_wrapper
        self._storage = storage
        self._clock = clock
        self._failed: set[_Place] = set()

    async def follow(self, name: str, root: RootKey, newest: str) -> None:
        """Rotates what lags behind a root key in one region and whose policy says to follow.

        It raises nothing. The next call tries again what fails now.

        Args:
            name: The region's name.
            root: The root key.
            newest: The version under which the root key wraps now.
        """
        first = True
        try:
            async for cluster, region in self._behind(name, root, newest):
                if not first:
                    await asyncio.sleep(_PAUSE)
                first = False
                await self._rotate(cluster, region)
        except KeyfoldError as error:
            log.warning("auto_rotate cannot follow %s now: %s", root.uri, error.reason)

    async def _behind(
        self, name: str, root: RootKey, newest: str
    ) -> AsyncIterator[tuple[Cluster, Region]]:
        """Yields what to rotate."""
        # The store picks them, because every cluster may be under the vendor's own key.
        which, after = ClusterFilter(key_uri=root.uri, behind=(name, newest)), ""
        store = self._storage.store
        while page := await self._storage.run(store.clusters, which, after, _PAGE):
            for cluster in page:
                if isinstance(cluster, RowNotAuthenticError | ClusterBannedError):
                    after = cluster.cluster or after
                    continue
                after = cluster.name
                for region in cluster.regions:
                    behind = region.name == name and _is_behind(region, root, newest)
                    if behind and await self._stays(region, root):
                        yield cluster, region
            if len(page) < _PAGE:
                return

    async def _stays(self, region: Region, root: RootKey) -> bool:
        """Says whether Rotate would stay with the root key; PLATFORM may mean another one now."""
        return _same(await self._resolution.root_key(region.key_spec, region.name), root)

    async def _rotate(self, cluster: Cluster, region: Region) -> None:
        place = (cluster.uid, region.name)
        # Each region has a policy of its own, so replicas of the key rotate by theirs.
        request = RotateRequest(
            cluster.name,
            (RegionSpec(region.name),),
            new_generation=False,
            validate_only=False,
            only_named_regions=True,
        )
        call = MutationCall(SERVER_CALLER, RPC, "", request, self._clock.monotonic() + _PATIENCE)
        try:
            if place in self._failed:
                # The log and the audit trail have the failure already. If this proof fails, the
                # sweep does not add it to them again.
                await self._prove(cluster, region)
            result = await self._rotation.rotate(call)
        except ConflictError:
            log.info("auto_rotate: another request changed %s/%s first", cluster.name, region.name)
        except KeyfoldError as error:
            if place not in self._failed:
                log.warning(
                    "auto_rotate of %s/%s failed: %s", cluster.name, region.name, error.reason
                )
            self._failed.add(place)
        else:
            self._failed.discard(place)
            version = result.mutation.cluster.region(region.name).newest.current.key_version
            log.info("auto_rotate: %s/%s is under version %s", cluster.name, region.name, version)

    async def _prove(self, cluster: Cluster, region: Region) -> None:
        """Proves that the KMS opens what a rotation has to open; reports no refusal again."""
        for generation in region.generations:
            await self._kek_wrapper.prove_unwrap(
                cluster, region.name, generation, report_refusal=False
            )


def _same(one: RootKey, other: RootKey) -> bool:
    return (one.type, one.uri, one.principal, one.options) == (
        other.type,
        other.uri,
        other.principal,
        other.options,
    )


def _is_behind(region: Region, root: RootKey, newest: str) -> bool:
    """Says whether a region follows its root key, and one of its KEKs in use lags behind."""
    return (
        region.in_service
        and region.policy.auto_rotate
        and _same(region.newest.current.root, root)
        and any(
            generation.current.key_version != newest
            for generation in region.generations
            if generation.retired_at is None
        )
    )
