"""Scenes of readers of events, of the relay, and of erasures after a jump of the store's clock."""

from __future__ import annotations

import signal
import subprocess
from datetime import timedelta
from functools import partial
from typing import Final

import grpc

import postgres
import relay_process
from counterparts.faults import FaultLayer
from counterparts.messages import Reply
from e2e.alert_scenes.stage import EDITED, Stage, provokes
from e2e.hurried_server import HurriedServer
from e2e.server import clean_environment
from keyfold.v1 import event_service_pb2 as pb
from keyfold.v1 import event_service_pb2_grpc as stubs
from relay_receiver import SECRET

_SHIFTED: Final = """
CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql
AS 'SELECT pg_catalog.clock_timestamp() + (SELECT ms FROM test_time.now) * interval ''1 ms''';
"""


class Clock:
    """The clock of a store in PostgreSQL, which is off by what the scene sets."""

    def __init__(self, database: postgres.Server, name: str) -> None:
        """Takes a database that is a copy of `Server.migrated`."""
        self._database = database
        self._name = name
        database.run("INSERT INTO test_time.now VALUES (0)", name)
        database.run(_SHIFTED, name)

    def shift(self, by: timedelta) -> None:
        """Sets the clock so far off."""
        off = int(by.total_seconds() * 1000)
        self._database.run(f"UPDATE test_time.now SET ms = {off}", self._name)


def clocked(stage: Stage) -> tuple[dict[str, str | None], Clock, str]:
    """Makes a store whose clock can be set; returns its servers' settings, and its database."""
    settings = stage.store(stage.database.migrated)
    name = str(settings["KEYFOLD_STORE"]).rpartition("/")[2]
    return settings, Clock(stage.database, name), name


def take_cursor(server: HurriedServer) -> None:
    """Begins to read events with a cursor `siem`, and goes away."""
    with grpc.insecure_channel(server.target) as channel:
        request = pb.WatchEventsRequest(events=True, cursor="siem")
        next(iter(stubs.EventServiceStub(channel).WatchEvents(request, timeout=30)))


@provokes("KeyfoldCursorLags", "KeyfoldCursorExpired")
def readers(stage: Stage) -> None:
    """A reader of events dies; another one is dead for longer than its cursor lives."""
    settings, clock, _ = clocked(stage)
    clock.shift(timedelta(days=-31))
    server = stage.server(settings)
    take_cursor(server)
    server.enable("prod")
    stage.fires("KeyfoldCursorLags", cursor="siem")
    with stage.runbook("KeyfoldCursorLags", server) as book:
        assert "siem" in book.run()
        book.run(answer="y")
    stage.ends("KeyfoldCursorLags")
    take_cursor(server)
    clock.shift(timedelta())
    stage.fires("KeyfoldCursorExpired")
    assert "cursor siem of local has expired" in server.log()
    with stage.runbook("KeyfoldCursorExpired", server) as book:
        assert "siem" in book.run()
        book.run(answer="y")
    stage.ends("KeyfoldCursorExpired")


@provokes("KeyfoldErasuresPaused", "KeyfoldErasuresDue")
def erasures(stage: Stage) -> None:
    """The store's clock jumps past purge times; one of the clusters was edited, too."""
    settings, clock, name = clocked(stage)
    server = stage.server(settings)
    for cluster in ("prod", "acme"):
        server.enable(cluster)
        with server.client() as client:
            client.wrap(cluster, "eu", b"k")
            client.revoke(cluster)
            client.delete_cluster(cluster, all_regions=True, waiting_period=timedelta(minutes=5))
    stage.until(lambda: turned(stage, name), "no server looked for what is due")
    clock.shift(timedelta(minutes=11))
    stage.fires("KeyfoldErasuresPaused")
    assert "nothing is erased before" in server.log()
    with stage.runbook("KeyfoldErasuresPaused", server) as book:
        book.run()
    edit = "UPDATE clusters SET epoch = epoch + 1 WHERE name = 'acme'"
    stage.database.run(edit, name)
    for minutes in (17, 23):
        # Less than a gap each, so that this begins no other pause.
        before = turned(stage, name)
        clock.shift(timedelta(minutes=minutes))
        stage.until(partial(turned_since, stage, name, before), "no turn")
    stage.ends("KeyfoldErasuresPaused")
    assert "REVOKED" in server.cli("status", "prod")
    stage.fires("KeyfoldErasuresDue")
    assert "cluster acme cannot be erased" in server.log()
    with stage.runbook(EDITED, server, {"prod": "acme"}, first=2) as book:
        book.run(answer="y")
        book.run(answer="y")
    stage.ends("KeyfoldErasuresDue")
    assert "DELETED" in server.cli("status", "acme")


def turned_since(stage: Stage, name: str, before: int) -> bool:
    """Says whether a server has looked since, minutes later by the store's clock."""
    return turned(stage, name) > before + 60_000


def turned(stage: Stage, name: str) -> int:
    """Returns when a server last looked for what is to be erased, by the store's clock."""
    found = stage.database.run("SELECT turned_at FROM erasing", name)
    return int(found[0][0]) if found else 0


@provokes("KeyfoldRelayLags", "KeyfoldRelayStopped")
def relay(stage: Stage) -> None:
    """A target of the relay answers that it is broken, until it is given up."""
    server = stage.server()
    layer = stage.enter(FaultLayer(lambda _: Reply(204)))
    secret = stage.folder / "secret"
    secret.write_text(SECRET)
    table = {
        "kind": "webhook",
        "url": layer.url,
        "secrets": [f"file:{secret}"],
        "allow_addresses": ["127.0.0.1/32"],
    }
    monitoring = f"127.0.0.1:{postgres.free_port()}"
    file = relay_process.write(
        stage.folder,
        {"target": server.target},
        {"siem": table},
        monitoring=monitoring,
        park_after="8s",
    )
    with (stage.folder / "relay.log").open("wb") as log:
        process = subprocess.Popen(
            [relay_process.PROGRAM, "run", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment(),
        )
    try:
        stage.prometheus.scrape("relay-relay", monitoring)
        with layer.answering(Reply(500)):
            server.enable("prod")
            stage.fires("KeyfoldRelayLags", target="siem")
            stage.fires("KeyfoldRelayStopped", target="siem", state="parked")
        with stage.runbook(
            "KeyfoldRelayStopped", server, {"/etc/keyfold/relay.toml": str(file)}
        ) as book:
            assert "siem" in book.run()
        process.send_signal(signal.SIGHUP)
        stage.ends("KeyfoldRelayStopped")
        stage.ends("KeyfoldRelayLags")
    finally:
        process.kill()
        process.wait(30)
