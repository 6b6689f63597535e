"""Starts server processes, reads their CPU and memory, and ends each by its own process id."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import selectors
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

_READY_WITHIN: Final = 60.0
"""Seconds that a server may take to print its address."""

_END_WITHIN: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""

_LAST_LINES: Final = 30
"""Number of a server's last log lines that an error shows if it does not start."""


class ServerError(Exception):
    """A server did not start, or ended by itself."""


class Server:
    """A running server process.

    Attributes:
        name: The server's name in error messages.
        address: `HOST:PORT`.
    """

    def __init__(self, name: str, process: subprocess.Popen[str], address: str) -> None:
        """Takes a process that has printed its address."""
        self.name = name
        self.address = address
        self._process = process

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def cpu(self) -> float:
        """Returns the CPU seconds that the process has used, in user and in kernel mode.

        Raises:
            ServerError: The process has ended.
        """
        if self._process.poll() is not None:
            raise ServerError(f"{self.name} ended by itself with {self._process.returncode}")
        return cpu_seconds(self._process.pid)

    def memory(self) -> Memory:
        """Returns the process's resident memory, now and at its peak."""
        return memory_of(self._process.pid)


class Memory(NamedTuple):
    """A process's resident memory in MiB, now and at its peak."""

    now: float
    peak: float


def memory(status: str) -> Memory:
    """Reads a process's memory from the text of its /proc/PID/status.

    Raises:
        ServerError: The text does not have it, because the process has ended.
    """
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.MULTILINE))
    if len(found) < len(Memory._fields):
        raise ServerError("the process has no memory any more")
    return Memory(int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024)


def memory_of(pid: int) -> Memory:
    """Returns a process's memory.

    Raises:
        ServerError: The process has ended.
    """
    return memory(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))


def cpu_seconds(pid: int) -> float:
    """Returns the CPU seconds of all threads of a process, including threads that have ended.

    They equal utime and stime of /proc/PID/stat. That file counts ticks of 10 ms, which would be
    two per cent of a run; the process's CPU clock counts nanoseconds.

    Raises:
        ServerError: The process does not exist.
    """
    clock = ctypes.c_int()
    fault = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if fault:
        raise ServerError(f"process {pid} has no CPU clock: {os.strerror(fault)}")
    return time.clock_gettime(clock.value)


@contextlib.contextmanager
def running(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Server]:
    """Runs a server that prints `... ready on ADDRESS`, and ends it in every case.

    Args:
        name: The server's name in error messages.
        command: The program and its arguments.
        environment: The whole environment of the process.

    Raises:
        ServerError: The server did not become ready.
    """
    with subprocess.Popen(
        command,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None  # noqa: S101  Popen makes both pipes
        assert process.stderr is not None  # noqa: S101
        said: deque[str] = deque(maxlen=_LAST_LINES)
        # A server that writes a line per call must never wait for somebody to read it.
        reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            address = _address(process.stdout)
            if address is None:
                process.terminate()
                reader.join(_END_WITHIN)
                raise ServerError(f"{name} did not become ready:\n{''.join(said)}")
            yield Server(name, process, address)
        finally:
            _end(process)
            reader.join(_END_WITHIN)


def _address(output: IO[str]) -> str | None:
    ends = time.monotonic() + _READY_WITHIN
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while (left := ends - time.monotonic()) > 0 and selector.select(left):
            line = output.readline()
            if not line:
                return None
            _, found, address = line.strip().rpartition(" ready on ")
            if found:
                return address
    return None


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_END_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
