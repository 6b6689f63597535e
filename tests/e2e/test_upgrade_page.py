"""Whoever follows docs/upgrade.md gets what it shows, and finds the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import pages
from e2e.conftest import SharedStore, StartServer
from e2e.server import ROOT
from e2e.test_operations_page import free_port

PAGE: Final = (ROOT / "docs" / "upgrade.md").read_text(encoding="utf-8")
NAMED: Final = sorted(set(re.findall(r"`(tests/[^`]*)`", PAGE)))


@pytest.mark.timeout(360)  # It starts a dozen programs, on a machine that may be busy.
def test_the_page_shows_what_comes_out(
    shared_store: SharedStore, start_server: StartServer, tmp_path: Path
) -> None:
    """S6: with the store migrated and a server ready, what was wrapped before opens."""
    metrics = f"127.0.0.1:{free_port()}"
    server = shared_store.server(start_server, KEYFOLD_METRICS=metrics)
    server.enable("prod")
    (tmp_path / "backup").mkdir()
    pages.assert_runs(
        PAGE,
        folder=tmp_path,
        environment=server.environment,
        here={"/backup/": f"{tmp_path}/backup/", "127.0.0.1:9464": metrics},
    )


@pytest.mark.parametrize("named", NAMED)
def test_every_named_test_exists(named: str) -> None:
    """Whoever follows the page from a promise to its test finds it."""
    path, _, test = named.partition("::")
    assert (ROOT / path).exists()
    assert not test or test in pages.tests_of(ROOT / path)
