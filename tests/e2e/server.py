"""A real keyfold-server process for the end-to-end tests: started, killed, started again.

Whatever a test does, the process is ended by its own id. The server writes to files, not to
pipes, so that a full pipe can never stop it and its log can be read at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import keyfold
import nursery
from in_process import TRANSPORT
from keyfold_server.providers.local.key_file import KeyFile

ROOT: Final = Path(__file__).resolve().parents[2]
"""The repository's folder."""

BIN: Final = Path(sys.executable).parent
"""The folder of this environment's console scripts."""

KEYS: Final = ("eu", "us")
"""The dev keys that a server has unless it is started with others: `local:eu` and `local:us`."""

READY: Final = "keyfold-server ready on "
"""The beginning of the line that a server prints once it takes calls."""

WAIT: Final = 20.0
"""Seconds to wait for a server to end. A start and a command have no limit but the test's own: how
long they compute is nothing that Keyfold promises, and a busy machine multiplies it."""

_FORKED: Final = frozenset({"keyfold", "keyfold-server"})
"""The programs of the nursery."""


def clean_environment(**settings: str | None) -> dict[str, str]:
    """Returns this process's environment with these `KEYFOLD_*` settings alone.

    The environment's programs come first on the PATH. None leaves a setting out.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KEYFOLD_")}
    kept["PATH"] = f"{BIN}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {name: value for name, value in settings.items() if value is not None}


class NotReadyError(Exception):
    """A server ended before it was ready; `code` is its exit code if known."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Server:
    """A keyfold-server in a folder of its own.

    Attributes:
        folder: The folder of all its files: `keys.json`, `store.db`, and its output.
        settings: Its whole `KEYFOLD_*` environment; change it before `restart`.
        target: The address for clients, once the server is ready. A restart keeps it.
        process: The process, or None before the first start.
    """

    folder: Path
    settings: dict[str, str | None] = field(default_factory=dict)
    target: str = ""
    process: subprocess.Popen[bytes] | nursery.Forked | None = None
    _starts: int = 0

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self.process is not None and self.process.poll() is None

    @property
    def keys(self) -> Path:
        """The dev key file."""
        return self.folder / "keys.json"

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.folder / "store.db"

    @property
    def metrics(self) -> str:
        """The host and port of its metrics, once it is ready."""
        return str(re.findall(r"metrics on http://(\S+?)/metrics", self.log())[-1])

    @property
    def environment(self) -> dict[str, str]:
        """The environment for other programs that call this server."""
        target = self.target or None
        return clean_environment(**self.settings, KEYFOLD_TARGET=target)

    def log(self) -> str:
        """Returns all that the server has written to stderr, over all starts."""
        paths = sorted(self.folder.glob("stderr.*"))
        return "".join(path.read_text(errors="replace") for path in paths)

    def command(self, *arguments: str, code: int = 0) -> str:
        """Runs one of keyfold-server's own commands with this server's settings.

        Args:
            *arguments: The command's arguments, such as `"dev-keys", "rotate", "eu"`.
            code: The exit code that it must end with.

        Returns:
            Its output, both streams.
        """
        return self._run("keyfold-server", arguments, code)

    def cli(self, *arguments: str, code: int = 0) -> str:
        """Runs the CLI `keyfold` against this server; see `command`."""
        return self._run("keyfold", arguments, code)

    def dev_keys(self, *arguments: str) -> str:
        """Runs `keyfold-server dev-keys` with this server's key file."""
        return self.command("dev-keys", *arguments)

    def client(self, timeout: float = 10.0) -> keyfold.Client:
        """Returns a client of this server, to be used in a `with`."""
        return keyfold.Client(self.target, timeout=timeout)

    def enable(self, cluster: str = "prod", regions: Iterable[str] = KEYS) -> keyfold.Enabled:
        """Enables a cluster whose regions use the dev keys of the same names."""
        specs = [
            keyfold.RegionSpec(region, keyfold.KeySpec("LOCAL", f"local:{region}"))
            for region in regions
        ]
        with self.client() as client:
            return client.enable(cluster, specs)

    def start(self) -> None:
        """Starts the process and waits until it is ready.

        Raises:
            NotReadyError: The server ended; the message holds its stderr.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Starts the process; call `wait_ready` before anything else."""
        assert not self.running
        self._starts += 1
        out = self.folder / f"stdout.{self._starts}"
        err = self.folder / f"stderr.{self._starts}"
        for file in (out, err):
            file.touch()
        self.process = self._process(clean_environment(**self.settings), out, err)

    def wait_ready(self) -> None:
        """Waits until a launched process is ready.

        Raises:
            NotReadyError: The server ended; the message holds its stderr.
        """
        assert self.process is not None
        out = self.folder / f"stdout.{self._starts}"
        while not (line := out.read_text()).endswith("\n"):
            code = self.process.poll()
            if code is not None:
                err = self.folder / f"stderr.{self._starts}"
                raise NotReadyError(err.read_text(errors="replace"), code)
            time.sleep(0.02)
        assert line.startswith(READY)
        self.target = line.removeprefix(READY).strip()

    def stop(self) -> int:
        """Ends the server in order, by SIGTERM, and returns its exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            return self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends the server at once, by SIGKILL: no drain, no last write."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT)

    def restart(self, **settings: str | None) -> None:
        """Starts the server again on the same files and address, after stopping it if it runs.

        Args:
            **settings: Settings that replace earlier ones; None removes one.
        """
        if self.running:
            self.stop()
        self.settings = self.settings | {"KEYFOLD_LISTEN": self.target} | settings
        self.start()

    def _process(
        self, environment: Mapping[str, str], out: Path, err: Path
    ) -> subprocess.Popen[bytes] | nursery.Forked:
        return _started("keyfold-server", (), self.folder, environment, out, err)

    def ran(
        self, program: str, arguments: Iterable[str], source: Path = Path(os.devnull)
    ) -> tuple[int, str]:
        """Runs a program with this server's settings.

        Args:
            program: One of this environment's programs.
            arguments: The command's arguments.
            source: The file that is its input.

        Returns:
            Its exit code, and its output, both streams.
        """
        with tempfile.NamedTemporaryFile(prefix="keyfold-output-") as file:
            out = Path(file.name)
            running = _started(program, arguments, self.folder, self.environment, out, out, source)
            try:
                ended = running.wait()
            except BaseException:
                running.kill()
                raise
            return ended, out.read_text(errors="replace")

    def _run(self, program: str, arguments: Iterable[str], code: int) -> str:
        ended, output = self.ran(program, arguments)
        assert ended == code, f"{program} ended with {ended}: {output}"
        return output


def _started(
    program: str,
    arguments: Iterable[str],
    folder: Path,
    environment: Mapping[str, str],
    out: Path,
    err: Path,
    source: Path = Path(os.devnull),
) -> subprocess.Popen[bytes] | nursery.Forked:
    """Starts one of this environment's programs, with its output added to files."""
    path = BIN / program
    if program in _FORKED and nursery.fits(environment):
        return nursery.shared().start(
            path,
            arguments,
            folder=folder,
            environment=environment,
            source=source,
            out=out,
            err=err,
        )
    with source.open("rb") as stdin, out.open("ab") as stdout, err.open("ab") as stderr:
        return subprocess.Popen(
            [path, *arguments],
            cwd=folder,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )


def make(folder: Path, keys: Iterable[str], settings: Mapping[str, str | None]) -> Server:
    """Returns a server that is not started yet, with its dev keys made.

    Args:
        folder: An empty folder for all its files.
        keys: The dev keys to make.
        settings: Settings that override those of every test's server; None removes one.
    """
    server = Server(folder)
    common: dict[str, str | None] = {
        "KEYFOLD_LISTEN": "127.0.0.1:0",
        "KEYFOLD_STORE": f"sqlite:///{server.store}",
        "KEYFOLD_LOCAL_KEYS": str(server.keys),
        # After a restart, too, it is a free port, although KEYFOLD_LISTEN keeps the old one.
        "KEYFOLD_METRICS": "127.0.0.1:0",
        "KEYFOLD_TRANSPORT": TRANSPORT,
    }
    server.settings = common | dict(settings)
    file = KeyFile(server.keys)
    for name in keys:
        file.create(name)
    return server
