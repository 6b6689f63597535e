"""`keyfold status --watch`: on a terminal, in a pipe, and while the server is away."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cli_runner import Cli, Terminal, piped
from served import Served, served
from wire_errors import UNAVAILABLE, WireError

GONE = WireError(grpc.StatusCode.NOT_FOUND, "CLUSTER_NOT_FOUND", "no cluster prod")
WATCH = ("status", "prod", "--watch", "--interval", "20ms")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


def until(lines: Iterator[str], text: str) -> list[str]:
    """Reads lines up to the first one that contains a text."""
    seen = []
    for line in lines:
        seen.append(line)
        if text in line:
            return seen
    raise AssertionError(f"{text!r} did not come: {seen}")


def test_redraws_on_a_terminal(server: Served) -> None:
    """The watch shows a change; Ctrl-C restores the terminal and leaves the last status on it."""
    with Terminal(server.target, *WATCH) as terminal:
        terminal.until("\x1b[?1049h")
        terminal.until("HEALTHY")
        terminal.until("every 0.02 s; Ctrl-C ends")
        Cli(server.target)("revoke", "prod", "--region", "us", "--yes")
        terminal.until("REVOKED")
        terminal.interrupt()
        assert terminal.end() == 0
        left = terminal.seen.rpartition("\x1b[?1049l")[2]
        assert "REVOKED" in left
        assert "Ctrl-C" not in left
        assert terminal.seen.count("\x1b[?25l") == terminal.seen.count("\x1b[?25h") == 1


def test_server_that_goes_away(server: Served) -> None:
    """The watch says that the server does not answer, and tries until it does."""
    with Terminal(server.target, *WATCH) as terminal:
        terminal.until("Ctrl-C ends")
        server.fail("GetStatus", *[UNAVAILABLE] * 4)
        terminal.until("no answer now: try again (BUSY); trying again")
        terminal.until("Ctrl-C ends")
        terminal.interrupt()
        assert terminal.end() == 0


def test_error_that_does_not_pass(server: Served) -> None:
    """An error that a retry cannot mend ends the watch, and restores the terminal."""
    with Terminal(server.target, *WATCH) as terminal:
        terminal.until("Ctrl-C ends")
        server.fail("GetStatus", GONE)
        assert terminal.end() == 3
        left = terminal.seen.rpartition("\x1b[?1049l")[2]
        assert "error: no cluster prod (CLUSTER_NOT_FOUND)" in left


def test_prints_changes_to_a_pipe(server: Served) -> None:
    """In a pipe the watch prints a table for each change, but not for a mere check or use."""
    with piped(server.target, *WATCH) as command:
        first = until(command.out, "us")
        before = server.status().regions[0]
        server.clock.advance(99)
        with server.client() as client:
            client.wrap("prod", "eu", bytes(32))
        after = server.status().regions[0]
        assert before.last_check_time != after.last_check_time
        assert before.generations[0].last_use_time != after.generations[0].last_use_time
        asked = len(server.requests["GetStatus"])
        server.await_requests("GetStatus", asked + 3)
        Cli(server.target)("revoke", "prod", "--region", "us", "--yes")
        second = until(command.out, "REVOKED")
        code, rest, errors = command.interrupt()
        assert (code, errors) == (0, "")
    assert [line for line in second if line.startswith("prod")] == [
        "prod of acme updated 2027-01-15 08:01:39Z\n"
    ]
    assert "\x1b" not in "".join([*first, *second, rest])


def test_pipe_without_a_server(server: Served) -> None:
    """In a pipe the watch reports an absent server once on stderr, and its return once."""
    with piped(server.target, *WATCH) as command:
        until(command.out, "us")
        server.fail("GetStatus", *[UNAVAILABLE] * 8)
        told = until(command.err, "answers again")
        code, rest, _ = command.interrupt()
        assert code == 0
    assert told == [
        "no answer now: try again (BUSY); trying again\n",
        "the server answers again\n",
    ]
    assert not rest.strip()


def test_json_lines(server: Served) -> None:
    """With --json, each change is one line with the contract's response."""
    with piped(server.target, *WATCH, "--json") as command:
        first = json.loads(command.out.readline())
        Cli(server.target)("revoke", "prod", "--yes")
        second = json.loads(command.out.readline())
        assert command.interrupt()[0] == 0
    states = [[one["state"] for one in seen["status"]["regions"]] for seen in (first, second)]
    assert states == [["STATE_ENABLED"] * 2, ["STATE_REVOKED"] * 2]


def test_first_question_that_fails(server: Served) -> None:
    """If its first call fails, the watch ends with the error's exit code."""
    cli = Cli(server.target)
    assert cli("status", "nope", "--watch").code == 3
    server.fail("GetStatus", *[UNAVAILABLE] * 4)
    assert cli(*WATCH).code == 6


def test_signal_to_end(server: Served) -> None:
    """SIGTERM ends the watch and restores the terminal."""
    with Terminal(server.target, *WATCH) as terminal:
        terminal.until("Ctrl-C ends")
        terminal.terminate()
        assert terminal.end() == 128 + signal.SIGTERM
        assert terminal.seen.count("\x1b[?1049h") == terminal.seen.count("\x1b[?1049l") == 1
