"""A real keyfold-relay process for the tests, and its file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = Path(sys.executable).with_name("keyfold-relay")


def write(
    folder: Path, keyfold: Mapping[str, str], targets: Mapping[str, Any], **relay: str
) -> Path:
    """Writes a relay's file; returns its path."""
    tables: dict[str, Mapping[str, Any]] = {"keyfold": keyfold, "relay": relay}
    tables |= {f"targets.{name}": table for name, table in targets.items()}
    path = folder / "relay.toml"
    path.write_text(
        "\n".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(each)}\n" for key, each in table.items())
            for name, table in tables.items()
        )
    )
    return path


class Process:
    """A relay.

    Attributes:
        file: Its file.
        code: Its exit code, once it has ended.
    """

    def __init__(self, file: Path, *arguments: str) -> None:
        self.file = file
        self.code: int | None = None
        self._arguments = arguments or ("run", str(file))
        self._starts = 0

    async def start(self) -> None:
        """Starts the process, and does not wait for anything."""
        self._starts += 1
        with self._path("stdout").open("wb") as out, self._path("stderr").open("wb") as err:
            self._process = await asyncio.create_subprocess_exec(
                PROGRAM,
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "false"},
            )

    def _path(self, stream: str) -> Path:
        return self.file.with_name(f"{self.file.stem}.{stream}.{self._starts}")

    @property
    def out(self) -> str:
        """What it wrote to stdout since its last start."""
        return self._path("stdout").read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log since its last start."""
        return [json.loads(line) for line in self._path("stderr").read_text().splitlines()]

    @property
    def err(self) -> str:
        """What it wrote to stderr since its last start."""
        return self._path("stderr").read_text()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to this process."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Waits until it has ended; returns its exit code, below 0 for a signal's number."""
        self.code = await self._process.wait()
        return self.code

    async def kill(self) -> None:
        """Ends it at once, by SIGKILL."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """Ends it in order, by SIGTERM; returns its exit code."""
        self.send(signal.SIGTERM)
        return await self.ended()
