"""Starts Keyfold's programs as forks of a process that has imported them; see `nursery_program`.

A test that is about the start itself, such as those of README.md's commands, of the wheel and of
the container, starts the real programs.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

_PROGRAM: Final = Path(__file__).with_name("nursery_program.py")


class Forked:
    """A process that the nursery forked, with what tests use of `subprocess.Popen`.

    Attributes:
        pid: Its process id.
        returncode: Its exit status, or None as long as nobody has seen it end.
    """

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery
        # It is there even if the process has ended, because the nursery has not been asked yet.
        self._process = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._process)

    def poll(self) -> int | None:
        """Returns the exit status, or None while the process runs."""
        if self.returncode is None and self._ends_within(0):
            self.returncode = self._nursery.status(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status once the process has ended.

        Raises:
            TimeoutExpired: It has not ended within `timeout` seconds.
        """
        if self.returncode is None:
            self._ends_within(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("a forked program", timeout or 0.0)
        return code

    def _ends_within(self, seconds: float | None) -> bool:
        waiting = select.poll()
        waiting.register(self._process, select.POLLIN)
        return bool(waiting.poll(None if seconds is None else seconds * 1000))

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that programs are forked from."""

    def __init__(
        self, program: Path = _PROGRAM, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts the process.

        Args:
            program: A program that calls `nursery_program.run`.
            environment: Its environment; this process's own by default.
        """
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._process = subprocess.Popen(
            [sys.executable, "-P", program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self,
        program: Path | str,
        arguments: Iterable[str] = (),
        *,
        folder: Path,
        environment: Mapping[str, str],
        out: Path,
        err: Path,
        source: Path = Path(os.devnull),
    ) -> Forked:
        """Starts a program, in a session of its own; it has its files once this returns.

        Args:
            program: Its path, whose name is one of the nursery's programs.
            arguments: What follows the program's name.
            folder: The folder that it runs in.
            environment: Its whole environment.
            out: The file to which its output is added.
            err: The file to which its error output is added; `out` for both in one.
            source: The file that is its input; an empty one by default.
        """
        answer = self._ask(
            do="start",
            program=str(program),
            arguments=list(arguments),
            folder=str(folder),
            environment=dict(environment),
            out=str(out),
            err=str(err),
            input=str(source),
        )
        return Forked(self, int(answer))

    def status(self, pid: int) -> int | None:
        """Returns the exit status of a process that it forked, or None while that runs."""
        answer = self._ask(do="poll", pid=pid)
        return None if answer == "running" else int(answer)

    def close(self) -> None:
        """Ends the process and all that it forked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, **order: Any) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            number = next(self._numbers)
            self._process.stdin.write(json.dumps({"number": number, **order}) + "\n")
            self._process.stdin.flush()
            # A test whose time was up left before its answer came.
            while True:
                answered, _, answer = self._process.stdout.readline().strip().partition(" ")
                assert answered, "the nursery has ended"
                if int(answered) == number:
                    return answer


@functools.cache
def shared() -> Nursery:
    """Returns the nursery of this process, which ends with it."""
    nursery = Nursery()
    atexit.register(nursery.close)
    return nursery


def fits(environment: Mapping[str, str]) -> bool:
    """Says whether a fork shows what a program would do that starts in an environment.

    Python reads its own variables before anything else, so they have to be this process's. On
    other systems than Linux, libraries do not survive a fork.
    """
    return sys.platform == "linux" and _pythons(environment) == _pythons(os.environ)


def _pythons(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("PYTHON")}
