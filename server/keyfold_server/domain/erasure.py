"""Erasure: deleted regions go for good, and what stays of them is in the log (protocol D3, D5).

An erasure takes the wrapped KEKs out of the store. The ids of the KEKs stay in the log, so that no
import brings them back. If no region is left, the cluster goes, and its last floor stays as its
tombstone: a later cluster of that name begins above it, so floors rise by name for ever (S10).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.changes import Decide, Decision, Timed, parts
from keyfold_server.domain.cluster import Cluster, existing
from keyfold_server.domain.errors import ConcurrentChangeError, OrganizationMismatchError

ARRIVING: Final = 7 * 24 * 3_600_000
"""Milliseconds after an import before which nothing that it brought is erased (protocol A4)."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What the log has of a cluster that is erased.

    Attributes:
        cluster: The cluster's name.
        uid: The cluster's uid.
        organization: The cluster's organization, or None.
        version: The row version at which it ended.
        epoch: The epoch at which it ended.
        number: The number of the entry.
    """

    cluster: str
    uid: bytes
    organization: str | None
    version: int
    epoch: int
    number: int

    def successor(self, new: Cluster) -> Cluster:
        """Returns a new cluster of the name as it has to begin: above the erased one (D5).

        Raises:
            OrganizationMismatchError: It is another organization's.
        """
        if new.organization != self.organization:
            raise OrganizationMismatchError(
                f"a cluster {self.cluster} of another organization was deleted, and only that "
                "organization can use the name again; choose another name",
                cluster=self.cluster,
                field="organization",
            )
        return replace(new, version=self.version + 1, epoch=self.epoch + 1)


@dataclass(frozen=True, slots=True)
class Due:
    """Deleted regions of a cluster whose time has come.

    Attributes:
        cluster: The cluster's name.
        regions: The names of the regions, sorted.
    """

    cluster: str
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ErasureTurn:
    """One replica's turn to erase what is due. Times are milliseconds by the store's clock.

    Attributes:
        now: The time of the turn.
        due: What is due, oldest first: a bounded number of clusters.
        overdue: The number of deleted regions whose time has come.
        resumes: Until then nothing is erased, because the clock may have been set forward; None:
            nothing stands in the way.
        gap: Milliseconds without a turn, if this turn found so many that it began the pause.
        traces: Whether the database's files may still have what was erased before this turn.
    """

    now: int
    due: tuple[Due, ...]
    overdue: int
    resumes: int | None
    gap: int | None
    traces: bool


def erased(due: Due, by: int) -> Timed:
    """Returns the change that erases deleted regions, if they are still due (protocol D3).

    Args:
        due: The regions. Those that somebody has taken back meanwhile stay.
        by: Milliseconds of Unix time by the store's clock. Regions whose time came later stay, even
            if somebody has set the clock forward since.
    """

    def at(now: int) -> Decide:
        def decide(current: Cluster | None) -> Decision:
            cluster = existing(current, due.cluster)
            gone = {
                region.name
                for region in cluster.regions
                if region.name in due.regions
                and region.purge_time is not None
                and region.purge_time <= min(by, now)
            }
            if not gone:
                raise ConcurrentChangeError(
                    f"nothing of cluster {due.cluster} is due any more", cluster=due.cluster
                )
            return without(cluster, gone, now)

        return decide

    return Timed(at)


def at_once(expected: Cluster, regions: Iterable[str]) -> Timed:
    """Returns the change that erases regions of a cluster that was never used (protocol D6).

    Nobody has wrapped anything with their keys, so they go from any state and without a wait. It
    excludes a first use on any replica: both are decided under the lock of the cluster's row.

    Args:
        expected: The cluster, with the mark.
        regions: The names of the regions; empty: all of them.
    """
    wanted = tuple(regions)

    def at(now: int) -> Decide:
        def decide(current: Cluster | None) -> Decision:
            cluster = existing(current, expected.name)
            if cluster.uid != expected.uid or not cluster.unused:
                raise ConcurrentChangeError(
                    f"cluster {cluster.name} was used for the first time, or made anew, at this "
                    "moment; read its status and decide again",
                    cluster=cluster.name,
                )
            gone = [cluster.region(name) for name in wanted] or cluster.regions
            return without(cluster, {region.name for region in gone}, now)

        return decide

    return Timed(at)


def without(cluster: Cluster, regions: Collection[str], now: int) -> Decision:
    """Returns the decision that takes regions out of a cluster, with their KEKs.

    A decision that leaves no region ends the cluster.

    Args:
        cluster: The cluster.
        regions: The names of the regions.
        now: Milliseconds of Unix time.
    """
    gone = [region for region in cluster.regions if region.name in regions]
    changed = replace(
        cluster.without(regions),
        epoch=cluster.epoch + 1,
        version=cluster.version + 1,
        updated_at=now,
    )
    return Decision(changed, removed=parts(gone))


def postponed(cluster: Cluster, now: int) -> Cluster:
    """Returns a cluster that an import brings in: deleted regions stay so for at least a week.

    The deletion was somebody's decision, and it is kept. But the export may be older than the
    purge time, and whoever needs it to take a mistaken deletion back must have the time to do so.
    """
    regions = tuple(
        region
        if region.purge_time is None
        else replace(region, purge_time=max(region.purge_time, now + ARRIVING))
        for region in cluster.regions
    )
    return replace(cluster, regions=regions)


def kek_ids(cluster: Cluster) -> Iterable[bytes]:
    """Yields the ids of a cluster's KEKs."""
    return (g.kek_id for region in cluster.regions for g in region.generations)
