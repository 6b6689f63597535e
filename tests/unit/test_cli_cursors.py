"""`keyfold cursors`: which readers of events are behind, and how one that is gone is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import keyfold
from cli_runner import Cli, on_terminal
from served import Served, read_with, served

DAY = 86_400


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod, and a reader `siem` that has seen its one event."""
    with served(tmp_path) as running:
        with running.client() as client:
            read_with(client, "siem")
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def _rows(cli: Cli, *options: str) -> list[str]:
    lines = cli("cursors", "list", *options).out.decode().splitlines()
    return [" ".join(line.split()) for line in lines]


def test_list_shows_who_is_behind(cli: Cli, server: Served) -> None:
    """Each cursor is shown with its owner, how far it is, how far behind, and when it expires."""
    server.clock.advance(DAY)
    cli("revoke", "prod", "--yes")
    first, last = "2027-01-15 08:00:00Z", "2027-02-14 08:00:00Z"
    heads = "CURSOR CALLER NUMBER BEHIND ADVANCED EXPIRES EXPIRED"
    # It began a second before the watch did, so prod's first event is among those after it.
    assert _rows(cli) == [heads, f"siem local 0 3 {first} {last} no"]
    assert _rows(cli, "-o", "wide") == [
        f"{heads} MADE",
        f"siem local 0 3 {first} {last} no {first}",
    ]
    assert _rows(cli, "-o", "name") == ["siem"]
    assert cli("cursors", "list", "--json").json["cursors"][0]["behind"] == "3"
    assert "behind: '3'" in cli("cursors", "list", "-o", "yaml").out.decode()


def test_an_expired_cursor_says_so_and_is_deleted(cli: Cli, server: Served) -> None:
    """S11: a cursor that expired is marked; once it is deleted, its reader may begin anew."""
    server.clock.advance(31 * DAY)
    now = int(server.clock.wall() * 1000)
    [gone] = server.keyfold.store_of().expire_cursors(now, 30 * DAY * 1000)
    assert gone.key.name == "siem"
    row = _rows(cli)[1]
    assert row.endswith(" yes")
    with server.client() as client:
        with pytest.raises(keyfold.CursorExpiredError):
            read_with(client, "siem")
        assert cli("cursors", "delete", "siem", "--yes").out == b"deleted\n"
        assert cli("cursors", "list").out == b"no cursors\n"
        read_with(client, "siem")
    assert _rows(cli)[1].endswith(" no")


def test_a_wrong_delete_is_refused(cli: Cli) -> None:
    """What does not exist is not found, and a hint says which argument is no name."""
    ran = cli("cursors", "delete", "other", "--yes")
    assert (ran.code, ran.out) == (3, b"")
    assert "CURSOR_NOT_FOUND" in ran.err
    assert cli("cursors", "delete", "siem", "--caller", "jwt:other", "--yes").code == 3
    ran = cli("cursors", "delete", "no name", "--yes")
    assert ran.code == 2
    assert "hint: look at CURSOR" in ran.err
    assert _rows(cli, "-o", "name") == ["siem"]
    assert (
        cli("cursors", "delete", "siem", "--caller", "local", "--yes", "-o", "name").out
        == b"siem\n"
    )


def test_delete_asks_on_a_terminal(server: Served) -> None:
    """On a terminal it asks first, names the cursor and its owner, and leaves it after a no."""
    words = ("cursors", "delete", "siem", "--caller", "local")
    code, seen = on_terminal(server.target, *words, typed="n\n", prompt="[y/N]")
    assert code == 1
    assert "Delete cursor siem of local? Its reader loses its place." in seen
    assert not server.requests["DeleteCursor"]
    assert on_terminal(server.target, *words, typed="y\n", prompt="[y/N]")[0] == 0
