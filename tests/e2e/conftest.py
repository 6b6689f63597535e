"""Real servers for the end-to-end tests.

    def test_something(server):                    # one of its own, with local:eu and local:us
        server.enable("prod")
        with server.client() as client: ...

    def test_other(start_server):                  # with settings, more servers, other keys
        server = start_server(KEYFOLD_CACHE_TTL="0s", keys=("eu",))

See `Server` in server.py for what one can do: `target`, `pid`, `stop()`, `kill()` (SIGKILL),
`restart(**settings)` on the same files and address, `dev_keys("rotate", "eu")`, `cli("status",
"prod")`, `log()`. All are ended after the test. `module_server` is one for all tests of a file.

    def test_many(shared_store, start_server):     # on one PostgreSQL, with the same keys
        one, two = shared_store.servers(start_server, 2)
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

import postgres
import stalls
from e2e.server import KEYS, ROOT, Server, make
from keyfold_server.store.opening import migrate_store


class StartServer(Protocol):
    """Starts a server; `ready=False` only prepares it, for tests of a start that fails."""

    def __call__(
        self, *, keys: Iterable[str] = KEYS, ready: bool = True, **settings: str | None
    ) -> Server: ...


def _starter(
    folders: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[StartServer]:
    servers: list[Server] = []

    def start(*, keys: Iterable[str] = KEYS, ready: bool = True, **settings: str | None) -> Server:
        server = make(folders.mktemp("server"), keys, settings)
        servers.append(server)
        if ready:
            server.start()
        return server

    try:
        yield start
    finally:
        for server in servers:
            if server.running:
                server.kill()
        if request.node.get_closest_marker("stalls") is None:
            stalls.check([stall for server in servers for stall in stalls.logged(server.log())])


@pytest.fixture
def start_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[StartServer]:
    """Starts servers that end with the test."""
    yield from _starter(tmp_path_factory, request)


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server of the test's own."""
    return start_server()


@pytest.fixture(scope="module")
def start_module_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[StartServer]:
    """Starts servers that end with the file's last test."""
    yield from _starter(tmp_path_factory, request)


@pytest.fixture(scope="module")
def module_server(start_module_server: StartServer) -> Server:
    """One server for all tests of a file."""
    return start_module_server()


class SharedStore:
    """A new store in PostgreSQL, and what its servers have in common.

    Attributes:
        url: The database's url.
        settings: The settings that each of its servers starts with.
    """

    def __init__(self, database: postgres.Server, folder: Path) -> None:
        """Makes the store.

        Args:
            database: The PostgreSQL server.
            folder: An empty folder for the service key.
        """
        name = database.create()
        self.url = database.url(name)
        migrate_store(self.url, password_file=database.password_file)
        self.settings: dict[str, str | None] = {
            "KEYFOLD_STORE": self.url,
            "KEYFOLD_STORE_PASSWORD_FILE": str(database.password_file),
            "KEYFOLD_SERVICE_KEY": str(postgres.a_service_key(folder)),
        }

    def server(self, start: StartServer, **settings: str | None) -> Server:
        """Starts one more server; all servers use the first one's dev keys.

        Args:
            start: The fixture that starts servers; it decides when they end.
            **settings: Settings that override the common ones; None removes one.
        """
        prepared = self._prepared(start, settings)
        prepared.start()
        return prepared

    def servers(self, start: StartServer, count: int) -> list[Server]:
        """Starts servers side by side."""
        prepared = [self._prepared(start, {}) for _ in range(count)]
        for server in prepared:
            server.launch()
        for server in prepared:
            server.wait_ready()
        return prepared

    def _prepared(self, start: StartServer, settings: dict[str, str | None]) -> Server:
        keys = () if "KEYFOLD_LOCAL_KEYS" in self.settings else KEYS
        prepared = start(keys=keys, ready=False, **(self.settings | settings))
        self.settings.setdefault("KEYFOLD_LOCAL_KEYS", str(prepared.keys))
        return prepared


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> SharedStore:
    """A store in PostgreSQL for all tests of a file."""
    return SharedStore(postgres.shared("15"), tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def grpcurl() -> str:
    """Returns the path of grpcurl; skips the test if it cannot be downloaded, except in CI."""
    script = ROOT / "scripts" / "grpcurl.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    return done.stdout.strip()
