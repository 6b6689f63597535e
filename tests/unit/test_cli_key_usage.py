"""`keyfold key-usage` and the client's calls: what a person reads before disabling a root key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.json_format import Parse

import keyfold
from cli_runner import Cli
from keyfold.v1 import key_management_service_pb2 as api
from served import Served, served

START = datetime(2027, 1, 15, 8, tzinfo=UTC)
"""The time at which the server's clock stands."""

OLD = keyfold.KeySelector(uri="local:acme")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod under local:acme in eu and us."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def _lines(cli: Cli, *args: str) -> list[str]:
    ran = cli("key-usage", *args)
    assert ran.code == 0, ran.err
    return [" ".join(line.split()) for line in ran.out.decode().splitlines() if line.strip()]


def _needed(cli: Cli) -> list[str]:
    """Returns what each use is needed for."""
    return [line.split()[4] for line in _lines(cli, "local:acme") if line.startswith("prod")]


def test_a_key_in_use(cli: Cli, server: Served) -> None:
    """The answer comes first, then why, then a line for each generation that needs the key."""
    server.clock.advance(60)
    lines = _lines(cli, "local:acme")
    assert lines[:3] == [
        "safe to disable: no",
        "it opens 2 generations of enabled regions: callers use them",
        "each backup and export since 2027-01-15T08:00:00Z holds wraps that only it opens",
    ]
    assert lines[3] == "CLUSTER REGION STATE GENERATION NEEDED FOR SINCE UNTIL VERSION KEY"
    shown = "prod eu ENABLED 1 use 2027-01-15 08:00:00Z - 1 LOCAL local:acme"
    assert lines[4:] == [shown, shown.replace("eu", "us")]


def test_away_from_a_key(cli: Cli, server: Served) -> None:
    """Each line says what needs the key; in the end only backups do."""
    server.clock.advance(3_600)
    for command in (
        ("rotate", "prod", "--region", "eu=LOCAL,local:b", "--new-generation"),
        ("rotate", "prod", "--region", "us", "--new-generation"),
        ("retire-generation", "prod", "--region", "us", "--generation", "1", "--yes"),
    ):
        assert cli(*command).code == 0
    assert _needed(cli) == ["backups", "backups", "rotation", "use"]
    assert cli("revoke", "prod", "--region", "us", "--yes").code == 0
    assert _needed(cli) == ["backups", "backups", "restore", "restore"]
    assert cli("restore", "prod").code == 0
    assert cli("rotate", "prod", "--region", "us=LOCAL,local:b").code == 0
    lines = _lines(cli, "local:acme")
    assert lines[0] == "safe to disable: yes"
    assert lines[2].startswith("do not delete it: backups and exports taken from 2027-01-15T08:")
    assert set(_needed(cli)) == {"backups"}


def test_questions(cli: Cli) -> None:
    """Version, principal and holder narrow the question; the command refuses an empty one."""
    assert "no wrap under it" in _lines(cli, "local:acme", "--version", "2")[1]
    assert _lines(cli, "--principal", "ambient")[0] == "safe to disable: no"
    assert _lines(cli, "--holder", "nobody")[0] == "safe to disable: yes"
    ran = cli("key-usage")
    assert ran.code == 2
    assert "give the root key's uri, --principal or --holder" in ran.err
    for wrong, reason in (
        (("--version", "1", "--holder", "x"), "INVALID_SELECTOR"),
        (("arn:x",), "INVALID_KEY_SPEC"),
    ):
        ran = cli("key-usage", *wrong)
        assert ran.code == 2
        assert f"({reason})" in ran.err


def test_pages_and_limits(cli: Cli, server: Served) -> None:
    """The command and the client read all pages; --limit says that there are more."""
    with keyfold.Client(server.target) as client:
        for name in ("a", "b", "c"):
            client.enable(name, [keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:acme"))])
        places = [(use.cluster, use.region) for use in client.list_key_usage(OLD, page_size=2)]
        assert places == [("a", "eu"), ("b", "eu"), ("c", "eu"), ("prod", "eu"), ("prod", "us")]
        assert len(server.requests["ListKeyUsage"]) == 3
        usage = client.key_usage(OLD, page_size=2)
    assert [use.cluster for use in usage.uses] == ["a", "b"]
    assert (usage.total, usage.hidden, usage.safe_to_disable) == (5, 0, False)
    lines = _lines(cli, "local:acme", "--limit", "3")
    assert lines[-1] == "there are more, 5 in all; raise --limit"
    assert len([line for line in lines if "LOCAL" in line]) == 3
    whole = api.ListKeyUsageResponse()
    Parse(cli("key-usage", "local:acme", "--limit", "0", "--json").out, whole)
    assert (len(whole.uses), whole.total, whole.next_page_token) == (5, 5, "")
    assert whole.HasField("safe_to_disable")


def test_a_use_has_all_its_fields(server: Served) -> None:
    """The client's values say what the server said."""
    with server.client() as client:
        server.clock.advance(60)
        client.rotate("prod", [keyfold.RegionSpec("eu", keyfold.KeySpec("LOCAL", "local:b"))])
        server.clock.advance(60)
        usage = client.key_usage(OLD)
        status = client.get_status("prod")
    old, current = usage.uses
    assert (old.region, old.superseded, old.newest, old.retired) == ("eu", True, True, False)
    assert old.create_time == START
    assert old.supersede_time == START + timedelta(seconds=60)
    assert (old.type, old.uri, old.auth_principal) == ("LOCAL", "local:acme", "")
    assert (current.region, current.superseded, current.supersede_time) == ("us", False, None)
    assert current.organization == "acme"
    assert current.state is keyfold.State.ENABLED
    assert current.kek_id == status.regions[1].generations[0].kek_id
    assert usage.backups_need_since == START
    assert usage.backups_need_until is None
    assert (usage.not_authentic, usage.banned) == ((), ())
