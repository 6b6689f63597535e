"""What a run leaves, checked through servers that know nothing of it and in the store itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import grpc

from audit_chain import verified_events
from behaviour import State
from chaos import rollback
from chaos.banning import BANNED
from chaos.board import TWINS
from chaos.fleet import Fleet
from chaos.history import FOREVER, Blob, History, now
from chaos.messages import opened, shown
from chaos.order import Violation
from e2e.wire import Refusal, refusal, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold_server.domain.cluster import Cluster, Region, SupersededWrap
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.ports import ClusterFilter

_BATCH: Final = 500
_MANY: Final = 100_000
_TIMEOUT: Final = 10.0


def left(fleet: Fleet, history: History) -> Iterator[Violation]:
    """Checks what a run leaves: records, wrapped keys, rotations, chains, seals."""
    if history.lost is None:
        # A fresh process remembers no refusals and no outages.
        fleet.restart()
    else:
        yield from _reconciled(fleet)
    yield from _records(fleet, history)
    blobs: dict[str, list[Blob]] = {change.cluster: [] for change in history.changes}
    for blob in history.blobs:
        blobs[blob.cluster].append(blob)
    with stubs(fleet.servers[0].target) as stub:
        for cluster, kept in sorted(blobs.items()):
            yield from cluster_left(stub, history, cluster, kept)
    for server in fleet.servers:
        server.kill()
    yield from _stored(fleet)
    yield from _edited(fleet)


def _reconciled(fleet: Fleet) -> Iterator[Violation]:
    """S1: once an operator accepts the store as it is, the servers that refused go on with it."""
    fleet.servers[0].command("reconcile", "--yes", "--reason", "failover")
    asked = pb.WrapRequest(cluster=next(iter(TWINS)), region="eu", plaintext=b"k")
    for server in fleet.servers:
        ends = now() + _TIMEOUT
        with stubs(server.target) as stub:
            while reason := _refused(stub, asked):
                if now() > ends:
                    text = f"after an operator's decision it says {reason}"
                    yield Violation("rolled-back", server.name, text)
                    break
                time.sleep(0.05)


def _answered(call: Callable[[], Any]) -> Any:
    """Calls until the server is fresh, since on a busy machine it may be late to poll."""
    ends = now() + _TIMEOUT
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if refusal(error).reason != "STORE_STALE" or now() > ends:
                raise
        time.sleep(0.05)


def _refused(stub: service.KeyManagementServiceStub, asked: pb.WrapRequest) -> str:
    try:
        stub.Wrap(asked, timeout=_TIMEOUT)
    except grpc.RpcError as error:
        return refusal(error).reason or error.code().name
    return ""


def cluster_left(
    stub: service.KeyManagementServiceStub, history: History, cluster: str, kept: list[Blob]
) -> Iterator[Violation]:
    """Checks that a cluster and every wrapped key are as the record says."""
    try:
        asked = pb.GetStatusRequest(cluster=cluster)
        state = shown(_answered(lambda: stub.GetStatus(asked, timeout=_TIMEOUT)).status)
    except grpc.RpcError as error:
        state = None
        if refusal(error).reason != "CLUSTER_NOT_FOUND":
            yield Violation("wrapped-key", cluster, f"no status: {refusal(error)}")
            return
    since = FOREVER
    if history.lost is not None:
        since = history.lost.since
        yield from rollback.left(history, cluster, state, now())
    if state is None:
        if any(blob.at < since for blob in kept):
            yield Violation("wrapped-key", cluster, "it does not exist, but gave out wrapped keys")
        return
    yield from _opened(stub, kept, state, since)
    try:
        restore = pb.RestoreRequest(cluster=cluster)
        answer = _answered(lambda: stub.Restore(restore, timeout=_TIMEOUT))
    except grpc.RpcError as error:
        yield Violation("wrapped-key", cluster, f"Restore failed: {refusal(error)}")
        return
    revoked = [name for name, region in shown(answer.status) or () if region.revoked]
    if revoked:
        yield Violation("wrapped-key", cluster, f"{revoked} could not be restored")
    yield from _opened(stub, kept, shown(answer.status), since)


def _opened(
    stub: service.KeyManagementServiceStub, kept: list[Blob], state: State, since: float
) -> Iterator[Violation]:
    """Every wrapped key opens, or is refused because its region is revoked, as the record says.

    A wrapped key from after `since` may be under a KEK that was lost, and then is unknown.
    """
    there = dict(state or ())
    for first in range(0, len(kept), _BATCH):
        some = kept[first : first + _BATCH]
        items = [pb.BatchUnwrapItem(wrapped_key=blob.wrapped) for blob in some]
        asked = pb.BatchUnwrapRequest(cluster=some[0].cluster, items=items)
        try:
            results = _answered(partial(stub.BatchUnwrap, asked, timeout=_TIMEOUT)).results
        except grpc.RpcError as error:
            # A violation, so that the run still reports what it found before.
            yield Violation("wrapped-key", some[0].cluster, f"BatchUnwrap failed: {refusal(error)}")
            return
        for blob, result in zip(some, results, strict=True):
            where = f"a key of {blob.region}, generation {blob.generation}"
            reason = Refusal.of(result.error).reason if result.HasField("error") else ""
            if reason == "UNKNOWN_KEK" and blob.at >= since:
                continue
            revoked = blob.region in there and there[blob.region].revoked
            if reason != ("REVOKED" if revoked else ""):
                text = f"{where}: {reason or 'it opened, though its region is revoked'}"
                yield Violation("wrapped-key", blob.cluster, text)
            elif not reason and (wrong := opened(blob, result.answer)):
                yield Violation("wrapped-key", blob.cluster, f"{where}: {wrong}")


def _records(fleet: Fleet, history: History) -> Iterator[Violation]:
    """R5, R6: the log holds exactly one entry for each change that was made."""
    rows = fleet.execute(
        "SELECT cluster, action, count(*) FROM log "
        "WHERE outcome IN ('done', 'unchanged') AND action LIKE 'rpc:%' GROUP BY cluster, action"
    )
    known = {change.cluster for change in history.changes}
    recorded = {(str(n), str(a)): int(str(count)) for n, a, count in rows if n in known}
    until = FOREVER if history.lost is None else history.lost.since
    sure: Counter[tuple[str, str]] = Counter()
    maybe: Counter[tuple[str, str]] = Counter()
    for change in history.changes:
        key = (change.cluster, f"rpc:cluster:{change.request.method.lower()}")
        done = [a for a in change.attempts if a.answer.done and a.end < until]
        if change.request.method == "Restore":
            # A Restore that moves nothing leaves no event, so a repetition carries it out again.
            maybe[key] += len(change.attempts)
        elif done:
            sure[key] += 1
        elif any(a.answer.unknown or a.answer.done for a in change.attempts):
            maybe[key] += 1
    for key in sorted({*recorded, *sure}):
        count = recorded.get(key, 0)
        if not sure[key] <= count <= sure[key] + maybe[key]:
            text = f"{count} events of {key[1]}, not {sure[key]} to {sure[key] + maybe[key]}"
            yield Violation("audit", key[0], text)


def _stored(fleet: Fleet) -> Iterator[Violation]:
    """R5, S5: every chain verifies and no rotation is half done, as this suite's code reads it."""
    store = fleet.store()
    try:
        for cluster in store.clusters(ClusterFilter(), "", _MANY):
            if isinstance(cluster, KeyfoldError):
                if (cluster.cluster or "").startswith(BANNED):
                    continue
                yield Violation("audit", cluster.cluster or "", cluster.message)
                continue
            for region in cluster.regions:
                yield from _half_done(cluster.name, region)
            try:
                yield from _history(cluster, store.superseded_wraps(cluster.name))
                verified_events(store, cluster.name)
            except KeyfoldError as error:
                yield Violation("audit", cluster.name, error.message)
    finally:
        store.close()


def _half_done(cluster: str, region: Region) -> Iterator[Violation]:
    """Every KEK of a region is under its root key, by a wrap that opens."""
    for generation in region.generations:
        current = generation.current
        where = f"{region.name}, generation {generation.number}"
        if current.root.uri != region.key_spec.uri or not current.ciphertext:
            text = f"{where} is under {current.root.uri}, its region under {region.key_spec.uri}"
            yield Violation("half-done", cluster, text)


def _history(cluster: Cluster, history: Sequence[SupersededWrap]) -> Iterator[Violation]:
    """C6: the history has every wrap before the current one, and a wrap in it opens nothing."""
    for region in cluster.regions:
        for generation in region.generations:
            numbers = [old.number for old in history if old.kek_id == generation.kek_id]
            if numbers != list(range(1, generation.current.number)):
                text = f"{region.name}, generation {generation.number} has a history of {numbers}"
                yield Violation("half-done", cluster.name, text)
    if any(hasattr(old, "ciphertext") for old in history):
        yield Violation("half-done", cluster.name, "an old wrap opens")


def _edited(fleet: Fleet) -> Iterator[Violation]:
    """A1, A2: a server refuses a row that somebody edited."""
    others = f"clusters.name NOT LIKE '{BANNED}%'"
    found = fleet.execute(
        "SELECT hex(cluster_uid), clusters.name, regions.name, state FROM regions "
        f"JOIN clusters ON uid = cluster_uid WHERE {others} ORDER BY clusters.name LIMIT 1"
        if fleet.database is None
        else "SELECT encode(cluster_uid, 'hex'), clusters.name, regions.name, state FROM regions "
        f"JOIN clusters ON uid = cluster_uid WHERE {others} ORDER BY clusters.name LIMIT 1"
    )
    if not found:
        return
    ((uid, cluster, region, state),) = found
    other = "REVOKED" if state == "ENABLED" else "ENABLED"
    uid_is = f"hex(cluster_uid) = '{uid}'"
    if fleet.database is not None:
        uid_is = f"encode(cluster_uid, 'hex') = '{uid}'"
    fleet.execute(f"UPDATE regions SET state = '{other}' WHERE name = '{region}' AND {uid_is}")
    server = fleet.servers[0]
    server.start()
    asked = pb.GetStatusRequest(cluster=str(cluster))
    with stubs(server.target) as stub:
        try:
            _answered(lambda: stub.GetStatus(asked, timeout=_TIMEOUT))
        except grpc.RpcError as error:
            reason = refusal(error).reason
        else:
            reason = "nothing"
    if reason != "ROW_NOT_AUTHENTIC":
        text = f"its state was edited from {state} to {other}, and a server said {reason}"
        yield Violation("authentic", str(cluster), text)
