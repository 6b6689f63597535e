"""`make soak MINUTES=60`: servers that serve for long, while everything around them goes wrong.

One server serves from the first minute to the last, over mutual TLS. Two groups of clients call it:
*direct*, who must not see one failed call, and *relayed*, behind a network that fails. A second
server is stopped in order and started again every 40 seconds; its *drained* clients wait while it
is away. Meanwhile certificates change, connections end for their age, clients are killed in the
middle of their calls, and hostile clients send floods and garbage.

At the end the calls and errors of each group are printed, with the first server's memory and file
descriptors each half minute. The exit code is 1 if a direct client saw an error, another one an
error that its faults do not explain, a log a traceback, or if the server grew.

`KEYFOLD_TEST_TRANSPORT=asgi` does all this on the other transport.
"""

from __future__ import annotations

import argparse
import json
import random
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import grpc

from certificates import Authority
from e2e.hostile import FLOODS, PREFACE, Hostile, garbage
from e2e.server import Server, make
from in_process import TRANSPORT
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from proxy import Proxy, Way

GROWTH: Final = 40 * 1024 * 1024
"""Bytes by which the server may be larger at the end than after a quarter of the time."""

DESCRIPTORS: Final = 20
"""Descriptors that it may have more at the end, without clients, than before their first call."""

_AGE: Final = 30
"""Seconds after which connections end."""

_DRAIN: Final = 40
"""Seconds between two stops of the second server."""

_AWAY: Final = 60
"""Seconds for which the second server may be away: a busy machine takes long to start one."""

_LONG: Final = timedelta(days=2)
"""The life of a certificate: no soak is longer."""

_POLICY: Final = b"""
[[grant]]
callers = ["spiffe://example.org/admin"]
roles = ["admin"]
keys = [{ type = "LOCAL", uri = "local:*" }]
"""

_EXPLAINED: Final = {
    "direct": set[str](),
    "relayed": {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"},
    "drained": {"UNAVAILABLE"},
}
"""The codes that each group may see."""


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class House:
    """A folder with the files of TLS, whose server's certificate can be renewed."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        """Takes a folder; with an authority, writes the files."""
        self.folder = folder
        self._authority = authority
        if authority is not None:
            admin = authority.issue("spiffe://example.org/admin", ends=_LONG)
            self.write("ca.pem", authority.pem)
            self.write("client.pem", admin.pem)
            self.write("client.key", admin.key_pem)
            self.write("policy.toml", _POLICY)
            self.renew()

    def renew(self) -> None:
        """Gives the server a new certificate, as a tool that renews it does."""
        assert self._authority is not None
        own = self._authority.issue("dns:localhost", ends=_LONG)
        self.write("server.pem", own.pem)
        self.write("server.key", own.key_pem)

    def write(self, name: str, text: bytes) -> None:
        """Replaces a file in one step."""
        new = self.folder / f"{name}.new"
        new.write_bytes(text)
        new.chmod(0o600)
        new.replace(self.folder / name)

    def settings(self) -> dict[str, str]:
        """Returns the settings of a server."""
        return {
            "KEYFOLD_TLS_CERT": str(self.folder / "server.pem"),
            "KEYFOLD_TLS_KEY": str(self.folder / "server.key"),
            "KEYFOLD_TLS_CLIENT_CA": str(self.folder / "ca.pem"),
            "KEYFOLD_POLICY": str(self.folder / "policy.toml"),
            "KEYFOLD_MAX_CONNECTION_AGE": f"{_AGE}s",
        }

    def channel(self, port: str) -> grpc.Channel:
        """Returns a connection of its own to a port."""
        read = [
            (self.folder / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")
        ]
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
        ]
        return grpc.secure_channel(
            f"localhost:{port}", grpc.ssl_channel_credentials(*read), options
        )

    def hostile(self, target: str) -> Hostile:
        """Returns a hostile client that has a certificate."""
        return Hostile(target, tls=_context(self.folder))


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "client.pem", folder / "client.key")
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    return context


class Client:
    """A process that calls a server until it is killed."""

    def __init__(self, group: str, port: str, folder: Path) -> None:
        """Starts it."""
        self.group = group
        arguments = [sys.executable, "-m", "chaos.soak", "--client", group, port, str(folder)]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self._said: dict[str, int] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                self._said = json.loads(line)

    def kill(self) -> Counter[str]:
        """Kills it in the middle of its calls; returns how often each of them ended how."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        return Counter(self._said)


def call_for_ever(group: str, port: str, folder: Path) -> None:
    """Calls a server from two threads, and says each second how the calls have ended."""
    told: Counter[str] = Counter()
    lock = threading.Lock()

    def work(stub: service.KeyManagementServiceStub) -> None:
        # Only what is drained may wait: a direct client has to be served at once.
        ready = group == "drained"
        timeout = 20 + (_AWAY if ready else 0)
        while True:
            code = "OK"
            try:
                key = b"k" * random.randint(16, 2_000)
                asked = pb.WrapRequest(cluster="prod", region="eu", plaintext=key)
                wrapped = stub.Wrap(asked, timeout=timeout, wait_for_ready=ready).wrapped_key
                opens = pb.UnwrapRequest(cluster="prod", wrapped_key=wrapped)
                opened = stub.Unwrap(opens, timeout=timeout, wait_for_ready=ready)
                code = "OK" if opened.plaintext == key else "WRONG"
            except grpc.RpcError as error:
                status = cast("grpc.Call", error)
                code = f"{status.code().name}: {status.details()}"
            with lock:
                told[code] += 1
            time.sleep(0.005 if code == "OK" else 0.2)

    house = House(folder)
    with house.channel(port) as one, house.channel(port) as other:
        for channel in (one, other):
            stub = service.KeyManagementServiceStub(channel)
            threading.Thread(target=work, args=(stub,), daemon=True).start()
        while True:
            time.sleep(1)
            with lock:
                say(json.dumps(told))


class Soak:
    """A soak of some minutes in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Prepares it."""
        self._folder = folder
        self._chance = random.Random(seed)
        self._house = House(folder, Authority())
        self._told: dict[str, Counter[str]] = {group: Counter() for group in _EXPLAINED}
        self._faults: Counter[str] = Counter()
        self._sizes: list[tuple[int, int]] = []
        self._servers: list[Server] = []
        self._away = 0.0

    def run(self, minutes: float) -> list[str]:
        """Runs it, prints what came out, and returns what was wrong."""
        first, second = (self._served(name) for name in ("first", "second"))
        port, other = (one.target.rpartition(":")[2] for one in (first, second))
        before = _descriptors(first)
        with Proxy(int(port)) as network:
            ports = {"direct": port, "relayed": str(network.port), "drained": other}
            clients = [Client(group, ports[group], self._folder) for group in ports]
            ends, quarter = time.monotonic() + 60 * minutes, 60 * minutes / 4
            sampled = drained = time.monotonic()
            try:
                while time.monotonic() < ends:
                    self._fault(first, network, clients, ports)
                    if time.monotonic() - drained > _DRAIN:
                        drained = time.monotonic()
                        self._drain(second)
                    if time.monotonic() - sampled > 30:
                        sampled = time.monotonic()
                        self._sample(first)
            finally:
                for client in clients:
                    self._told[client.group] += client.kill()
        faults = self._explain()
        time.sleep(_AGE)  # What is left of the clients has ended by then.
        self._sample(first)
        say(f"faults: {json.dumps(self._faults)}")
        say(f"the second server was away for up to {self._away:.1f} s")
        sizes = [size for size, _ in self._sizes]
        grown = sizes[-1] - sizes[int(len(sizes) * quarter / (60 * minutes))]
        left = self._sizes[-1][1] - before
        say(f"memory: grew by {grown >> 20} MiB since a quarter of the time")
        say(f"descriptors: {before} before, {self._sizes[-1][1]} after")
        if grown > GROWTH:
            faults.append(f"the server grew by {grown >> 20} MiB")
        if left > DESCRIPTORS:
            faults.append(f"{left} descriptors are left")
        for server in (first, second):
            if code := server.stop():
                faults.append(f"a server ended with {code}")
            if "Traceback" in server.log() or "panicked" in server.log():
                faults.append(f"a traceback in {server.folder}")
        return faults

    def close(self) -> None:
        """Ends what is still running."""
        for server in self._servers:
            if server.running:
                server.kill()

    def _served(self, name: str) -> Server:
        folder = self._folder / name
        folder.mkdir()
        server = make(folder, ["eu"], self._house.settings())
        self._servers.append(server)
        server.start()
        port = server.target.rpartition(":")[2]
        with self._house.channel(port) as channel:
            spec = res.RegionSpec(region="eu", key_spec=res.KeySpec(type="LOCAL", uri="local:eu"))
            asked = pb.EnableRequest(cluster="prod", region_specs=[spec])
            service.KeyManagementServiceStub(channel).Enable(asked, timeout=30)
        return server

    def _fault(
        self, first: Server, network: Proxy, clients: list[Client], ports: dict[str, str]
    ) -> None:
        """Does one thing wrong, for some seconds."""

        def renew() -> None:
            self._house.renew()

        def kill() -> None:
            group = self._chance.choice(list(ports))
            at = next(at for at, one in enumerate(clients) if one.group == group)
            self._told[group] += clients[at].kill()
            clients[at] = Client(group, ports[group], self._folder)

        def cut() -> None:
            network.set(self._chance.choice([way for way in Way if way is not Way.PASS]), 0.1)
            time.sleep(2)
            network.set(Way.PASS)

        def strangers() -> None:
            for _ in range(20):
                with Hostile(first.target, hello=False) as stranger:
                    stranger.send(PREFACE + self._chance.randbytes(100))

        def hostile() -> None:
            # Without a certificate it gets no further than the handshake; with one, see below.
            name = self._chance.choice(list(FLOODS))
            with self._house.hostile(first.target) as client:
                client.flood(FLOODS[name](), 1)

        def malformed() -> None:
            for _, data in zip(range(20), garbage(self._chance.randrange(1 << 30)), strict=False):
                with self._house.hostile(first.target) as client:
                    client.send(data)

        faults: list[Callable[[], Any]] = [renew, kill, cut, strangers, hostile, malformed]
        fault = self._chance.choice(faults)
        fault()
        self._faults[fault.__name__] += 1
        time.sleep(self._chance.uniform(1, 3))

    def _drain(self, server: Server) -> None:
        began = time.monotonic()
        server.restart()
        self._faults["drain"] += 1
        self._away = max(self._away, time.monotonic() - began)

    def _sample(self, server: Server) -> None:
        status = Path(f"/proc/{server.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        self._sizes.append((int(line.split()[1]) * 1024, _descriptors(server)))
        size, descriptors = self._sizes[-1]
        say(f"{size >> 20} MiB, {descriptors} descriptors")

    def _explain(self) -> list[str]:
        faults = []
        for group, told in self._told.items():
            say(
                f"{group}: {told['OK']} pairs of calls, {json.dumps(told - Counter(OK=told['OK']))}"
            )
            wrong = [
                code for code in told if code.partition(":")[0] not in {"OK", *_EXPLAINED[group]}
            ]
            faults += [f"{group}: {told[code]} times {code}" for code in wrong]
            if not told["OK"]:
                faults.append(f"{group}: nothing was answered")
        return faults


def _descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def main() -> int:
    """Runs the soak, or one of its clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--client", nargs=3, metavar=("GROUP", "PORT", "FOLDER"))
    given = parser.parse_args()
    if given.client:
        group, port, folder = given.client
        call_for_ever(group, port, Path(folder))
    say(f"{given.minutes:g} minutes on {TRANSPORT}, seed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="keyfold-soak-") as folder:
        soak = Soak(Path(folder), given.seed)
        try:
            faults = soak.run(given.minutes)
        finally:
            soak.close()
    for fault in faults:
        say(f"FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
