"""Three regions, 80 ms apart: a database that survives any one of them, and servers in each.

Two servers of a region serve that region alone, and have a login at its KMS alone. A third one, the
control replica, serves all regions, for changes that need other regions' KMSs.

The servers listen on unix sockets, which reach into a network namespace: so clients of the test's
own process call each server from beside it. A server sees its folder at a path that is the same for
all of them. So a caller has one name at all servers, and may repeat a request at another one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import postgres
from chaos import wishes
from drill.database import DATABASE, POSTGRES, USER, Member
from drill.vaults import Vault, origin, uris
from drill.wan import Wan, address
from e2e.server import BIN, READY, clean_environment

REGIONS: Final = (1, 2, 3)

NAMES: Final = dict(zip(REGIONS, wishes.REGIONS, strict=True))
"""What Keyfold calls the regions, by number."""

KEYS: Final = {name: uris(number) for number, name in NAMES.items()}
"""The URIs of each region's root keys: its customers have them in their own region."""

SERVERS: Final = 2
"""Servers in each region that serve this region alone."""

DELAY: Final = 0.04
"""Seconds that a packet takes from one region to another."""

STALENESS: Final = 45.0
"""Seconds that a server serves without its store: longer than a failover takes."""

TTL: Final = 15.0
GRACE: Final = 900.0
"""Seconds that a key serves after a proof by its KMS, and further ones while the KMS is away."""

_READY: Final = 120.0
_FAILOVER: Final = 120.0


class RegionServer:
    """A server in a region.

    Attributes:
        region: The region.
        serves: The regions that it serves.
        name: Its name within a run, as `chaos.history.Attempt.server` has it.
        target: The address for clients.
        folder: The folder of its files.
    """

    def __init__(self, region: int, serves: Sequence[int], name: str, folder: Path) -> None:
        """Makes its folder."""
        self.region = region
        self.serves = tuple(serves)
        self.name = name
        self.folder = folder / self.place
        self.folder.mkdir()
        self.target = f"unix:{self.folder / 'socket'}"
        self._here = folder / "here"
        self._out = self.folder / "out"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        """The server, whichever of its processes it is, as `chaos.history.Span.what` has it."""
        return self.name.partition(".")[0]

    @property
    def is_control(self) -> bool:
        """Whether it serves all regions."""
        return self.serves == REGIONS

    def begin(self, wan: Wan, settings: dict[str, str]) -> None:
        """Starts it; `wait_ready` waits for it."""
        own = {
            "KEYFOLD_LISTEN": f"unix:{self._here / 'socket'}",
            "KEYFOLD_CONFIG": str(self.folder / "keyfold.toml"),
            "KEYFOLD_ALLOWED_ENDPOINTS": ",".join(origin(number) for number in self.serves),
            "KEYFOLD_SERVES": "*"
            if self.is_control
            else ",".join(NAMES[number] for number in self.serves),
        }
        # `ip netns exec` gives the command a view of the file system of its own.
        script = 'mount --bind "$1" "$2" && exec "$3"'
        places = (self.folder, self._here, BIN / "keyfold-server")
        command = ["sh", "-c", script, "sh", *map(str, places)]
        with self._out.open("ab") as out, self._out.with_suffix(".err").open("ab") as err:
            self._process = subprocess.Popen(
                wan.inside(self.region, command),
                cwd=self.folder,
                env=clean_environment(**settings, **own),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def wait_ready(self) -> None:
        """Waits until it takes calls."""
        assert self._process is not None
        ends = time.monotonic() + _READY
        while not self._out.read_text().startswith(READY):
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < ends, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        """Returns the end of its log."""
        return self._out.with_suffix(".err").read_text()[-3000:]

    def signal(self, how: signal.Signals) -> None:
        """Sends it a signal: SIGSTOP lets it sleep, SIGCONT wakes it."""
        assert self._process is not None
        self._process.send_signal(how)

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class World:
    """The regions and the network between them.

    Attributes:
        wan: The network.
        members: The members of the database, by region.
        vaults: The customers' KMSs, by region.
        servers: All servers, by region; the last one of each is the control replica.
    """

    def __init__(self, wan: Wan, folder: Path) -> None:
        """Makes the files; nothing runs yet."""
        self.wan = wan
        self._folder = folder
        self._password = secrets.token_hex(12)
        (folder / "password").write_text(self._password)
        (folder / "here").mkdir()
        postgres.a_service_key(folder)
        self.members = {n: Member(wan, n, folder / f"db-{n}", self._password) for n in REGIONS}
        self.vaults: dict[int, Vault] = {}
        self.servers = {
            n: [
                *(RegionServer(n, (n,), f"r{n}s{number}.1", folder) for number in range(SERVERS)),
                RegionServer(n, REGIONS, f"r{n}control.1", folder),
            ]
            for n in REGIONS
        }

    def start(self) -> None:
        """Starts everything."""
        for member in self.members.values():
            member.start_etcd(len(REGIONS))
        for member in self.members.values():
            member.start_patroni()
        for number in REGIONS:
            self.vaults[number] = Vault(self.wan, number)
        for server in self.every_server():
            logins = [self.vaults[number].login(server.folder) for number in server.serves]
            (server.folder / "keyfold.toml").write_text("\n".join(logins))
        self.until(self.in_sync, _FAILOVER)
        assert self.asked(f"CREATE DATABASE {DATABASE}", "postgres") is not None
        done = subprocess.run(
            self.wan.inside(REGIONS[0], [BIN / "keyfold-server", "migrate"]),
            env=clean_environment(**self._settings(REGIONS[0])),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for server in self.every_server():
            server.begin(self.wan, self._settings(server.region))
        for server in self.every_server():
            server.wait_ready()

    def _settings(self, region: int) -> dict[str, str]:
        # The own region first, as the page says: the others are a round trip away.
        order = sorted(REGIONS, key=lambda number: number != region)
        hosts = "&".join(f"host={address(number)}:{POSTGRES}" for number in order)
        return {
            "KEYFOLD_STORE": f"postgresql://{USER}@/{DATABASE}?{hosts}&sslmode=disable",
            "KEYFOLD_STORE_PASSWORD_FILE": str(self._folder / "password"),
            "KEYFOLD_STORE_MAX_STALENESS": f"{STALENESS:g}s",
            "KEYFOLD_SERVICE_KEY": str(self._folder / "service.key"),
            "KEYFOLD_CACHE_TTL": f"{TTL:g}s",
            "KEYFOLD_OUTAGE_GRACE": f"{GRACE:g}s",
            "KEYFOLD_METRICS": "off",
        }

    def every_server(self) -> list[RegionServer]:
        """Returns the servers of all regions."""
        return [server for servers in self.servers.values() for server in servers]

    def control(self, region: int) -> RegionServer:
        """Returns a region's control replica."""
        return self.servers[region][-1]

    def asked(self, statement: str, database: str = DATABASE) -> list[list[str]] | None:
        """Runs a statement on the primary, from within its region.

        Returns:
            Its rows; None if it could not be run.
        """
        primary = self.primary()
        if primary is None:
            return None
        where = ["-h", address(primary), "-U", USER, "-At", "-F", "\t"]
        done = subprocess.run(
            self.wan.inside(
                primary, [postgres.programs("15") / "psql", *where, "-c", statement, database]
            ),
            env={**os.environ, "PGPASSWORD": self._password, "PGCONNECT_TIMEOUT": "5"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return None
        return [line.split("\t") for line in done.stdout.splitlines()]

    def primary(self) -> int | None:
        """Returns the region whose member takes writes, by its own word.

        A member that was cut off a moment ago may still say so; the newest timeline counts.
        """
        states = {number: member.state() for number, member in self.members.items()}
        primaries = [
            (state.get("timeline", 0), number)
            for number, state in states.items()
            if state.get("role") == "primary" and state.get("state") == "running"
        ]
        return max(primaries)[1] if primaries else None

    def in_sync(self) -> bool:
        """Returns whether either standby suffices for a commit, so that any region may go.

        When a standby comes back, Patroni first waits for both, for up to two turns of its loop.
        """
        states = [member.state() for member in self.members.values()]
        if sum(bool(state.get("quorum_standby")) for state in states) < len(REGIONS) - 1:
            return False
        # It may change hands meanwhile.
        if (told := self.asked("SHOW synchronous_standby_names", "postgres")) is None:
            return False
        ((names,),) = told
        return names.startswith("ANY 1 ") and names.count("region-") == len(REGIONS) - 1

    @staticmethod
    def until(there: Callable[[], bool], most: float) -> float:
        """Waits until something is there, and returns how many seconds that took."""
        began = time.monotonic()
        while not there():
            assert time.monotonic() - began < most, f"it did not come within {most:g} s"
            time.sleep(0.3)
        return time.monotonic() - began

    def logs(self, most: int = 1_500) -> str:
        """Returns the end of every log, for the reader of a failure."""
        return "\n".join(
            f"== {path.relative_to(self._folder)}\n{path.read_text(errors='replace')[-most:]}"
            for path in sorted(self._folder.glob("*/out.err")) + sorted(self._folder.glob("*.log"))
        )

    def stop(self) -> None:
        """Ends everything."""
        for server in self.every_server():
            server.kill()
        for vault in self.vaults.values():
            vault.server.stop()
        for member in self.members.values():
            for name in ("patroni", "etcd"):
                with contextlib.suppress(KeyError, subprocess.TimeoutExpired):
                    member.stop(name)


@contextmanager
def opened() -> Iterator[World]:
    """Yields three regions in which everything runs."""
    folder = Path(tempfile.mkdtemp(prefix="keyfold-drill-"))
    folder.chmod(0o755)  # PostgreSQL's user passes through
    try:
        with Wan(len(REGIONS), DELAY) as wan:
            world = World(wan, folder)
            try:
                world.start()
                yield world
            finally:
                world.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
