"""What counts of use lose when a server ends: nothing in order, and its last minute in a kill."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from e2e.server import KEYS, Server, clean_environment, make
from e2e.wire import stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.service.observed import usage
from lateness import Lateness

FLUSH: Final = 0.5
"""Seconds between two writes of a server whose minute lasts a second."""

KILLS: Final = 3

PROGRAM: Final = f"""
from keyfold_server.service import replica

replica.COUNTS_FLUSH = {FLUSH}

from keyfold_server.__main__ import main

main()
"""
"""keyfold-server, with nothing else in it than the time between two writes of counts."""


class Quick(Server):
    """A server that writes its counts every `FLUSH` seconds."""

    def launch(self) -> None:
        self._starts += 1
        out = self.folder / f"stdout.{self._starts}"
        err = self.folder / f"stderr.{self._starts}"
        with out.open("ab") as stdout, err.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                cwd=self.folder,
                env=clean_environment(**self.settings),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Quick]:
    """Gives a server that writes its counts often."""
    made = make(tmp_path, KEYS, {})
    server = Quick(made.folder, made.settings)
    server.start()
    yield server
    if server.running:
        server.kill()


def counted(server: Server) -> dict[str, int]:
    """Returns the counts by cluster."""
    found: dict[str, int] = {}
    with server.client() as client:
        for one in client.list_usage():
            assert (one.method, one.outcome) == ("Wrap", "OK")
            found[one.cluster] = found.get(one.cluster, 0) + one.count
    return found


def use(server: Server, cluster: str, seconds: float) -> list[float]:
    """Uses a cluster's keys for some time, then kills the server; returns when each use ended.

    The server answered each use before the moment that stands here, on the monotonic clock.
    """
    asked = pb.WrapRequest(cluster=cluster, region="eu", plaintext=b"k" * 32)
    ended = []
    with stubs(server.target) as stub:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            stub.Wrap(asked, timeout=9)
            ended.append(time.monotonic())
            time.sleep(0.002)
        server.kill()
    return ended


def test_a_server_that_stops_loses_no_use(server: Server) -> None:
    """S7: calls that were answered just before SIGTERM are counted, each once."""
    server.enable("prod")
    for _ in range(2):
        with server.client() as client:
            for _ in range(3):
                client.wrap("prod", "eu", b"k" * 32)
        server.restart()
    assert counted(server) == {"prod": 6}


def test_a_kill_loses_no_more_than_the_last_minute(quick: Quick) -> None:
    """S7: what is older than two writes is counted when SIGKILL comes, and nothing twice."""
    assert 2 * usage.FLUSH <= 60
    draw, used, late = random.Random(17), {}, {}
    for kill in range(KILLS):
        name = f"kill-{kill}"
        quick.enable(name)
        with Lateness() as machine:
            used[name] = use(quick, name, 1.5 + draw.random())
            killed = time.monotonic()
        late[name] = killed - 2 * FLUSH - machine.late
        quick.restart()
    found = counted(quick)
    assert found
    for name, ended in used.items():
        old = sum(moment < late[name] for moment in ended)
        assert old <= found.get(name, 0) <= len(ended)
