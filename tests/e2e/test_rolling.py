"""Drain: three servers restart one after the other, and none of their callers notices.

The clients are this project's own, with three addresses. They go round all servers and repeat a
call that finds one unavailable; they have no other help.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

import keyfold
from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from e2e.wire import NotRefusedError, refused, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1.key_management_service_pb2_grpc import KeyManagementServiceStub
from keyfold_server.store.migrations import migrate
from keyfold_server.store.opening import migrate_store
from keyfold_server.store.postgresql import address
from keyfold_server.store.postgresql import connections as postgresql
from next_schema import NextRelease

COUNT: Final = 3
CLUSTERS: Final = ("one", "two")
KEY: Final = b"k" * 32
KINDS: Final = ("wrap", "unwrap", "data key", "status")
"""The kinds of calls under which servers restart."""

PAUSE: Final = 0.01
"""Seconds between two calls of a thread."""


@pytest.fixture(scope="module")
def servers(start_module_server: StartServer, shared_store: SharedStore) -> list[Server]:
    """Gives three servers on one PostgreSQL, with the keys local:eu and local:us."""
    return shared_store.servers(start_module_server, COUNT)


@contextmanager
def load(
    servers: list[Server], clients: int, threads: int
) -> Iterator[tuple[Counter[str], list[Exception]]]:
    """Calls all servers through clients from threads until the end.

    Yields:
        The number of answered calls by kind, and the failures that the clients' callers saw.
    """
    over = threading.Event()
    answered: Counter[str] = Counter()
    failed: list[Exception] = []
    targets = [server.target for server in servers]

    def work(client: keyfold.Client, cluster: str) -> None:
        blob = client.wrap(cluster, "eu", KEY).wrapped_key
        calls: tuple[Callable[[], object], ...] = (
            lambda: client.wrap(cluster, "eu", KEY),
            lambda: client.unwrap(cluster, blob),
            lambda: client.generate_data_key(cluster, "eu"),
            lambda: client.get_status(cluster),
        )
        while not over.is_set():
            for kind, call in zip(KINDS, calls, strict=True):
                try:
                    call()
                except Exception as error:  # noqa: BLE001  whatever a caller would see
                    failed.append(error)
                else:
                    answered[kind] += 1
                # Without pauses the callers would compete with the servers that start.
                over.wait(PAUSE)

    with ThreadPoolExecutor(clients * threads) as pool:
        made = [keyfold.Client(targets) for _ in range(clients)]
        under_way = [
            pool.submit(work, client, CLUSTERS[n % len(CLUSTERS)])
            for client in made
            for n in range(threads)
        ]
        try:
            yield answered, failed
        finally:
            over.set()
            for each in under_way:
                each.result()
            for client in made:
                client.close()


def answers(answered: Counter[str], failed: list[Exception], count: int) -> None:
    """Returns once each kind of call was answered so many more times, or a call has failed."""
    wanted = {kind: answered[kind] + count for kind in KINDS}
    while not failed and any(answered[kind] < wanted[kind] for kind in KINDS):
        time.sleep(0.02)


def test_a_rolling_restart_fails_no_call(servers: list[Server]) -> None:
    """Drain: under load each server in turn is stopped and started; no call fails, each exits 0."""
    for cluster in CLUSTERS:
        servers[0].enable(cluster)
    logs = [log_of(server) for server in servers]
    with load(servers, clients=2, threads=3) as (answered, failed):
        answers(answered, failed, 20)
        for server in servers:
            assert server.stop() == 0
            answers(answered, failed, 20)
            server.restart()
            logs.append(log_of(server))
            answers(answered, failed, 20)
        # Clients come back to a server after a pause of their own, and then it takes its part.
        ends = time.monotonic() + 20.0
        while not all('"code":"OK"' in log.read_text() for log in logs):
            assert time.monotonic() < ends
            time.sleep(0.1)
    assert failed == []
    assert not [server for server in servers if "Traceback" in server.log()]


def test_a_fleet_becomes_regional_and_fails_no_call(servers: list[Server]) -> None:
    """One after the other, servers of all regions become ones of eu: eu's callers notice nothing.

    That is step 5 of docs/regions.md; the third server is its control replica.
    """
    for cluster in CLUSTERS:
        servers[0].enable(cluster)
    with load(servers, clients=1, threads=2) as (answered, failed):
        for server in servers[:2]:
            server.restart(KEYFOLD_SERVES="eu")
            answers(answered, failed, 10)
    assert failed == []
    with servers[0].client() as client, pytest.raises(keyfold.WrongRegionError):
        client.wrap(CLUSTERS[0], "us", KEY)
    with servers[2].client() as client:
        client.wrap(CLUSTERS[0], "us", KEY)
    for server in servers[:2]:
        server.restart(KEYFOLD_SERVES=None)


def test_a_migration_under_load_fails_no_call(
    servers: list[Server],
    shared_store: SharedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S6, Drain: the store gets the next schema under load, and servers restart on it."""
    for cluster in CLUSTERS:
        servers[0].enable(cluster)
    password = shared_store.settings["KEYFOLD_STORE_PASSWORD_FILE"]
    assert password is not None
    release = NextRelease(tmp_path, monkeypatch)
    with load(servers, clients=1, threads=2) as (answered, failed):
        answers(answered, failed, 10)
        release.use(newer=True)
        migrate_store(shared_store.url, password_file=Path(password))
        answers(answered, failed, 10)
        # The third server serves on all the while.
        for server in servers[:2]:
            assert server.stop() == 0
            server.restart()
        for server, cluster in zip(servers, ("a", "b", "c"), strict=True):
            server.enable(cluster)
        answers(answered, failed, 10)
    assert failed == []
    # Now the next release may serve; to this one the store is the next release's.
    database = postgresql.connected(address.parse(shared_store.url, Path(password)))
    with closing(database):
        assert database.read(migrate.check) is migrate.SchemaAge.CURRENT
        release.use(newer=False)
        assert database.read(migrate.check) is migrate.SchemaAge.NEXT


def log_of(server: Server) -> Path:
    """Returns the file of the log that a server's present process writes."""
    return max(server.folder.glob("stderr.*"), key=lambda path: int(path.suffix[1:]))


def test_a_stop_cancels_no_call(start_server: StartServer) -> None:
    """Drain: a server that stops answers every call that has arrived, without the client's help.

    A later call finds no server, and fails so that any client may try it elsewhere.
    """
    server = start_server()
    server.enable("prod")
    asked = pb.WrapRequest(cluster="prod", region="eu", plaintext=KEY)
    for stops in range(3):
        if stops:
            server.restart()
        codes: Counter[grpc.StatusCode] = Counter()
        with stubs(server.target, [("grpc.enable_retries", 0)]) as stub:

            def call(stub: KeyManagementServiceStub = stub, seen: Any = codes) -> None:
                while not seen[grpc.StatusCode.UNAVAILABLE]:
                    made = stub.Wrap.future(asked, timeout=9)
                    seen[made.code()] += 1

            callers = [threading.Thread(target=call) for _ in range(8)]
            for caller in callers:
                caller.start()
            while codes[grpc.StatusCode.OK] < 20 * len(callers):
                time.sleep(0.02)
            assert server.stop() == 0
            for caller in callers:
                caller.join()
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_a_restart_interrupts_no_change(servers: list[Server]) -> None:
    """Drain, W1: a server that stops answers the changes that are under way."""
    servers[0].enable("changed")
    over = threading.Event()
    failed: list[Exception] = []
    done = 0

    def change() -> None:
        nonlocal done
        with keyfold.Client([server.target for server in servers]) as client:
            while not over.is_set():
                try:
                    client.rotate("changed", [keyfold.RegionSpec("eu")], new_generation=True)
                except Exception as error:  # noqa: BLE001  whatever a caller would see
                    failed.append(error)
                else:
                    done += 1

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for server in servers[:2]:
            before = done
            while done == before and not failed:
                time.sleep(0.02)
            assert server.stop() == 0
            server.restart()
    finally:
        over.set()
        changing.join()
    assert failed == []
    with servers[2].client() as client:
        regions = client.get_status("changed").regions
    (count,) = (len(region.generations) for region in regions if region.region == "eu")
    # One generation for each request: no request was lost or carried out twice.
    assert count == 1 + done


def test_drain_waits_for_what_is_under_way(servers: list[Server]) -> None:
    """Drain: a server that stops answers a call that waits, and no later ones.

    The call is a Revoke, which waits for a replica that is paused.
    """
    servers[0].enable("waiting")
    asked = pb.RevokeRequest(cluster="waiting")
    with stubs(servers[0].target) as stub, ThreadPoolExecutor(1) as thread:
        os.kill(servers[1].pid, signal.SIGSTOP)
        try:
            waiting = stub.Revoke.future(asked, timeout=60)
            with servers[2].client() as client:
                while client.get_status("waiting").regions[0].state is not keyfold.State.REVOKED:
                    time.sleep(0.02)
            stopping = thread.submit(servers[0].stop)
            while serves(stub):
                time.sleep(0.02)
            assert not waiting.done()
            assert not stopping.done()
        finally:
            os.kill(servers[1].pid, signal.SIGCONT)
        answer = waiting.result()
        assert any(f":{servers[1].pid}:" in name for name in answer.confirmed)
        assert not answer.pending
        assert stopping.result() == 0
        assert refused(stub.Revoke, asked).code is grpc.StatusCode.UNAVAILABLE
    servers[0].restart()


def serves(stub: KeyManagementServiceStub) -> bool:
    """Says whether a server takes new calls."""
    try:
        late = refused(stub.ListClusters, pb.ListClustersRequest(), timeout=9)
    except NotRefusedError:
        return True
    assert late.code is grpc.StatusCode.UNAVAILABLE
    return False


def test_drain_warns_of_keys_on_grace(start_server: StartServer) -> None:
    """F7: a stop in an outage says how many keys it puts out of service."""
    server = start_server(KEYFOLD_CACHE_TTL="1s", KEYFOLD_OUTAGE_GRACE="1m")
    server.enable("prod")
    with server.client() as client:
        for region in ("eu", "us"):
            client.wrap("prod", region, KEY)
        server.keys.rename(server.keys.with_suffix(".away"))
        ends = time.monotonic() + 3.0
        while time.monotonic() < ends:
            for region in ("eu", "us"):
                client.wrap("prod", region, KEY)
            time.sleep(0.05)
    assert server.stop() == 0
    assert "2 keys serve on grace in an outage; this stop ends that" in server.log()


def test_drain_warns_of_nothing_without_an_outage(start_server: StartServer) -> None:
    """F7: a stop while every key is proven does not warn."""
    server = start_server(KEYFOLD_CACHE_TTL="1s")
    server.enable("prod")
    with server.client() as client:
        client.wrap("prod", "eu", KEY)
    assert server.stop() == 0
    assert "on grace" not in server.log()
