"""A failover that lost a revocation: replicas refuse, an operator decides, and they go on.

The commands are those that docs/operations.md shows, run as they stand there.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import keyfold
import postgres
from e2e.conftest import SharedStore, StartServer
from e2e.server import ROOT, Server

WAIT: Final = 30.0
"""Seconds within which a server finds the new primary, at the longest."""

SECTION: Final = "### After a failover that lost changes"


def commands() -> list[list[str]]:
    """Returns the words of each command that the section shows."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.split(f"{SECTION}\n")[1].split("\n## ")[0]
    return [line.split() for line in re.findall(r"^    (\S.*)$", section, re.MULTILINE)]


@dataclass
class Failover:
    """Two servers, and a store whose primary is lost with its last changes.

    Attributes:
        servers: The Keyfold servers.
        lose: Ends the primary and promotes a standby that lags.
        audited: Counts the entries of the log with an action.
    """

    servers: list[Server]
    lose: Callable[[], None]
    audited: Callable[[str], int]


@pytest.fixture
def failover(start_server: StartServer, tmp_path: Path) -> Iterator[Failover]:
    """Gives both servers on a cluster `prod`, which the standby has, too."""
    primary = postgres.Server("15", durable=False)
    standbys: list[postgres.Server] = []
    try:
        primary.start()
        store = SharedStore(primary, tmp_path)
        name = store.url.rpartition("/")[2]
        first = store.server(start_server)
        first.enable("prod")
        standbys.append(primary.standby())
        [standby] = standbys
        standby.stop()
        both = f"host=127.0.0.1:{primary.port}&host=127.0.0.1:{standby.port}"
        store.settings["KEYFOLD_STORE"] = f"postgresql://{postgres.USER}@/{name}?{both}"
        first.restart(KEYFOLD_STORE=store.settings["KEYFOLD_STORE"])
        second = store.server(start_server)

        def lose() -> None:
            primary.stop(signal.SIGQUIT)
            standby.start()
            standby.promote()

        def audited(action: str) -> int:
            ask = f"SELECT count(*) FROM log WHERE action = '{action}'"
            return int(standby.run(ask, name)[0][0])

        yield Failover([first, second], lose, audited)
        for server in (first, second):
            server.kill()
    finally:
        for database in (*standbys, primary):
            database.destroy()


def reason(server: Server) -> str:
    """Wraps a key; returns why that failed, or nothing."""
    with server.client() as client:
        try:
            client.wrap("prod", "eu", b"k" * 32)
        except keyfold.KeyfoldError as error:
            return error.reason
    return ""


def until(server: Server, wanted: str) -> None:
    """Waits until a server's answer is the wanted one."""
    ends = time.monotonic() + WAIT
    while (found := reason(server)) != wanted:
        assert time.monotonic() < ends, found
        time.sleep(0.1)


def until_healthy(server: Server) -> None:
    """Waits until a server says that it serves, which its next poll of the store brings."""
    with grpc.insecure_channel(server.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        ends = time.monotonic() + WAIT
        asked, serving = health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse.SERVING
        while health.Check(asked, timeout=WAIT).status != serving:
            assert time.monotonic() < ends
            time.sleep(0.1)


@pytest.mark.timeout(180)
def test_replicas_go_on_once_an_operator_has_decided(failover: Failover) -> None:
    """S1, R4: after a lost revocation replicas refuse, until an operator has decided."""
    first, second = failover.servers
    first.cli("revoke", "prod", "--yes")
    until(second, "REVOKED")
    failover.lose()
    for server in failover.servers:
        until(server, "STORE_ROLLED_BACK")
        server.command("health", "--target", server.target, code=1)
    explain, decide, revoke = commands()
    assert explain == ["keyfold-server", "reconcile"]
    told = first.command(*explain[1:], code=1)
    assert "The newest entry of the store's log is number 1." in told
    assert "Nothing was done." in told
    assert reason(first) == "STORE_ROLLED_BACK"
    assert failover.audited("command:store:reconcile") == 0
    assert "reconciled at entry 1 of the log;" in first.command(*decide[1:])
    for server in failover.servers:
        until(server, "")
        until_healthy(server)
    assert failover.audited("command:store:reconcile") == 1
    assert revoke[:3] == ["keyfold", "revoke", "prod"]
    first.cli(*revoke[1:])
    assert {reason(server) for server in failover.servers} == {"REVOKED"}


def test_a_store_in_a_file_is_not_reconciled(server: Server) -> None:
    """S1: one server's own file needs a restart alone, and the command says so."""
    server.stop()
    told = server.command("reconcile", "--yes", code=2)
    assert "restart the server" in told
    assert told.count("\n") == 1
