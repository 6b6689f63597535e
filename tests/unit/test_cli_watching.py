"""`keyfold watch`: lines of states and of events, for people and programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import keyfold
from cli_runner import piped
from in_process import InProcess, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InProcess]:
    """A server with the clusters acme and other."""
    with serving(tmp_path) as running, keyfold.Client(running.target) as client:
        running.provider.create_key("eu")
        for name in ("acme", "other"):
            key = keyfold.KeySpec("FAKE", "fake:eu")
            client.enable(name, [keyfold.RegionSpec("eu", key)])
        yield running


def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


@contextmanager
def watching(server: InProcess, *arguments: str) -> Iterator[Iterator[str]]:
    """Runs the command, and yields its lines; interrupts it at the end of the block."""
    with piped(server.target, "watch", *arguments) as command:
        yield command.out
        code, _, errors = command.interrupt()
        assert (code, errors) == (0, "")


def test_states_as_lines(server: InProcess) -> None:
    """Each cluster is a line at first, and then each change."""
    with watching(server) as lines, keyfold.Client(server.target) as client:
        assert [next(lines).split()[1:4] for _ in range(2)] == [
            ["acme", "eu", "ENABLED"],
            ["other", "eu", "ENABLED"],
        ]
        client.revoke("other")
        line = next(line for line in lines if "REVOKED" in line)
        assert line.split()[1:4] == ["other", "eu", "REVOKED"]


def test_events_as_lines(server: InProcess) -> None:
    """With --events each event is a line: what, whom, how it ended, and who."""
    with watching(server, "--events", "acme") as lines, keyfold.Client(server.target) as client:
        # Events begin with what comes after the call.
        until(lambda: bool(server.replica.watches._running))
        client.revoke("acme", reason="a drill")
        line = next(line for line in lines if "rpc:cluster:revoke" in line)
        assert line.split(None, 3)[3] == "acme (eu)  done  by local: a drill\n"


def test_messages_as_json(server: InProcess) -> None:
    """With --json each message is a line of the contract, with the token to go on from."""
    with watching(server, "--json", "acme", "nothing") as lines:
        acme, nothing, end = (json.loads(next(lines)) for _ in range(3))
        # News of a cluster may come first.
        beat = next(m for m in map(json.loads, lines) if "heartbeat" in m)
    assert (acme["state"]["cluster"], acme["state"]["exists"]) == ("acme", True)
    assert (nothing["state"]["cluster"], nothing["state"]["exists"]) == ("nothing", False)
    assert "snapshot_end" in end
    assert beat["heartbeat"]["max_store_age"] == "120s"
    token = beat["resume_token"]
    with (
        keyfold.Client(server.target) as client,
        watching(server, "--json", "acme", "nothing", "--resume-token", token) as lines,
    ):
        client.revoke("acme")
        state = next(m for m in map(json.loads, lines) if "state" in m)
        assert state["state"]["epoch"] == "1"
