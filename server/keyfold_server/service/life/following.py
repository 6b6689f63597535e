"""Following: a rotation of a multi-Region key takes its replicas along.

A region that was given a key as a replica of another region's key keeps that relation, and these
rules hold for it:

- Rotate moves it with its source, in the same change, and names it if it cannot: then nothing is
  changed. A customer who rotates a key takes the old one away next, and a replica that was left
  behind without a word would stop then.
- It also rotates with its source if the key stays the same, because all replicas of a multi-Region
  key have one key material: AWS KMS rotates it in all regions at once.
- A region that a request names is rotated as the request says. With a key spec it has a key of its
  own from then on.
- A relation always holds: where a source moves without its replica, because the request says so
  (`only_named_regions`), the replica has a key of its own from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.errors import (
    ForbiddenError,
    InvalidKeySpecError,
    KeyfoldError,
    NotAllowedError,
    NotFoundError,
    StateError,
)
from keyfold_server.domain.keyspec import RegionSpec
from keyfold_server.domain.lifecycle import Action
from keyfold_server.domain.rights import Rights
from keyfold_server.service.life.each_region import raise_if_failed
from keyfold_server.service.root_keys.replica_of import ReplicaKeys


def moves(spec: RegionSpec, seen: Cluster) -> bool:
    """Says whether a spec gives a region another root key than the one that it has."""
    return spec.key_spec not in (None, seen.region(spec.region).key_spec)


def moving(specs: Iterable[RegionSpec], seen: Cluster) -> set[str]:
    """Returns the regions whose replicas cannot stay what they are without following."""
    return {spec.region for spec in specs if moves(spec, seen) or spec.replica_of}


def left(specs: Iterable[RegionSpec], seen: Cluster) -> list[Region]:
    """Returns the regions that specs do not name and whose source moves, without the relation."""
    specs = tuple(specs)
    named, sources = {spec.region for spec in specs}, moving(specs, seen)
    return [
        replace(region, replica_of="")
        for region in seen.regions
        if region.name not in named and region.replica_of in sources
    ]


def related(region: Region, spec: RegionSpec, specs: Iterable[RegionSpec], seen: Cluster) -> Region:
    """Returns a region that a spec names, with the relation that it has after the rotation.

    Args:
        region: The region after the rotation, apart from that.
        spec: Its spec.
        specs: All specs of the rotation, those of replicas that follow among them.
        seen: The cluster before the rotation.
    """
    if spec.replica_of:
        return replace(region, replica_of=spec.replica_of, geo="")
    if spec.key_spec is None:
        stays = region.replica_of not in moving(specs, seen)
        return region if stays else replace(region, replica_of="")
    alone = any(seen.region(r.name).replica_of == region.name for r in left(specs, seen))
    return replace(region, replica_of="", geo=spec.geo or ("" if alone else region.geo))


class Following:
    """Adds to a rotation the replicas that follow."""

    def __init__(self, replica_keys: ReplicaKeys) -> None:
        """Takes what works out the replica of a key."""
        self._replica_keys = replica_keys

    async def of(
        self, rights: Rights, specs: Sequence[RegionSpec], seen: Cluster
    ) -> tuple[RegionSpec, ...]:
        """Returns the specs of the replicas that follow the named regions.

        Replicas that are revoked do not follow a key that stays the same: their KEKs are wrapped
        anew when they rotate after Restore, and AWS KMS opens what older key material wrapped.

        Args:
            rights: The caller's rights.
            specs: The request's specs, spelled out.
            seen: The cluster.

        Raises:
            NotAllowedError: The caller may not rotate one of the replicas.
            StateError: A replica of a key that moves is revoked.
            InvalidKeySpecError: The new key has no replica for one of them.
        """
        named = {spec.region: spec for spec in specs}
        sources = moving(specs, seen)
        following: list[RegionSpec] = []
        failed: dict[str, KeyfoldError] = {}
        for region in seen.regions:
            source = named.get(region.replica_of)
            if source is None or region.name in named or region.purge_time is not None:
                continue
            if not region.in_service and source.region not in sources:
                continue
            _check_rights(rights, seen, region)
            try:
                region.following(Action.ROTATE, seen.name)
                following.append(await self._spec(region, source, seen))
            except (StateError, InvalidKeySpecError) as error:
                failed[region.name] = unable(region.name, source.region, error)
        raise_if_failed(failed, seen.name)
        return tuple(following)

    async def _spec(self, region: Region, source: RegionSpec, seen: Cluster) -> RegionSpec:
        key_spec = source.key_spec or seen.region(source.region).key_spec
        try:
            found = await self._replica_keys.replica(key_spec, source.region, region.name)
        except InvalidKeySpecError as error:
            raise InvalidKeySpecError(error.message, field="region_specs") from None
        # Where the source itself becomes a replica, the two have one source.
        return RegionSpec(region.name, found, replica_of=source.replica_of or source.region)


def _check_rights(rights: Rights, seen: Cluster, region: Region) -> None:
    """Refuses a rotation whose replicas the caller may not rotate.

    It does not name the region, which the caller may not even see (protocol C7).
    """
    try:
        rights.check_cluster("Rotate", seen.name, seen.organization, (region.name,))
    except (ForbiddenError, NotFoundError):
        raise NotAllowedError(
            "the key has replicas in regions of this cluster that your grants do not cover, and "
            "they rotate with it; ask somebody whose grants do, or set only_named_regions",
            cluster=seen.name,
        ) from None


def unable(region: str, source: str, error: KeyfoldError) -> KeyfoldError:
    """Returns an error about a replica that cannot follow, saying why it was touched at all."""
    copy = error.at(region=region)
    copy.message = (
        f"{error.message}; it rotates with region {source}, whose replica it is, unless "
        "only_named_regions is set"
    )
    copy.args = (copy.message,)
    return copy
