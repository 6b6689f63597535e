"""Runs `keyfold` again and again with small windows, each time on a disk that fails at some step.

This is a program: `rewrap_crasher.py ACTION STEPS ARGUMENTS`. A step is a write of the output, a
synchronization or a replacement of the checkpoint; STEPS has the failing one of each run, with
commas between them, and 0 for a run in which none fails. There, `kill` ends the process with
SIGKILL in the middle of the step, and `full` makes the disk full from then on. It prints how each
run ended, as `os.waitstatus_to_exitcode` tells it.

It imports everything once and forks for each run, because a start takes seconds on a busy machine.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from io import FileIO
from pathlib import Path
from typing import Any

import built_commands
from keyfold.cli.app import app
from keyfold.cli.commands.rewrapping import checkpoint, pipeline

_action = sys.argv[1]
_step = _count = 0


def _dies() -> bool:
    """Returns whether the process is to die in this step."""
    global _count  # noqa: PLW0603  a program of its own
    _count += 1
    if _action == "full" and 0 < _step <= _count:
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
    built_commands.keep(app)
    # A collection would copy every page of what was imported into each fork.
    gc.collect()
    gc.freeze()
    for _step in map(int, sys.argv[2].split(",")):
        child = os.fork()
        if not child:
            app(sys.argv[3:], prog_name="keyfold")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
