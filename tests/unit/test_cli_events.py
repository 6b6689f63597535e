"""`keyfold events`: what happened is shown, exported and verified."""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli_runner import Cli, Ran
from served import Served, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


Run = Callable[..., Ran]


@pytest.fixture
def cli(server: Served) -> Run:
    """Runs the command on that server, and checks its exit code."""
    command = Cli(server.target)

    def run(*arguments: str, code: int = 0) -> Ran:
        ran = command(*arguments)
        assert ran.code == code, (ran.out, ran.err)
        return ran

    return run


def _edit(server: Served, statement: str, *values: object) -> None:
    """Edits the store with SQL, as its administrator can."""
    with closing(sqlite3.connect(server.keyfold.store)) as file, file:
        file.execute(statement, values)


def test_list_shows_what_happened(cli: Run) -> None:
    """Events are listed newest first, or oldest first, with who, what, on what and why."""
    cli("revoke", "prod", "--yes", "--reason", "contract ended", "--region", "eu")
    lines = [line.split() for line in cli("events", "list").out.decode().splitlines()]
    lines = [line for line in lines if line and line[0].isdigit()]
    assert [line[0] for line in lines] == ["2", "1"]
    assert lines[0][3:] == ["rpc:cluster:revoke", "prod/eu", "done", "local", "contract", "ended"]
    oldest = cli("events", "list", "--oldest-first", "--limit", "1").out.decode()
    assert "rpc:cluster:enable" in oldest
    assert "there may be more" in oldest
    assert cli("events", "list", "--refused").out.decode() == "no events\n"


def test_a_list_is_narrowed(cli: Run, server: Served) -> None:
    """Each option narrows the list, and a wrong value is refused before any call."""
    cli("revoke", "prod", "--yes")
    server.clock.advance(7_200)

    def numbers(*options: str) -> list[int]:
        shown = json.loads(cli("events", "list", "--json", *options).out)
        return [int(event["number"]) for event in shown["events"]]

    assert numbers("--cluster", "prod") == [2, 1]
    assert numbers("--cluster", "none") == numbers("--organization", "none") == []
    assert numbers("--organization", "acme", "--action", "rpc:cluster:revoke") == [2]
    assert numbers("--key-uri", "local:acme", "--kind", "decision") == [2, 1]
    assert numbers("--caller", "local", "--outcome", "done", "--limit", "1") == [2]
    assert numbers("--since", "2027-01-15T08:00:00Z") == [2, 1]
    assert numbers("--until", "2027-01-15T08:00:00Z") == []
    for options in (("--since", "soon"), ("--kind", "party")):
        assert cli("events", "list", *options, code=2).err.startswith("error: --")


def test_show_tells_everything(cli: Run) -> None:
    """One event is shown with its request and its decision; an unknown number is not found."""
    cli("revoke", "prod", "--yes", "--reason", "contract ended", "--request-id", "r-9")
    shown = cli("events", "show", "2").out.decode()
    for part in ("rpc:cluster:revoke", "contract ended", "r-9", "loopback", "REVOKED"):
        assert part in shown
    message = json.loads(cli("events", "show", "2", "--json").out)
    assert message["detail"]["decision"]["regions"]["eu"]["state"] == "REVOKED"
    assert "no event 7" in cli("events", "show", "7", code=3).err
    assert "no event" in cli("events", "show", str((1 << 63) - 1), code=3).err
    assert "number" in cli("events", "show", str(1 << 63), code=2).err


def test_status_says_who_revoked(cli: Run) -> None:
    """With --verbose, status says of each revoked region who revoked it, when and why."""
    cli("revoke", "prod", "--yes", "--region", "eu", "--reason", "key leaked")
    cli("revoke", "prod", "--yes", "--region", "us", "--reason", "contract ended")
    shown = cli("status", "prod", "--verbose").out.decode().splitlines()
    assert shown[-2:] == [
        "eu: revoked 2027-01-15 08:00:00Z by local, event 2: key leaked",
        "us: revoked 2027-01-15 08:00:00Z by local, event 3: contract ended",
    ]
    assert "revoked 2027" not in cli("status", "prod").out.decode()


def test_status_says_who_banned(cli: Run, server: Served) -> None:
    """A6: of a cluster that was revoked although its rows were edited, --verbose says as much."""
    _edit(server, "UPDATE clusters SET epoch = 7")
    cli("revoke", "prod", "--yes", "--reason", "the rows were edited")
    shown = cli("status", "prod", "--verbose", code=4).out.decode().splitlines()
    assert shown == [
        "prod: revoked 2027-01-15 08:00:00Z by local, event 2: the rows were edited",
    ]
    assert not cli("status", "prod", code=4).out


def test_verify_names_the_first_broken_link(cli: Run, server: Served) -> None:
    """A3: the log verifies, and an entry that was edited with SQL is named by its number."""
    cli("revoke", "prod", "--yes")
    cli("restore", "prod")
    good = cli("events", "verify").out.decode()
    assert "verified entries 1 to 3: each is the one that Keyfold wrote" in good
    assert "rollback not excluded" in good
    _edit(server, "UPDATE log SET outcome = 'unchanged' WHERE number = 2")
    bad = cli("events", "verify", code=1).out.decode()
    assert "broken at entry 2" in bad
    assert "the entries up to 1 are the ones that Keyfold wrote" in bad
    told = json.loads(cli("events", "verify", "--json", code=1).out)
    assert told["broken"]["number"] == "2"


def test_an_anchor_excludes_rollback(cli: Run, server: Served, tmp_path: Path) -> None:
    """A3: anchors kept elsewhere show a rollback, and what else is wrong with a line is said."""
    kept = tmp_path / "anchors"
    with kept.open("ab") as file:
        file.write(cli("events", "anchor").out)
        cli("revoke", "prod", "--yes")
        file.write(cli("events", "anchor").out)
    good = cli("events", "verify", "--anchor", str(kept)).out.decode()
    assert "not rolled back behind entry 2" in good
    # Whoever can write the store puts the log's older end back.
    line = kept.read_text().splitlines()[1]
    kept.write_text(f"{line[:-1]}{'0' if line[-1] != '0' else '1'}\nnonsense\n")
    forged = cli("events", "verify", "--anchor", str(kept), code=1).out.decode()
    assert "anchor 1: Keyfold did not sign this line as it stands" in forged
    assert "anchor 2: this line is not an anchor" in forged
    assert "rollback not excluded: no anchor names an entry that the log still has" in forged
    kept.write_text("\n")
    assert "has no anchor" in cli("events", "verify", "--anchor", str(kept), code=2).err


def test_an_export_goes_on_where_it_ended(cli: Run, server: Served, tmp_path: Path) -> None:
    """An export appends what is new, mends a line that a crash cut, and refuses another store."""
    out = tmp_path / "events.jsonl"

    def numbers() -> list[int]:
        return [int(json.loads(line)["number"]) for line in out.read_text().splitlines()]

    cli("revoke", "prod", "--yes")
    cli("events", "export", "--out", str(out))
    assert numbers() == [1, 2]
    assert cli("events", "export").out == out.read_bytes()
    cli("restore", "prod")
    with out.open("ab") as file:
        file.write(b'{"number": "3", "id')
    cli("events", "export", "--out", str(out))
    assert numbers() == [1, 2, 3]
    cli("events", "export", "--out", str(out))
    assert numbers() == [1, 2, 3]
    changed = json.loads(out.read_text().splitlines()[-1]) | {"id": "00" * 16}
    out.write_text(json.dumps(changed) + "\n")
    assert "the store is another one" in cli("events", "export", "--out", str(out), code=2).err
    out.write_text("no event\n")
    assert "does not hold events" in cli("events", "export", "--out", str(out), code=2).err


def test_two_exports_do_not_share_a_file(cli: Run, tmp_path: Path) -> None:
    """While one command continues a file another is refused, or each event would come twice."""
    out = tmp_path / "events.jsonl"
    cli("events", "export", "--out", str(out))
    before = out.read_bytes()
    with out.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another command" in cli("events", "export", "--out", str(out), code=2).err
    assert out.read_bytes() == before
