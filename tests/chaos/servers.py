"""Server processes of a run: forked from one nursery per tree of code, killed, and forked again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.failpoints import HELD, HOLD
from e2e.server import READY, NotReadyError, Server, clean_environment
from nursery import Nursery

SLOW: Final = 0.25
"""Share of the answers inside a server that come late."""

_PROGRAM: Final = Path(__file__).with_name("failpoints.py")
_START: Final = 30.0
_LOOK: Final = 0.005


def nursery_of(tree: Path) -> Nursery:
    """Starts the process that servers are forked from.

    Args:
        tree: Root of the code that the servers run.
    """
    folders = (tree / "server", tree / "clients" / "python", _PROGRAM.parents[1])
    path = os.pathsep.join(str(folder) for folder in folders)
    return Nursery(_PROGRAM, clean_environment() | {"PYTHONPATH": path, "CHAOS_TREE": str(tree)})


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

    @property
    def name(self) -> str:
        """The process's name within a run: the server's folder and the number of its start."""
        return f"{self.folder.name}.{self._starts}"

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
        self.process = self.nursery.start(
            "keyfold-server",
            folder=self.folder,
            environment=clean_environment(**self.settings) | own,
            out=self.folder / f"stdout.{self._starts}",
            err=self.folder / f"stderr.{self._starts}",
        )

    def wait_ready(self) -> None:
        """Waits until the server takes calls; raises as `start`."""
        out = self.folder / f"stdout.{self._starts}"
        ends = time.monotonic() + _START
        while not (out.exists() and (line := out.read_text()).endswith("\n")):
            if not self.running or time.monotonic() > ends:
                self.kill()
                err = self.folder / f"stderr.{self._starts}"
                assert self.process is not None
                code = self.process.returncode
                raise NotReadyError(err.read_text(errors="replace")[-3000:], code)
            time.sleep(_LOOK)
        self.target = line.removeprefix(READY).strip()
        self.settings = self.settings | {"KEYFOLD_LISTEN": self.target}

    def kill(self) -> None:
        """Ends the server at once, by SIGKILL: no drain, no last write."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Stops the process, by SIGSTOP."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets the process continue."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

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
