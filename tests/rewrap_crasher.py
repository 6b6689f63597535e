"""Runs `keyfold` with small windows, on a disk that dies or is full at a given step.

This is a program: `rewrap_crasher.py STEP ACTION ARGUMENTS`. A step is a write of the output, a
synchronization or a replacement of the checkpoint. At step STEP, `kill` ends the process with
SIGKILL after half of the step, and `full` makes the disk full from then on.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from io import FileIO
from pathlib import Path
from typing import Any

from keyfold.cli import main
from keyfold.cli.commands.rewrapping import checkpoint, pipeline

_step, _action = int(sys.argv[1]), sys.argv[2]
_count = 0


def _dies() -> bool:
    """Returns whether the process is to die in this step."""
    global _count  # noqa: PLW0603  a program of its own
    _count += 1
    if _action == "full" and _count >= _step:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return _action == "kill" and _count == _step


class _File(FileIO):
    def write(self, data: Any, /) -> int:
        if _dies():
            super().write(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)


_fsync, _replace = os.fsync, Path.replace


def _synchronize(descriptor: int) -> None:
    if _dies():
        os.kill(os.getpid(), signal.SIGKILL)
    _fsync(descriptor)


def _take_place(path: Path, target: Path) -> Path:
    if _dies():
        os.kill(os.getpid(), signal.SIGKILL)
    return _replace(path, target)


if __name__ == "__main__":
    pipeline.MAX_LINES = 50  # type: ignore[misc]
    checkpoint.FileIO = _File  # type: ignore[attr-defined]
    os.fsync = _synchronize  # type: ignore[assignment]
    Path.replace = _take_place  # type: ignore[assignment,method-assign]
    sys.argv[1:3] = []
    main()
