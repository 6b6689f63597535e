"""PostgreSQL over three regions: Patroni and etcd in each, as docs/store.md recommends.

A commit that is answered is in a second region (quorum synchronous replication), and another region
takes over by itself when the primary's is away.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

import postgres
from drill.wan import Wan, address

POSTGRES: Final = 5432
REST: Final = 8008
"""Patroni's own port, at which members ask one another."""
_ETCD: Final = 2379
_PEERS: Final = 2380
ETCD: Final = (_ETCD, _PEERS)
"""The ports of etcd."""

USER: Final = "postgres"
"""PostgreSQL's superuser, whom Patroni makes."""
DATABASE: Final = "keyfold"

_SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "patroni.sh"

_EXAMPLE: Final = Path(__file__).parents[2] / "docs" / "examples" / "patroni.yaml"


@functools.cache
def programs() -> tuple[list[str], str]:
    """Returns the commands of Patroni and of etcd; skips the test if they cannot be had."""
    done = subprocess.run([_SCRIPT], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    python, etcd = done.stdout.split()
    return [python, "-m", "patroni"], etcd


class Member:
    """Patroni and etcd in one region.

    Attributes:
        region: The region's number.
    """

    def __init__(self, wan: Wan, region: int, folder: Path, password: str) -> None:
        """Makes the files; `start` starts the programs."""
        self.region = region
        self._wan = wan
        self._folder = folder
        self._owner = postgres.owner()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir()
        self._config = folder / "patroni.yml"
        self._config.write_text(self._settings(password))
        if self._owner is not None:
            for path in (folder, self._config):
                shutil.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def _settings(self, password: str) -> str:
        """Returns the page's own example, with this member's values."""
        text = _EXAMPLE.read_text(encoding="utf-8")
        values = {
            "/usr/lib/postgresql/15/bin": str(postgres.programs("15")),
            "ADDRESS": address(self.region),
            "FOLDER": str(self._folder),
            "NETWORK": "10.77.0.0/16",
            "PASSWORD": password,
            "REGION": f"region-{self.region}",
        }
        for name, value in values.items():
            assert name in text
            text = text.replace(name, value)
        return text

    def start_etcd(self, regions: int) -> None:
        """Starts etcd, or starts it again on its data."""
        here, name = address(self.region), f"region-{self.region}"
        others = range(1, regions + 1)
        options = {
            "name": name,
            "data-dir": self._folder / "etcd",
            "listen-client-urls": f"http://{here}:{_ETCD}",
            "advertise-client-urls": f"http://{here}:{_ETCD}",
            "listen-peer-urls": f"http://{here}:{_PEERS}",
            "initial-advertise-peer-urls": f"http://{here}:{_PEERS}",
            "initial-cluster": ",".join(f"region-{n}=http://{address(n)}:{_PEERS}" for n in others),
            # etcd's own advice for a round trip of 80 ms: a tenth of the election's time.
            "heartbeat-interval": 100,
            "election-timeout": 1_000,
        }
        _, etcd = programs()
        self._run("etcd", [etcd, *(f"--{key}={value}" for key, value in options.items())])

    def start_patroni(self) -> None:
        """Starts Patroni, which starts PostgreSQL."""
        patroni, _ = programs()
        self._run("patroni", [*patroni, str(self._config)])

    def _run(self, name: str, command: list[str]) -> None:
        if self._owner is not None:
            # PostgreSQL refuses to run as root, and the Python of the tests may be where only root
            # reads.
            ids = (f"--reuid={self._owner.pw_uid}", f"--regid={self._owner.pw_gid}")
            reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
            # A change of user forgets which signal comes with the parent's end.
            ends = ("--pdeathsig", "TERM")
            command = ["setpriv", *ids, "--clear-groups", *reads, *ends, *command]
        with (self._folder.with_suffix(f".{name}.log")).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._wan.inside(self.region, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "LC_ALL": "C.UTF-8"},
            )

    def tell(self, name: str, how: signal.Signals) -> None:
        """Sends etcd or Patroni a signal: SIGSTOP lets it sleep, SIGCONT wakes it."""
        self._processes[name].send_signal(how)

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stops etcd or Patroni; with Patroni, PostgreSQL ends, too, unless it is killed."""
        process = self._processes.pop(name)
        process.send_signal(how)
        process.wait(60)

    def state(self) -> dict[str, Any]:
        """Returns what Patroni says of itself; empty, if it does not answer."""
        ask = ["curl", "-s", "-m", "2", f"http://{address(self.region)}:{REST}/patroni"]
        done = subprocess.run(
            self._wan.inside(self.region, ask), capture_output=True, text=True, check=False
        )
        with contextlib.suppress(ValueError):
            found: dict[str, Any] = json.loads(done.stdout)
            return found
        return {}
