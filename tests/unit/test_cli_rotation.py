"""The commands rotate, with its dry run, and retire-generation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import keyfold
from cli_runner import Cli, on_terminal
from fakes import FakeClock
from served import Served, served

SILENT = "host-2 has not confirmed yet; it may go on as before for 3 s"
RETIRE = ("retire-generation", "prod", "--region", "eu", "--generation", "1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def _lines(shown: bytes) -> list[str]:
    return [" ".join(line.split()) for line in shown.decode().splitlines()]


def test_all_regions(cli: Cli, server: Served) -> None:
    """With --all-regions, rotate rotates every region of the cluster under its own key."""
    ran = cli("rotate", "prod", "--all-regions", "--new-generation")
    assert (ran.code, ran.out[:8]) == (0, b"rotated\n")
    [request] = server.requests["Rotate"]
    assert [one.region for one in request.region_specs] == ["eu", "us"]
    assert not any(one.HasField("key_spec") for one in request.region_specs)
    assert not any(one.HasField("policy") for one in request.region_specs)
    assert request.new_generation
    assert not request.validate_only


def test_dry_run_shows_from_and_to(cli: Cli, server: Served) -> None:
    """A dry run tries the keys, shows each region's old and new key, and changes nothing."""
    server.local_keys.rotate("acme")
    before = server.status()
    ran = cli("rotate", "prod", "--all-regions", "--dry-run", "--new-generation")
    assert ran.code == 0
    lines = _lines(ran.out)
    assert lines[0] == "valid; nothing was stored, and the rotation would be:"
    assert "eu LOCAL local:acme, version 1 LOCAL local:acme, version 2 2" in lines
    assert "us LOCAL local:acme, version 1 LOCAL local:acme, version 2 2" in lines
    assert server.requests["Rotate"][0].validate_only
    assert server.status() == before


def test_dry_run_of_one_region(cli: Cli, server: Served) -> None:
    """A dry run shows only the regions to rotate, under both names of the option."""
    server.make_key("arn:b")
    for name in ("--dry-run", "--validate-only"):
        lines = _lines(cli("rotate", "prod", "--region", "eu=AWS_KMS,arn:b,me", name).out)
        assert "eu LOCAL local:acme, version 1 AWS_KMS arn:b as me, version 1 -" in lines
        assert not any(line.startswith("us") for line in lines)
    assert cli("rotate", "prod", "--region", "eu", "--dry-run", "--json").code == 0
    assert len(server.requests["GetStatus"]) == 2


def test_policy_options_keep_the_rest(cli: Cli, server: Served) -> None:
    """Rotate keeps the values of a region's policy that no option sets."""
    with server.client() as client:
        policy = keyfold.RegionPolicy(cache_ttl=timedelta(0))
        client.rotate("prod", [keyfold.RegionSpec("eu", policy=policy)])
    assert cli("rotate", "prod", "--all-regions", "--auto-rotate").code == 0
    eu, us = server.requests["Rotate"][0].region_specs
    assert eu.policy.HasField("cache_ttl")
    assert (eu.policy.auto_rotate, us.policy.auto_rotate) == (True, True)
    assert not us.policy.HasField("cache_ttl")
    assert cli("rotate", "prod", "--region", "eu", "--no-auto-rotate").code == 0
    [eu] = server.requests["Rotate"][1].region_specs
    assert (eu.HasField("policy"), eu.policy.auto_rotate) == (True, False)
    assert eu.policy.HasField("cache_ttl")


# --- generations ---


def test_retire_and_bring_back(cli: Cli, server: Served) -> None:
    """The command retires a generation and brings it back, and shows which replicas confirmed."""
    server.keyfold.add_silent_replica("host-2", stops_within=3)
    cli("rotate", "prod", "--region", "eu", "--new-generation")
    ran = cli(*RETIRE, "--yes", "--reason", "old", "--request-id", "mine")
    assert ran.code == 0
    lines = _lines(ran.out)
    assert lines[0] == "retired generation 1"
    assert lines[-3:-1] == ["confirmed by 1 of 2 replicas", SILENT]
    assert "keyfold operations wait operations/decision/" in lines[-1]
    assert "2, retired 1" in ran.out.decode()
    [request] = server.requests["RetireGeneration"]
    assert (request.region, request.generation, request.reason) == ("eu", 1, "old")
    assert request.request_id == "mine"
    lines = _lines(cli(*RETIRE, "--bring-back").out)
    assert lines[0] == "brought back generation 1"
    assert lines[-1] == SILENT
    assert not server.requests["GetStatus"]


@pytest.mark.parametrize(("number", "code"), [("1", 4), ("7", 3)])
def test_generation_that_cannot_be_retired(cli: Cli, number: str, code: int) -> None:
    """The newest generation and an unknown one cannot be retired, each with a reason of its own."""
    ran = cli("retire-generation", "prod", "--region", "eu", "--generation", number, "--yes")
    assert ran.code == code
    assert ("GENERATION_IN_USE" if code == 4 else "GENERATION_NOT_FOUND") in ran.err


def test_retiring_asks_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal the command shows the last use, warns if it is recent, and asks."""
    clock = FakeClock(1_700_000_000)
    with served(tmp_path, clock=clock) as server:
        wrapped = Cli(server.target)("wrap", "prod", "--region", "eu", stdin=b"k").out
        Cli(server.target)("rotate", "prod", "--region", "eu", "--new-generation")
        code, seen = on_terminal(server.target, *RETIRE, typed="n\n", prompt="[y/N]")
        assert code == 1
        assert "generation 1 of region eu was last used: 2023-11-14 22:13:20Z" in seen
        assert "warning" not in seen
        clock.step_wall(time.time() - 3600 - clock.wall())
        Cli(server.target)("unwrap", "prod", stdin=wrapped)
        code, seen = on_terminal(server.target, *RETIRE, typed="n\n", prompt="[y/N]")
        assert (code, "warning: that is within the last day" in seen) == (1, True)
        assert not server.requests["RetireGeneration"]
        assert on_terminal(server.target, *RETIRE, typed="y\n", prompt="[y/N]")[0] == 0
        assert on_terminal(server.target, *RETIRE, "--yes")[0] == 0
        assert len(server.requests["RetireGeneration"]) == 2
