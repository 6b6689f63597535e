"""The system under test: servers with failpoints over one store, their keys and their network."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import postgres
from chaos.board import TWINS_KEY
from chaos.network import Network, Pair
from chaos.servers import ChaosServer, nursery_of
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import migrate_store, open_store
from keyfold_server.store.sql.failpoints import FAILPOINTS
from keyfold_server.store.sql.store import SqlStore

KEYS: Final = ("a", "b", TWINS_KEY)
"""Dev keys: clusters move between two of them; two clusters share the third and never leave it."""

STALENESS: Final = 2.0
TTL: Final = 1.5
GRACE: Final = 1.0

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
SYNCHRONOUS: Final = "synchronous"
LAGGING: Final = "lagging"
KINDS: Final = {
    SQLITE: "1 server, SQLite",
    POSTGRESQL: "3 servers, PostgreSQL",
    SYNCHRONOUS: "3 servers, PostgreSQL that fails over to a synchronous standby",
    LAGGING: "3 servers, PostgreSQL that fails over to a lagging standby",
}
"""The kinds of system, with the words that describe them."""

_SERVERS: Final = 3
_HOLD: Final = 10.0


class Fleet:
    """One or three servers over one store.

    Attributes:
        folder: Folder of all files.
        kind: One of `KINDS`.
        servers: One server on SQLite, three on PostgreSQL.
        keys: The dev key file.
        database: The PostgreSQL server that is the primary, or None.
        pair: The primary and its standby if the system can fail over, else None.
        deaths: Number of servers that have died at a mark.
        name: The database's name.
    """

    def __init__(self, folder: Path, tree: Path, kind: str, *, kills: random.Random) -> None:
        """Makes keys, store and servers; `start` starts them.

        Args:
            folder: An empty folder.
            tree: Root of the code that the servers run.
            kind: One of `KINDS`.
            kills: Source of the draws of marks at which servers die.
        """
        self.folder = folder
        self.kind = kind
        self.deaths = 0
        self._random = kills
        self._shared = folder / "keys"
        self._shared.mkdir()
        self._away = folder / "keys.away"
        self.keys = KeyFile(self._shared / "keys.json")
        for name in KEYS:
            self.keys.create(name)
        self.pair: Pair | None = None
        self.database: postgres.Server | None = None
        self._networks: dict[str, Network] = {}
        self._nursery = nursery_of(tree)
        self.name = ""
        common = self._store()
        self.servers = [
            self._server(f"s{number}", common)
            for number in range(1 if kind == SQLITE else _SERVERS)
        ]

    def _store(self) -> dict[str, str | None]:
        common: dict[str, str | None] = {
            "KEYFOLD_LISTEN": "127.0.0.1:0",
            "KEYFOLD_SERVICE_KEY": str(self.folder / "service.key"),
            "KEYFOLD_METRICS": "off",
            "KEYFOLD_CACHE_TTL": f"{TTL}s",
            "KEYFOLD_OUTAGE_GRACE": f"{GRACE}s",
            "KEYFOLD_STORE_MAX_STALENESS": f"{STALENESS:g}s",
            "KEYFOLD_DRAIN_GRACE": "1s",
            # All clusters share a few root keys, whose owners need no protection from load.
            "KEYFOLD_KMS_RATE_PER_KEY": "1000000",
            "KEYFOLD_KMS_RATE_PER_ACCOUNT": "1000000",
            "KEYFOLD_KMS_RATE_PER_PROVIDER": "1000000",
        }
        if self.kind == SQLITE:
            return common | {"KEYFOLD_STORE": self.url}
        self.database = postgres.Server("15", checkpoint_timeout="30s")
        self.database.start()
        self.name = self.database.create()
        migrate_store(self.url, password_file=self.database.password_file)
        postgres.a_service_key(self.folder)
        if self.kind in {SYNCHRONOUS, LAGGING}:
            self.pair = Pair(self.database, synchronous=self.kind == SYNCHRONOUS)
        return common | {
            "KEYFOLD_STORE": self.url,
            "KEYFOLD_STORE_PASSWORD_FILE": str(self.database.password_file),
        }

    def _server(self, name: str, common: dict[str, str | None]) -> ChaosServer:
        """Makes a server with its own path to the keys and, where it matters, to the store."""
        own = self.folder / name
        own.mkdir()
        (own / "keys").symlink_to(self._shared)
        settings = common | {"KEYFOLD_LOCAL_KEYS": str(own / "keys" / "keys.json")}
        if self.pair is not None:
            port = self.pair.primary.port
            network = self._networks[name] = Network(port)
            network.__enter__()
            here, there = f":{port}/", f":{network.port}/"
            settings["KEYFOLD_STORE"] = self.url.replace(here, there)
        return ChaosServer(own, settings, nursery=self._nursery)

    @property
    def url(self) -> str:
        """The URL of the store itself, not of any network before it."""
        if self.database is None:
            return f"sqlite:///{self.folder / 'store.db'}"
        return self.database.url(self.name)

    # Servers

    def start(self) -> None:
        """Starts all servers that do not run, at once."""
        begun = [server for server in self.servers if not server.running]
        for server in begun:
            server.begin()
        for server in begun:
            server.wait_ready()

    def restart(self) -> None:
        """Kills every server and starts it again without a mark to die at."""
        for server in self.servers:
            server.kill()
            server.die = ""
        self.start()

    def extra(self) -> ChaosServer:
        """Starts a server that no client calls, connected directly to the store."""
        first = self.servers[0]
        common = first.settings | {"KEYFOLD_LISTEN": "127.0.0.1:0", "KEYFOLD_STORE": self.url}
        own = self.folder / "extra"
        own.mkdir()
        server = ChaosServer(own, common, nursery=self._nursery, slow=0.0)
        server.start()
        return server

    def arm(self, server: ChaosServer, chance: float) -> None:
        """Draws whether a server's next process dies at a mark of the store's mutations."""
        server.die = ""
        if self._random.random() < chance:
            mark = self._random.choice([m for m in FAILPOINTS if m.startswith("apply:")])
            server.die = f"{mark} {self._random.randint(5, 60)}"

    def revive(self, chance: float) -> None:
        """Restarts the servers that have died at a mark."""
        for server in self.servers:
            if not server.running:
                self.deaths += 1
                self.arm(server, chance)
        self.start()

    # Keys

    def take_keys_away(self) -> None:
        """Takes the dev key file away, so that no root key can be reached."""
        self._shared.rename(self._away)

    def bring_keys_back(self) -> None:
        """Puts the dev key file back."""
        self._away.rename(self._shared)

    def cut_off(self, server: ChaosServer) -> None:
        """Takes the dev key file away from one server."""
        (server.folder / "keys").unlink()

    def join(self, server: ChaosServer) -> None:
        """Gives the dev key file back to a server."""
        (server.folder / "keys").symlink_to(self._shared)

    # The store

    def network(self, server: ChaosServer) -> Network:
        """Returns the network between a server and the store."""
        return self._networks[server.folder.name]

    @contextmanager
    def held_store(self) -> Iterator[None]:
        """Keeps every writer out of the store: no poll, no change; reads go on where they can.

        On SQLite another process's transaction does so; a PostgreSQL server is paused.
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

    def fail_over(self) -> None:
        """Makes the standby the primary; each network leads where it led before."""
        assert self.pair is not None
        self.pair.standby.promote()
        self.database = self.pair.standby

    def store(self) -> SqlStore:
        """Opens the store beside the servers; on SQLite they must have ended."""
        password = self.database.password_file if self.database else None
        return open_store(
            self.url, self.folder / "service.key", clock=SystemClock(), password_file=password
        )

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Runs one statement on the store's database without a Keyfold server."""
        if self.database is not None:
            return self.database.run(statement, self.name)
        with contextlib.closing(sqlite3.connect(self.folder / "store.db")) as database:
            rows = database.execute(statement).fetchall()
            database.commit()
            return rows

    def close(self) -> None:
        """Ends the servers and the store's server."""
        self._nursery.close()
        for network in self._networks.values():
            network.__exit__(None, None, None)
        if self.pair is not None:
            self.pair.close()
        elif self.database is not None:
            self.database.destroy()
