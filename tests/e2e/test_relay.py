"""The relay with real servers: what arrives, and kills on both sides."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import keyfold
import relay_process
from builders import a_cluster, an_event, enabling
from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from keyfold.v1 import event_service_pb2 as pb
from keyfold.v1 import event_service_pb2_grpc as stubs
from keyfold_server.domain.changes import Change, revoked
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import open_store
from relay_process import Process
from relay_receiver import SECRET, Receiver

KILLS = 6
CLUSTERS, ROUNDS = 100, 80


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """A receiver that takes everything."""
    async with Receiver(tmp_path) as made:
        yield made


def relay(receiver: Receiver, target: str, **options: Any) -> Process:
    """Returns a relay from servers to the receiver; `options` are the target's."""
    (receiver.folder / "secret").write_text(SECRET)
    table: dict[str, Any] = {
        "kind": "webhook",
        "url": receiver.url,
        "secrets": [f"file:{receiver.folder / 'secret'}"],
        "ca": str(receiver.ca),
        "allow_addresses": ["127.0.0.1/32"],
    } | options
    return Process(relay_process.write(receiver.folder, {"target": target}, {"siem": table}))


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[Process]:
    """Starts a relay, which ends with the block."""
    await process.start()
    try:
        yield process
    finally:
        await process.kill()


def told(target: str) -> list[tuple[int, str]]:
    """Returns the number and the id of every event of a server's log, in order."""
    found: list[tuple[int, str]] = []
    with grpc.insecure_channel(target) as channel:
        stub, token = stubs.EventServiceStub(channel), ""
        while True:
            page = stub.ListEvents(
                pb.ListEventsRequest(page_token=token, page_size=1_000), timeout=20
            )
            found += [(event.number, event.id) for event in page.events]
            if not (token := page.next_page_token):
                return found


def arrived(receiver: Receiver) -> list[tuple[int, str]]:
    """Returns the number and the id of every event, in the order of their first arrivals."""
    came = ((int(event["data"]["number"]), event["data"]["id"]) for event in receiver.events)
    return list(dict.fromkeys(came))


async def test_a_revocation_arrives_with_who_when_and_why(
    server: Server, receiver: Receiver
) -> None:
    """The receiver gets the call as the log has it, under the name that it has for ever."""
    async with running(relay(receiver, server.target)) as process:
        # The first event tells of the cursor itself: from here on everything arrives.
        await receiver.came()
        await asyncio.to_thread(server.enable, "prod")
        with server.client() as client:
            await asyncio.to_thread(client.revoke, "prod", reason="contract ended")
        while not (found := [e for e in receiver.events if e["type"].endswith(".revoke")]):
            await receiver.came()
        assert await process.stop() == 0
    [event] = found
    assert event["subject"] == "prod"
    assert event["data"]["reason"] == "contract ended"
    assert event["data"]["caller"] == "local"
    store, number, identity = event["id"].split("/")
    assert event["source"] == f"urn:keyfold:{store}"
    assert len(store) == 32
    assert event["data"]["number"] == number == str(int(event["sequence"]))
    assert (int(number), identity) in told(server.target)


@pytest.mark.timeout(240)
async def test_no_kill_of_relay_or_replica_loses_or_reorders_an_event(
    shared_store: SharedStore, start_server: StartServer, receiver: Receiver
) -> None:
    """Relay and replicas are killed at random points; the receiver has the whole log, in order."""
    draw = random.Random(7)
    servers = await asyncio.to_thread(shared_store.servers, start_server, 2)
    targets = ",".join(server.target for server in servers)
    process, changing = relay(receiver, targets), True

    def change() -> None:
        """Revokes and restores, through whichever replica is there."""
        with keyfold.Client(targets, timeout=5, control_timeout=5) as client:
            while changing:
                try:
                    client.revoke("prod")
                    client.restore("prod")
                except keyfold.KeyfoldError:
                    continue

    await asyncio.to_thread(servers[0].enable, "prod")
    async with running(process):
        await receiver.came()
        changes = asyncio.create_task(asyncio.to_thread(change))
        try:
            for kill in range(KILLS):
                await receiver.came()
                await asyncio.sleep(draw.random() * 0.3)
                if kill % 2:
                    await process.kill()
                    await process.start()
                else:
                    victim = servers[kill // 2 % 2]
                    await asyncio.to_thread(victim.kill)
                    await asyncio.to_thread(victim.restart)
        finally:
            changing = False
            await changes
        whole = await asyncio.to_thread(told, servers[0].target)
        await receiver.has(whole[-1][0])
        assert await process.stop() == 0
    first = arrived(receiver)
    expected = [each for each in whole if each[0] >= first[0][0]]
    assert len(expected) > KILLS
    assert first[: len(expected)] == expected
    assert receiver.refused == 0


def lay_backlog(server: Server) -> None:
    """Revokes clusters again and again in the store of a server that does not run."""
    names = [f"tenant-{number:03}" for number in range(CLUSTERS)]
    store = open_store(f"sqlite:///{server.store}", None, clock=SystemClock())
    try:
        for result in store.apply([enabling(a_cluster(name)) for name in names]):
            assert not isinstance(result, Exception)
        event = an_event("rpc:cluster:revoke")
        for _ in range(ROUNDS):
            group = [Change(name, revoked(name, (), 0), event) for name in names]
            for result in store.apply(group):
                assert not isinstance(result, Exception)
    finally:
        store.close()


@pytest.mark.timeout(180)
async def test_a_day_without_a_relay_is_caught_up_with(server: Server, receiver: Receiver) -> None:
    """S11: eight thousand events that waited arrive, in order, though a kill cuts that short."""
    process = relay(receiver, server.target, batch=250)
    async with running(process):
        # The cursor is there from the relay's first run on; what happens from then on waits at it.
        await receiver.came()
        assert await process.stop() == 0
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(lay_backlog, server)
    await asyncio.to_thread(server.restart)
    with server.client() as client:
        [cursor] = await asyncio.to_thread(client.list_cursors)
    waited = CLUSTERS * (ROUNDS + 1)
    assert cursor.behind >= waited
    async with running(process):
        await receiver.has(cursor.number + waited // 3)
        await process.kill()
        taken = len(receiver.numbers)
        await process.start()
        await receiver.has(cursor.number + cursor.behind)
        assert await process.stop() == 0
    # The kill came in the middle: neither relay carried all of it.
    assert waited // 3 < taken < waited
    whole = await asyncio.to_thread(told, server.target)
    assert len(whole) > waited
    assert arrived(receiver)[: len(whole)] == whole
    assert receiver.refused == 0
