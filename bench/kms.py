"""A customers' KMS outside the servers, which counts its calls and hangs or throttles on demand.

It knows nothing of keys: a server's provider (`kms_provider.py`) asks it before each operation,
over a connection of its own, and obeys. So a call that hangs holds what a real one holds: a
thread, a socket, and no CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.servers import ROOT

TYPE: Final = "BENCH"
"""The provider's type; its keys are `bench:ACCOUNT.KEY`."""

LATENCY: Final = 0.005
"""Seconds to an answer in good health."""

_METADATA: Final = "Metadata-Version: 2.1\nName: bench-provider\nVersion: 1\n"
_ENTRY: Final = f"[keyfold.providers]\n{TYPE} = bench.kms_provider:BenchProvider\n"


class Kms:
    """The KMS of every customer; it lives on the loop that made it.

    Attributes:
        port: Where it is asked, of loopback.
        counts: Calls so far, by the caller's process id.
    """

    def __init__(self) -> None:
        """Makes one in good health; `serving` gives it its port."""
        self.port = 0
        self.counts: Counter[int] = Counter()
        self._throttling: set[str] = set()
        self._hanging: set[str] = set()
        self._healed = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()

    def hang(self, account: str) -> None:
        """Answers an account's calls no more."""
        self._hanging.add(account)

    def throttle(self, account: str) -> None:
        """Turns an account's calls away."""
        self._throttling.add(account)

    def heal(self) -> None:
        """Ends all that; calls that hang are answered."""
        self._throttling.clear()
        self._hanging.clear()
        self._healed.set()
        self._healed = asyncio.Event()

    def installed(self, folder: Path) -> dict[str, str]:
        """Installs the provider for servers; returns what their environment needs besides.

        Args:
            folder: For the package that third parties' providers come in.
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
        """Answers what is under way."""
        self.heal()
        await asyncio.gather(*self._answering)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one call: a line with the process and the account, and a byte back."""
        task = asyncio.create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError), contextlib.closing(writer):
            process, account = (await reader.readline()).decode().split()
            self.counts[int(process)] += 1
            if account in self._hanging:
                await self._healed.wait()
            await asyncio.sleep(LATENCY)
            writer.write(b"t" if account in self._throttling else b"k")
            await writer.drain()


@asynccontextmanager
async def serving() -> AsyncIterator[Kms]:
    """Runs a KMS on a free port of loopback."""
    # More than the default: a flood connects at once.
    kms = Kms()
    server = await asyncio.start_server(kms.answer, "127.0.0.1", 0, backlog=1_024)
    kms.port = server.sockets[0].getsockname()[1]
    try:
        yield kms
    finally:
        server.close()
        await kms.close()
