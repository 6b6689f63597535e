"""The servers of the chart: what they are given, how they spread, start and stop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from helm import BUILDS, CHART, EXAMPLES, ROOT, documented, environment, found, pods
from keyfold_server.access.policy.watcher import read as read_policy
from keyfold_server.settings import load as load_settings
from keyfold_server.settings import unknown_variables

pytestmark = pytest.mark.timeout(BUILDS)


@pytest.mark.parametrize("name", [example.stem for example in EXAMPLES])
def test_the_servers_take_their_settings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings and policy of every example are ones that a server reads, and drain in time."""
    manifests = documented()[name]
    server = dict(pods(manifests))["server"]
    given = environment(server)
    for setting, value in given.items():
        monkeypatch.setenv(setting, value)
    settings = tmp_path / "keyfold.toml"
    settings.write_text(found(manifests, "ConfigMap", "keyfold")["data"]["keyfold.toml"])
    monkeypatch.setenv("KEYFOLD_CONFIG", str(settings))
    loaded = load_settings()
    assert unknown_variables() == []
    container = server["containers"][0]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert server["terminationGracePeriodSeconds"] > pause + loaded.drain_grace
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert given["KEYFOLD_LISTEN"].endswith(f":{ports['grpc']}")
    assert given["KEYFOLD_METRICS"].endswith(f":{ports['metrics']}")
    if not any(m["metadata"]["name"] == "keyfold-policy" for m in manifests):
        return
    policy = tmp_path / "policy.toml"
    policy.write_text(found(manifests, "ConfigMap", "keyfold-policy")["data"]["policy.toml"])
    read_policy(policy)


def test_a_release_of_one_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region's servers serve it alone and know the others' addresses; the default is all."""
    given = environment(dict(pods(documented()["region"]))["server"])
    monkeypatch.setenv("KEYFOLD_SERVES", given["KEYFOLD_SERVES"])
    monkeypatch.setenv("KEYFOLD_SERVED_AT", given["KEYFOLD_SERVED_AT"])
    settings = load_settings()
    values = yaml.safe_load((EXAMPLES[0].parent / "region.yaml").read_text(encoding="utf-8"))
    assert list(settings.serves) == values["serves"]
    assert settings.served_at == values["servedAt"]
    assert len(settings.served_at) > 1
    control = environment(dict(pods(documented()["aws"]))["server"])
    assert control["KEYFOLD_SERVES"] == "*"
    assert "KEYFOLD_SERVED_AT" not in control


def test_they_spread_over_zones_and_leave_one_by_one() -> None:
    """Zones get equal numbers, a release replaces one at a time, and a drain takes one."""
    manifests = documented()["aws"]
    deployment = found(manifests, "Deployment", "keyfold")["spec"]
    zones, nodes = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert zones["topologyKey"] == "topology.kubernetes.io/zone"
    assert (zones["maxSkew"], zones["whenUnsatisfiable"]) == (1, "DoNotSchedule")
    assert zones["nodeTaintsPolicy"] == "Honor"
    assert nodes["topologyKey"] == "kubernetes.io/hostname"
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    budget = found(manifests, "PodDisruptionBudget", "keyfold")["spec"]
    assert budget["maxUnavailable"] == 1 < deployment["replicas"]
    for selector in (zones["labelSelector"], budget["selector"], deployment["selector"]):
        labels = deployment["template"]["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()


def test_they_are_probed_over_http() -> None:
    """Probes ask the two paths of the metrics address, and outlast the 5 seconds of /livez."""
    container = dict(pods(documented()["aws"]))["server"]["containers"][0]
    paths = {
        probe: container[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    for probe in paths:
        assert container[probe]["httpGet"]["port"] == "metrics"
        assert container[probe]["timeoutSeconds"] > 5
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 300


def test_requests_come_from_the_measurement() -> None:
    """What servers, relay and console ask for is what bench/README.md measured."""
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    bench = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    wrap = re.search(r"\| Wrap, 4 x 16, tls \| keyfold on grpc \| ([\d.]+) ", bench)
    memory = re.search(r"20,000 / 25,000 clusters used \| \d+ / (\d+) MiB", bench)
    assert wrap is not None
    assert memory is not None
    resources = yaml.safe_load(values)["resources"]
    assert int(memory[1]) < int(resources["requests"]["memory"].removesuffix("Mi"))
    assert f"{memory[1]} MiB" in values
    assert 0.5 / (float(wrap[1]) / 1e6) > 1_250, "half a core no longer makes 1,300 calls a second"
    for part, measured in {
        "relay": "took (\\d+) MiB at its peak",
        "console": "and (\\d+) MiB at the peak",
    }.items():
        peak = re.search(measured, re.sub(r"\s+", " ", bench))
        assert peak is not None
        asked = yaml.safe_load(values)[part]["resources"]
        assert int(peak[1]) < int(asked["requests"]["memory"].removesuffix("Mi"))
        assert f"{peak[1]} MiB at the peak" in values
