"""Server processes of a run: forked from one nursery per tree of code, killed, and forked again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.failpoints import HELD, HOLD
from e2e.server import READY, NotReadyError, Server, clean_environment

SLOW: Final = 0.25
"""Share of the answers inside a server that come late."""

_PROGRAM: Final = Path(__file__).with_name("failpoints.py")
_START: Final = 30.0
_LOOK: Final = 0.005


class Nursery:
    """The process that servers are forked from; for one thread."""

    def __init__(self, tree: Path) -> None:
        """Starts the process.

        Args:
            tree: Root of the code that the servers run.
        """
        path = f"{tree / 'server'}{os.pathsep}{tree / 'clients' / 'python'}"
        self._process = subprocess.Popen(
            [sys.executable, "-P", _PROGRAM],
            env=clean_environment() | {"PYTHONPATH": path, "CHAOS_TREE": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **order: Any) -> str:
        """Sends an order and returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer, "the nursery has ended"
        return answer

    def close(self) -> None:
        """Ends the process and every server that it forked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@dataclass
class ChaosServer(Server):
    """A server with failpoints.

    Attributes:
        nursery: The process that it is forked from.
        die: Mark of the store's mutations and count at which it kills itself; empty for no mark.
        slow: Share of the answers inside it that come late.
        births: Start times of its processes.
    """

    nursery: Nursery | None = None
    die: str = ""
    slow: float = SLOW
    births: list[float] = field(default_factory=list)
    _pid: int = field(default=0)
    _code: int | None = field(default=None)

    @property
    def name(self) -> str:
        """The process's name within a run: the server's folder and the number of its start."""
        return f"{self.folder.name}.{self._starts}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        if self._pid and self._code is None:
            assert self.nursery is not None
            answer = self.nursery.ask(do="poll", pid=self._pid)
            if answer != "running":
                self._code = int(answer)
        return bool(self._pid) and self._code is None

    def start(self) -> None:
        """Starts the process and waits until it is ready.

        Raises:
            NotReadyError: It did not become ready; the message holds what it wrote to stderr.
        """
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Starts the process."""
        assert self.nursery is not None
        self._starts += 1
        self.births.append(time.monotonic())
        own = {"CHAOS_DIE": self.die, "CHAOS_SLOW": str(self.slow)}
        answer = self.nursery.ask(
            do="start",
            folder=str(self.folder),
            out=str(self.folder / f"stdout.{self._starts}"),
            err=str(self.folder / f"stderr.{self._starts}"),
            environment=clean_environment(**self.settings) | own,
        )
        self._pid, self._code = int(answer), None

    def wait_ready(self) -> None:
        """Waits until the server takes calls; raises as `start`."""
        out = self.folder / f"stdout.{self._starts}"
        ends = time.monotonic() + _START
        while not (out.exists() and (line := out.read_text()).endswith("\n")):
            if not self.running or time.monotonic() > ends:
                self.kill()
                err = self.folder / f"stderr.{self._starts}"
                raise NotReadyError(err.read_text(errors="replace")[-3000:], self._code)
            time.sleep(_LOOK)
        self.target = line.removeprefix(READY).strip()
        self.settings = self.settings | {"KEYFOLD_LISTEN": self.target}

    def kill(self) -> None:
        """Ends the server at once, by SIGKILL: no drain, no last write."""
        if self.running:
            os.kill(self._pid, signal.SIGKILL)
        while self.running:
            time.sleep(_LOOK / 5)

    def pause(self) -> None:
        """Stops the process, by SIGSTOP."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets the process continue."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)

    @contextmanager
    def holding(self, cluster: str, region: str) -> Iterator[Path]:
        """Keeps answers to unwraps for a region back inside the server.

        Yields a file that exists once an answer is kept back.
        """
        hold, held = self.folder / HOLD, self.folder / HELD
        held.unlink(missing_ok=True)
        hold.write_text(f"{cluster}/{region}")
        try:
            yield held
        finally:
            hold.unlink()
