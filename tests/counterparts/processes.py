"""Servers of other projects, which a script installs; they run on loopback and end with the tests.

A server has a folder of its own and a free port. It is stopped by its process id, with TERM and
then KILL. On Linux it also ends with its parent, however that ends.
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
    """Returns the output of a script of `scripts/`: the path of the program that it installed.

    Raises:
        NotInstalledError: The program is not available on this machine.
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
        folder: A folder of its own, removed at the end; its output is in `log`.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], answers: str
    ) -> None:
        """Starts the server and waits until it answers.

        Args:
            name: Name for its folder.
            command: The command line, with the folder as `{folder}`.
            environment: Its environment beside PATH and HOME, with the folder as `{folder}`.
            answers: A URL that answers once the server is ready.
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
                # This is safe after a fork: it calls one function of the C library.
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
        """Waits until the server ends by itself, or a signal ends this process."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            self._process.wait()

    def stop(self) -> None:
        """Ends the server and removes its folder."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP)
            self._process.kill()
            self._process.wait(_STOP)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """Returns a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
