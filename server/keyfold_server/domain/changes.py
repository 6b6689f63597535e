"""Changes of clusters: the pure functions that decide them, and what is committed with each.

A change is a pure function. It gets the cluster as the store has it, read under its lock, and
returns its decision: the cluster as it shall be, and which of its parts are new, superseded or
removed. It raises if the change may not happen. So compare-and-swap, epochs and the lifecycle are
decided here, and a store only reads, calls, checks and writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap, existing
from keyfold_server.domain.errors import (
    ClusterRevokedError,
    ConcurrentChangeError,
    GenerationInUseError,
    KeyDeletedError,
)
from keyfold_server.domain.holders import Claim
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy
from keyfold_server.domain.lifecycle import Action
from keyfold_server.domain.log import AuditEvent, Floor
from keyfold_server.domain.reliance import Reliance
from keyfold_server.domain.seats import SeatClaim

Part = tuple[str, bytes, int]
"""Identity of a wrap within its cluster: region, kek_id and number. Every region has a KEK, and
every KEK has a wrap, so the wraps also identify the cluster's regions and generations."""


def parts(regions: Iterable[Region]) -> frozenset[Part]:
    """Returns the identities of the wraps of some regions of one cluster."""
    return frozenset(
        (region.name, generation.kek_id, generation.current.number)
        for region in regions
        for generation in region.generations
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """What a change decides.

    A store carries out a decision only if the cluster differs from the current one by exactly the
    parts that the decision names. So a mistake in a change cannot lose a KEK.

    Attributes:
        cluster: The cluster as it shall be.
        added: The wraps that the change adds.
        superseded: The wraps that others of the same KEKs replace; they go to the history.
        removed: The wraps that the change removes, with their KEKs and regions if none is left.
    """

    cluster: Cluster
    added: frozenset[Part] = frozenset()
    superseded: frozenset[Part] = frozenset()
    removed: frozenset[Part] = frozenset()

    def described(
        self, before: Cluster | None, seats: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        """Returns what the decision does to each region that it changes, as JSON with sorted keys.

        This is the decision in the log: states, key uris, and parts as kek_id in hex and number;
        and that it is the cluster's first use.
        What is told of a region names no other one, so that whoever may read it may read all of it
        (protocol C7).

        Args:
            before: The cluster before the decision, or None.
            seats: The names of the seats that regions take.
        """
        was = {} if before is None else {region.name: region for region in before.regions}
        now = {region.name: region for region in self.cluster.regions}
        declared = set() if before is None else set(before.declared)
        redeclared = declared.symmetric_difference(self.cluster.declared)
        changed = {
            name: self._of_region(name, was.get(name), now.get(name))
            for name in was.keys() | now.keys()
            if was.get(name) != now.get(name) or name in redeclared
        }
        for name in redeclared & changed.keys():
            changed[name]["declared"] = name not in declared
        for name in seats.keys() & changed.keys():
            changed[name]["seat"] = seats[name]
        told: dict[str, Any] = {"regions": changed}
        if before is not None and before.unused and not self.cluster.unused:
            told["first_use"] = True
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    def _of_region(self, name: str, was: Region | None, now: Region | None) -> dict[str, Any]:
        told: dict[str, Any] = {"state": None}
        if now is not None:
            told = {"state": now.state.value, "type": now.key_spec.type, "uri": now.key_spec.uri}
            if now.purge_time is not None:
                told["purge_time"] = now.purge_time
            if now.replica_of or (was is not None and was.replica_of):
                told["replica"] = bool(now.replica_of)
            if now.link:
                told["link"] = now.link
        for what, some in (
            ("added", self.added),
            ("superseded", self.superseded),
            ("removed", self.removed),
        ):
            mine = sorted((kek, number) for region, kek, number in some if region == name)
            if mine:
                told[what] = [[kek.hex(), number] for kek, number in mine]
        before, after = _retired(was), _retired(now)
        if after - before:
            told["retired"] = sorted(after - before)
        if before - after:
            told["brought_back"] = sorted(before - after)
        return told


def _retired(region: Region | None) -> set[str]:
    """Returns the ids, in hex, of a region's KEKs that are out of use."""
    generations = () if region is None else region.generations
    return {g.kek_id.hex() for g in generations if g.retired_at is not None}


Decide = Callable[[Cluster | None], Decision]
"""A change: from the cluster under its lock, or None, to a decision."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A change that has to be decided by the store's clock, since a deadline follows from it.

    Attributes:
        at: Takes the store's time in milliseconds of Unix time, and returns the change.
    """

    at: Callable[[int], Decide]


def _changed(current: Cluster, regions: Iterable[Region], now: int, *, epoch: int) -> Cluster:
    by_name = {r.name: r for r in current.regions} | {r.name: r for r in regions}
    return replace(
        current,
        epoch=epoch,
        version=current.version + 1,
        regions=tuple(by_name[name] for name in sorted(by_name)),
        updated_at=now,
    )


def _unchanged_since(current: Cluster | None, expected: Cluster) -> Cluster:
    """Returns the current cluster if it has not changed since it was read (protocol R1, S5).

    Comparing versions would be enough, since every change raises them. Epochs are compared too,
    so that the rule about revocations does not depend on that. A first use does not count: no
    other change rests on whether the cluster was used.

    Raises:
        ConcurrentChangeError: The cluster has changed.
    """
    if (
        current is None
        or current.uid != expected.uid
        or current.version < expected.version
        or current.changed_since(expected.version)
        or current.epoch != expected.epoch
    ):
        raise ConcurrentChangeError(
            f"cluster {expected.name} was changed by another request; read the status and try "
            "again",
            cluster=expected.name,
        )
    return current


def created(new: Cluster) -> Decide:
    """Returns the change that makes a cluster, which must not exist yet."""

    def decide(current: Cluster | None) -> Decision:
        if current is not None:
            raise ConcurrentChangeError(
                f"cluster {new.name} was enabled by another request; read its status",
                cluster=new.name,
            )
        return Decision(new, added=parts(new.regions))

    return decide


def check_takes_regions(cluster: Cluster, *, into_revoked: bool) -> None:
    """Refuses to add regions to a cluster that is revoked as a whole (protocol R10).

    Args:
        cluster: The cluster.
        into_revoked: Whether the request says that it means such a cluster, too.

    Raises:
        ClusterRevokedError: Every region of the cluster is revoked.
    """
    if into_revoked or any(region.in_service for region in cluster.regions):
        return
    deleted = all(region.purge_time is not None for region in cluster.regions)
    state, back = ("deleted", "UndeleteCluster and Restore") if deleted else ("revoked", "Restore")
    raise ClusterRevokedError(
        f"every region of cluster {cluster.name} is {state}; call {back} first, or say that the "
        "new regions shall serve all the same: into_revoked",
        cluster=cluster.name,
        field="into_revoked",
    )


def with_more_regions(
    expected: Cluster,
    regions: Iterable[Region],
    now: int,
    *,
    into_revoked: bool,
    declared: tuple[str, ...] | None = None,
) -> Decide:
    """Returns the change that adds regions, if the cluster still takes them (protocol R10).

    Args:
        expected: The cluster as it was read.
        regions: The new regions, and those that change.
        now: Milliseconds of Unix time.
        into_revoked: Whether the request says that it means a revoked cluster, too.
        declared: The regions that the cluster declares from now on; None: as before.
    """
    added = tuple(regions)
    change = with_regions(expected, added, now)
    new = parts(added) - parts(expected.regions)

    def decide(current: Cluster | None) -> Decision:
        changed = change(current)
        if new:
            check_takes_regions(existing(current, expected.name), into_revoked=into_revoked)
        if declared is None:
            return changed
        return replace(changed, cluster=replace(changed.cluster, declared=declared))

    return decide


def with_regions(expected: Cluster, regions: Iterable[Region], now: int) -> Decide:
    """Returns the change that adds regions, or replaces regions by their rotated form."""
    changes = tuple(regions)

    def decide(current: Cluster | None) -> Decision:
        cluster = _unchanged_since(current, expected)
        before = parts(cluster.regions)
        after = parts(changes)
        return Decision(
            _changed(cluster, changes, now, epoch=cluster.epoch),
            added=after - before,
            superseded=frozenset(
                (region, kek_id, number - 1)
                for region, kek_id, number in after - before
                if number > 1
            ),
        )

    return decide


def unchanged(expected: Cluster) -> Decide:
    """Returns the change that changes nothing, if the cluster is still as it was read."""
    return lambda current: Decision(_unchanged_since(current, expected))


def revoked(name: str, regions: Iterable[str], now: int) -> Decide:
    """Returns the change that revokes the named regions, or all. It never loses a race."""
    wanted = tuple(regions)

    def decide(current: Cluster | None) -> Decision:
        cluster = existing(current, name)
        chosen = [cluster.region(r) for r in wanted] if wanted else cluster.regions
        moved = [region.moved(Action.REVOKE, name, now) for region in chosen]
        return Decision(_changed(cluster, moved, now, epoch=cluster.epoch + 1))

    return decide


def restored(expected: Cluster, regions: Iterable[str], now: int) -> Decide:
    """Returns the change that takes proven regions back into service."""
    wanted = tuple(regions)

    def decide(current: Cluster | None) -> Decision:
        cluster = _unchanged_since(current, expected)
        moved = [cluster.region(r).moved(Action.RESTORE, cluster.name, now) for r in wanted]
        return Decision(_changed(cluster, moved, now, epoch=cluster.epoch))

    return decide


def used(expected: Cluster) -> Decide:
    """Returns the change that takes the mark of a cluster away before its first use (D6).

    It loses no race but to the end of the cluster, and to another first use.

    Args:
        expected: The cluster that is to be used.
    """

    def decide(current: Cluster | None) -> Decision:
        cluster = existing(current, expected.name)
        if cluster.uid != expected.uid or not cluster.unused:
            raise ConcurrentChangeError(
                f"cluster {cluster.name} was changed by another request; try again",
                cluster=cluster.name,
            )
        version = cluster.version + 1
        return Decision(replace(cluster, version=version, first_use=version))

    return decide


def deleted(name: str, regions: Iterable[str], waiting: int) -> Timed:
    """Returns the change that deletes the named regions, all of them or none (protocol D1).

    It raises the epoch as a revocation does, so that a change that was being proven meanwhile is
    not committed over it (protocol R1).

    Args:
        name: The cluster's name.
        regions: The names of the regions; empty: all regions of the cluster as it is then.
        waiting: Milliseconds until Keyfold erases them.
    """
    wanted = tuple(regions)

    def at(now: int) -> Decide:
        def decide(current: Cluster | None) -> Decision:
            cluster = existing(current, name)
            chosen = [cluster.region(each) for each in wanted] or cluster.regions
            moved = [_deleted(region, name, now, waiting) for region in chosen]
            return Decision(_changed(cluster, moved, now, epoch=cluster.epoch + 1))

        return decide

    return Timed(at)


def _deleted(region: Region, cluster: str, now: int, waiting: int) -> Region:
    """Returns a region once it is deleted.

    Raises:
        KeyDeletedError: It is deleted already, with another waiting period.
    """
    if region.purge_time is not None and region.purge_time - region.state_since != waiting:
        raise KeyDeletedError(
            f"the key of region {region.name} is deleted already, with another waiting period; to "
            "change the period, call UndeleteCluster first",
            cluster=cluster,
            region=region.name,
            field="waiting_period",
        )
    return region.moved(Action.DELETE, cluster, now, purge_time=now + waiting)


def undeleted(name: str, regions: Iterable[str], now: int) -> Decide:
    """Returns the change that takes deletions back; the regions are then revoked (protocol D2).

    It raises the epoch, as `deleted` does.

    Args:
        name: The cluster's name.
        regions: The names of the regions; empty: those that are deleted or, if none is, all.
        now: Milliseconds of Unix time.
    """
    wanted = tuple(regions)

    def decide(current: Cluster | None) -> Decision:
        cluster = existing(current, name)
        gone = tuple(each for each in cluster.regions if each.purge_time is not None)
        chosen = [cluster.region(each) for each in wanted] or gone or cluster.regions
        moved = [region.moved(Action.UNDELETE, name, now) for region in chosen]
        return Decision(_changed(cluster, moved, now, epoch=cluster.epoch + 1))

    return decide


def retired(name: str, region: str, number: int, now: int, *, back: bool) -> Decide:
    """Returns the change that takes a generation out of use, or back. It never loses a race.

    It raises the epoch as a revocation does, so that a change that was being proven meanwhile is
    not committed over it (protocol R1).
    """

    def decide(current: Cluster | None) -> Decision:
        cluster = existing(current, name)
        place = cluster.region(region)
        place.following(Action.RETIRE, name)
        generation = place.generation(number, name)
        if generation is place.newest and not back:
            raise GenerationInUseError(
                f"generation {number} of region {region} is the newest, which wraps; make a new "
                "one first: Rotate to a new generation",
                cluster=name,
                region=region,
            )
        since = None if back else generation.retired_at or now
        moved = replace(generation, retired_at=since)
        generations = tuple(moved if g is generation else g for g in place.generations)
        changed = replace(place, generations=generations)
        return Decision(_changed(cluster, [changed], now, epoch=cluster.epoch + 1))

    return decide


def rotated(
    region: Region,
    key_spec: KeySpec,
    policy: RegionPolicy,
    wraps: Mapping[bytes, Wrap],
    fresh: Generation | None,
) -> Region:
    """Returns a region under its new root key.

    Args:
        region: The region as it was.
        key_spec: The new key spec, or the one that the region had.
        policy: The new policy, or the one that the region had.
        wraps: A new wrap for every generation, by kek_id.
        fresh: A new generation that wraps from now on, or None.
    """
    generations = tuple(g.rewrapped(wraps[g.kek_id]) for g in region.generations)
    if fresh is not None:
        generations = (*generations, fresh)
    return replace(region, key_spec=key_spec, policy=policy, generations=generations)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A caller's request_id in its scope (protocol R6).

    Attributes:
        caller: The caller's name.
        rpc: The method's name.
        cluster: The cluster's name.
        request_id: The id that the caller chose.
        digest: SHA-256 of the parsed request.
    """

    caller: str
    rpc: str
    cluster: str
    request_id: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that was carried out.

    Attributes:
        digest: SHA-256 of the request as it was then.
        version: The row version of the cluster after the request.
    """

    digest: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """One RPC's change of one cluster, which is committed as a whole or not at all.

    Attributes:
        cluster: The cluster's name.
        decide: The change, which the store calls under the row's lock.
        event: Who asked for it, for the entry of the log in the same transaction.
        request: The request_id to record, in the same transaction, or None.
        reliance: What the change takes from the cluster's organization, which the store checks
            under the organization's lock; None: nothing.
        seats: The seats that regions of the change take, which the store checks under their locks.
        claim: The holders in which the change has proven keys, which the store claims for the
            organization in the same transaction (protocol C9); None: none.
    """

    cluster: str
    decide: Decide | Timed
    event: AuditEvent
    request: RequestKey | None = None
    reliance: Reliance | None = None
    seats: tuple[SeatClaim, ...] = ()
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class CommittedChange:
    """A change that was committed.

    Attributes:
        cluster: The cluster after the change.
        number: The number of its entry in the log.
        entry_id: The random id of that entry.
        floor: The cluster's own row after the change; None: the change changed nothing.
    """

    cluster: Cluster
    number: int
    entry_id: bytes
    floor: Floor | None = None
