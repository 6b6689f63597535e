"""Changes of clusters: the pure functions that decide them, and what is committed with each.

A change is a pure function. It gets the cluster as the store has it, read under its lock, and
returns its decision: the cluster as it shall be, and which of its parts are new, superseded or
removed. It raises if the change may not happen. So compare-and-swap, epochs and the lifecycle are
decided here, and a store only reads, calls, checks and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap, existing
from keyfold_server.domain.errors import (
    ClusterRevokedError,
    ConcurrentChangeError,
    GenerationInUseError,
)
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy
from keyfold_server.domain.lifecycle import Action

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


Decide = Callable[[Cluster | None], Decision]
"""A change: from the cluster under its lock, or None, to a decision."""


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
    so that the rule about revocations does not depend on that.

    Raises:
        ConcurrentChangeError: The cluster has changed.
    """
    if (
        current is None
        or current.uid != expected.uid
        or current.version != expected.version
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
    raise ClusterRevokedError(
        f"every region of cluster {cluster.name} is revoked; call Restore first, or say that the "
        "new regions shall serve all the same: into_revoked",
        cluster=cluster.name,
        field="into_revoked",
    )


def with_more_regions(
    expected: Cluster, regions: Iterable[Region], now: int, *, into_revoked: bool
) -> Decide:
    """Returns the change that adds regions, if the cluster still takes them (protocol R10)."""
    change = with_regions(expected, regions, now)

    def decide(current: Cluster | None) -> Decision:
        changed = change(current)
        check_takes_regions(existing(current, expected.name), into_revoked=into_revoked)
        return changed

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


def retired(name: str, region: str, number: int, now: int, *, back: bool) -> Decide:
    """Returns the change that takes a generation out of use, or back. It never loses a race.

    It raises the epoch as a revocation does, so that a change that was being proven meanwhile is
    not committed over it (protocol R1).
    """

    def decide(current: Cluster | None) -> Decision:
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
class AuditEvent:
    """One entry of a cluster's audit chain.

    Attributes:
        time: Milliseconds of Unix time.
        caller: The caller's name, in the form of `rights.Identity.names`.
        action: `source:subject:action`, such as `rpc:cluster:enable`.
        outcome: `done`, or the reason of the refusal.
        detail: The request as JSON with sorted keys; never key material.
        proof: The proof of the caller's identity (`rights.Identity`); empty: nobody called.
        address: The caller's address as gRPC writes it, or empty.
        on_behalf_of: The person or program for whom a trusted caller says that it calls, or empty.
    """

    time: int
    caller: str
    action: str
    outcome: str
    detail: str
    proof: str = ""
    address: str = ""
    on_behalf_of: str = ""


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
        decide: The change, which the store calls under the row's lock. With None the store only
            appends the audit event and does not raise the row version (protocol R5).
        event: The audit event, in the same transaction.
        request: The request_id to record, in the same transaction, or None.
    """

    cluster: str
    decide: Decide | None
    event: AuditEvent
    request: RequestKey | None = None


@dataclass(frozen=True, slots=True)
class CommittedChange:
    """A change that was committed.

    Attributes:
        cluster: The cluster after the change.
        number: The change's number; for an audit event alone, the number of the last change.
        change_id: The random id of the change of that number.
    """

    cluster: Cluster
    number: int
    change_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Floor:
    """What a numbered change made of its cluster; no row of it may lie below (protocol S10).

    Attributes:
        uid: The cluster's uid.
        version: The row version that the change gave the cluster.
        epoch: The cluster's epoch after the change.
    """

    uid: bytes
    version: int
    epoch: int

    @classmethod
    def of(cls, cluster: Cluster) -> Floor:
        """Returns the floor of a cluster as it is now."""
        return cls(cluster.uid, cluster.version, cluster.epoch)

    def is_kept_by(self, cluster: Cluster) -> bool:
        """Returns whether a cluster's rows lie at this floor or above it."""
        return (
            cluster.uid == self.uid
            and cluster.version >= self.version
            and cluster.epoch >= self.epoch
        )


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """One numbered change, as a poll reports it.

    Attributes:
        number: 1, 2, 3 … without gaps.
        change_id: 16 random bytes.
        cluster: The cluster that changed, or None for a refusal.
        root: The root key id (`cluster.Wrap.root_id`) that was refused, or None.
        kek: The one KEK that was refused again; None: a cluster's change or a first refusal.
        replica: The replica that made the change.
        floor: What the change made of the cluster, or None for a refusal.
    """

    number: int
    change_id: bytes
    cluster: str | None
    root: str | None
    kek: bytes | None
    replica: str
    floor: Floor | None = None
