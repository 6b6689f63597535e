"""docs/go.md keeps its promises: its program runs, and its lists are those of the client."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import pages
from clients import golang
from e2e.server import KEYS, ROOT, clean_environment, make

PAGE: Final = (ROOT / "docs" / "go.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.timeout(golang.BUILD)


def test_the_ten_lines(tmp_path: Path) -> None:
    """Whoever pastes the page's commands and program gets what the page shows."""
    environment = clean_environment() | golang.environment()
    app, files = tmp_path / "app", tmp_path / "server"
    app.mkdir()
    files.mkdir()
    server = make(files, KEYS, {})
    server.start()
    try:
        server.enable("prod")
        here = {
            "../keyfold/clients/go": str(ROOT / "clients" / "go"),
            "127.0.0.1:7443": server.target,
        }
        pages.assert_runs(
            PAGE, folder=app, environment=environment, here=here, timeout=golang.BUILD
        )
    finally:
        server.kill()


def test_the_page_names_every_call_of_the_data_plane() -> None:
    """The page's list of the data plane's calls is that of the client's two files of them."""
    named = re.findall(r"`(\w+)`", PAGE.partition("as `Plaintext`: ")[2].partition(".")[0])
    sources = [ROOT / "clients" / "go" / name for name in ("data_plane.go", "batches.go")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    calls = re.findall(r"^func \(c \*Client\) ([A-Z]\w+)\(", text, re.MULTILINE)
    assert sorted(named) == sorted(calls)


def test_the_page_names_reasons_and_kinds_that_exist() -> None:
    """Every name of the package that the page uses is one that the package exports."""
    sources = (ROOT / "clients" / "go").glob("*.go")
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    used = set(re.findall(r"keyfold\.([A-Z]\w+)", PAGE))
    assert used
    declared = rf"^(?:func |type |\t)({'|'.join(used)})\b"
    assert set(re.findall(declared, text, re.MULTILINE)) == used
