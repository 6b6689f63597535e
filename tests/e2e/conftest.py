"""Real servers for the end-to-end tests.

    def test_something(server):                    # one of its own, with local:eu and local:us
        server.enable("prod")
        with server.client() as client: ...

    def test_other(start_server):                  # with settings, more of them, other keys
        server = start_server(KEYFOLD_CACHE_TTL="0s", keys=("eu",))

See `Server` in server.py for what one can do: `target`, `pid`, `stop()`, `kill()` (SIGKILL),
`restart(**settings)` on the same files and address, `dev_keys("rotate", "eu")`, `cli("status",
"prod")`, `log()`. All are ended after the test. `module_server` is one for all tests of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import pytest

from e2e.server import KEYS, Server, make


class StartServer(Protocol):
    """Starts a server; `ready=False` only prepares it, for tests of a start that fails."""

    def __call__(
        self, *, keys: Iterable[str] = KEYS, ready: bool = True, **settings: str | None
    ) -> Server: ...


def _starter(folders: pytest.TempPathFactory) -> Iterator[StartServer]:
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


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts servers that end with the test."""
    yield from _starter(tmp_path_factory)


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server of the test's own."""
    return start_server()


@pytest.fixture(scope="module")
def start_module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts servers that end with the file's last test."""
    yield from _starter(tmp_path_factory)


@pytest.fixture(scope="module")
def module_server(start_module_server: StartServer) -> Server:
    """One server for all tests of a file."""
    return start_module_server()
