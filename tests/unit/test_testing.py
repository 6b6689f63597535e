"""`keyfold.testing`: a real server for the tests of applications."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

import keyfold
import keyfold.testing

ALWAYS_ASKS: Final = keyfold.RegionPolicy(timedelta(0), timedelta(0))


@pytest.fixture(name="server")
def server_fixture() -> Iterator[keyfold.testing.Server]:
    """A server with the cluster prod."""
    with keyfold.testing.Server() as server:
        server.enable("prod", "eu", "us")
        yield server


def listens(target: str) -> bool:
    """Returns whether somebody listens on an address."""
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_revocation(server: keyfold.testing.Server) -> None:
    """What the server does is what it does in production: a revoked key opens nothing."""
    key = server.client.generate_data_key("prod", "eu")
    server.revoke("prod", "eu")
    with pytest.raises(keyfold.RevokedError):
        server.client.unwrap("prod", key.wrapped_key)
    server.client.generate_data_key("prod", "us")
    server.revoke("prod")
    with pytest.raises(keyfold.RevokedError):
        server.client.generate_data_key("prod", "us")
    server.restore("prod")
    assert server.client.unwrap("prod", key.wrapped_key).plaintext == key.plaintext


def test_an_outage_is_no_revocation(server: keyfold.testing.Server) -> None:
    """Keys in memory serve on; what needs the KMS could not be told, and works again at once."""
    server.enable("strict", "eu", policy=ALWAYS_ASKS)
    warm = server.client.generate_data_key("prod", "eu")
    cold = server.client.generate_data_key("strict", "eu")
    with server.outage():
        assert server.client.unwrap("prod", warm.wrapped_key).plaintext == warm.plaintext
        with pytest.raises(keyfold.CouldNotTellError):
            server.client.unwrap("strict", cold.wrapped_key)
        with pytest.raises(keyfold.CouldNotTellError):
            server.enable("late", "eu")
    assert server.client.unwrap("strict", cold.wrapped_key).plaintext == cold.plaintext


def test_a_customers_refusal(server: keyfold.testing.Server) -> None:
    """A root key that its customer disables stops use at once, and works again afterwards."""
    key = server.client.generate_data_key("prod", "eu")
    with server.refusal("prod"), pytest.raises(keyfold.KeyDisabledError):
        server.client.unwrap("prod", key.wrapped_key)
    assert server.client.unwrap("prod", key.wrapped_key).plaintext == key.plaintext


def test_a_cache_hears_of_a_revocation(server: keyfold.testing.Server) -> None:
    """An application's cache and envelope work as on a server of its own."""
    with keyfold.Client(server.target) as client, keyfold.KeyCache(client) as cache:
        envelope = keyfold.Envelope(client, "prod", "eu", cache=cache)
        message = envelope.seal(b"4111")
        assert envelope.open(message) == b"4111"
        server.revoke("prod")
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                envelope.open(message)
            except keyfold.RevokedError:
                return
            time.sleep(0.01)
    pytest.fail("the cache goes on")


async def test_an_asynchronous_application(server: keyfold.testing.Server) -> None:
    """A client for asyncio on the test's own event loop reaches the server."""
    async with keyfold.AsyncClient(server.target) as client:
        key = await client.generate_data_key("prod", "eu")
        async with client.watch(["prod"]) as watch:
            server.revoke("prod")
            async for message in watch:
                if isinstance(message, keyfold.ClusterState) and all(
                    region.state is keyfold.State.REVOKED for region in message.regions
                ):
                    break
        with pytest.raises(keyfold.RevokedError):
            await client.unwrap("prod", key.wrapped_key)


def test_any_number_side_by_side() -> None:
    """Servers do not know of each other, though their clusters have the same names."""

    def alone(_: int) -> str:
        with keyfold.testing.Server() as server:
            server.enable("prod", "eu")
            key = server.client.generate_data_key("prod", "eu")
            server.revoke("prod")
            with pytest.raises(keyfold.RevokedError):
                server.client.unwrap("prod", key.wrapped_key)
            return server.target

    with ThreadPoolExecutor(4) as threads:
        targets = list(threads.map(alone, range(6)))
    assert not any(listens(target) for target in targets)


def test_nothing_stays_behind() -> None:
    """The end of the block frees the port, ends the threads and removes the store."""
    with keyfold.testing.Server() as server:
        server.enable("prod", "eu")
        target, running = server.target, server._running
        assert running is not None
        folder = running.folder
        assert folder.is_dir()
    assert not listens(target)
    assert not folder.exists()
    assert "keyfold-testing" not in {thread.name for thread in threading.enumerate()}
    for use in (lambda: server.target, lambda: server.client, lambda: server.revoke("prod")):
        with pytest.raises(keyfold.ClosedError, match="block of a `with`"):
            use()


def test_a_failing_test_ends_it() -> None:
    """A test that fails inside the block leaves nothing behind, either."""
    targets = []

    def test() -> None:
        with keyfold.testing.Server() as server:
            targets.append(server.target)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        test()
    assert not listens(targets[0])


def test_a_program_that_ends_in_the_block(tmp_path: Path) -> None:
    """A program that exits in the middle ends at once, and removes the store."""
    program = (
        "import sys, keyfold.testing\n"
        "server = keyfold.testing.Server().__enter__()\n"
        "server.enable('prod', 'eu')\n"
        "print(server._running.folder, flush=True)\n"
        "sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert not Path(done.stdout.strip()).exists()


_FORKS = """
import os, sys, time
import keyfold.testing

with keyfold.testing.Server() as server:
    server.enable("prod", "eu")
    server.client.get_status("prod")
    child = os.fork()
    if not child:
        said = 0
        for use in (
            lambda: server.client.get_status("prod"),
            lambda: server.revoke("prod"),
            lambda: server.outage().__enter__(),
        ):
            try:
                use()
            except keyfold.ForkedError:
                said += 1
        server.__exit__(None, None, None)
        os._exit(said)
    until = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
        time.sleep(0.02)
    if ended[0] != child:
        os.kill(child, 9)
        sys.exit("the child hangs")
    print(os.waitstatus_to_exitcode(ended[1]), server.client.get_status("prod").cluster)
"""


def test_a_forked_child_says_what_to_do() -> None:
    """A child neither hangs nor ends its parent's server, which serves on.

    A program of its own forks. A fork of the tests' process would inherit what thousands of tests
    have left in it, and collecting that in the child can crash inside gRPC, which does not support
    forks of a process that has used it.
    """
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _FORKS],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "3 prod\n"), done.stderr


_WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("sqlalchemy", "alembic", "pydantic_settings", "structlog"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Absent())
import keyfold.testing
try:
    keyfold.testing.Server().__enter__()
except ImportError as error:
    print(error)
"""


def test_without_the_extra_it_says_one_line() -> None:
    """Where the server is not installed, the error says what to install."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout == (
        "keyfold.testing runs the server, which is an extra: pip install 'keyfold[server]'\n"
    )


def test_the_client_loads_no_server() -> None:
    """Importing the client, and even `keyfold.testing`, loads nothing of the server."""
    program = "import sys, keyfold, keyfold.testing; print('keyfold_server' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout == "False\n"
