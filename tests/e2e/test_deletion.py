"""The whole life of a key, to its end and past it: what is gone, what is inherited (D3 to D5)."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc
import pytest

import keyfold
import stalls
from cli_runner import Cli
from e2e.hurried_server import HurriedServer, nursery_of
from e2e.server import KEYS, make
from e2e.wire import refused, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from served import Served, served

KEY: Final = keyfold.KeySpec("LOCAL", "local:a")
ROLE: Final = keyfold.KeySpec(
    "AWS_KMS", "arn:aws:kms:eu-west-1:111122223333:key/1", "arn:aws:iam::111122223333:role/r"
)
AT_ONCE: Final = timedelta(0)

_PATIENCE: Final = 45.0
"""Seconds; the server looks for what is due every three, in place of every minute."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod, whose keys were used."""
    with served(tmp_path) as running:
        with running.client() as client:
            client.wrap("prod", "eu", b"k" * 32)
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[keyfold.Client]:
    """A client of that server."""
    with keyfold.Client(server.target) as connected:
        yield connected


def erase(server: Served) -> None:
    """Lets a minute pass, and the server have its turn to erase what is due."""
    server.clock.advance(60)
    server.keyfold.wait(server.keyfold.replica.erasure.turn())


def specs(*regions: str) -> list[keyfold.RegionSpec]:
    """Returns specs of regions under one key."""
    return [keyfold.RegionSpec(region, KEY) for region in regions]


def test_a_whole_life(client: keyfold.Client, server: Served) -> None:
    """From enable to erasure, and the name used again: nothing of the old cluster comes back."""
    issued = client.get_access_policy(ROLE, cluster="acme").external_id
    first = client.enable("acme", specs("eu", "us"), request_id="e")
    wrapped = client.wrap("acme", "eu", b"k" * 32).wrapped_key
    client.revoke("acme", request_id="r")
    deleted = client.delete_cluster(
        "acme", all_regions=True, waiting_period=AT_ONCE, request_id="d", reason="over"
    )
    assert deleted.status is not None
    assert {str(each.state) for each in deleted.status.regions} == {"DELETED"}
    assert deleted.final_after is not None
    assert deleted.purge_time is not None
    assert deleted.final_after - deleted.purge_time == timedelta(days=30)
    erase(server)

    # It is gone, whatever is asked of it.
    for call in (
        lambda: client.get_status("acme"),
        lambda: client.unwrap("acme", wrapped),
        lambda: client.wrap("acme", "eu", b"k"),
        lambda: client.undelete_cluster("acme"),
        lambda: client.restore("acme"),
        lambda: client.delete_cluster(
            "acme", all_regions=True, waiting_period=AT_ONCE, request_id="d", reason="over"
        ),
    ):
        with pytest.raises(keyfold.ClusterNotFoundError):
            call()
    assert "acme" not in [each.cluster for each in client.list_clusters()]
    found = list(client.list_events(keyfold.EventFilter(cluster="acme"), newest_first=True))
    ended = [each for each in found if each.outcome == "done"][:3]
    assert [each.action for each in ended] == [
        "server:cluster:erase",
        "rpc:cluster:deletecluster",
        "rpc:cluster:revoke",
    ]
    assert ended[0].regions == ("eu", "us")
    assert ended[1].reason == "over"
    generations = [g for region in first.status.regions for g in region.generations]
    told = json.dumps(ended[0].detail)
    assert all(generation.kek_id.hex() in told for generation in generations)

    # Its name is free, and who uses it again begins anew.
    again = client.enable("acme", specs("eu"), request_id="e")
    assert not again.replayed
    with pytest.raises(keyfold.UnknownKekError):
        client.unwrap("acme", wrapped)
    assert client.get_access_policy(ROLE, cluster="acme").external_id != issued
    new = client.wrap("acme", "eu", b"n" * 32).wrapped_key
    revoked = client.revoke("acme", request_id="r")
    assert (revoked.replayed, revoked.superseded) == (False, False)
    client.restore("acme")
    assert client.unwrap("acme", new).plaintext == keyfold.Plaintext(b"n" * 32)
    with pytest.raises(keyfold.NotDeletedError):
        client.undelete_cluster("acme")


def test_one_region_goes(client: keyfold.Client, server: Served) -> None:
    """One region leaves the cluster; the others serve on, and the name can be added again."""
    wrapped = {name: client.wrap("prod", name, b"k" * 32).wrapped_key for name in ("eu", "us")}
    client.revoke("prod", regions=["us"])
    client.delete_cluster("prod", regions=["us"], waiting_period=AT_ONCE)
    erase(server)
    assert [each.region for each in client.get_status("prod").regions] == ["eu"]
    client.unwrap("prod", wrapped["eu"])
    with pytest.raises(keyfold.UnknownKekError):
        client.unwrap("prod", wrapped["us"])
    for call in (
        lambda: client.undelete_cluster("prod", regions=["us"]),
        lambda: client.delete_cluster("prod", regions=["us"]),
        lambda: client.restore("prod", regions=["us"]),
        lambda: client.wrap("prod", "us", b"k"),
    ):
        with pytest.raises(keyfold.RegionNotFoundError):
            call()
    client.add_regions("prod", specs("us"))
    client.wrap("prod", "us", b"k")
    with pytest.raises(keyfold.UnknownKekError):
        client.unwrap("prod", wrapped["us"])


def test_nothing_is_erased_before_its_time_or_after_an_undelete(
    client: keyfold.Client, server: Served
) -> None:
    """D2, D3: the second before the time is time enough, and what is taken back stays."""
    wrapped = client.wrap("prod", "eu", b"k" * 32).wrapped_key
    client.revoke("prod")
    client.delete_cluster("prod", all_regions=True, waiting_period=timedelta(minutes=5))
    for _ in range(4):
        erase(server)
    server.clock.advance(59)
    server.keyfold.wait(server.keyfold.replica.erasure.turn())
    client.undelete_cluster("prod")
    for _ in range(3):
        erase(server)
    client.restore("prod")
    client.unwrap("prod", wrapped)


def test_who_watches_hears_that_it_is_gone(server: Served) -> None:
    """R8: a watch tells DELETED, then a cluster without the region, then that it does not exist."""
    with server.client() as client, client.watch(["prod"]) as watch:
        messages = (m for m in watch if isinstance(m, keyfold.ClusterState))
        states = (
            [(region.region, str(region.state)) for region in state.regions]
            if state.exists
            else None
            for state in messages
        )
        # States are told by level: one that did not change may be told again.
        changes = (state for state, _ in itertools.groupby(states))

        def told() -> list[tuple[str, str]] | None:
            return next(changes)

        assert told() == [("eu", "ENABLED"), ("us", "ENABLED")]
        client.revoke("prod")
        assert told() == [("eu", "REVOKED"), ("us", "REVOKED")]
        client.delete_cluster("prod", regions=["us"], waiting_period=AT_ONCE)
        assert told() == [("eu", "REVOKED"), ("us", "DELETED")]
        erase(server)
        assert told() == [("eu", "REVOKED")]
        client.delete_cluster("prod", all_regions=True, waiting_period=AT_ONCE)
        assert told() == [("eu", "DELETED")]
        erase(server)
        assert told() is None
        client.enable("prod", specs("eu"), organization="acme")
        assert told() == [("eu", "ENABLED")]


def test_the_name_is_free_for_its_organization_alone(
    client: keyfold.Client, server: Served
) -> None:
    """D5: another organization cannot take the name of an erased cluster."""
    client.revoke("prod")
    client.delete_cluster("prod", all_regions=True, waiting_period=AT_ONCE)
    erase(server)
    for organization in ("", "rival"):
        with pytest.raises(keyfold.InvalidInputError):
            client.enable("prod", specs("eu"), organization=organization)
    client.enable("prod", specs("eu"), organization="acme")


def test_the_log_at_the_command_line(server: Served) -> None:
    """`keyfold events` shows deletion and erasure, and an event with all of its details."""
    cli = Cli(server.target)
    cli("revoke", "prod", "--yes")
    cli("delete", "prod", "--all-regions", "--waiting-period", "0s", "--reason", "over", "--yes")
    erase(server)
    assert cli("status", "prod").code == 3
    lines = cli("events", "list", "--cluster", "prod").out.decode().splitlines()
    shown = [line.split() for line in lines if "rpc:cluster:" in line or "server:cluster:" in line]
    assert [words[3] for words in shown][:3] == [
        "server:cluster:erase",
        "rpc:cluster:deletecluster",
        "rpc:cluster:revoke",
    ]
    assert shown[0][4] == "prod/eu,us"
    event = cli("events", "show", shown[0][0]).out.decode()
    assert "removed" in event


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[HurriedServer]:
    """A server process whose rounds of upkeep come sooner."""
    nursery = nursery_of(tmp_path / "odd")
    folder = tmp_path / "server"
    folder.mkdir()
    server = HurriedServer(folder, make(folder, KEYS, {}).settings, nursery=nursery)
    try:
        server.start()
        yield server
    finally:
        nursery.close()
    stalls.check(stalls.logged(server.log()))


def test_a_real_server_erases_by_itself(hurried: HurriedServer) -> None:
    """A server process erases what is due in its next round, and the CLI sees the end of it."""
    server = hurried
    server.enable("prod", ["eu"])
    with server.client() as client:
        wrapped = client.wrap("prod", "eu", b"k" * 32).wrapped_key
    server.cli("revoke", "prod", "--yes")
    said = server.cli("delete", "prod", "--all-regions", "--waiting-period", "0s", "--yes")
    assert "nothing opens what these keys wrapped" in said
    with stubs(server.target) as stub:
        asked = pb.UnwrapRequest(cluster="prod", wrapped_key=wrapped)
        ends = time.monotonic() + _PATIENCE
        while (answer := refused(stub.Unwrap, asked)).reason == "KEY_DELETED":
            assert time.monotonic() < ends
            time.sleep(0.1)
    assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "CLUSTER_NOT_FOUND")
    assert "no clusters" in server.cli("clusters")
    assert "CLUSTER_NOT_FOUND" in server.cli("undelete", "prod", code=3)
    server.enable("prod", ["eu"])
