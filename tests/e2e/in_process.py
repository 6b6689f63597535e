"""The real gRPC server in this process, on fakes: for what no LOCAL key can be made to do.

A KMS that hangs, lies or throttles, and a core that breaks: the server's own code, sockets and
store are the real ones, in a thread of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import callers
from fakes import FakeProvider
from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.timing import Timing
from keyfold_server.providers.catalog import Catalog
from keyfold_server.providers.shared.entry import Entry
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.server import GrpcServer
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.replica import Replica
from keyfold_server.store.opening import open_store


@dataclass
class InProcess:
    """A server of this process.

    Attributes:
        target: What clients connect to.
        provider: The fake key service, type `FAKE`.
        replica: The service.
        store: The SQLite file.
    """

    target: str
    provider: FakeProvider
    replica: Replica
    store: Path
    _loop: asyncio.AbstractEventLoop

    def on_loop(self, work: Callable[[], Any]) -> None:
        """Runs something on the server's loop and waits for it."""
        done: Future[None] = Future()

        def run() -> None:
            work()
            done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result(10)


@contextmanager
def serving(
    folder: Path,
    provider: FakeProvider | None = None,
    *,
    timing: Timing | None = None,
    bounds: Bounds | None = None,
    who: Callers | None = None,
    others: dict[str, Callable[[], KeyProvider]] | None = None,
    platform: Callable[[str], RootKey | None] = lambda _: None,
    regions: ResidencyPolicy | None = None,
) -> Iterator[InProcess]:
    """Serves until the block ends."""
    fake = provider or FakeProvider()
    clock = SystemClock()
    path = folder / "store.db"
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server")
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    store = open_store(f"sqlite:///{path}", f"{path}.service-key", clock=clock)
    makers = {"FAKE": lambda: fake} | (others or {})
    catalog = Catalog({type_: _entry(make) for type_, make in makers.items()})
    try:

        async def start() -> tuple[Replica, GrpcServer, str]:
            replica = Replica(
                catalog.provider,
                platform,
                store,
                clock,
                timing or Timing(),
                bounds=bounds,
                regions=regions,
            )
            await replica.start()
            known = who or Callers(callers.POLICIES, callers.LOCAL, clock)
            server = GrpcServer(replica, "127.0.0.1:0", known)
            return replica, server, await server.start()

        async def stop() -> None:
            await server.stop(0)
            await replica.stop()

        replica, server, target = wait(start())
        try:
            yield InProcess(target, fake, replica, path, loop)
        finally:
            fake.mend()
            wait(stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        store.close()


def _entry(make: Callable[[], KeyProvider]) -> Entry:
    """Returns the entry of a provider that needs no settings."""
    return Entry(make=lambda _: make(), example="fake:NAME")
