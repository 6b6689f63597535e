"""A KMS of every customer, outside the servers, which hangs or throttles on demand.

It does not know any keys. A server's provider (`kms_provider.py`) asks it before each operation,
over a new connection, whether to go on. So a call that hangs holds the same as a call to a real
KMS: a thread and a socket, but no CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.servers import ROOT

TYPE: Final = "BENCH"
"""The provider's type. Its key uris are `bench:ACCOUNT.KEY`."""

LATENCY: Final = 0.005
"""Seconds that a healthy KMS takes to answer."""

_METADATA: Final = "Metadata-Version: 2.1\nName: bench-provider\nVersion: 1\n"
_ENTRY: Final = f"[keyfold.providers]\n{TYPE} = bench.kms_provider:ENTRY\n"


class Kms:
    """The KMS of every customer. It runs on the event loop that made it.

    Attributes:
        port: Its port on loopback.
    """

    def __init__(self) -> None:
        """Makes a healthy KMS; `serving` gives it its port."""
        self.port = 0
        self._throttling: set[str] = set()
        self._hanging: set[str] = set()
        self._healed = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()

    def hang(self, account: str) -> None:
        """Stops answering an account's calls."""
        self._hanging.add(account)

    def throttle(self, account: str) -> None:
        """Starts turning an account's calls away."""
        self._throttling.add(account)

    def heal(self) -> None:
        """Heals every account, and answers the calls that hang."""
        self._throttling.clear()
        self._hanging.clear()
        self._healed.set()
        self._healed = asyncio.Event()

    def installed(self, folder: Path) -> dict[str, str]:
        """Installs the provider for servers; returns what to add to their environment.

        Args:
            folder: The folder in which to make the provider's package.
        """
        info = folder / "packages" / "bench_provider-1.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(_METADATA, encoding="utf-8")
        (info / "entry_points.txt").write_text(_ENTRY, encoding="utf-8")
        paths = [os.environ.get("PYTHONPATH", ""), str(ROOT), str(info.parent)]
        return {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "BENCH_KMS_PORT": str(self.port),
        }

    async def close(self) -> None:
        """Answers the calls under way."""
        self.heal()
        await asyncio.gather(*self._answering)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one call: reads a line with the account, and writes one byte."""
        task = asyncio.create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            account = (await reader.readline()).decode().strip()
            if account in self._hanging:
                await self._healed.wait()
            await asyncio.sleep(LATENCY)
            writer.write(b"t" if account in self._throttling else b"k")
            await writer.drain()


@asynccontextmanager
async def serving() -> AsyncIterator[Kms]:
    """Runs a KMS on a free loopback port."""
    kms = Kms()
    server = await asyncio.start_server(kms.answer, "127.0.0.1", 0)
    kms.port = server.sockets[0].getsockname()[1]
    try:
        yield kms
    finally:
        server.close()
        await kms.close()
