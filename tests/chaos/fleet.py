"""The system under test: server processes with failpoints over one store, and their dev keys."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import postgres
from e2e.server import READY, ROOT, NotReadyError, Server, clean_environment
from keyfold_server.providers.local_keys import KeyFile
from keyfold_server.service.timing import SystemClock
from keyfold_server.store.marks import MARKS
from keyfold_server.store.opening import migrate_store, open_store
from keyfold_server.store.sql import SqlStore

KEYS: Final = ("a", "b", "twins")
"""Dev keys: two that clusters move between, and one that two clusters share and never leave."""

STALENESS: Final = 2.0
TTL: Final = 1.5
GRACE: Final = 1.0

SLOW: Final = 0.25
"""Part of the answers inside a server that come late."""

_PROGRAM: Final = Path(__file__).with_name("failpoints.py")
_START: Final = 30.0
_HOLD: Final = 10.0


@dataclass
class ChaosServer(Server):
    """A server of a given tree, with failpoints."""

    tree: Path = ROOT
    die: str = ""
    slow: float = SLOW

    @property
    def name(self) -> str:
        """This process among all of a run: the server's folder and which start it is."""
        return f"{self.folder.name}.{self._starts}"

    def start(self) -> None:
        """Starts the process and waits until it is ready.

        Raises:
            NotReadyError: It is not; the message holds what it wrote to stderr.
        """
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Starts the process."""
        self._starts += 1
        environment = clean_environment(**self.settings) | {
            "PYTHONPATH": f"{self.tree / 'server'}{os.pathsep}{self.tree / 'clients' / 'python'}",
            "CHAOS_TREE": str(self.tree),
            "CHAOS_DIE": self.die,
            "CHAOS_SLOW": str(self.slow),
        }
        out, err = (self.folder / f"{name}.{self._starts}" for name in ("stdout", "stderr"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", _PROGRAM],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    def wait_ready(self) -> None:
        """Waits until it takes calls; raises as `start`."""
        assert self.process is not None
        out = self.folder / f"stdout.{self._starts}"
        ends = time.monotonic() + _START
        while not (line := out.read_text()).endswith("\n"):
            code = self.process.poll()
            if code is not None or time.monotonic() > ends:
                self.kill()
                err = self.folder / f"stderr.{self._starts}"
                raise NotReadyError(err.read_text(errors="replace")[-3000:], code)
            time.sleep(0.02)
        self.target = line.removeprefix(READY).strip()
        self.settings = self.settings | {"KEYFOLD_LISTEN": self.target}


class Fleet:
    """One or three servers over one store.

    Attributes:
        folder: All files.
        servers: The servers; one on SQLite, three on PostgreSQL.
        keys: The dev key file.
        database: The PostgreSQL server, or None.
    """

    def __init__(self, folder: Path, tree: Path, *, shared: bool, kills: random.Random) -> None:
        """Makes keys, store and servers; `start` starts them.

        Args:
            folder: An empty folder.
            tree: Whose code the servers run.
            shared: Three servers on PostgreSQL; else one on SQLite.
            kills: Draws the marks at which servers die.
        """
        self.folder = folder
        self.keys = KeyFile(folder / "keys.json")
        for name in KEYS:
            self.keys.create(name)
        self.database: postgres.Server | None = None
        self._random = kills
        self._away = folder / "keys.json.away"
        self.deaths = 0
        common: dict[str, str | None] = {
            "KEYFOLD_LISTEN": "127.0.0.1:0",
            "KEYFOLD_STORE": f"sqlite:///{folder / 'store.db'}",
            "KEYFOLD_SERVICE_KEY": str(folder / "service.key"),
            "KEYFOLD_LOCAL_KEYS": str(self.keys.path),
            "KEYFOLD_METRICS": "off",
            "KEYFOLD_CACHE_TTL": f"{TTL}s",
            "KEYFOLD_OUTAGE_GRACE": f"{GRACE}s",
            "KEYFOLD_STORE_MAX_STALENESS": f"{STALENESS:g}s",
            "KEYFOLD_DRAIN_GRACE": "1s",
        }
        if shared:
            self.database = postgres.Server("15", checkpoint_timeout="30s")
            self.database.start()
            name = self.database.create()
            common["KEYFOLD_STORE"] = self.database.url(name)
            migrate_store(self.database.url(name), password_file=self.database.password_file)
            postgres.a_service_key(folder)
            common["KEYFOLD_STORE_PASSWORD_FILE"] = str(self.database.password_file)
        self.url = str(common["KEYFOLD_STORE"])
        self.servers = []
        for number in range(3 if shared else 1):
            own = folder / f"s{number}"
            own.mkdir()
            server = ChaosServer(own, dict(common), tree=tree)
            self.servers.append(server)

    def start(self) -> None:
        """Starts every server that does not run, all at once."""
        begun = [server for server in self.servers if not server.running]
        for server in begun:
            server.begin()
        for server in begun:
            server.wait_ready()

    def arm(self, server: ChaosServer, chance: float) -> None:
        """Has a server's next start end, by some chance, at a mark of the store's mutations."""
        server.die = ""
        if self._random.random() < chance:
            mark = self._random.choice([m for m in MARKS if m.startswith("apply:")])
            server.die = f"{mark} {self._random.randint(5, 60)}"

    def revive(self, chance: float) -> None:
        """Starts servers that have died at a mark again."""
        for server in self.servers:
            if not server.running:
                self.deaths += 1
                self.arm(server, chance)
        self.start()

    def kill(self, server: ChaosServer) -> None:
        """Ends a server by SIGKILL."""
        server.kill()

    def pause(self, server: ChaosServer) -> None:
        """Stops a server in its tracks."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGSTOP)

    def resume(self, server: ChaosServer) -> None:
        """Lets it go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGCONT)

    def take_keys_away(self) -> None:
        """Takes the dev key file away: no root key can be asked."""
        self.keys.path.rename(self._away)

    def bring_keys_back(self) -> None:
        """Puts it back."""
        self._away.rename(self.keys.path)

    @contextmanager
    def held_store(self) -> Iterator[None]:
        """Keeps every writer out of the store: no poll, no change; reads go on where they can.

        On SQLite another process's transaction does that, on PostgreSQL the server is stopped.
        """
        if self.database is not None:
            self.database.stop(signal.SIGQUIT)
            try:
                yield
            finally:
                self.database.start()
            return
        holder = sqlite3.connect(self.folder / "store.db", timeout=_HOLD, isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
            yield
        finally:
            holder.close()

    def crash_store(self) -> None:
        """Ends PostgreSQL as `pg_ctl stop -m immediate` does, and starts it again."""
        assert self.database is not None
        self.database.crash()

    def store(self) -> SqlStore:
        """Opens the store beside the servers; on SQLite they must have ended."""
        password = self.database.password_file if self.database else None
        return open_store(
            self.url, self.folder / "service.key", clock=SystemClock(), password_file=password
        )

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Runs one statement on the store's database, past the server."""
        if self.database is not None:
            return self.database.run(statement, self.url.rpartition("/")[2])
        with contextlib.closing(sqlite3.connect(self.folder / "store.db")) as database:
            rows = database.execute(statement).fetchall()
            database.commit()
            return rows

    def log(self) -> str:
        """Returns what the servers have written."""
        return "".join(server.log() for server in self.servers)

    def close(self) -> None:
        """Ends everything."""
        for server in self.servers:
            if server.running:
                self.resume(server)
                server.kill()
        if self.database is not None:
            self.database.destroy()
