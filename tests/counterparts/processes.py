"""Servers of others, installed by a script, run on loopback, ended with the process that began.

A server has a folder of its own and a free port, and is ended by its process id: TERM first,
then KILL, and on Linux with its parent, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from contract.counterparts import NotInstalledError

_SCRIPTS: Final = Path(__file__).parents[2] / "scripts"
_INSTALL: Final = 900.0
_READY: Final = 90.0
_STOP: Final = 10.0
_NOT_INSTALLED: Final = 3
_PR_SET_PDEATHSIG: Final = 1


@functools.cache
def installed(script: str) -> str:
    """Returns what a script of `scripts/` prints: the program that it installed.

    Raises:
        NotInstalledError: It cannot be had on this machine.
    """
    done = subprocess.run(
        [_SCRIPTS / script], capture_output=True, text=True, check=False, timeout=_INSTALL
    )
    if done.returncode == _NOT_INSTALLED:
        raise NotInstalledError(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Process:
    """One server.

    Attributes:
        folder: A folder of its own, which goes away with it; what it says is in `log`.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], answers: str
    ) -> None:
        """Starts it and waits until it answers.

        Args:
            name: For its folder's name.
            command: What to run, with the folder as `{folder}`.
            environment: All of its environment beside PATH and HOME; `{folder}` likewise.
            answers: A url that answers once it is ready.
        """
        self.folder = Path(tempfile.mkdtemp(prefix=f"keyfold-{name}-"))
        own = {"PATH": os.environ.get("PATH", ""), "HOME": "{folder}", "TMPDIR": "{folder}"}
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._placed(each) for each in command],
                cwd=self.folder,
                env={k: self._placed(v) for k, v in {**own, **environment}.items()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # It calls one function of the C library and takes no lock.
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        atexit.register(self.stop)
        self._wait_for(answers)

    def _placed(self, text: str) -> str:
        return text.replace("{folder}", str(self.folder))

    def _wait_for(self, url: str) -> None:
        ends = time.monotonic() + _READY
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
            except OSError:
                if time.monotonic() > ends or self._process.poll() is not None:
                    said = (self.folder / "log").read_text(errors="replace")[-2000:]
                    self.stop()
                    raise AssertionError(said) from None
                time.sleep(0.05)
            else:
                return

    def wait(self) -> None:
        """Waits until it ends by itself, or this process is interrupted or told to end."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            self._process.wait()

    def stop(self) -> None:
        """Ends it and removes its folder."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP)
            self._process.kill()
            self._process.wait(_STOP)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """Returns a port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
