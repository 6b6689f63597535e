"""kill -9 in the middle of the move of a key link, on both kinds of store.

Whoever goes on does nothing twice and leaves nothing out, the link comes to its end, and each
cluster's first wrapped key opens at every station.
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

import keyfold
from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from keyfold.calls import operations as calls
from keyfold.models.operations import Operation
from keyfold.models.organizations import KeyLink, KeyLinkUse
from keyfold.v1 import operations_pb2 as ops

CLUSTERS = 60
RATE = "10000"
LINK = keyfold.OperationScope.key_link("org", "main")


def key(name: str) -> keyfold.KeySpec:
    """Returns the spec of a key."""
    return keyfold.KeySpec("LOCAL", f"local:{name}")


def enabled(server: Server) -> dict[str, bytes]:
    """Links the first key, enables the clusters with it, and returns their first wrapped keys."""
    wrapped = {}
    with server.client() as client:
        client.create_key_link(KeyLink("org", "main", key("eu"), region="eu"))
        for number in range(CLUSTERS):
            name = f"c{number:03}"
            spec = keyfold.RegionSpec("eu", key_link="main")
            client.enable(name, [spec], organization="org")
            wrapped[name] = client.wrap(name, "eu", name.encode()).wrapped_key
    return wrapped


def opened(server: Server, wrapped: dict[str, bytes]) -> None:
    """Opens each cluster's first wrapped key."""
    with server.client() as client:
        for name, blob in wrapped.items():
            assert client.unwrap(name, blob).plaintext == name.encode()


def reached(server: Server, count: int, name: str = "op") -> Operation:
    """Returns the operation once it has processed so many regions, or has ended."""
    ends = time.monotonic() + 120
    with server.client() as client:
        while True:
            operation = client.get_operation(name)
            if operation.ended or operation.processed >= count:
                return operation
            assert time.monotonic() < ends, operation
            # Each look costs the server as much as a region.
            time.sleep(0.01 if count < CLUSTERS else 0.2)


def keys_of(server: Server) -> Counter[tuple[str, str]]:
    """Counts the clusters by their key and their link."""
    with server.client() as client:
        return Counter(
            (cluster.regions[0].key_spec.uri, cluster.regions[0].key_link)
            for cluster in client.list_clusters()
        )


def rotations(server: Server) -> Counter[str]:
    """Counts the rotations that were carried out, by cluster.

    A refused one may stand in the log twice: who goes on after a kill tries it again.
    """
    with server.client() as client:
        narrow = keyfold.EventFilter(action="rpc:cluster:rotate", outcome="done")
        return Counter(e.cluster for e in client.list_events(narrow, page_size=1_000))


@pytest.mark.timeout(300)
def test_one_process_killed_again_and_again(start_server: StartServer) -> None:
    """S5, R6: on SQLite the same server goes on after each kill, forth and back again."""
    server = start_server(
        KEYFOLD_KMS_RATE_PER_KEY=RATE,
        KEYFOLD_KMS_RATE_PER_ACCOUNT=RATE,
        KEYFOLD_KMS_RATE_PER_PROVIDER=RATE,
    )
    wrapped = enabled(server)
    for name, target in (("op", "us"), ("back", "eu")):
        with server.client() as client:
            client.start_operation(name, keyfold.OperationAction.move_link(key(target)), LINK)
        for count in (1, CLUSTERS // 2):
            if reached(server, count, name).ended:
                break
            with server.client() as client:
                link = client.get_key_link("org", "main")
            assert link.use is KeyLinkUse.MOVING or link.unmoved_count == 0
            server.kill()
            server.start()
        opened(server, wrapped)
        operation = reached(server, CLUSTERS + 1, name)
        assert (operation.done, operation.failed, operation.skipped) == (CLUSTERS, 0, 0)
        assert keys_of(server) == {(f"local:{target}", "main"): CLUSTERS}
        opened(server, wrapped)
    with server.client() as client:
        link = client.get_key_link("org", "main")
    assert (link.use, link.users_count, link.operation) == (KeyLinkUse.IN_USE, CLUSTERS, "")
    assert set(rotations(server).values()) == {2}


@pytest.mark.timeout(300)
def test_the_replica_that_moves_it_is_killed(
    start_server: StartServer, shared_store: SharedStore
) -> None:
    """S5, R6: on PostgreSQL another replica goes on; what was revoked meanwhile waits for its turn.

    A region leaves the link in the middle, and one comes to it.
    """
    for of in ("KEY", "ACCOUNT", "PROVIDER"):
        # So few calls that the move goes on for seconds: its replica must die in the middle.
        shared_store.settings[f"KEYFOLD_KMS_RATE_PER_{of}"] = "60"
    servers = shared_store.servers(start_server, 2)
    wrapped = enabled(servers[0])
    with servers[0].client() as client:
        move = keyfold.OperationAction.move_link(key("us"))
        client.start_operation("op", move, LINK, max_concurrency=2)
        client.revoke("c059")
        operation = client.get_operation("op")
        assert not operation.ended, "the operation was over too soon to kill its replica"
    reached(servers[0], 2)
    with servers[0].client() as client:
        running = [s for s in servers if f":{s.pid}:" in _replica(client)]
    [killed] = running
    left = servers[1 - servers.index(killed)]
    killed.kill()
    with left.client() as client:
        client.rotate("c058", [keyfold.RegionSpec("eu", key("eu"))])
        client.enable("new", [keyfold.RegionSpec("eu", key_link="main")], organization="org")
        assert client.get_status("new").regions[0].key_spec == key("us")
    operation = reached(left, CLUSTERS + 5)
    assert {(each.cluster, each.reason) for each in operation.failures} <= {("c059", "REVOKED")}
    assert operation.done + operation.failed + operation.skipped in range(
        CLUSTERS - 1, CLUSTERS + 2
    )
    with left.client() as client:
        link = client.get_key_link("org", "main")
        assert link.unmoved_count == operation.failed
        client.restore("c059")
        again = client.start_operation("again", move, LINK).operation
        assert again is not None
    assert reached(left, CLUSTERS + 5, "again").failed == 0
    assert keys_of(left) == {("local:us", "main"): CLUSTERS, ("local:eu", ""): 1}
    with left.client() as client:
        assert client.get_key_link("org", "main").use is KeyLinkUse.IN_USE
    assert set(rotations(left).values()) <= {1, 2}
    opened(left, wrapped)


def _replica(client: keyfold.Client) -> str:
    """Returns the name of the replica that runs the operation."""
    metadata = ops.OperationMetadata()
    client.send(calls.get_operation("op")).metadata.Unpack(metadata)
    return metadata.replica
