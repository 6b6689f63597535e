"""The probe: shows that a revocation works on the live servers, and says when it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import keyfold
from cli_runner import Cli
from keyfold.probe import PREFIX, Step, probe
from served import Served, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """Gives a server with the cluster keyfold-probe under a key of its own."""
    with served(tmp_path) as running:
        with keyfold.Client(running.target) as client:
            key = keyfold.KeySpec("LOCAL", "local:b")
            client.enable(PREFIX, [keyfold.RegionSpec(name, key) for name in ("eu", "us")])
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[keyfold.Client]:
    """Gives a client of that server."""
    with keyfold.Client(server.target) as connected:
        yield connected


@pytest.fixture
def cli(server: Served) -> Cli:
    """Gives the command, set up to call that server."""
    return Cli(server.target)


class Deaf(keyfold.Client):
    """A client of a server that has not heard of the revocation."""

    def unwrap(self, cluster: str, wrapped_key: Any, *args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(keyfold.RevokedError):
            self.opened = super().unwrap(cluster, wrapped_key, *args, **kwargs)
        return self.opened


class Garbling(keyfold.Client):
    """A client of a server that opens a wrapped key to other bytes."""

    def unwrap(self, cluster: str, wrapped_key: Any, *args: Any, **kwargs: Any) -> Any:
        super().unwrap(cluster, wrapped_key, *args, **kwargs)
        return keyfold.Unwrapped(keyfold.Plaintext(bytes(32)), "eu", 1)


def taken(steps: list[Step]) -> list[tuple[str, str]]:
    """Lists the steps, each with its server."""
    return [(step.step, step.server) for step in steps]


def test_a_probe_goes_through_a_revocation(client: keyfold.Client, server: Served) -> None:
    """Every server opens, refuses once the cluster is revoked, and opens once it is restored."""
    with keyfold.Client(server.target) as other:
        steps = probe({"a": client, "b": other})
    assert all(step.passed for step in steps)
    assert taken(steps) == [
        *[("wrap", "a")] * 2,
        *[("unwrap", "a"), ("unwrap", "b")],
        ("revoke", "a"),
        *[("refused", "a"), ("refused", "b")],
        ("restore", "a"),
        *[("served", "a"), ("served", "b")],
    ]
    states = {region.state for region in client.get_status(PREFIX).regions}
    assert states == {keyfold.State.ENABLED}


def test_a_server_that_still_opens_is_a_broken_promise(
    client: keyfold.Client, server: Served
) -> None:
    """A revoked key that opens after the time that Revoke gave is named as a broken promise."""
    with Deaf(server.target) as deaf:
        steps = probe({"a": client, "b": deaf})
    [broken] = [step for step in steps if not step.passed]
    assert (broken.step, broken.server, broken.error) == ("refused", "b", None)
    assert "opened after" in broken.broken


def test_other_bytes_are_a_broken_promise(client: keyfold.Client, server: Served) -> None:
    """A wrapped key that opens to other bytes is a broken promise, too."""
    with Garbling(server.target) as garbling:
        steps = probe({"a": client, "b": garbling})
    assert {step.step for step in steps if step.broken} == {"unwrap", "served"}


def test_a_probe_that_fails_restores_its_cluster(client: keyfold.Client, server: Served) -> None:
    """A server that cannot be asked fails its steps, and the cluster serves again in the end."""
    with keyfold.Client("127.0.0.1:1", timeout=0.2) as away:
        steps = probe({"a": client, "b": away}, within=0.1)
    failed = [step for step in steps if not step.passed]
    assert {step.server for step in failed} == {"b"}
    assert not any(step.broken for step in steps)
    assert {r.state for r in client.get_status(PREFIX).regions} == {keyfold.State.ENABLED}


def test_a_probe_recovers_from_one_that_died(client: keyfold.Client) -> None:
    """A cluster that an earlier probe left revoked is restored first."""
    client.revoke(PREFIX)
    steps = probe({"a": client})
    assert steps[0].step == "recover"
    assert all(step.passed for step in steps)


def test_no_other_cluster_is_revoked(client: keyfold.Client, cli: Cli) -> None:
    """A typo never revokes a customer: only a cluster made for the probe is taken."""
    with pytest.raises(ValueError, match="must begin with keyfold-probe"):
        probe({"a": client}, "prod")
    with pytest.raises(ValueError, match="at least one server"):
        probe({})
    ran = cli("probe", "prod")
    assert ran.code == 2
    assert "must begin with keyfold-probe; prod does not" in ran.err
    assert {r.state for r in client.get_status("prod").regions} == {keyfold.State.ENABLED}


def test_the_command_shows_and_exports_the_steps(cli: Cli, server: Served, tmp_path: Path) -> None:
    """The command prints each step, and writes metrics for a textfile collector."""
    file = tmp_path / "probe.prom"
    with server.beside() as other:
        ran = cli("probe", "--server", other.target, "--metrics", file)
    assert (ran.code, ran.err) == (0, "")
    assert b"refused" in ran.out
    lines = file.read_text().splitlines()
    assert "keyfold_probe_success 1" in lines
    assert "keyfold_probe_broken 0" in lines
    for address in (server.target, other.target):
        place = f'{{step="refused",server="{address}"}}'
        assert any(line.startswith(f"keyfold_probe_step_seconds{place} ") for line in lines)
    ran = cli("probe", "--json")
    assert {step["step"] for step in ran.json["steps"]} >= {"wrap", "revoke", "served"}


def test_each_address_is_checked_once(server: Served) -> None:
    """Each of several addresses is checked by itself, and one that is named twice only once."""
    with server.beside() as other:
        both = f"{server.target},{other.target}"
        ran = Cli(both)("probe", "--server", server.target, "--json")
    asked = [step["server"] for step in ran.json["steps"] if step["step"] == "refused"]
    assert asked == [both, server.target, other.target]


def test_each_server_that_failed_is_named(cli: Cli, server: Served) -> None:
    """Below the table stands a line for each server that failed, with its address."""
    ran = cli("probe", "--server", "127.0.0.1:1", "--within", "0s")
    assert ran.code == 6
    [line] = ran.err.splitlines()
    assert line.startswith("error: 127.0.0.1:1 failed at unwrap: ")
    assert server.target in ran.out.decode()


def test_the_command_says_what_is_wrong(cli: Cli, server: Served, tmp_path: Path) -> None:
    """The exit code is that of the first error; a missing cluster says how to make one."""
    file = tmp_path / "probe.prom"
    ran = cli("probe", f"{PREFIX}-none", "--metrics", file)
    assert ran.code == 2
    assert f"keyfold enable {PREFIX}-none --region" in ran.err
    assert "keyfold_probe_success 0" in file.read_text()
    server.local_keys.disable("b")
    ran = cli("probe", "--within", "0s", "--metrics", file)
    assert ran.code == 5
    assert b"KEY_DISABLED" in ran.out
    assert "keyfold_probe_success 0" in file.read_text()


def test_a_probe_without_an_answer_leaves_no_old_result(
    cli: Cli, server: Served, tmp_path: Path
) -> None:
    """Where even the first server does not answer, the metrics say that the probe failed."""
    file = tmp_path / "probe.prom"
    assert cli("probe", "--metrics", file).code == 0
    assert "keyfold_probe_success 1" in file.read_text()
    assert cli("probe", "--target", "127.0.0.1:1", "--metrics", file).code == 6
    assert "keyfold_probe_success 0" in file.read_text()
    assert 'step="status",server="127.0.0.1:1"' in file.read_text()
