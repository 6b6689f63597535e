"""Whoever pastes what docs/operations.md shows gets what it shows: backup, wipe, restore."""

from __future__ import annotations

import json
import re
import socket
import stat
from pathlib import Path
from typing import Any, Final

import pytest
import typer

import pages
import prometheus
from e2e.conftest import StartServer
from e2e.server import ROOT, Server
from keyfold_console.command import app as console
from keyfold_server.settings import Settings

PAGE: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

# A session starts a dozen programs, on a machine that may be busy.
pytestmark = pytest.mark.timeout(360)


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(name="server")
def server_fixture(start_server: StartServer) -> Server:
    """A server with cluster `prod`, whose service key is not beside its store."""
    server = start_server(ready=False)
    server.settings["KEYFOLD_SERVICE_KEY"] = str(server.folder / "service-key")
    server.start()
    server.enable("prod")
    return server


@pytest.fixture(name="backup")
def backup_fixture(tmp_path: Path) -> Path:
    """A folder for backups."""
    folder = tmp_path / "backup"
    folder.mkdir()
    return folder


def test_the_page_shows_what_comes_out(server: Server, backup: Path, tmp_path: Path) -> None:
    """A4: the drill works as it stands, and opens what was wrapped before."""
    pages.assert_runs(
        PAGE,
        folder=tmp_path,
        environment=server.environment,
        here={
            "/etc/keyfold/service-key": str(server.folder / "service-key"),
            "/backup/": f"{backup}/",
            "/tmp/drill": str(tmp_path / "drill"),
            "127.0.0.1:7444": f"127.0.0.1:{free_port()}",
        },
    )
    assert not (tmp_path / "drill").exists()


def test_after_a_wipe_every_wrapped_key_opens(server: Server, backup: Path) -> None:
    """A4: in place, too, nothing opens before Restore, and every old wrapped key after it."""
    context = {"table": "users"}
    with server.client() as client:
        blobs = [
            client.wrap("prod", region, b"secret", context=context).wrapped_key
            for region in ("eu", "us")
        ]
        server.dev_keys("rotate", "eu")
        server.cli("rotate", "prod", "--region", "eu", "--new-generation")
        blobs.append(client.wrap("prod", "eu", b"secret", context=context).wrapped_key)
    file = backup / "keyfold.jsonl"
    server.command("export", "--out", str(file))
    server.stop()
    for path in server.folder.glob("store.db*"):
        path.unlink()
    assert "prod eu\nprod us\n" in server.command("import", str(file))
    server.restart()
    blob = backup / "wrapped.key"
    blob.write_bytes(blobs[0])
    arguments = ("unwrap", "prod", "--in", str(blob), "--context", "table=users")
    assert "REVOKED" in server.cli(*arguments, code=4)
    server.cli("restore", "prod")
    with server.client() as client:
        for blob_ in blobs:
            assert client.unwrap("prod", blob_, context=context).plaintext == b"secret"


def test_export_beside_a_server_and_to_stdout(server: Server, backup: Path) -> None:
    """S9: an export needs no lock; file and stdout get the same but for the time."""
    server.command("export", "--out", str(backup / "a"))
    assert stat.S_IMODE((backup / "a").stat().st_mode) == 0o600
    told = server.command("export", "--cluster", "prod", "--out", "-").splitlines()
    lines = [json.loads(line) for line in told if line.startswith("{")]
    assert lines[0]["keyfold_export"] == 2
    assert lines[1:-1] == [json.loads(x) for x in (backup / "a").read_text().splitlines()][1:-1]


def test_what_fails_is_one_line(server: Server, backup: Path) -> None:
    """Errors of the two commands are one line and exit code 2, and change nothing."""
    file = backup / "keyfold.jsonl"
    server.command("export", "--out", str(file))
    for arguments, said in (
        (("export", "--out", str(file)), "exists already"),
        (("export", "--cluster", "nope", "--out", "-"), "there is no cluster nope"),
        (("import", str(file)), "another server uses the store"),
        (("import", str(backup / "nope")), "nope: No such file"),
        (("import", str(server.store)), "is not an export of Keyfold"),
    ):
        told = server.command(*arguments, code=2)
        assert told.startswith("error: ")
        assert said in told
        assert told.count("\n") == 1
    server.stop()
    assert "into an empty one" in server.command("import", str(file), code=2)
    file.write_bytes(file.read_bytes()[:-1])
    assert "is not whole" in server.command("import", str(file), code=2)


def test_the_pages_metrics_exist() -> None:
    """Whoever copies a metric's name from the page gets one that exists."""
    known = set(prometheus.series())
    # A histogram is also named without its end.
    known |= {name.removesuffix("_bucket") for name in known} | {"keyfold_probe"}
    named = set(re.findall(r"\bkeyfold_(?!export\b)[a-z_]+", PAGE))
    assert named
    assert named <= known


def test_the_pages_settings_exist() -> None:
    """Every setting that the page names exists, be it the server's, a console's or a client's."""
    known = {f"KEYFOLD_{name.upper()}" for name in Settings.model_fields}
    command: Any = typer.main.get_command(console)
    # The console takes those of a client, too.
    consoles = {one.envvar for one in command.commands["run"].params if one.envvar}
    named = set(re.findall(r"\bKEYFOLD_[A-Z_]+", PAGE))
    assert named <= known | consoles | {"KEYFOLD_CONFIG"}


def test_the_pages_links_lead_somewhere() -> None:
    """Every link to another page has a file at its end."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
