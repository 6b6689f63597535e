"""`keyfold probe` on several real servers, one of which does not hear of a revocation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import postgres
from e2e.conftest import SharedStore, StartServer
from e2e.server import Server
from proxy import Proxy, Way

STALENESS: Final = 3.0

PROBED: Final = "keyfold-probe"


@dataclass
class Fleet:
    """Three servers on one store, the last of them through a proxy."""

    servers: list[Server]
    proxy: Proxy

    @property
    def addresses(self) -> list[str]:
        """Their addresses."""
        return [server.target for server in self.servers]

    def probe(self, *addresses: str, code: int, metrics: Path) -> tuple[str, dict[str, str]]:
        """Probes servers; returns the output, and what it says of each that failed, by address."""
        first, *others = addresses
        options = [word for each in others for word in ("--server", each)]
        out = self.servers[0].cli(
            *("probe", "--target", first, *options, "--within", "2s", "--metrics", str(metrics)),
            code=code,
        )
        return out, dict(re.findall(r"^error: (\S+) failed at (.*)$", out, re.MULTILINE))


@pytest.fixture(scope="module")
def fleet(start_module_server: StartServer, shared_store: SharedStore) -> Iterator[Fleet]:
    """Gives the servers, with a cluster for the probe."""
    port = postgres.shared("15").port
    shared_store.settings["KEYFOLD_STORE_MAX_STALENESS"] = f"{STALENESS}s"
    with Proxy(port) as proxy:
        servers = shared_store.servers(start_module_server, 2)
        around = shared_store.url.replace(f":{port}/", f":{proxy.port}/")
        servers.append(shared_store.server(start_module_server, KEYFOLD_STORE=around))
        servers[0].enable(PROBED)
        yield Fleet(servers, proxy)
        servers[-1].kill()


def metric(file: Path, name: str) -> float:
    """Reads one value from the metrics of a probe."""
    [value] = re.findall(rf"^{name} (\S+)$", file.read_text(), re.MULTILINE)
    return float(value)


def test_a_revocation_reaches_every_server(fleet: Fleet, tmp_path: Path) -> None:
    """Every address opens, refuses as soon as Revoke has answered, and opens again."""
    file = tmp_path / "probe.prom"
    out, failed = fleet.probe(*fleet.addresses, code=0, metrics=file)
    assert not failed
    for step in ("unwrap", "refused", "served"):
        found = re.findall(rf"^{step} +(\S+) +PASSED", out, re.MULTILINE)
        assert found == fleet.addresses
    assert (metric(file, "keyfold_probe_success"), metric(file, "keyfold_probe_broken")) == (1, 0)


def test_a_server_that_is_cut_off_is_named(fleet: Fleet, tmp_path: Path) -> None:
    """R4: it stops by itself in the time that Revoke gave, and the probe says who has to look."""
    file = tmp_path / "probe.prom"
    fleet.proxy.set(Way.DROP)
    try:
        _, failed = fleet.probe(*fleet.addresses, code=6, metrics=file)
    finally:
        fleet.proxy.set(Way.PASS)
    assert failed.keys() == {fleet.addresses[-1]}
    assert re.fullmatch(
        r"(unwrap|refused): .* \(STORE_(STALE|UNAVAILABLE)\)", failed[fleet.addresses[-1]]
    )
    # It opened nothing once its time was up: no promise was broken.
    assert (metric(file, "keyfold_probe_success"), metric(file, "keyfold_probe_broken")) == (0, 0)


def test_a_server_of_another_deployment_is_an_alert(
    fleet: Fleet, start_server: StartServer, tmp_path: Path
) -> None:
    """A restored copy that nobody took down still opens what was revoked: exit code 10."""
    one, two, _ = fleet.servers
    export, file = tmp_path / "export", tmp_path / "probe.prom"
    one.command("export", "--out", str(export))
    names = ("KEYFOLD_SERVICE_KEY", "KEYFOLD_LOCAL_KEYS")
    copy = start_server(keys=(), ready=False, **{name: one.settings[name] for name in names})
    copy.command("import", str(export))
    copy.start()
    copy.cli("restore", PROBED)
    out, failed = fleet.probe(one.target, two.target, copy.target, code=10, metrics=file)
    assert failed.keys() == {copy.target}
    assert failed[copy.target] == (
        "refused: a revoked key opened after the time that Revoke's answer had given"
    )
    assert out.count("FAILED") == 1
    assert metric(file, "keyfold_probe_broken") == 1
    # One that does not have the cluster at all says that, and breaks no promise.
    stranger = start_server(keys=())
    _, failed = fleet.probe(one.target, stranger.target, code=3, metrics=file)
    assert failed.keys() == {stranger.target}
    assert "(CLUSTER_NOT_FOUND)" in failed[stranger.target]
    assert metric(file, "keyfold_probe_broken") == 0
