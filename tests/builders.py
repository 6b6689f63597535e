"""Builders of clusters, events and requests, with defaults for what a test does not care about."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import replace

from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    RecordedRequest,
    RequestKey,
    created,
    rotated,
)
from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import Attempt, AuditEvent, RecordedAttempt
from keyfold_server.domain.ports import Store

NOW = 1_800_000_000_000
"""Milliseconds; where `fakes.FakeClock` begins."""

HOLDER = "keys.json"
"""What holds the root keys of wraps that are made here."""


def a_wrap(uri: str = "local:one", *, version: str = "1", at: int = NOW) -> Wrap:
    """Makes a first wrap by a root key."""
    root, groups = RootKey("LOCAL", uri), KeyGroups(uri, HOLDER)
    return Wrap(1, root, version, None, secrets.token_bytes(90), at, groups)


def a_generation(uri: str = "local:one", *, number: int = 1, at: int = NOW) -> Generation:
    """Makes a KEK with one wrap."""
    return Generation(secrets.token_bytes(16), number, at, a_wrap(uri, at=at))


def a_region(name: str = "eu", uri: str = "local:one", *, at: int = NOW) -> Region:
    """Makes an enabled region with one generation."""
    return Region(
        name=name,
        state=State.ENABLED,
        state_since=at,
        key_spec=KeySpec("LOCAL", uri),
        policy=RegionPolicy(),
        generations=(a_generation(uri, at=at),),
    )


def a_cluster(
    name: str = "acme",
    regions: Iterable[Region] | None = None,
    *,
    organization: str | None = None,
) -> Cluster:
    """Makes a cluster as Enable does."""
    parts = tuple(regions) if regions is not None else (a_region(),)
    return Cluster(
        uid=secrets.token_bytes(16),
        name=name,
        organization=organization,
        epoch=0,
        version=1,
        regions=tuple(sorted(parts, key=lambda region: region.name)),
        created_at=NOW,
        updated_at=NOW,
    )


def a_rotation(region: Region, uri: str, *, fresh: bool = False, at: int = NOW + 1) -> Region:
    """Makes a region as Rotate does: under another root key, on request with a new generation."""
    number = region.newest.number + 1
    return rotated(
        region,
        KeySpec("LOCAL", uri),
        region.policy,
        {g.kek_id: replace(a_wrap(uri, at=at), number=0) for g in region.generations},
        a_generation(uri, number=number, at=at) if fresh else None,
    )


def an_event(action: str = "rpc:cluster:enable", outcome: str = "done") -> AuditEvent:
    """Makes an audit event."""
    return AuditEvent("local", action, outcome, '{"regions":["eu"]}')


def a_request(cluster: str = "acme", request_id: str = "r-1", body: bytes = b"body") -> RequestKey:
    """Makes the request key of an Enable with a body."""
    return RequestKey("local", "Enable", cluster, request_id, hashlib.sha256(body).digest())


def enabling(cluster: Cluster, request: RequestKey | None = None) -> Change:
    """Makes the change that creates a cluster."""
    return Change(cluster.name, created(cluster), an_event(), request)


def applied(store: Store, change: Change) -> CommittedChange:
    """Applies one change that must not be refused."""
    [result] = store.apply([change])
    if isinstance(result, Exception):
        raise result
    return result


def attempted(
    store: Store,
    cluster: str = "acme",
    action: str = "rpc:cluster:enable",
    outcome: str = "REVOKED",
) -> RecordedAttempt:
    """Records an attempt at a cluster, which must exist."""
    [result] = store.attempted([Attempt(cluster, an_event(action, outcome))])
    assert isinstance(result, RecordedAttempt)
    return result


def enabled(store: Store, name: str = "acme", *, organization: str | None = None) -> Cluster:
    """Stores a new cluster and returns it."""
    return applied(store, enabling(a_cluster(name, organization=organization))).cluster


def record_of(store: Store, key: RequestKey) -> RecordedRequest | None:
    """Reads what the store recorded of a request, or None."""
    _, found, _ = store.requested(key.cluster, key)
    return found
