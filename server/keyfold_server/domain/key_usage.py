"""Key usage: which clusters need a root key, now or to open a backup (protocol C6, C7).

A use is one wrap of one KEK. The current wrap opens the KEK today; a superseded wrap opens it only
in a backup of the time when that wrap was current. A query chooses uses by what root keys have in
common (`KeyGroups`), so it finds them through all replicas of a multi-Region key, or all
keys of a vault, a tenant or an account.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from keyfold_server.domain.errors import Unusable
from keyfold_server.domain.keyspec import RegionPolicy
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.rights import Coverage


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Chooses uses. All that is not None must match; one of family, principal and holder is given.

    Attributes:
        family: The family of the root key.
        uri: The root key's own uri within its family. It chooses nothing; it tells the uses under
            this uri from those under another (`UseGroup.other_uri`).
        key_version: The version of the root key that wrapped, as the provider writes it.
        principal: The principal; empty: the server's own identity.
        holder: The holder or the tenant.
        and_older: Whether older versions than `key_version` are meant, too, which is then a number.
    """

    family: str | None = None
    uri: str | None = None
    key_version: str | None = None
    principal: str | None = None
    holder: str | None = None
    and_older: bool = False


class UsePlace(NamedTuple):
    """The place of a use in the fixed order of all uses.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
        generation: The number of the KEK's generation.
        wrap: The number of the wrap within the generation.
    """

    cluster: str
    region: str
    generation: int
    wrap: int


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One wrap of a KEK, of a cluster whose rows are verified.

    Attributes:
        cluster: The cluster's name.
        cluster_uid: The cluster's uid.
        organization: The cluster's organization, or None.
        region: The region's name.
        state: The region's state.
        policy: The region's policy.
        generation: The number of the KEK's generation.
        kek_id: The KEK.
        retired: Whether the generation is out of use.
        newest: Whether the generation is the one that wraps.
        rechecked: Whether Recheck of the region asks the KMS about this root key version, because
            the newest generation's current wrap is under it, too.
        wrap: The number of the wrap within the generation.
        key_type: The provider's type.
        uri: The root key's uri.
        key_version: The version of the root key that wrapped, as the provider writes it.
        principal: The principal; empty: the server's own identity.
        created_at: When the wrap was made, in milliseconds of Unix time.
        superseded_at: When another wrap replaced it, in milliseconds of Unix time; None: it opens
            the KEK today.
    """

    cluster: str
    cluster_uid: bytes
    organization: str | None
    region: str
    state: State
    policy: RegionPolicy
    generation: int
    kek_id: bytes
    retired: bool
    newest: bool
    rechecked: bool
    wrap: int
    key_type: str
    uri: str
    key_version: str
    principal: str
    created_at: int
    superseded_at: int | None

    @property
    def place(self) -> UsePlace:
        """The place of the use in the order of all uses."""
        return UsePlace(self.cluster, self.region, self.generation, self.wrap)

    @property
    def superseded(self) -> bool:
        """Whether only backups need the root key for this."""
        return self.superseded_at is not None


@dataclass(frozen=True, slots=True)
class KeyUsePage:
    """A page of uses.

    Attributes:
        entries: The uses in their order. A cluster that is banned, or whose rows are not authentic,
            is replaced by its error, once on a page.
        last: The place of the last use on the page, whether it could be verified or not; None: the
            page is empty.
        more: Whether further uses follow.
    """

    entries: tuple[KeyUse | Unusable, ...]
    last: UsePlace | None
    more: bool


@dataclass(frozen=True, slots=True)
class UseGroup:
    """A number of uses that are alike in what decides whether their root key may go.

    Attributes:
        visible: Whether the caller may see them.
        superseded: Whether only backups need the root key for them.
        other_uri: Whether they name the key by another uri than the query does, such as that of a
            replica.
        state: The state of their regions.
        retired: Whether their generations are out of use.
        expired: Whether no backup that still exists holds their wraps.
        count: How many uses.
        since: When the first of their wraps was made, in milliseconds of Unix time.
        until: When the last of their wraps was superseded, in milliseconds of Unix time; None: they
            are current.
    """

    visible: bool
    superseded: bool
    other_uri: bool
    state: State
    retired: bool
    expired: bool
    count: int
    since: int
    until: int | None


@dataclass(frozen=True, slots=True)
class KeyUseSummary:
    """All uses that a query chooses.

    Attributes:
        groups: The uses, counted.
        lost: Number of banned clusters that have no rows, so that nobody can tell which root keys
            they needed.
    """

    groups: tuple[UseGroup, ...]
    lost: int


class KeyUses(Protocol):
    """The part of a store that says who needs a root key; see `ports.Store`."""

    def key_usage(
        self,
        query: KeyQuery,
        covered: Collection[Coverage],
        after: UsePlace | None,
        limit: int,
    ) -> KeyUsePage:
        """Reads up to `limit` uses that follow a place, in their order.

        It verifies every cluster that has a use on the page. A use whose row somebody edited so
        that it no longer fits the query is not found.

        Args:
            query: Chooses the uses.
            covered: Only those in regions that one of the entries covers.
            after: The last use of the page before; None: the first page.
            limit: Most uses to read.
        """
        ...

    def key_usage_summary(
        self, query: KeyQuery, covered: Collection[Coverage], oldest_backup: int
    ) -> KeyUseSummary:
        """Counts all uses that a query chooses, those that the caller may not see as well.

        The counts are of one moment, and of rows that are not verified.

        Args:
            query: Chooses the uses.
            covered: What the caller may see.
            oldest_backup: When the oldest backup that still exists was taken, in milliseconds of
                Unix time.
        """
        ...
