"""A server of this process, joined from the server's parts.

This is the only module of the client that knows the server, and nothing imports it before a test
starts one. So a program that only uses the client never loads the server.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from keyfold_server.access.policy.development import Development
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import UnreachableError
from keyfold_server.domain.key_names import KeyNames
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyDescription, Unwrapped, Wrapped
from keyfold_server.domain.rights import Identity
from keyfold_server.domain.timing import Timing
from keyfold_server.providers.catalog import Catalog
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.providers.shared.entry import Entry
from keyfold_server.rpc.grpc_aio import GrpcAio
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.server import Server
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.replica import Replica
from keyfold_server.store.opening import open_store

T = TypeVar("T")

_PATIENCE: Final = 30.0
"""Seconds that a start, or a stop, may take."""

_MEMORY: Final = Path("/dev/shm")  # noqa: S108  a folder of our own is made below it
"""Where Linux has files in memory. Elsewhere they lie on the disk, until the server stops."""

_log = logging.getLogger("keyfold_server")


class Kms(LocalProvider):
    """The provider LOCAL, as a KMS that can be away.

    Attributes:
        away: Whether no call reaches it.
    """

    away = False

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """See the port."""
        self._reach()
        super().authenticate(key, budget=budget)

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """See the port."""
        self._reach()
        return super().describe(key, budget=budget)

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """See the port."""
        self._reach()
        return super().wrap(key, plaintext, binding, budget=budget)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """See the port."""
        self._reach()
        return super().unwrap(key, key_version, ciphertext, binding, budget=budget)

    def _reach(self) -> None:
        if self.away:
            raise UnreachableError("the KMS does not answer; the test has an outage")


class Running:
    """A server that runs, in a thread of its own.

    Attributes:
        target: Its address.
        folder: The folder of its store and root keys.
        kms: The KMS of its root keys.
    """

    def __init__(self) -> None:
        """Starts it."""
        if _log.level == logging.NOTSET:
            _log.setLevel(logging.ERROR)
        where = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="keyfold-testing-", dir=where))
        # A program that ends in the block stops no server, which ends with it. A forked child ends,
        # too, and must leave the folder to its parent.
        self._remove = partial(_remove, self.folder, os.getpid())
        atexit.register(self._remove)
        self._keys = KeyFile(self.folder / "root-keys.json")
        self.kms = Kms(self._keys.path)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="keyfold-testing", daemon=True
        )
        self._thread.start()
        self._ends = AsyncExitStack()
        try:
            self.target = self._wait(self._start())
        except BaseException:
            self.stop()
            raise

    def make_key(self, name: str) -> None:
        """Makes a root key `local:NAME`."""
        self._keys.create(name)

    def disable_key(self, name: str) -> None:
        """Disables a root key, as its owner does."""
        self._keys.disable(name)

    def enable_key(self, name: str) -> None:
        """Enables it again."""
        self._keys.enable(name)

    def stop(self) -> None:
        """Stops the server, and removes what it has stored."""
        self.kms.away = False
        try:
            self._wait(self._ends.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)
            self._loop.close()
            self._remove()
            atexit.unregister(self._remove)

    async def _start(self) -> str:
        folder = self.folder
        clock, policies = SystemClock(), Development()
        store = open_store(f"sqlite:///{folder}/store.db", folder / "service-key", clock=clock)
        self._ends.callback(store.close)
        catalog = Catalog({"LOCAL": Entry(make=lambda _: self.kms, example="local:NAME")})
        names = KeyNames(type_of=lambda _: "LOCAL")
        replica = Replica(catalog.provider, names, store, clock, Timing())
        replica.run_operations(policies.rights)
        self._ends.push_async_callback(replica.stop)
        await replica.start()
        callers = Callers(policies, Identity(("local",), "loopback"), clock)
        server = Server(replica, callers, GrpcAio("127.0.0.1:0", replica.bounds, grace=0.0))
        self._ends.push_async_callback(server.stop)
        return await server.start()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)


def _remove(folder: Path, maker: int) -> None:
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)
