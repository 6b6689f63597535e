"""Key links: the root key that an organization's clusters use in a region, or in each of a geo.

A link belongs to its organization's aggregate (`organizations`), and changes only with it. Which
regions use it is not part of it: the regions say so (`cluster.Region.link`), and Keyfold works it
out from them. This module knows no store and no provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.seats import meets

MAX_DESCRIPTION: Final = 1_024
"""Most characters in the description of a link."""

SHOWN_USERS: Final = 100
"""Most users of a link that an answer names."""

_ETAG: Final = 16
"""Hexadecimal digits of an etag."""


def etag(*parts: str | int) -> str:
    """Returns the etag of something that is told apart by these parts."""
    return sha256("\n".join(map(str, parts)).encode()).hexdigest()[:_ETAG]


@dataclass(frozen=True, slots=True)
class Move:
    """The last move of a link to another key, by an operation (`operations.ActionKind.MOVE_LINK`).

    The link has its new key from the first moment, so that every region that comes to the link
    meanwhile takes that one. Its users follow one by one.

    Attributes:
        previous: The key that the link had before.
        operation: The full name of the operation.
        open: Whether the operation has not ended. No other change of the link comes in between.
    """

    previous: KeySpec
    operation: str
    open: bool = True


@dataclass(frozen=True, slots=True)
class KeyLink:
    """A root key that an organization has linked.

    Attributes:
        organization: The organization's name.
        name: The link's name within the organization.
        description: What it is for, for people.
        region: The vendor's name of the region that it serves; empty: it serves a geo.
        geo: The name of the geo that it serves; empty: it serves a region.
        key_spec: The root key, never PLATFORM; of a geo, one of its replicas.
        proven: The regions in which Keyfold proved the key, sorted. A geo may have gained others.
        revision: 1, 2, 3 …, raised by every change of the link.
        created_at: Milliseconds of Unix time.
        updated_at: Milliseconds of Unix time.
        move: Its last move to another key, open or not; None: it was never moved.
    """

    organization: str
    name: str
    description: str
    region: str
    geo: str
    key_spec: KeySpec
    proven: tuple[str, ...]
    revision: int
    created_at: int
    updated_at: int
    move: Move | None = None

    @property
    def etag(self) -> str:
        """A text that differs after every change of the link."""
        return etag("link", self.organization, self.name, self.created_at, self.revision)

    @property
    def place(self) -> str:
        """What the link serves, for messages."""
        return f"geo {self.geo}" if self.geo else f"region {self.region}"

    def serves(self, region: str) -> bool:
        """Says whether a region may take the link's key: Keyfold has proven it there."""
        return region in self.proven


class LinkUser(NamedTuple):
    """A region that uses a link.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
    """

    cluster: str
    region: str


@dataclass(frozen=True, slots=True)
class KeyUse:
    """The users of a link in one region that have one key.

    Attributes:
        region: The region's name.
        key_spec: The key that they have now.
        count: How many they are, without those that are deleted.
    """

    region: str
    key_spec: KeySpec
    count: int


@dataclass(frozen=True, slots=True)
class LinkUse:
    """The use of a link.

    Attributes:
        users: The first of the regions that use it, by cluster and region.
        count: How many regions use it.
        keys: The keys that they have, if the look-up was asked for them.
    """

    users: tuple[LinkUser, ...] = ()
    count: int = 0
    keys: tuple[KeyUse, ...] = ()

    def unmoved(self, keys: Mapping[str, KeySpec]) -> int:
        """Returns how many users do not have the key that the link has for their region.

        Args:
            keys: The link's key in each region that it serves.
        """
        return sum(u.count for u in self.keys if not meets(keys.get(u.region), u.key_spec))


UNUSED: Final = LinkUse()


def listed(names: Sequence[str], count: int) -> str:
    """Returns some names for a message, which says how many more there are."""
    more = count - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")
