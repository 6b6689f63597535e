"""Auto-rotation: regions whose policy asks for it follow their root key to its newest version.

Invariant: it does what Rotate without a key spec does, as a caller that may do nothing else, so
that the chain, the compare-and-swap and the proofs are those of every rotation. An operator who
changes the cluster meanwhile wins, and the next sweep looks again. When to look is the sweep's. It
also tells the newest version, from wrapping, so that following takes no permission of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from typing import Final, NoReturn

from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.errors import (
    ConflictError,
    KeyfoldError,
    KeyNotGrantedError,
    NotAllowedError,
    RowNotAuthenticError,
)
from keyfold_server.domain.keyspec import RegionSpec, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.ports import Clock, ClusterFilter
from keyfold_server.domain.rights import DENIED, Caller, Identity, Purpose, Rights, Use
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.life.mutations import MutationCall
from keyfold_server.service.life.resolution import Resolution
from keyfold_server.service.life.rotation import RotateRequest, Rotation
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

CALLER: Final = "keyfold:auto_rotate"
"""Who rotates, as the audit trail tells it; no caller from outside can have such a name."""

_RPC: Final = "Rotate"

_PAUSE: Final = 0.3
"""Seconds between two rotations under one root key: most of its rate is left for calls."""

_PATIENCE: Final = 60.0
"""Seconds that one rotation is waited for."""

_PAGE: Final = 100
"""Clusters that are read at once."""

_Place = tuple[bytes, str]
"""A cluster's uid, and a region's name."""


class _Own:
    """The rights of the server's own caller: to rotate, staying with the key that there is."""

    @property
    def identity(self) -> Identity:
        """Who it is; nobody called, so nothing proves it."""
        return Identity((CALLER,), "")

    def use(self, cluster: str, organization: str | None, region: str, purpose: Purpose) -> Use:
        """Uses no KEK."""
        del cluster, organization, region, purpose
        return DENIED

    def sees(self, cluster: str, organization: str | None, region: str | None = None) -> bool:
        """Sees what it rotates, which may be anything."""
        del cluster, organization, region
        return True

    def check(self, rpc: str) -> None:
        """Refuses all but Rotate."""
        if rpc != _RPC:
            raise NotAllowedError(f"{CALLER} may rotate, and nothing else")

    def check_named(self, rpc: str, cluster: str, regions: Collection[str]) -> None:
        """Refuses all but Rotate."""
        del cluster, regions
        self.check(rpc)

    def check_cluster(
        self, rpc: str, cluster: str, organization: str | None, regions: Collection[str]
    ) -> None:
        """Refuses all but Rotate."""
        del cluster, organization, regions
        self.check(rpc)

    def check_key(
        self, cluster: str | None, organization: str | None, region: str | None, key: RootKey
    ) -> NoReturn:
        """Refuses every key: it names none."""
        del organization, key
        raise KeyNotGrantedError(
            f"{CALLER} stays with the key that a region has", cluster=cluster, region=region
        )


_RIGHTS: Final[Rights] = _Own()


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
        """Joins it to the key services, to Rotate, and to the store.

        Args:
            resolution: Says which root key a region's key spec means today.
            rotation: Rotates.
            kek_wrapper: Shows that what failed once may work now.
            storage: The store.
            clock: Monotonic time.
        """
        self._resolution = resolution
        self._rotation = rotation
        self._kek_wrapper = kek_wrapper
        self._storage = storage
        self._clock = clock
        self._failed: set[_Place] = set()

    async def follow(self, root: RootKey, newest: str) -> None:
        """Rotates every region under a root key that lags behind it, and asks to follow.

        Nothing is raised: what cannot be done now is tried again when this is called again.

        Args:
            root: The root key.
            newest: The version under which it wraps now.
        """
        first = True
        try:
            async for cluster, region in self._behind(root, newest):
                if not first:
                    await asyncio.sleep(_PAUSE)
                first = False
                await self._rotate(cluster, region)
        except KeyfoldError as error:
            log.warning("%s cannot be followed now: %s", root.uri, error.reason)

    async def _behind(self, root: RootKey, newest: str) -> AsyncIterator[tuple[Cluster, Region]]:
        """Yields the regions that are to be rotated."""
        # The store picks them: under the vendor's own key there may be every cluster.
        which, after = ClusterFilter(key_uri=root.uri, behind=newest), ""
        store = self._storage.store
        while page := await self._storage.run(store.clusters, which, after, _PAGE):
            for cluster in page:
                if isinstance(cluster, RowNotAuthenticError):
                    after = cluster.cluster or after
                    continue
                after = cluster.name
                for region in cluster.regions:
                    if _is_behind(region, root, newest) and await self._stays(region, root):
                        yield cluster, region
            if len(page) < _PAGE:
                return

    async def _stays(self, region: Region, root: RootKey) -> bool:
        """Says whether Rotate would stay with the root key; PLATFORM's may be another one now."""
        return _same(await self._resolution.named(region.key_spec, region.name), root)

    async def _rotate(self, cluster: Cluster, region: Region) -> None:
        place = (cluster.uid, region.name)
        request = RotateRequest(
            cluster.name, (RegionSpec(region.name),), new_generation=False, validate_only=False
        )
        call = MutationCall(Caller(_RIGHTS), _RPC, "", request, self._clock.monotonic() + _PATIENCE)
        try:
            if place in self._failed:
                # It was told of in log and chain, and is not told of again with every sweep.
                await self._prove(cluster, region)
            done = (await self._rotation.rotate(call)).mutation
        except ConflictError:
            log.info("auto_rotate leaves %s/%s to who changed it", cluster.name, region.name)
        except KeyfoldError as error:
            if place not in self._failed:
                log.warning(
                    "auto_rotate of %s/%s failed: %s", cluster.name, region.name, error.reason
                )
            self._failed.add(place)
        else:
            self._failed.discard(place)
            version = done.cluster.region(region.name).newest.current.key_version
            log.info("auto_rotate: %s/%s is under version %s", cluster.name, region.name, version)

    async def _prove(self, cluster: Cluster, region: Region) -> None:
        """Shows that what a rotation has to open can be opened, telling nobody where it cannot."""
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
    """Says whether a region asks to follow its root key, and any of its KEKs lags behind."""
    return (
        region.state is State.ENABLED
        and region.policy.auto_rotate
        and _same(region.newest.current.root, root)
        and any(
            generation.current.key_version != newest
            for generation in region.generations
            if generation.retired_at is None
        )
    )
