"""kill -9 in the middle of operations over a hundred regions, on both kinds of store.

The counts are exact, nothing is done twice and nothing is left out, whoever goes on.
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
from keyfold.v1 import operations_pb2 as ops

CLUSTERS = 50
REGIONS = 2 * CLUSTERS
RATE = "10000"
ORGANIZATION = keyfold.OperationScope.organization("org")
ROTATE = keyfold.OperationAction.rotate(new_generation=True)


def enabled(server: Server) -> None:
    """Enables the clusters, each in eu and us."""
    specs = [
        keyfold.RegionSpec(region, keyfold.KeySpec("LOCAL", f"local:{region}"))
        for region in ("eu", "us")
    ]
    with server.client() as client:
        for number in range(CLUSTERS):
            client.enable(f"c{number:03}", specs, organization="org")


def reached(server: Server, count: int) -> Operation:
    """Returns the operation once it has processed so many regions, or has ended."""
    ends = time.monotonic() + 120
    with server.client() as client:
        while True:
            operation = client.get_operation("op")
            if operation.ended or operation.processed >= count:
                return operation
            assert time.monotonic() < ends, operation
            # Each look costs the server as much as a region.
            time.sleep(0.01 if count < REGIONS else 0.2)


def ended(server: Server) -> Operation:
    """Returns the operation once it has ended."""
    return reached(server, REGIONS + 1)


def generations(server: Server) -> Counter[int]:
    """Counts the regions by the number of their generations."""
    with server.client() as client:
        return Counter(
            len(region.generations)
            for cluster in client.list_clusters()
            for region in cluster.regions
        )


@pytest.mark.timeout(240)
def test_one_process_killed_again_and_again(start_server: StartServer) -> None:
    """S5, R6: on SQLite the same server goes on after each kill, from its last progress."""
    server = start_server(
        KEYFOLD_KMS_RATE_PER_KEY=RATE,
        KEYFOLD_KMS_RATE_PER_ACCOUNT=RATE,
        KEYFOLD_KMS_RATE_PER_PROVIDER=RATE,
    )
    enabled(server)
    with server.client() as client:
        client.start_operation("op", ROTATE, ORGANIZATION)
    for count in (1, REGIONS // 4, REGIONS // 2):
        if reached(server, count).ended:
            break
        server.kill()
        server.start()
    operation = ended(server)
    assert (operation.done, operation.failed, operation.skipped) == (REGIONS, 0, 0)
    assert operation.total == REGIONS
    assert generations(server) == {2: REGIONS}


@pytest.mark.timeout(240)
def test_the_replica_that_runs_it_is_killed(
    start_server: StartServer, shared_store: SharedStore
) -> None:
    """S5, R6: on PostgreSQL another replica takes the operation when the lease has passed.

    Meanwhile a customer's key refuses, and a cluster is revoked: both are failures with a reason.
    """
    for of in ("KEY", "ACCOUNT", "PROVIDER"):
        # So few calls that it goes on for seconds: its replica must die in the middle.
        shared_store.settings[f"KEYFOLD_KMS_RATE_PER_{of}"] = "60"
    servers = shared_store.servers(start_server, 2)
    enabled(servers[0])
    with servers[0].client() as client:
        client.start_operation("op", ROTATE, ORGANIZATION)
        client.revoke("c049")
    operation = reached(servers[0], 2)
    assert not operation.ended, "the operation was over too soon to kill its replica"
    with servers[0].client() as client:
        running = [s for s in servers if f":{s.pid}:" in _replica(client)]
    [killed] = running
    left = servers[1 - servers.index(killed)]
    killed.kill()
    operation = ended(left)
    assert operation.done + operation.failed == REGIONS
    assert operation.skipped == 0
    assert {(each.cluster, each.reason) for each in operation.failures} <= {("c049", "REVOKED")}
    assert operation.failed in {0, 2}
    assert generations(left) == {2: operation.done} | ({1: 2} if operation.failed else {})


def _replica(client: keyfold.Client) -> str:
    """Returns the name of the replica that runs the operation."""
    metadata = ops.OperationMetadata()
    client.send(calls.get_operation("op")).metadata.Unpack(metadata)
    return metadata.replica
