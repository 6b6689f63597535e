"""Whoever follows docs/regions.md gets what it shows, on servers of three kinds on one store."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

import pages
from e2e.conftest import SharedStore, StartServer
from e2e.server import ROOT, Server
from keyfold_server.domain.served_regions import EVERY
from keyfold_server.settings import Settings

PAGE: Final = (ROOT / "docs" / "regions.md").read_text(encoding="utf-8")
TABLE: Final = tomllib.loads(pages.fenced(PAGE, "toml")[0])
PLACES: Final = ",".join(f"{name}={address}" for name, address in TABLE["served_at"].items())

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(name="servers")
def servers_fixture(shared_store: SharedStore, start_server: StartServer) -> dict[str, Server]:
    """A server of eu, one of us and a control replica, by the addresses that the page gives them.

    The regions' servers have the root key of their own region alone.
    """
    found: dict[str, Server] = {}
    whole: dict[str, Any] = {}
    # The control replica's first: it makes the keys.
    for region, address in sorted(TABLE["served_at"].items()):
        settings = {"KEYFOLD_SERVES": region, "KEYFOLD_SERVED_AT": PLACES}
        keys = ("eu", "us") if region == EVERY else ()
        made = start_server(keys=keys, ready=False, **(shared_store.settings | settings))
        if region == EVERY:
            whole = json.loads(made.keys.read_bytes())
        else:
            own = whole | {"keys": {region: whole["keys"][region]}}
            made.keys.touch(0o600)
            made.keys.write_text(json.dumps(own))
        made.start()
        found[address] = made
    return found


def test_the_page_shows_what_comes_out(servers: dict[str, Server], tmp_path: Path) -> None:
    """Wrong and right addresses answer as shown, and every replica confirms a revocation."""
    any_of_them = next(iter(servers.values()))
    pages.assert_runs(
        PAGE,
        folder=tmp_path,
        environment=any_of_them.environment,
        timeout=120,
        here={f"--target {address}": f"--target {one.target}" for address, one in servers.items()},
    )


def test_the_settings_are_ones_that_a_server_takes() -> None:
    """The page's table is a part of a settings file."""
    settings = Settings.model_validate(TABLE)
    assert settings.serves == ("eu",)
    assert set(settings.served_at) == {"eu", "us", "*"}
