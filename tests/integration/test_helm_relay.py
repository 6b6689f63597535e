"""The relay of the chart: it takes its file, and there is never a second one."""

from __future__ import annotations

from pathlib import Path

import pytest

from helm import BUILDS, documented, found, pods
from keyfold_relay.config.reading import load as load_relay

pytestmark = pytest.mark.timeout(BUILDS)


def test_the_relay_takes_its_file(tmp_path: Path) -> None:
    """The relay reads the file that the chart makes, and listens where it is probed."""
    manifests = documented()["vault"]
    file = tmp_path / "relay.toml"
    file.write_text(found(manifests, "ConfigMap", "keyfold-relay")["data"]["relay.toml"])
    load_relay(file)
    container = dict(pods(manifests))["relay"]["containers"][0]
    (port,) = container["ports"]
    assert f'monitoring = "0.0.0.0:{port["containerPort"]}"' in file.read_text()
    assert found(manifests, "Deployment", "keyfold-relay")["spec"]["strategy"]["type"] == "Recreate"
