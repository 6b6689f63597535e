"""Runs `keyfold` again and again, each time on a disk that fails at some step.

This is a program: `files_crasher.py ACTION STEPS ARGUMENTS`. A step is a part of the output that is
written, a synchronization, or a name that is given or replaced; STEPS has the failing one of each
run, with commas between them. In the arguments STEP stands for it. There, `kill` ends the process
with SIGKILL, and `full` makes the disk full from then on. It prints how each run ended, as
`os.waitstatus_to_exitcode` tells it.

It imports everything once and forks for each run, because a start takes seconds on a busy machine.
"""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import built_commands
from keyfold.cli.app import app
from keyfold.envelope import streams

_action = sys.argv[1]
_step = _count = 0


def _fails() -> None:
    """Takes a step: ends the process in it, or finds the disk full."""
    global _count  # noqa: PLW0603  a program of its own
    _count += 1
    if _action == "full" and _count >= _step:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if _action == "kill" and _count == _step:
        os.kill(os.getpid(), signal.SIGKILL)


def _failing(function: Callable[..., Any]) -> Callable[..., Any]:
    def step(*arguments: Any, **options: Any) -> Any:
        _fails()
        return function(*arguments, **options)

    return step


def _copy(source: Any, target: Any, _: int) -> None:
    """Copies a file as shutil does, with a step for each MiB."""
    while part := source.read(1 << 20):
        _fails()
        target.write(part)


if __name__ == "__main__":
    shutil.copyfileobj = _copy  # type: ignore[assignment]
    for name in ("copy_file_range", "fsync", "link", "pwrite"):
        setattr(os, name, _failing(getattr(os, name)))
    Path.replace = _failing(Path.replace)  # type: ignore[method-assign]
    built_commands.keep(app)
    streams.tink()
    # A collection would copy every page of what was imported into each fork.
    gc.collect()
    gc.freeze()
    for _step in map(int, sys.argv[2].split(",")):
        child = os.fork()
        if not child:
            app([one.replace("STEP", str(_step)) for one in sys.argv[3:]], prog_name="keyfold")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
