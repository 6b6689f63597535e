"""A cluster with its regions and their keyrings, and every change that can happen to it.

The values are immutable. A change is a pure function from the cluster as the store has it, read
under its lock, to the cluster as it shall be; it raises where the change may not happen. So
compare-and-swap, epochs and the lifecycle are decided here, and a store only reads, calls and
writes. KEKs are never changed in place: wraps are added and superseded (protocol S5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ConcurrentChangeError,
    GenerationInUseError,
    GenerationNotFoundError,
    RegionNotFoundError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import Action, State, after

MAX_REGIONS: Final = 64
"""Regions of one cluster; more than any cloud has."""


@dataclass(frozen=True, slots=True)
class Wrap:
    """One wrapping of a KEK by a root key.

    Attributes:
        number: 1, 2, 3 … within its generation; the last is the current one.
        root: The root key that wrapped it.
        key_version: The root key's version that did, as the provider writes it.
        organization: The organization in the bound context, or None.
        ciphertext: The provider's ciphertext; None once superseded, so that an old root key
            opens nothing of the live store.
        created_at: Milliseconds of Unix time.
        superseded_at: The same, or None for the current one.
    """

    number: int
    root: RootKey
    key_version: str
    organization: str | None
    ciphertext: bytes | None
    created_at: int
    superseded_at: int | None = None

    @property
    def root_id(self) -> str:
        """Id, in hex, of what one proof or refusal speaks for (protocol sections 1 and 7).

        Type, uri, stored key version, principal and options: GCP disables versions only, and
        a principal may lose a right that another one keeps. An external id counts like an
        option, which no provider that takes one lets a caller name.
        """
        root = self.root
        parts = [root.type, root.uri, self.key_version, root.principal]
        parts += [text for pair in root.options for text in pair]
        if root.external_id:
            parts += ["external_id", root.external_id]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(len(part.encode()).to_bytes(4, "big") + part.encode())
        return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Generation:
    """One KEK of a cluster-region, with every wrap it ever had (protocol C6).

    Attributes:
        kek_id: 16 random bytes; they stand in every wrapped key.
        number: 1, 2, 3 … within the region.
        created_at: Milliseconds of Unix time.
        wraps: Oldest first; never empty.
        retired_at: Since when it opens nothing, milliseconds of Unix time; None: it is in use.
    """

    kek_id: bytes
    number: int
    created_at: int
    wraps: tuple[Wrap, ...]
    retired_at: int | None = None

    @property
    def current(self) -> Wrap:
        """The wrap that opens this KEK today."""
        return self.wraps[-1]

    def rewrapped(self, wrap: Wrap) -> Generation:
        """Returns the generation with a further wrap; the former keeps its history alone."""
        old = replace(self.current, ciphertext=None, superseded_at=wrap.created_at)
        return replace(self, wraps=(*self.wraps[:-1], old, replace(wrap, number=old.number + 1)))


@dataclass(frozen=True, slots=True)
class Region:
    """One region of a cluster: its state, its key spec and its keyring.

    Attributes:
        name: The vendor's own name of the region.
        state: What the operator wants.
        state_since: Milliseconds of Unix time.
        key_spec: As the operator wrote it.
        policy: How long keys may be used without asking the KMS.
        generations: Oldest first; never empty. The newest wraps, all but retired ones unwrap.
    """

    name: str
    state: State
    state_since: int
    key_spec: KeySpec
    policy: RegionPolicy
    generations: tuple[Generation, ...]

    @property
    def newest(self) -> Generation:
        """The generation that wraps."""
        return self.generations[-1]

    def generation(self, number: int, cluster: str) -> Generation:
        """Returns a generation.

        Raises:
            GenerationNotFoundError: There is none of that number.
        """
        for generation in self.generations:
            if generation.number == number:
                return generation
        raise GenerationNotFoundError(
            f"region {self.name} has no generation {number}; GetStatus lists its generations",
            cluster=cluster,
            region=self.name,
            field="generation",
        )

    def moved(self, action: Action, cluster: str, now: int) -> Region:
        """Returns the region after an action of the lifecycle."""
        state = after(self.state, action, cluster=cluster, region=self.name)
        return self if state is self.state else replace(self, state=state, state_since=now)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as the store has it.

    Attributes:
        uid: 16 random bytes; the name is for people.
        name: Unique for ever.
        organization: The customer's organization, or None.
        epoch: Raised by every revocation (protocol R1).
        version: Raised by every change; what compare-and-swap compares.
        regions: Sorted by name; never empty.
        created_at: Milliseconds of Unix time.
        updated_at: The same, of the last change.
    """

    uid: bytes
    name: str
    organization: str | None
    epoch: int
    version: int
    regions: tuple[Region, ...]
    created_at: int
    updated_at: int

    def region(self, name: str) -> Region:
        """Returns a region.

        Raises:
            RegionNotFoundError: There is none of that name.
        """
        for region in self.regions:
            if region.name == name:
                return region
        raise no_region(self.name, name)

    def binding(self, region: str, generation: Generation) -> Binding:
        """Returns what the current wrap of a generation is bound to."""
        return Binding(self.name, region, generation.kek_id, generation.current.organization)


Decide = Callable[[Cluster | None], Cluster]
"""A change: from the cluster under its lock (None: there is none) to the cluster as it shall be."""


def _changed(current: Cluster, regions: Iterable[Region], now: int, *, epoch: int) -> Cluster:
    by_name = {r.name: r for r in current.regions} | {r.name: r for r in regions}
    return replace(
        current,
        epoch=epoch,
        version=current.version + 1,
        regions=tuple(by_name[name] for name in sorted(by_name)),
        updated_at=now,
    )


def _unchanged_since(current: Cluster | None, seen: Cluster) -> Cluster:
    """Returns the current cluster if it is the one that was seen, else refuses (protocol R1, S5).

    The version alone would do, since every change raises it; the epoch is compared too so that
    the rule about revocations does not rest on another one.
    """
    if (
        current is None
        or current.uid != seen.uid
        or current.version != seen.version
        or current.epoch != seen.epoch
    ):
        raise ConcurrentChangeError(
            f"cluster {seen.name} was changed by another request; read the status and ask again",
            cluster=seen.name,
        )
    return current


def created(new: Cluster) -> Decide:
    """The change that makes a cluster; it must not exist yet."""

    def decide(current: Cluster | None) -> Cluster:
        if current is not None:
            raise ConcurrentChangeError(
                f"cluster {new.name} was enabled by another request; read its status",
                cluster=new.name,
            )
        return new

    return decide


def with_regions(seen: Cluster, regions: Iterable[Region], now: int) -> Decide:
    """The change that adds regions, or replaces some by their rotated form."""
    changes = tuple(regions)

    def decide(current: Cluster | None) -> Cluster:
        cluster = _unchanged_since(current, seen)
        return _changed(cluster, changes, now, epoch=cluster.epoch)

    return decide


def unchanged(seen: Cluster) -> Decide:
    """The change that finds everything as it was seen, and leaves it so."""
    return lambda current: _unchanged_since(current, seen)


def revoked(name: str, regions: Iterable[str], now: int) -> Decide:
    """The change that revokes regions, all of them where none is named; it never loses a race."""
    wanted = tuple(regions)

    def decide(current: Cluster | None) -> Cluster:
        cluster = existing(current, name)
        chosen = [cluster.region(r) for r in wanted] if wanted else cluster.regions
        moved = [region.moved(Action.REVOKE, name, now) for region in chosen]
        return _changed(cluster, moved, now, epoch=cluster.epoch + 1)

    return decide


def restored(seen: Cluster, regions: Iterable[str], now: int) -> Decide:
    """The change that takes proven regions back into service."""
    wanted = tuple(regions)

    def decide(current: Cluster | None) -> Cluster:
        cluster = _unchanged_since(current, seen)
        moved = [cluster.region(r).moved(Action.RESTORE, cluster.name, now) for r in wanted]
        return _changed(cluster, moved, now, epoch=cluster.epoch)

    return decide


def retired(name: str, region: str, number: int, now: int, *, back: bool) -> Decide:
    """The change that takes a generation out of use, or back into it; it never loses a race.

    It raises the epoch as a revocation does, since it ends use: what was proven meanwhile is not
    committed over it (protocol R1).
    """

    def decide(current: Cluster | None) -> Cluster:
        cluster = existing(current, name)
        place = cluster.region(region)
        generation = place.generation(number, name)
        if generation is place.newest and not back:
            raise GenerationInUseError(
                f"generation {number} of region {region} is the newest, which wraps; make a new "
                "one first: Rotate with new_generation",
                cluster=name,
                region=region,
            )
        since = None if back else generation.retired_at or now
        moved = replace(generation, retired_at=since)
        generations = tuple(moved if g is generation else g for g in place.generations)
        changed = replace(place, generations=generations)
        return _changed(cluster, [changed], now, epoch=cluster.epoch + 1)

    return decide


def existing(cluster: Cluster | None, name: str) -> Cluster:
    """Returns the cluster, or says that there is none.

    Raises:
        ClusterNotFoundError: It is None.
    """
    if cluster is None:
        raise no_cluster(name)
    return cluster


def no_cluster(name: str) -> ClusterNotFoundError:
    """Returns the answer for a cluster that does not exist, or that the caller may not see."""
    return ClusterNotFoundError(
        f"there is no cluster {name}; check the name, or make it with Enable", cluster=name
    )


def no_region(cluster: str, name: str) -> RegionNotFoundError:
    """Returns the answer for a region that does not exist, or that the caller may not see."""
    return RegionNotFoundError(
        f"cluster {cluster} has no region {name}; GetStatus lists its regions",
        cluster=cluster,
        region=name,
    )


def rotated(
    region: Region,
    key_spec: KeySpec,
    policy: RegionPolicy,
    wraps: Mapping[bytes, Wrap],
    fresh: Generation | None,
) -> Region:
    """Returns a region under its new root key.

    Args:
        region: As it was.
        key_spec: The new key spec, or the one it had.
        policy: The new policy, or the one it had.
        wraps: A new wrap for every generation, by kek_id.
        fresh: A generation that wraps from now on, or None.
    """
    generations = tuple(g.rewrapped(wraps[g.kek_id]) for g in region.generations)
    if fresh is not None:
        generations = (*generations, fresh)
    return replace(region, key_spec=key_spec, policy=policy, generations=generations)
