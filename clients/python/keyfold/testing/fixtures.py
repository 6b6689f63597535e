"""The server as a fixture of pytest.

A `conftest.py` that wants it says:

    pytest_plugins = ["keyfold.testing.fixtures"]

It is no plugin that pytest finds by itself: that would load the client, and gRPC, in every run of
pytest wherever the package is installed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyfold.testing.server import Server


@pytest.fixture
def keyfold_server() -> Iterator[Server]:
    """A Keyfold server for one test; see `keyfold.testing.Server`."""
    with Server() as server:
        yield server
