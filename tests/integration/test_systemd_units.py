"""The promises of the units in deploy/systemd, as far as systemd's own tools can tell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from typer.main import get_command

from e2e.server import ROOT
from keyfold.transport.tls import Tls
from keyfold_console.command import app as console_app
from keyfold_console.settings import Settings as ConsoleSettings
from keyfold_relay.config.reading import load as load_relay
from keyfold_server.settings import Settings
from keyfold_server.settings import load as load_settings

UNITS: Final = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SERVER: Final = ROOT / "deploy" / "systemd" / "keyfold@.service"
PAGE: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECTION: Final = PAGE.partition("\n## systemd\n")[2].partition("\n## ")[0]
FOLDER: Final = "/opt/keyfold/bin/"


def value(name: str, unit: Path = SERVER) -> str:
    """Returns what a unit says for a name that it has once."""
    (found,) = re.findall(rf"(?m)^{name}=(.*)$", unit.read_text(encoding="utf-8"))
    return str(found)


@pytest.fixture(name="unit", params=UNITS, ids=lambda unit: unit.name)
def unit_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit with a program that exists here; skips without systemd, except in CI."""
    if shutil.which("systemd-analyze") is None:
        reason = "systemd-analyze is not installed: apt-get install systemd"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    source: Path = request.param
    unit = tmp_path / source.name
    text = source.read_text(encoding="utf-8")
    unit.write_text(re.sub(rf"{FOLDER}\S+", "/bin/true", text))
    return unit


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs systemd-analyze, without a running systemd."""
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def test_systemd_understands_every_line(unit: Path) -> None:
    """`verify` has nothing to say, which it would of an unknown name or value."""
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=stricts"))
    assert "stricts" in analyze("verify", unit).stderr


def test_the_unit_is_hardened(unit: Path) -> None:
    """Systemd's own measure of what a service could reach stays below 1.5 of 10."""
    done = analyze("security", "--offline=true", "--threshold=15", unit)
    assert done.returncode == 0, done.stdout


def test_the_programs_exist() -> None:
    """Each unit starts a program of this project, with a command that it has."""
    for unit in UNITS:
        program, *words = value("ExecStart", unit).removeprefix(FOLDER).split()
        done = subprocess.run(
            [Path(sys.executable).with_name(program), words[0], "--help"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert SECTION.count(unit.name) >= 1, "the page does not name the unit"


def shown(after: str) -> str:
    """Returns the indented block of the section that follows a text."""
    block = re.match(r"[^\n]*\n\n((?:    .*\n|\n(?=    ))+)", SECTION.partition(after)[2])
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


def test_the_relay_and_the_console_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files are ones that they take, they are other users, and systemd waits for them."""
    relay, console = (SERVER.with_name(f"keyfold-{name}.service") for name in ("relay", "console"))
    users = {value("User"), value("User", relay), value("User", console)}
    assert len(users) == 3
    assert value("ExecStart", relay).endswith("run /etc/keyfold-relay/relay.toml")
    file = tmp_path / "relay.toml"
    file.write_text(shown("`/etc/keyfold-relay/relay.toml`"))
    loaded = load_relay(file)
    assert int(value("TimeoutStopSec", relay)) > loaded.relay.drain
    assert value("EnvironmentFile", console) == "/etc/keyfold-console/console.env"
    for line in shown("`/etc/keyfold-console/console.env`").splitlines():
        variable, _, given = line.partition("=")
        monkeypatch.setenv(variable, given)
    run = get_command(console_app).get_command(None, "run")  # type: ignore[attr-defined]
    options = run.make_context("run", []).params
    assert options["target"] == "127.0.0.1:7443"
    settings = ConsoleSettings(
        target=options["target"],
        tls=Tls(options["ca"], options["cert"], options["key"]),
        listen=options["listen"],
        certificate=options["tls_cert"],
        private_key=options["tls_key"],
    )
    assert settings.secure
