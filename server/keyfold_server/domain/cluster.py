"""A cluster with its regions and their generations of KEKs.

The values are immutable, and KEKs are never changed in place: wraps are added and superseded
(protocol S5). A cluster holds only the wraps that open its KEKs today. The superseded ones are in
the store's history, which grows with every rotation (protocol C6). `changes` has every change that
can happen to a cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    GenerationNotFoundError,
    RegionNotFoundError,
)
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import Action, State, after, allows

MAX_REGIONS: Final = 64
"""Most regions of one cluster; no cloud has as many."""


@dataclass(frozen=True, slots=True)
class Wrap:
    """The wrapping of a KEK by a root key that opens the KEK today.

    Attributes:
        number: 1, 2, 3 … within its generation; the wraps with lower numbers are superseded.
        root: The root key that wrapped the KEK.
        key_version: The version of the root key that wrapped it, as the provider writes it.
        organization: The organization in the bound context, or None.
        ciphertext: The provider's ciphertext.
        created_at: Milliseconds of Unix time.
        groups: What the root key has in common with others.
    """

    number: int
    root: RootKey
    key_version: str
    organization: str | None
    ciphertext: bytes
    created_at: int
    groups: KeyGroups

    @property
    def root_id(self) -> str:
        """The id, in hex, of the root key version that one proof or refusal covers (protocol F1).

        It is a digest of type, uri, stored key version, principal, options and external id,
        because GCP disables single versions, and one principal may lose a right that another
        keeps. The external id is digested as an option of that name, which no provider that uses
        external ids accepts from a caller.
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
class SupersededWrap:
    """A wrapping of a KEK that another one has replaced.

    It has no ciphertext, so that an old root key opens nothing of the live store.

    Attributes:
        kek_id: The KEK.
        number: 1, 2, 3 … within the KEK's generation.
        root: The root key that wrapped the KEK; a backup of that time opens under it.
        key_version: The version of the root key that wrapped it, as the provider writes it.
        organization: The organization in the bound context, or None.
        created_at: Milliseconds of Unix time.
        superseded_at: Milliseconds of Unix time, by the store's clock.
        groups: What the root key has in common with others.
    """

    kek_id: bytes
    number: int
    root: RootKey
    key_version: str
    organization: str | None
    created_at: int
    superseded_at: int
    groups: KeyGroups


@dataclass(frozen=True, slots=True)
class Generation:
    """One KEK of a cluster-region.

    Attributes:
        kek_id: 16 random bytes that every wrapped key contains.
        number: 1, 2, 3 … within the region.
        created_at: Milliseconds of Unix time.
        current: The wrap that opens this KEK today.
        retired_at: When the generation was taken out of use, milliseconds of Unix time; None: it
            is in use.
    """

    kek_id: bytes
    number: int
    created_at: int
    current: Wrap
    retired_at: int | None = None

    def rewrapped(self, wrap: Wrap) -> Generation:
        """Returns the generation with a new current wrap."""
        return replace(self, current=replace(wrap, number=self.current.number + 1))

    def superseded(self, now: int) -> SupersededWrap:
        """Returns what stays of the current wrap when another one replaces it at a time."""
        old = self.current
        return SupersededWrap(
            kek_id=self.kek_id,
            number=old.number,
            root=old.root,
            key_version=old.key_version,
            organization=old.organization,
            created_at=old.created_at,
            superseded_at=now,
            groups=old.groups,
        )


@dataclass(frozen=True, slots=True)
class Region:
    """One region of a cluster: its state, its key spec and its generations.

    Attributes:
        name: The vendor's own name of the region.
        state: The state that the operator wants.
        state_since: Milliseconds of Unix time.
        key_spec: The key spec as the operator wrote it.
        policy: The limits within which keys may be used without calling the KMS.
        generations: The KEKs, oldest first; never empty. The newest wraps, and all that are not
            retired unwrap.
        purge_time: After this time Keyfold erases the region, in milliseconds of Unix time by the
            store's clock (protocol D3). None unless the state is DELETED.
        replica_of: The region whose key this region's key is the replica of; empty: the region's
            key is its own. The key spec is always the replica's, so the two move together.
        geo: The geo for whose regions the region's key, with its replicas, is meant; empty: none.
        link: The key link of the cluster's organization from which the region has its key; empty:
            it has a key of its own.
    """

    name: str
    state: State
    state_since: int
    key_spec: KeySpec
    policy: RegionPolicy
    generations: tuple[Generation, ...]
    purge_time: int | None = None
    replica_of: str = ""
    geo: str = ""
    link: str = ""

    @property
    def newest(self) -> Generation:
        """The generation that wraps."""
        return self.generations[-1]

    @property
    def in_service(self) -> bool:
        """Whether callers may use the region's keys."""
        return allows(self.state, Action.USE)

    def generation(self, number: int, cluster: str) -> Generation:
        """Returns the generation of a number.

        Raises:
            GenerationNotFoundError: The region has no generation of that number.
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

    def following(self, action: Action, cluster: str) -> State:
        """Returns the state that an action of the lifecycle leads to.

        Raises:
            StateError: The region's state does not allow the action; see `lifecycle.after`.
        """
        return after(
            self.state, action, cluster=cluster, region=self.name, purge_time=self.purge_time
        )

    def moved(
        self, action: Action, cluster: str, now: int, *, purge_time: int | None = None
    ) -> Region:
        """Returns the region after an action of the lifecycle.

        Args:
            action: The action.
            cluster: The cluster's name.
            now: Milliseconds of Unix time.
            purge_time: When Keyfold erases the region, if the action deletes it.

        Raises:
            StateError: The region's state does not allow the action; see `lifecycle.after`.
        """
        state = self.following(action, cluster)
        if state is self.state:
            return self
        return replace(self, state=state, state_since=now, purge_time=purge_time)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as the store has it.

    Attributes:
        uid: 16 random bytes that identify the cluster; the name is for people.
        name: Unique; once the cluster is erased, its organization may use the name again.
        organization: The customer's organization, or None.
        epoch: A number that every revocation raises (protocol R1).
        version: A number that every change raises, and that compare-and-swap compares.
        regions: The regions, sorted by name; empty only in the decision that ends the cluster.
        created_at: Milliseconds of Unix time.
        updated_at: When it last changed, milliseconds of Unix time.
        declared: The names of all regions that the cluster is to have a key in, sorted; empty: no
            call has declared them.
        first_use: 0 until a KEK of the cluster is loaded for a first use on any replica, which is
            the mark of a cluster that wrapped nothing (protocol D6); then the row version that took
            the mark away. None: nobody knows, as after an import.
    """

    uid: bytes
    name: str
    organization: str | None
    epoch: int
    version: int
    regions: tuple[Region, ...]
    created_at: int
    updated_at: int
    declared: tuple[str, ...] = ()
    first_use: int | None = None

    @property
    def unused(self) -> bool:
        """Whether it is certain that the cluster never wrapped anything (protocol D6)."""
        return self.first_use == 0

    def changed_since(self, version: int) -> bool:
        """Returns whether anything but a first use changed the cluster since a row version."""
        used = self.first_use is not None and version < self.first_use
        return self.version - used > version

    def region(self, name: str) -> Region:
        """Returns the region of a name.

        Raises:
            RegionNotFoundError: The cluster has no region of that name.
        """
        for region in self.regions:
            if region.name == name:
                return region
        raise no_region(self.name, name)

    @property
    def declared_now(self) -> tuple[str, ...]:
        """The declared regions, but for those that are deleted: these leave the declaration."""
        gone = {region.name for region in self.regions if region.purge_time is not None}
        return tuple(name for name in self.declared if name not in gone)

    def declared_with(self, listed: Collection[str], added: Collection[str]) -> tuple[str, ...]:
        """Returns the declaration after a call.

        A declaration is of all regions, so the first call that makes one declares those that are
        there, too. Without one, no region is declared.

        Args:
            listed: The regions that the call declares.
            added: The regions that it adds.
        """
        if not listed and not self.declared:
            return ()
        there = (region.name for region in self.regions)
        return tuple(sorted({*self.declared, *there, *listed, *added}))

    def without(self, names: Collection[str]) -> Cluster:
        """Returns the cluster without some of its regions.

        They leave the declaration, and regions that were replicas of theirs have keys of their own
        from then on: a later region of the same name must not take their keys along.
        """
        left = (region for region in self.regions if region.name not in names)
        return replace(
            self,
            regions=tuple(replace(r, replica_of="") if r.replica_of in names else r for r in left),
            declared=tuple(name for name in self.declared if name not in names),
        )

    def binding(self, region: str, generation: Generation) -> Binding:
        """Returns what the current wrap of a generation is bound to."""
        return Binding(self.name, region, generation.kek_id, generation.current.organization)


def existing(cluster: Cluster | None, name: str) -> Cluster:
    """Returns the cluster that a look-up by name found.

    Raises:
        ClusterNotFoundError: The look-up found None.
    """
    if cluster is None:
        raise no_cluster(name)
    return cluster


def no_cluster(name: str) -> ClusterNotFoundError:
    """Returns the error for a cluster that does not exist, or that the caller may not see."""
    return ClusterNotFoundError(
        f"there is no cluster {name}; check the name, or make it with Enable", cluster=name
    )


def no_region(cluster: str, name: str) -> RegionNotFoundError:
    """Returns the error for a region that does not exist, or that the caller may not see."""
    return RegionNotFoundError(
        f"cluster {cluster} has no region {name}; GetStatus lists its regions",
        cluster=cluster,
        region=name,
    )
