"""The promises of deploy/systemd/keyfold@.service, as far as systemd's own tools can tell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from e2e.server import ROOT
from keyfold_server.settings import Settings
from keyfold_server.settings import load as load_settings

UNIT: Final = ROOT / "deploy" / "systemd" / "keyfold@.service"
PAGE: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECTION: Final = PAGE.partition("\n## systemd\n")[2].partition("\n## ")[0]
PROGRAM: Final = "/opt/keyfold/bin/keyfold-server"


def value(name: str) -> str:
    """Returns what the unit says for a name that it has once."""
    (found,) = re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text(encoding="utf-8"))
    return str(found)


@pytest.fixture(name="unit")
def unit_fixture(tmp_path: Path) -> Path:
    """The unit with a program that exists here; skips without systemd, except in CI."""
    if shutil.which("systemd-analyze") is None:
        reason = "systemd-analyze is not installed: apt-get install systemd"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true"))
    return unit


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs systemd-analyze, without a running systemd."""
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def test_systemd_understands_every_line(unit: Path) -> None:
    """`verify` has nothing to say, which it would of an unknown name or value."""
    assert PROGRAM in value("ExecStart")
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=stricts"))
    assert "stricts" in analyze("verify", unit).stderr


def test_the_unit_is_hardened(unit: Path) -> None:
    """Systemd's own measure of what a service could reach stays below 1.5 of 10."""
    done = analyze("security", "--offline=true", "--threshold=15", unit)
    assert done.returncode == 0, done.stdout


def shown(after: str) -> str:
    """Returns the indented block of the section that follows a text."""
    block = re.match(r"[^\n]*\n\n((?:    .*\n)+)", SECTION.partition(after)[2])
    assert block is not None, after
    return re.sub(r"(?m)^    ", "", block[1])


def test_the_instances_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the page are settings of two replicas, for whose drain systemd waits."""
    assert value("Environment") == "KEYFOLD_CONFIG=/etc/keyfold/keyfold.toml"
    assert value("EnvironmentFile") == "/etc/keyfold/%i.env"
    common = tmp_path / "keyfold.toml"
    common.write_text(shown("All instances share"))
    monkeypatch.setenv("KEYFOLD_CONFIG", str(common))

    def instance(name: str) -> Settings:
        for line in shown(f"`/etc/keyfold/{name}.env`").splitlines():
            variable, _, given = line.partition("=")
            monkeypatch.setenv(variable, given)
        return load_settings()

    first, second = instance("a"), instance("b")
    assert first.store == second.store
    assert first.listen != second.listen
    assert first.metrics != second.metrics
    assert int(value("TimeoutStopSec")) > first.drain_grace
    assert int(value("LimitNOFILE")) > first.max_connections
