"""A cluster with its regions and their generations of KEKs.

The values are immutable, and KEKs are never changed in place: wraps are added and superseded
(protocol S5). `changes` has every change that can happen to a cluster.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
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
