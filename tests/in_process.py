"""A real Keyfold server in this process: its own code, its own sockets and its own store.

The KMS is a fake that a test can make hang, lie or throttle, and keys in a `LOCAL` key file. The
server listens on a free port or a unix socket, and ends with its block:

    with serving(folder) as server:              # on an event loop in a thread of its own
        server.provider.create_key("eu")         # the root key fake:eu, type FAKE
        with keyfold.Client(server.target) as client: ...

    async with running(folder) as server: ...    # on the event loop of the test
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar, Unpack

import grpc
import pytest

import callers
import new_store
from fakes import FakeProvider
from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.key_names import KeyNames
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.ports import Clock, Heartbeat, Store
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing
from keyfold_server.providers.catalog import Catalog
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.providers.shared.entry import Entry
from keyfold_server.rpc.asgi_server import AsgiServer
from keyfold_server.rpc.grpc_aio import GrpcAio
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.server import Server, Transport
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.replica import Replica
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore

T = TypeVar("T")

TRANSPORT: Final = os.environ.get("KEYFOLD_TEST_TRANSPORT", "grpc")
"""The transport of the tests' servers."""

grpc_alone = pytest.mark.skipif(TRANSPORT != "grpc", reason="a row of docs/transports.md")
"""Marks a test of what gRPC's own library does, and the other transport does in another way."""


class Setup(TypedDict, total=False):
    """Options of a server's start.

    Attributes:
        listen: `HOST:PORT` or `unix:/path`; a free port of 127.0.0.1 by default.
        transport: `grpc` or `asgi`; by default, what KEYFOLD_TEST_TRANSPORT says, or else `grpc`.
        grace: Seconds that calls under way may take when the server stops; none by default.
        credentials: The server's certificate; without it, connections are plain.
        local_keys: Names of `LOCAL` root keys to make; the type exists only if there are any.
        others: Makers of further providers, by type.
        platform: Returns the vendor's own root key of a region.
        clock: The server's clock; the machine's by default.
        who: Identifies callers to the server; by default, everybody may do everything.
        served: The regions that the server serves; every region by default.
        type_of: Returns the type of the provider that a key uri belongs to; LOCAL by default.
    """

    listen: str
    transport: str
    grace: float
    credentials: grpc.ServerCredentials
    local_keys: Sequence[str]
    others: Mapping[str, Callable[[], KeyProvider]]
    platform: Callable[[str], RootKey | None]
    clock: Clock
    timing: Timing
    bounds: Bounds
    regions: ResidencyPolicy
    served: ServedRegions
    who: Callers
    type_of: Callable[[str], str]


@dataclass(frozen=True)
class InProcess:
    """A server of this process.

    Attributes:
        target: The address that clients connect to.
        provider: The fake KMS, type `FAKE`.
        local_keys: The root keys of type `LOCAL`, to rotate or disable them as their owner does.
        replica: The service.
        store: The SQLite file.
    """

    target: str
    provider: FakeProvider
    local_keys: KeyFile
    replica: Replica
    store: Path
    _store: Store
    _clock: Clock
    _loop: asyncio.AbstractEventLoop
    _server: Server

    def store_of(self) -> SqlStore:
        """Returns the store that the server has open."""
        assert isinstance(self._store, SqlStore)
        return self._store

    async def stop(self) -> None:
        """Stops the server as SIGTERM does; runs on the server's loop."""
        await self._server.stop()

    def on_loop(self, work: Callable[[], Any]) -> None:
        """Runs a function on the server's loop and waits for its end, from another thread."""

        async def run() -> None:
            work()

        self.wait(run(), timeout=10)

    def wait(self, work: Coroutine[Any, Any, T], timeout: float = 30) -> T:
        """Runs a coroutine on the server's loop and waits for its result, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def add_silent_replica(self, name: str, stops_within: float) -> None:
        """Adds a second replica to the store, which never says that it has applied a change.

        Args:
            name: The replica's name.
            stops_within: Seconds without the store after which it stops by itself.
        """
        time = int(self._clock.wall() * 1000)
        self._store.register(Heartbeat(name, 0, b"", stops_within, time))


@asynccontextmanager
async def running(
    folder: Path, provider: FakeProvider | None = None, **setup: Unpack[Setup]
) -> AsyncIterator[InProcess]:
    """Serves on the running event loop until the block ends.

    Args:
        folder: An empty folder for the store and the key file.
        provider: The KMS of type `FAKE`; a new one by default.
        **setup: See `Setup`.
    """
    fake = provider or FakeProvider()
    clock = setup.get("clock") or SystemClock()
    path = folder / "store.db"
    keys = KeyFile(folder / "root-keys.json")
    makers: dict[str, Callable[[], KeyProvider]] = {"FAKE": lambda: fake}
    for name in setup.get("local_keys", ()):
        keys.create(name)
        makers["LOCAL"] = lambda: LocalProvider(keys.path)
    key = folder / "store.db.service-key"
    if not path.exists():
        new_store.lay(path, key)
    store = open_store(f"sqlite:///{path}", key, clock=clock)
    try:
        makers |= setup.get("others", {})
        catalog = Catalog({type_: _entry(make) for type_, make in makers.items()})
        replica = Replica(
            catalog.provider,
            KeyNames(
                setup.get("platform", lambda _: None),
                type_of=setup.get("type_of", lambda _: "LOCAL"),
            ),
            store,
            clock,
            setup.get("timing", Timing()),
            bounds=setup.get("bounds"),
            regions=setup.get("regions"),
            served=setup.get("served"),
        )
        who = setup.get("who") or Callers(callers.POLICIES, callers.LOCAL, clock)
        replica.run_operations(who.rights)
        await replica.start()
        transport = _transport(replica.bounds, setup)
        server = Server(replica, who, transport)
        try:
            target = await server.start()
            loop = asyncio.get_running_loop()
            yield InProcess(target, fake, keys, replica, path, store, clock, loop, server)
        finally:
            fake.mend()
            await server.stop()
            await replica.stop()
    finally:
        store.close()


@contextmanager
def serving(
    folder: Path, provider: FakeProvider | None = None, **setup: Unpack[Setup]
) -> Iterator[InProcess]:
    """Serves in a thread of its own until the block ends; takes what `running` takes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server")
    thread.start()

    def wait(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    server = running(folder, provider, **setup)
    try:
        started = wait(server.__aenter__())
        try:
            yield started
        finally:
            wait(server.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _transport(bounds: Bounds, setup: Setup) -> Transport:
    listen, grace = setup.get("listen", "127.0.0.1:0"), setup.get("grace", 0.0)
    if setup.get("transport", TRANSPORT) == "asgi":
        return AsgiServer(listen, bounds, grace=grace)
    return GrpcAio(listen, bounds, credentials=setup.get("credentials"), grace=grace)


def _entry(make: Callable[[], KeyProvider]) -> Entry:
    """Returns the entry of a provider that needs no settings."""
    return Entry(make=lambda _: make(), example="fake:NAME")
