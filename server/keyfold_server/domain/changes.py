"""Changes of clusters: the pure functions that decide them, and what is committed with each.

A change is a pure function from the cluster as the store has it, read under its lock, to the
cluster as it shall be; it raises where the change may not happen. So compare-and-swap, epochs and
the lifecycle are decided here, and a store only reads, calls and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap, existing
from keyfold_server.domain.errors import ConcurrentChangeError, GenerationInUseError
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy
from keyfold_server.domain.lifecycle import Action

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


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One entry of a cluster's audit chain.

    Attributes:
        time: Milliseconds of Unix time.
        caller: Who asked, as callers are written (protocol section 7).
        action: `source:subject:action`, such as `rpc:cluster:enable`.
        outcome: `done`, or the reason of the refusal.
        detail: What was asked, as JSON with sorted keys; never key material.
        proof: How the caller's identity was proven (`rights.Identity`); empty where nobody called.
        address: From where the call came, as gRPC writes it, or empty.
        on_behalf_of: For whom the caller said that it asks, where it is believed; or empty.
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
        caller: Who asked.
        rpc: The method's name.
        cluster: The cluster's name.
        request_id: What the caller chose.
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
        version: The cluster's row version that it made.
    """

    digest: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """One RPC's change of one cluster: all of it or none.

    Attributes:
        cluster: The cluster's name.
        decide: The change, called under the row's lock; None only appends the audit event, which
            does not raise the row version (protocol R5).
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
        cluster: The cluster as it is now.
        number: The change's number; for an audit event alone, the number of the last change.
        change_id: That change's random id.
    """

    cluster: Cluster
    number: int
    change_id: bytes = b""


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """One numbered change, as a poll reports it.

    Attributes:
        number: 1, 2, 3 … without gaps.
        change_id: 16 random bytes.
        cluster: The cluster that changed, or None for a refusal.
        root: The root key id (`cluster.Wrap.root_id`) that was refused, or None.
        kek: Where the refusal was told before: the one KEK that was refused again.
        replica: Who made it.
    """

    number: int
    change_id: bytes
    cluster: str | None
    root: str | None
    kek: bytes | None
    replica: str
