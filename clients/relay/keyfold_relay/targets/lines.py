"""JSON Lines, to a file or to stdout, for programs that ship logs already.

A batch counts as written once the operating system says that the file has it (fsync). Another
program may rename the file at any time; the next batch then goes to a new one. A line is written
whole or cut off again, except where the machine itself stops: then the next start ends the torn
line, and its event follows whole, because its cursor had not passed it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.targets.target import MOMENT, Limits, NotTakenError

_LIMITS: Final = Limits(events=2_000, size=4 * 1024 * 1024, wait=MOMENT)
_MODE: Final = 0o640


class _Lines:
    """Writes in a thread of its own, so that a full pipe or a slow disk delays no other target."""

    def __init__(self, name: str) -> None:
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"write {name}")

    @property
    def limits(self) -> Limits:
        """How large a batch may be."""
        return _LIMITS

    async def send(self, batch: Sequence[CloudEvent]) -> None:
        """Writes a batch.

        Raises:
            NotTakenError: It cannot be written.
        """
        lines = b"".join(event.body + b"\n" for event in batch)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writer, self._write, lines)
        except OSError as error:
            raise NotTakenError(f"cannot write: {error.strerror}") from error

    def _write(self, lines: bytes) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        """Ends; a write that hangs is left alone."""
        self._writer.shutdown(wait=False, cancel_futures=True)


class LinesFile(_Lines):
    """A file.

    Args:
        path: Its path.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self._path = path
        self._open: int | None = None
        self._again = False

    def reopen(self) -> None:
        """Has the next batch open the file again."""
        self._again = True

    def _write(self, lines: bytes) -> None:
        file = self._current()
        end = os.fstat(file).st_size
        try:
            _whole(file, lines)
            os.fsync(file)
        except OSError:
            # No half a line stays: this program alone appends.
            os.ftruncate(file, end)
            raise

    def _current(self) -> int:
        """Returns the file's descriptor, of the file that the path names now."""
        if self._open is not None and (self._again or not self._same(self._open)):
            os.close(self._open)
            self._open = None
        self._again = False
        if self._open is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._open = os.open(self._path, flags, _MODE)
            size = os.fstat(self._open).st_size
            if size and os.pread(self._open, 1, size - 1) != b"\n":
                os.write(self._open, b"\n")
        return self._open

    def _same(self, file: int) -> bool:
        """Returns whether the path still names the open file."""
        try:
            there, ours = self._path.stat(), os.fstat(file)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    async def close(self) -> None:
        """Closes the file, unless a write to it hangs."""
        await super().close()


class LinesStdout(_Lines):
    """The relay's stdout."""

    def __init__(self) -> None:
        super().__init__("stdout")

    def reopen(self) -> None:
        """Does nothing: whoever started the relay holds the other end."""

    def _write(self, lines: bytes) -> None:
        _whole(sys.stdout.fileno(), lines)


def _whole(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]
