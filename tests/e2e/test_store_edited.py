"""Rows edited by hand, under a stopped and a running server: refused, and nobody else hurt."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from e2e.conftest import StartServer
from e2e.server import NotReadyError, Server
from e2e.wire import refused, spec, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res

_OF: Final = "(SELECT uid FROM clusters WHERE name = 'c{n}')"

EDITS: Final = (
    # Un-revoking by hand, moving to one's own root key, swapping, deleting: protocol A2.
    "UPDATE regions SET state = 'ENABLED' WHERE cluster_uid = {uid} AND name = 'us'",
    "UPDATE regions SET key_uri = 'local:us' WHERE cluster_uid = {uid} AND name = 'eu'",
    "UPDATE regions SET cache_ttl = 900000 WHERE cluster_uid = {uid}",
    "UPDATE clusters SET epoch = epoch - 1 WHERE uid = {uid}",
    "UPDATE clusters SET organization = 'acme' WHERE uid = {uid}",
    "UPDATE clusters SET name = 'd{n}' WHERE uid = {uid}",
    "UPDATE clusters SET history_head = zeroblob(32) WHERE uid = {uid}",
    "UPDATE clusters SET mac = zeroblob(32) WHERE uid = {uid}",
    "UPDATE wraps SET ciphertext = zeroblob(120) WHERE cluster_uid = {uid}",
    "UPDATE wraps SET root_uri = 'local:us' WHERE cluster_uid = {uid}",
    "UPDATE generations SET number = 9 WHERE cluster_uid = {uid} AND region = 'eu'",
    "DELETE FROM wraps WHERE cluster_uid = {uid}",
    "DELETE FROM regions WHERE cluster_uid = {uid} AND name = 'us'",
    # Rows of another cluster put in the place of this one's, MACs and all.
    (
        "UPDATE wraps SET ciphertext = (SELECT ciphertext FROM wraps WHERE cluster_uid = {good}), "
        "mac = (SELECT mac FROM wraps WHERE cluster_uid = {good}) WHERE cluster_uid = {uid}"
    ),
    # A type that the column has not: SQLite takes it.
    "UPDATE clusters SET version = 'x' WHERE uid = {uid}",
    "UPDATE wraps SET ciphertext = 'text' WHERE cluster_uid = {uid}",
    "UPDATE regions SET key_options = '{{' WHERE cluster_uid = {uid}",
    "UPDATE clusters SET name = x'ff' || name WHERE uid = {uid}",
)
"""One statement for each cluster c0, c1 …; `good` is never edited."""

_RENAMED: Final = {n for n, edit in enumerate(EDITS) if " SET name" in edit}


def edit(store: Path, *statements: str) -> None:
    """Does what somebody with sqlite3 could do."""
    with closing(sqlite3.connect(store, timeout=10)) as database:
        for statement in statements:
            assert database.execute(statement).rowcount != 0
        database.commit()


def prepared(server: Server) -> dict[str, bytes]:
    """Makes the clusters; returns a wrapped key of each one's region eu."""
    blobs = {}
    with stubs(server.target) as stub:
        for name in ("good", *(f"c{n}" for n in range(len(EDITS)))):
            stub.Enable(
                pb.EnableRequest(cluster=name, region_specs=[spec("eu"), spec("us")]), timeout=9
            )
            wrap = pb.WrapRequest(cluster=name, region="eu", plaintext=name.encode())
            blobs[name] = stub.Wrap(wrap, timeout=9).wrapped_key
            stub.Revoke(pb.RevokeRequest(cluster=name, regions=["us"]), timeout=9)
    return blobs


def all_edits() -> list[str]:
    """Returns each cluster's edit."""
    good = _OF.replace("c{n}", "good")
    return [text.format(uid=_OF.format(n=n), n=n, good=good) for n, text in enumerate(EDITS)]


def reading(n: int, blob: bytes) -> Iterator[tuple[str, Any]]:
    """Yields what reads a cluster's rows or would change them."""
    name = f"c{n}"
    yield "GetStatus", pb.GetStatusRequest(cluster=name)
    yield "Rotate", pb.RotateRequest(cluster=name, region_specs=[res.RegionSpec(region="eu")])
    yield "Restore", pb.RestoreRequest(cluster=name, regions=["us"])
    yield "Revoke", pb.RevokeRequest(cluster=name, regions=["eu"])


def using(n: int, blob: bytes) -> Iterator[tuple[str, Any]]:
    """Yields what uses a cluster's keys."""
    name = f"c{n}"
    yield "Wrap", pb.WrapRequest(cluster=name, region="eu", plaintext=b"p")
    yield "Wrap", pb.WrapRequest(cluster=name, region="us", plaintext=b"p")
    yield "Unwrap", pb.UnwrapRequest(cluster=name, wrapped_key=blob)


Requests = Callable[[int, bytes], Iterator[tuple[str, Any]]]


def all_refused(
    stub: service.KeyManagementServiceStub, blobs: dict[str, bytes], *kinds: Requests
) -> None:
    """Calls each edited cluster, and the one that nobody edited."""
    for n, text in enumerate(EDITS):
        for kind in kinds:
            for method, asked in kind(n, blobs[f"c{n}"]):
                refusal = refused(getattr(stub, method), asked)
                if n in _RENAMED and refusal.reason == "CLUSTER_NOT_FOUND":
                    continue  # By its old name it does not exist; only an anchor could notice that.
                assert (refusal.code, refusal.reason) == (
                    grpc.StatusCode.DATA_LOSS,
                    "ROW_NOT_AUTHENTIC",
                ), (text, method, refusal)
                assert refusal.domain == "keyfold"
                assert refusal.metadata["cluster"] == f"c{n}"
    status = stub.GetStatus(pb.GetStatusRequest(cluster="good"), timeout=9).status
    assert [r.state for r in status.regions] == [res.STATE_ENABLED, res.STATE_REVOKED]
    unwrap = pb.UnwrapRequest(cluster="good", wrapped_key=blobs["good"])
    assert stub.Unwrap(unwrap, timeout=9).plaintext == b"good"
    rotate = pb.RotateRequest(cluster="good", region_specs=[res.RegionSpec(region="eu")])
    stub.Rotate(rotate, timeout=9)


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_edited_rows_are_refused(start_server: StartServer, *, running: bool) -> None:
    """Every hand-made change of a cluster's rows is ROW_NOT_AUTHENTIC; other clusters go on.

    Under a running server too, from the next time that it reads the rows: what it holds in memory
    is what it read while they were whole.
    """
    server = start_server()
    blobs = prepared(server)
    if not running:
        assert server.stop() == 0
    edit(server.store, *all_edits())
    if not running:
        server.start()
    with stubs(server.target) as stub:
        all_refused(stub, blobs, reading, *([] if running else [using]))
        renamed = pb.GetStatusRequest(cluster=f"d{min(_RENAMED)}")
        assert refused(stub.GetStatus, renamed).reason == "ROW_NOT_AUTHENTIC"
    # It serves on, and through the next restart.
    server.restart()
    with stubs(server.target) as stub:
        all_refused(stub, blobs, using)


def test_an_edited_cluster_can_be_revoked(start_server: StartServer) -> None:
    """A6: Revoke of a cluster with an edited row stops the server that still holds its keys."""
    server = start_server(keys=("eu",))
    server.enable("prod", ["eu"])
    server.enable("other", ["eu"])
    wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"p")
    with stubs(server.target) as stub:
        wrapped = stub.Wrap(wrap, timeout=9).wrapped_key
        edit(server.store, "UPDATE clusters SET epoch = epoch + 1 WHERE name = 'prod'")
        stub.Wrap(wrap, timeout=9)
        answer = stub.Revoke(pb.RevokeRequest(cluster="prod", reason="edited"), timeout=9)
        assert answer.banned
        assert len(answer.confirmed) == 1
        assert not answer.pending
        assert answer.status == res.ClusterStatus(cluster="prod")
    for _ in range(2):
        with stubs(server.target) as stub:
            for method, asked in (
                ("Wrap", wrap),
                ("Unwrap", pb.UnwrapRequest(cluster="prod", wrapped_key=wrapped)),
                ("GetStatus", pb.GetStatusRequest(cluster="prod")),
                ("Restore", pb.RestoreRequest(cluster="prod")),
            ):
                refusal = refused(getattr(stub, method), asked)
                assert (refusal.code, refusal.reason) == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "CLUSTER_BANNED",
                )
            listed = stub.ListClusters(pb.ListClustersRequest(), timeout=9)
            assert [each.cluster for each in listed.clusters] == ["other"]
            assert list(listed.banned) == ["prod"]
            assert not listed.not_authentic
        server.restart()
    told = server.cli("revoke", "prod", "--yes")
    assert "the stored rows of prod are not authentic, or are gone" in told
    assert "confirmed by 1 of 1 replicas" in told
    assert "CLUSTER_BANNED" in server.cli("clusters", code=4)
    # The way back: an operator blesses the rows, and Restore proves the key.
    assert server.stop() == 0
    assert "give --yes" in server.command("seal", "prod", code=2)
    told = server.command("seal", "prod", "--yes", "--reason", "a drill")
    assert "cluster prod: banned\n  organization: none\n" in told
    assert "  region eu: ENABLED, LOCAL local:eu\n    KEK " in told
    assert ": wrapped by LOCAL local:eu\n" in told
    assert "differs: clusters.epoch: 1 in the row, 0 in the log" in told
    assert "every region is REVOKED until it is restored" in told
    assert "they need no seal" in server.command("seal", "prod", "--yes", code=2)
    server.start()
    with stubs(server.target) as stub:
        unwrap = pb.UnwrapRequest(cluster="prod", wrapped_key=wrapped)
        assert refused(stub.Unwrap, unwrap).reason == "REVOKED"
        stub.Restore(pb.RestoreRequest(cluster="prod"), timeout=9)
        assert stub.Unwrap(unwrap, timeout=9).plaintext == b"p"
        assert not stub.ListClusters(pb.ListClustersRequest(), timeout=9).banned


def test_edited_request_is_not_believed(start_server: StartServer) -> None:
    """A recorded request_id that was edited is not answered from, nor carried out again."""
    server = start_server(keys=("eu",))
    server.enable("prod", ["eu"])
    with stubs(server.target) as stub:
        revoke = pb.RevokeRequest(cluster="prod", request_id="r1")
        stub.Revoke(revoke, timeout=9)
        edit(server.store, "UPDATE requests SET version = 99")
        assert refused(stub.Revoke, revoke).reason == "ROW_NOT_AUTHENTIC"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET store_uid = zeroblob(16)",
        "DELETE FROM meta",
        "UPDATE log_head SET number = number + 1",
        "DELETE FROM log_head",
    ],
)
def test_edited_store_does_not_start(edited_store: Server, statement: str) -> None:
    """The store's own rows edited: no start, exit code 2, and a line that says so."""
    server = edited_store
    kept = server.store.read_bytes()
    edit(server.store, statement)
    with pytest.raises(NotReadyError) as caught:
        server.start()
    for path in server.folder.glob("store.db-*"):
        path.unlink()
    server.store.write_bytes(kept)
    assert caught.value.code == 2
    assert "Traceback" not in str(caught.value)
    assert "seal" in str(caught.value) or "authentic" in str(caught.value)


@pytest.fixture(scope="module")
def edited_store(start_module_server: StartServer) -> Server:
    """A server that is stopped, with a store that was in use."""
    server = start_module_server(keys=("eu",))
    server.enable("prod", ["eu"])
    assert server.stop() == 0
    return server


def test_an_edited_cluster_spoils_no_list(server: Server) -> None:
    """ListClusters names the cluster whose rows were edited, and lists the others as ever."""
    for name in ("a", "b", "c"):
        server.enable(name, ["eu"])
    edit(server.store, "UPDATE clusters SET epoch = 7 WHERE name = 'b'")
    with stubs(server.target) as stub:
        first = stub.ListClusters(pb.ListClustersRequest(page_size=2), timeout=9)
        rest = stub.ListClusters(
            pb.ListClustersRequest(page_size=2, page_token=first.next_page_token), timeout=9
        )
    assert [c.cluster for c in first.clusters] == ["a"]
    assert list(first.not_authentic) == ["b"]
    assert [c.cluster for c in rest.clusters] == ["c"]
    assert not rest.not_authentic
    listed = server.cli("clusters", code=1)
    assert "ROW_NOT_AUTHENTIC" in listed
    assert "the stored rows of b" in listed
