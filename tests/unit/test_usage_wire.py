"""What a server counts of the calls that it answers, as ListUsage shows it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

import keyfold
from cli_runner import Cli
from keyfold.v1 import event_service_pb2 as pb
from keyfold.v1 import event_service_pb2_grpc as service
from keyfold_relay.config.model import Server
from keyfold_relay.source import Usage
from keyfold_relay.source.event_service import EventService
from served import Served, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """Gives a server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


def listed(server: Served, total: int) -> dict[tuple[str, str, str], int]:
    """Lists counts by method, region and outcome, once so many uses have been counted."""
    ends = time.monotonic() + 20
    with grpc.insecure_channel(server.keyfold.target) as channel:
        stub = service.EventServiceStub(channel)
        while True:
            server.keyfold.wait(server.keyfold.replica.usage_recorder.flush())
            counts = stub.ListUsage(pb.ListUsageRequest(cluster="prod"), timeout=9).counts
            if sum(each.count for each in counts) >= total or time.monotonic() > ends:
                assert {(each.organization, each.caller) for each in counts} == {("acme", "local")}
                # The minute may have changed in between, so a count may stand in two parts.
                added = Counter[tuple[str, str, str]]()
                for each in counts:
                    added[each.method, each.region, each.outcome] += each.count
                return dict(added)
            time.sleep(0.05)


def test_every_use_of_a_key_is_counted(server: Served) -> None:
    """Each call and each item of a batch counts once, by region and outcome; nothing else does."""
    with keyfold.Client(server.target) as client:
        blob = client.wrap("prod", "eu", bytes(32)).wrapped_key
        for _ in range(2):
            client.unwrap("prod", blob)
        items = [keyfold.WrapItem(bytes(32), region=region) for region in ("eu", "us", "no", "eu")]
        list(client.batch_wrap("prod", items))
        list(
            client.batch_unwrap("prod", [keyfold.UnwrapItem(blob), keyfold.UnwrapItem(b"garbage")])
        )
        with pytest.raises(keyfold.NotFoundError):
            client.wrap("nobody", "eu", bytes(32))
        client.get_status("prod")
        client.revoke("prod")
        with pytest.raises(keyfold.RevokedError):
            client.unwrap("prod", blob)
    counts = listed(server, 10)
    malformed = {outcome for method, _, outcome in counts if method == "BatchUnwrap"} - {"OK"}
    assert len(malformed) == 1
    assert counts == {
        ("Wrap", "eu", "OK"): 1,
        ("Unwrap", "eu", "OK"): 2,
        ("BatchWrap", "eu", "OK"): 2,
        ("BatchWrap", "us", "OK"): 1,
        ("BatchWrap", "", "REGION_NOT_FOUND"): 1,
        ("BatchUnwrap", "eu", "OK"): 1,
        ("BatchUnwrap", "", malformed.pop()): 1,
        ("Unwrap", "eu", "REVOKED"): 1,
    }


def test_the_client_and_the_command_show_counts(server: Served, tmp_path: Path) -> None:
    """The client yields counts page by page, and the command adds them up as asked."""
    with keyfold.Client(server.keyfold.target) as client:
        for region in ("eu", "us"):
            client.wrap("prod", region, bytes(32))
        listed(server, 2)
        narrow = keyfold.UsageFilter(cluster="prod", span=timedelta(days=1))
        counts = list(client.list_usage(narrow, page_size=1))
        assert [(one.region, one.method, one.count) for one in counts] == [
            ("eu", "Wrap", 1),
            ("us", "Wrap", 1),
        ]
        assert all(one.organization == "acme" for one in counts)
        assert list(client.list_usage(keyfold.UsageFilter(cluster="nobody"))) == []
        with pytest.raises(keyfold.InvalidInputError):
            list(client.list_usage(keyfold.UsageFilter(span=timedelta(seconds=90))))
    cli = Cli(server.keyfold.target)
    ran = cli("usage", "prod", "--span", "24h", "--limit", "1")
    assert ran.code == 0
    lines = [" ".join(line.split()) for line in ran.out.decode().splitlines()]
    assert any(line.endswith("prod eu local Wrap OK 1") for line in lines)
    assert lines[-1].startswith("there are more")
    assert len(cli("usage", "--json").json["counts"]) == 2
    assert cli("usage", "nobody").out == b"no use was counted\n"
    assert cli("usage", "--span", "90s").code == 2


async def test_the_relay_reads_spans_by_the_stores_clock(server: Served) -> None:
    """What a relay holds spans against is the clock by which the server counted, however it is."""
    with keyfold.Client(server.keyfold.target) as client:
        client.wrap("prod", "eu", bytes(32))
    await asyncio.to_thread(listed, server, 1)
    source, now = EventService(Server(target=server.keyfold.target)), server.clock.wall()
    try:
        assert await source.time() == now
        hour = int(now) // 3_600 * 3_600
        # The use is in the minute that the store's clock shows, or in the one before.
        [counted] = await source.usage(hour - 3_600, 7_200, Usage("prod"))
        assert b'"count":"1"' in counted.body
        assert await source.usage(hour + 3_600, 7_200, Usage("prod")) == []
        server.clock.step_wall(-7_200.5)
        assert await source.time() == now - 7_200.5
    finally:
        await source.close()
