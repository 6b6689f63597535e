"""Whoever pastes what README.md or `make serve` shows gets what they show.

README.md is run as `pages` says, in one session of bash in the repository.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import keyfold_server
import pages
from e2e.server import BIN, READY, ROOT, WAIT, clean_environment

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")

DEFAULT_TARGET: Final = "127.0.0.1:7443"
DEFAULT_FOLDER: Final = "~/.local/share/keyfold-dev"

BUILD_GRPCURL: Final = 180.0
"""Seconds that getting grpcurl may take, since the first time it is compiled."""

PASTING: Final = 120.0
"""Seconds that a session of twenty programs may take on a machine that may be busy."""

pytestmark = pytest.mark.timeout(BUILD_GRPCURL + 60)


@dataclass(frozen=True)
class Served:
    """A running `make serve`: its address, its folder, and its output."""

    target: str
    folder: Path
    printed: str


def make(target: str) -> list[str | Path]:
    """Returns the command, run so that it never renews the environment that runs the tests."""
    return ["make", "--no-print-directory", "--old-file=.venv/installed", target]


@pytest.fixture(scope="module")
def grpcurl() -> Path:
    """The folder of grpcurl."""
    found = subprocess.run(
        [ROOT / "scripts" / "grpcurl.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_GRPCURL,
        check=False,
    )
    if found.returncode != 0:
        reason = found.stderr.strip() or "scripts/grpcurl.sh failed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found.stdout.strip()).parent


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`make serve`, on a free port and with a folder of its own; ended as by Ctrl-C."""
    base = tmp_path_factory.mktemp("serve")
    folder = base / "files"
    environment = clean_environment(KEYFOLD_DEV_DIR=str(folder), KEYFOLD_LISTEN="127.0.0.1:0")
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        environment.pop(name, None)
    output, log = base / "output", base / "log"
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            make("serve"),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + WAIT
        while not (ready := re.search(f"^{READY}(.+)$", output.read_text(), re.MULTILINE)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield Served(ready[1], folder, output.read_text())
    finally:
        # Ctrl-C reaches the whole group, which is make and what it became.
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(WAIT)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder in which README's commands find what they name, and which they may write into."""
    folder = tmp_path / "keyfold"
    folder.mkdir()
    (folder / ".venv").symlink_to(BIN.parent)
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def pasting(grpcurl: Path, target: str) -> dict[str, str]:
    """Returns the environment of somebody who pastes commands."""
    environment = clean_environment(KEYFOLD_TARGET=target)
    environment["PATH"] = f"{grpcurl}{os.pathsep}{environment['PATH']}"
    return environment


def test_readme_shows_what_comes_out(served: Served, grpcurl: Path, repository: Path) -> None:
    """Every block of the tour works, one after another, and prints what is shown below it."""
    # `make demo` is run by test_demo.py, and `make serve` is what answers here.
    tour = re.sub(r"^```sh\nmake .*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    pages.assert_runs(
        tour,
        folder=repository,
        environment=pasting(grpcurl, served.target),
        here={DEFAULT_TARGET: served.target, DEFAULT_FOLDER: str(served.folder)},
        timeout=PASTING,
    )


def test_readme_names_the_two_commands() -> None:
    """The first blocks are the two commands, each by itself."""
    assert [text for text, _ in pages.blocks(README)[:2]] == ["make demo\n", "make serve\n"]


def test_readme_blocks_are_all_of_a_kind_that_is_run() -> None:
    """No block is of a language that no test looks at."""
    languages = set(re.findall(r"^```(\w+)$", README, re.MULTILINE))
    assert languages == {"sh", "python", "text", "mermaid"}


def test_readme_links_lead_somewhere() -> None:
    """Every link into the repository has a file at its end."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_has_the_map_of_the_rooms() -> None:
    """README's table of rooms is the map in the server's own docstring."""
    map_of_rooms = re.findall(
        r"^([a-z_][\w, ]*?) {2,}(.+)$", keyfold_server.__doc__ or "", re.MULTILINE
    )
    rows = [
        f"| {', '.join(f'`{name}`' for name in names.split(', '))} | {what} |"
        for names, what in map_of_rooms
    ]
    assert rows
    assert [row for row in rows if row not in README] == []


def test_serve_prints_lines_that_work(served: Served, grpcurl: Path, tmp_path: Path) -> None:
    """The lines that `make serve` prints can be pasted as they stand, anywhere."""
    lines = served.printed.partition("# In another terminal")[2].partition(READY)[0]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"#{lines}"],
        cwd=tmp_path,
        env=pasting(grpcurl, "127.0.0.1:1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PASTING,
        check=False,
    )
    output = done.stdout
    assert done.returncode == 0, output
    for method in ("Enable", "GenerateDataKey", "Unwrap", "GetStatus", "Revoke", "Restore"):
        assert f"KeyManagementService/{method}\n" in lines
    assert "keyfold.v1.KeyManagementService is a service" in output
    assert "STATE_REVOKED" in output
    assert "restored eu, us" in output


def test_serve_keeps_what_was_made(served: Served) -> None:
    """The folder is the caller's, and closed to others."""
    assert served.folder.stat().st_mode & 0o077 == 0
    assert {"keys.json", "keyfold.db"} <= {path.name for path in served.folder.iterdir()}
