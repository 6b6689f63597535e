"""The server as a process: how it starts, refuses to start, drains and keeps to itself."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from checked import faults
from e2e.conftest import StartServer
from e2e.half_open import HELLO
from e2e.odd_provider import SECRET, installed
from e2e.server import BIN, NotReadyError, Server
from e2e.wire import NotRefusedError, refused, spec, stubs
from in_process import serving
from keyfold.checks import FAILED
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.errors import SetupError
from keyfold_server.settings import load
from lateness import in_time

Health = health_pb2.HealthCheckResponse


def failing(server: Server) -> NotReadyError:
    """Starts a server that must not start; returns how it ended."""
    try:
        server.start()
    except NotReadyError as error:
        return error
    raise NotRefusedError("it started")


def answers(server: Server) -> bool:
    """Says whether a server still takes calls, over a new connection."""
    with stubs(server.target) as stub:
        stub.ListClusters(pb.ListClustersRequest(), timeout=5)
    return True


# Starting


def test_ready_line_names_a_free_port(server: Server) -> None:
    """Port 0 takes a free port, and one line on stdout names it when calls are taken."""
    lines = (server.folder / "stdout.1").read_text().splitlines()
    assert len(lines) == 1
    host, _, port = lines[0].removeprefix("keyfold-server ready on ").rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert answers(server)


def test_second_server_is_refused_and_harms_nothing(start_server: StartServer) -> None:
    """On a port or SQLite file in use a server ends with one line and 2; the first serves on."""
    first = start_server(keys=("eu",))
    first.enable("prod", ["eu"])

    same_port = start_server(ready=False, keys=(), KEYFOLD_LISTEN=first.target)
    error = failing(same_port)
    assert error.code == 2
    assert f"cannot listen on {first.target}; is another server there?" in str(error)
    assert "Traceback" not in str(error)

    # The other name of the same address; gRPC by itself would take the half that is free.
    same_port.settings["KEYFOLD_LISTEN"] = f"localhost:{first.target.rpartition(':')[2]}"
    assert "is another server there?" in str(failing(same_port))

    same_store = start_server(ready=False, keys=(), KEYFOLD_STORE=f"sqlite:///{first.store}")
    error = failing(same_store)
    assert error.code == 2
    assert "another server uses the store" in str(error)

    link = same_store.folder / "link.db"
    link.symlink_to(first.store)
    same_store.settings["KEYFOLD_STORE"] = f"sqlite:///{link}"
    assert "another server uses the store" in str(failing(same_store))

    with first.client() as client:
        assert client.wrap("prod", "eu", b"k" * 32).generation == 1
    assert answers(first)


def test_unix_socket(start_server: StartServer, tmp_path: Path) -> None:
    """A unix socket is its owner's alone; a second server on it is refused, the first unharmed."""
    path = tmp_path / "keyfold.sock"
    first = start_server(KEYFOLD_LISTEN=f"unix:{path}", keys=("eu",))
    assert first.target == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first.enable("prod", ["eu"])

    second = start_server(ready=False, KEYFOLD_LISTEN=f"unix:{path}", keys=())
    error = failing(second)
    assert error.code == 2
    assert f"another server listens on {path}" in str(error)
    assert answers(first)

    first.kill()
    assert path.exists()  # A killed server leaves its socket, which the next one takes over.
    first.start()
    assert answers(first)
    assert first.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("0.0.0.0:0", "without TLS the server listens on loopback or a unix socket only"),
        ("[::]:0", "without TLS the server listens on loopback or a unix socket only"),
        ("192.0.2.1:7443", "without TLS the server listens on loopback or a unix socket only"),
        (":7443", "without TLS the server listens on loopback or a unix socket only"),
        ("example.com:7443", "without TLS the server listens on loopback or a unix socket only"),
        ("unix:keyfold.sock", "absolute path"),
        ("127.0.0.1", "write HOST:PORT"),
        ("127.0.0.1:65536", "write HOST:PORT"),
        ("127.0.0.1:-1", "write HOST:PORT"),
    ],
)
def test_address_that_is_not_local_is_refused(
    monkeypatch: pytest.MonkeyPatch, listen: str, why: str
) -> None:
    """Without TLS anything but loopback and unix sockets is refused, and the reason is given."""
    monkeypatch.setenv("KEYFOLD_LISTEN", listen)
    with pytest.raises(SetupError, match=f"KEYFOLD_LISTEN: .*{why}"):
        load()


def test_bad_settings_stop_the_server_itself(start_server: StartServer) -> None:
    """Serving refuses what check refuses, with exit code 2 and no traceback."""
    error = failing(start_server(ready=False, keys=(), KEYFOLD_LISTEN="0.0.0.0:0"))
    assert error.code == 2
    assert "KEYFOLD_LISTEN: without TLS" in str(error)
    assert "Traceback" not in str(error)


COLLECT = """
import gc, os, signal, time
from keyfold_server import bootstrap, settings

def ready(_):
    began = time.thread_time()
    gc.collect()
    print(time.thread_time() - began)
    os.kill(os.getpid(), signal.SIGTERM)

bootstrap.run(settings.load(), ready)
"""
"""Runs a server, prints how long a full garbage collection computes in it, and ends it."""


def test_a_garbage_collection_does_not_hold_the_loop(start_server: StartServer) -> None:
    """W5: once a server takes calls, a full garbage collection keeps the bound of 20 ms."""
    server = start_server(ready=False)
    done = subprocess.run(
        [sys.executable, "-c", COLLECT],
        env=server.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.02


# Settings


@pytest.fixture(scope="module")
def settings_server(start_module_server: StartServer) -> Server:
    """A server that is never started, for commands on settings."""
    return start_module_server(ready=False, keys=("eu",))


@pytest.fixture(autouse=True)
def _settings_kept(settings_server: Server) -> Iterator[None]:
    kept = dict(settings_server.settings)
    yield
    settings_server.settings = kept


def test_check_names_each_fault(settings_server: Server) -> None:
    """Check says everything that is wrong at once, misspelt variables among it."""
    settings_server.settings = {
        "KEYFOLD_LISTEN": "nowhere",
        "KEYFOLD_CACHE_TTL": "60",
        "KEYFOLD_OUTAGE_GRACE": "25h",
        "KEYFOLD_STORE_MAX_STALENESS": "1s",
        "KEYFOLD_CACHE_CLUSTERS": "many",
        "KEYFOLD_LISTN": "127.0.0.1:1",
    }
    lines = settings_server.command("check", code=FAILED).splitlines()
    failed = [line.removeprefix("FAILURE").strip() for line in lines if "FAILURE" in line]
    assert {line.partition(":")[0] for line in failed} == set(settings_server.settings)
    assert "KEYFOLD_LISTN: it is in the environment and is not a setting" in failed
    assert any("write a duration with its unit" in line for line in lines)


def test_check_looks_beyond_the_form(
    monkeypatch: pytest.MonkeyPatch, settings_server: Server
) -> None:
    """Check finds platform keys that no call could ever use, and stores of no known kind."""
    local = settings_server.settings["KEYFOLD_LOCAL_KEYS"] or ""

    def checked(**settings: str) -> str:
        with monkeypatch.context() as patched:
            for name, value in settings.items():
                patched.setenv(name, value)
            return "\n".join(faults(load()))

    assert not checked(KEYFOLD_PLATFORM_KEY="local:eu", KEYFOLD_LOCAL_KEYS=local)
    assert "KEYFOLD_PLATFORM_KEY" in checked(KEYFOLD_PLATFORM_KEY="nonsense")
    assert "local:NAME" in checked(KEYFOLD_PLATFORM_KEY="local:", KEYFOLD_LOCAL_KEYS=local)
    assert "KEYFOLD_PLATFORM_KEY" in checked(KEYFOLD_PLATFORM_KEY="local:eu")  # no key file
    assert "KEYFOLD_STORE" in checked(KEYFOLD_STORE="mysql://u@h/d")
    with pytest.raises(SetupError, match="KEYFOLD_STORE") as caught:
        checked(KEYFOLD_STORE="mysql://u:hush-hush@h/d")
    assert "hush-hush" not in str(caught.value)
    settings_server.settings = {
        "KEYFOLD_PLATFORM_KEY": "local:",
        "KEYFOLD_STORE": "mysql://h/d",
        "KEYFOLD_LOCAL_KEYS": local,
    }
    lines = settings_server.command("check", code=FAILED).splitlines()
    failed = {line.split()[1] for line in lines if line.startswith("FAILURE")}
    assert failed >= {"KEYFOLD_PLATFORM_KEY:", "KEYFOLD_STORE:"}


def test_platform_key_that_cannot_be_used_stops_the_server(start_server: StartServer) -> None:
    """A PLATFORM uri that its provider refuses shows at the start, not on a customer's call."""
    error = failing(start_server(ready=False, keys=("eu",), KEYFOLD_PLATFORM_KEY="local:"))
    assert error.code == 2
    assert "KEYFOLD_PLATFORM_KEY" in str(error)
    assert "local:NAME" in str(error)


def test_file_with_a_fault_is_named(settings_server: Server) -> None:
    """The server refuses a settings file that is not TOML or has unknown settings, by name."""
    file = settings_server.folder / "bad.toml"
    settings_server.settings["KEYFOLD_CONFIG"] = str(file)
    file.write_bytes(b"listen = \xff\xfe")
    assert f"{file}: not a TOML file" in settings_server.command("check", code=FAILED)
    file.write_text("lissten = '127.0.0.1:1'\n[platform_key]\neu = 5\n")
    output = settings_server.command("check", code=FAILED)
    assert "KEYFOLD_LISSTEN: there is no such setting" in output
    assert "KEYFOLD_PLATFORM_KEY: " in output
    assert "Traceback" not in output


def test_printed_settings_load_again(settings_server: Server) -> None:
    """What --print-settings prints is a settings file that gives the same settings."""
    odd = settings_server.folder / 'k "eys" \\ ü 🔑 \x7f.json'
    file = settings_server.folder / "first.toml"
    file.write_text('[platform_key]\neu = "local:eu"\n"us.east-1" = "local:us"\n')
    settings_server.settings = {
        "KEYFOLD_CONFIG": str(file),
        "KEYFOLD_LISTEN": "[::1]:0",
        "KEYFOLD_LOCAL_KEYS": str(odd),
        "KEYFOLD_CACHE_TTL": "1234ms",
        "KEYFOLD_OUTAGE_GRACE": "12345.678s",
        "KEYFOLD_STORE_MAX_STALENESS": "90s",
        "KEYFOLD_DRAIN_GRACE": "0s",
        "KEYFOLD_CACHE_CLUSTERS": "7",
    }
    printed = settings_server.command("--print-settings")
    values = tomllib.loads(printed)
    assert values["local_keys"] == str(odd)
    assert values["platform_key"] == {"eu": "local:eu", "us.east-1": "local:us"}
    assert values["cache_clusters"] == 7

    again = settings_server.folder / "again.toml"
    again.write_text(printed)
    settings_server.settings = {"KEYFOLD_CONFIG": str(again)}
    assert settings_server.command("--print-settings") == printed
    assert values["outage_grace"] == "12345.678s"


def test_environment_wins_over_the_file(start_server: StartServer) -> None:
    """A TOML file is read, and the environment overrules it, setting by setting."""
    server = start_server(ready=False, keys=("eu",))
    file = server.folder / "keyfold.toml"
    file.write_text('cache_ttl = "7m"\noutage_grace = "1h"\nlisten = "127.0.0.1:1"\n')
    server.settings |= {"KEYFOLD_CONFIG": str(file), "KEYFOLD_CACHE_TTL": "3m"}
    values = tomllib.loads(server.command("--print-settings"))
    assert values["cache_ttl"] == "3m"
    assert values["outage_grace"] == "1h"
    assert values["listen"] == "127.0.0.1:0"


def test_misspelt_variable_is_warned_of(start_server: StartServer) -> None:
    """The server warns of a KEYFOLD_ variable that is not a setting, except the client's own."""
    server = start_server(keys=(), KEYFOLD_CASHE_TTL="0s", KEYFOLD_TARGET="127.0.0.1:1")
    assert "KEYFOLD_CASHE_TTL is not a setting; is it misspelt?" in server.log()
    assert "KEYFOLD_TARGET is not" not in server.log()


# The platform's own key


def test_platform_key(start_server: StartServer) -> None:
    """PLATFORM takes the region's own entry of the table, only where a spec names PLATFORM."""
    server = start_server(ready=False)
    file = server.folder / "keyfold.toml"
    file.write_text('[platform_key]\neu = "local:us"\n')
    server.settings["KEYFOLD_CONFIG"] = str(file)
    server.start()

    def platform(region: str) -> res.RegionSpec:
        return res.RegionSpec(region=region, key_spec=res.KeySpec(type="PLATFORM"))

    with stubs(server.target) as stub:
        status = stub.Enable(
            pb.EnableRequest(cluster="ours", region_specs=[platform("eu")]), timeout=9
        ).status
        (region,) = status.regions
        assert region.key_owner == res.KEY_OWNER_PLATFORM
        assert region.key_spec == res.KeySpec(type="PLATFORM")
        assert region.generations[0].wraps[0].uri == "local:us"

        # A region outside the table has no platform key; a missing spec never means PLATFORM.
        no_key = refused(stub.Enable, pb.EnableRequest(cluster="no", region_specs=[platform("us")]))
        assert (no_key.reason, no_key.fields) == (
            "INVALID_KEY_SPEC",
            ("region_specs[0].key_spec.type",),
        )
        bare = pb.EnableRequest(cluster="no", region_specs=[res.RegionSpec(region="eu")])
        assert refused(stub.Enable, bare).reason == "KEY_SPEC_MISSING"

        # Leaving PLATFORM makes a new generation, and the old wrapped keys stay valid.
        wrapped = stub.Wrap(pb.WrapRequest(cluster="ours", region="eu", plaintext=b"p"), timeout=9)
        own = pb.RotateRequest(cluster="ours", region_specs=[spec("eu")])
        left = stub.Rotate(own, timeout=9).status.regions[0]
        assert left.key_owner == res.KEY_OWNER_CLUSTER
        assert [g.generation for g in left.generations] == [1, 2]
        wrap = pb.WrapRequest(cluster="ours", region="eu", plaintext=b"p")
        assert stub.Wrap(wrap, timeout=9).generation == 2
        opened = stub.Unwrap(
            pb.UnwrapRequest(cluster="ours", wrapped_key=wrapped.wrapped_key), timeout=9
        )
        assert (opened.plaintext, opened.generation) == (b"p", 1)

    # One uri for all regions; a changed setting orphans nothing.
    server.restart(KEYFOLD_CONFIG=None, KEYFOLD_PLATFORM_KEY="local:eu")
    with stubs(server.target) as stub:
        stub.Enable(pb.EnableRequest(cluster="other", region_specs=[platform("any")]), timeout=9)
        stub.Unwrap(pb.UnwrapRequest(cluster="ours", wrapped_key=wrapped.wrapped_key), timeout=9)


# Ending


def turned_away(server: Server) -> bool:
    """Says whether a server turns new calls away."""
    with stubs(server.target) as stub:
        try:
            late = refused(stub.ListClusters, pb.ListClustersRequest(), timeout=1)
        except NotRefusedError:
            return False
    assert late.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    return True


def metrics_of(server: Server) -> str:
    """Returns what Prometheus reads."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def until(condition: Callable[[], bool]) -> None:
    """Waits for what a server makes true, for no longer than the test may take."""
    while not condition():
        time.sleep(0.02)


@contextmanager
def held(store: Path) -> Iterator[None]:
    """Keeps every change of a SQLite store waiting."""
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_sigterm_drains(server: Server) -> None:
    """SIGTERM: health says NOT_SERVING, a call under way ends well, new ones are turned away."""
    states: list[int] = []
    with ThreadPoolExecutor(2) as threads, grpc.insecure_channel(server.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == Health.SERVING
        for name in ("", "keyfold.v1.KeyManagementService"):
            asked = health_pb2.HealthCheckRequest(service=name)
            assert health.Check(asked).status == Health.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())

        def follow() -> None:
            # The server ends the stream with the drain, as an error or in order.
            try:
                states.extend(answer.status for answer in watch)
            except grpc.RpcError:
                return

        followed = threads.submit(follow)
        with held(server.store):
            enabling = threads.submit(server.enable, "prod")
            # It is under way once it has used its keys, and cannot end before the store is free.
            until(lambda: 'operation="wrap"' in metrics_of(server))
            until(lambda: states == [Health.SERVING])
            os.kill(server.pid, signal.SIGTERM)
            # Calls that arrive while the transport still hands over what it has are answered.
            until(lambda: turned_away(server))
            assert server.running
            assert not enabling.done()
        # A watcher of the health must not delay the end, though a drain may take 30 s.
        with in_time(8):
            assert len(enabling.result(10).status.regions) == 2
            assert server.stop() == 0
        followed.result(5)
    assert states == [Health.SERVING, Health.NOT_SERVING]

    server.start()
    with server.client() as client:
        assert client.wrap("prod", "eu", b"k").generation == 1


def test_idle_connections_do_not_hold_up_the_end(server: Server) -> None:
    """A server that nobody calls ends at once, whoever is connected; SIGINT does the same."""
    with server.client() as client:
        client.list_clusters()
        with in_time(5):
            os.kill(server.pid, signal.SIGINT)
            assert server.process is not None
            assert server.process.wait(20) == 0


# Keeping to itself


def test_no_core_dumps_and_no_ptrace(server: Server) -> None:
    """Nobody can read the keys in memory: no core dumps, not dumpable (so no ptrace)."""
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]
    # The files of a process that is not dumpable belong to root, whoever runs it. Where root runs
    # it that tells nothing, and its memory map is closed to others without the capability.
    status = Path(f"/proc/{server.pid}/status").read_text()
    assert "CoreDumping:\t0" in status
    assert not dumpable(server.pid)


def limited(server: Server, limit: str) -> Server:
    """Starts a prepared server under limits, which a shell's `ulimit` sets."""
    out, err = (server.folder / f"{name}.0" for name in ("stdout", "stderr"))
    with out.open("wb") as stdout, err.open("wb") as stderr:
        server.process = subprocess.Popen(
            ["/bin/bash", "-c", f'ulimit {limit} && exec "$0"', BIN / "keyfold-server"],
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    server.wait_ready()
    return server


def test_more_connections_than_the_soft_limit_of_open_files(start_server: StartServer) -> None:
    """W5: a limit of open files that shells set for other programs keeps no connection out."""
    server = limited(start_server(ready=False, KEYFOLD_MAX_CONNECTIONS="300"), "-S -n 128")
    host, _, port = server.target.rpartition(":")
    with ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(closing(socket.create_connection((host, int(port)))))
            connection.settimeout(20)
            connection.sendall(HELLO)
            assert connection.recv(1)
    assert "too few for max_connections" not in server.log()


def test_too_few_open_files_are_warned_of(start_server: StartServer) -> None:
    """An operator hears that the hard limit keeps connections out which the settings let in."""
    server = limited(start_server(ready=False), "-n 1000")
    assert "too few for max_connections (10000)" in server.log()


def dumpable(pid: int) -> bool:
    """Says whether another process of the same user may look into a process's memory."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  another process
        # Root's capabilities would let it in all the same, so it becomes somebody else whose
        # process is the server's equal in all but that: here it is enough that it is not let in.
        answer = b"1"
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            answer = b"0"
        os.write(writer, answer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer == b"1"


def test_unexpected_exception_tells_nothing(start_server: StartServer, tmp_path: Path) -> None:
    """A provider's unexpected exception is INTERNAL or UNREACHABLE with an incident id."""
    server = start_server(ready=False, keys=("eu",))
    server.settings |= installed(tmp_path / "package")
    server.start()
    with stubs(server.target) as stub:
        for name in ("break", "raise"):
            asked = pb.EnableRequest(
                cluster="prod", region_specs=[spec("eu", f"odd:{name}-1", "ODD"), spec("us")]
            )
            refusal = refused(stub.Enable, asked)
            assert SECRET not in repr(refusal)
            assert "ValueError" not in repr(refusal)
            if name == "break":
                assert refusal.code is grpc.StatusCode.INTERNAL
                assert (refusal.domain, refusal.reason) == ("keyfold", "INTERNAL")
                incident = refusal.metadata["incident"]
                assert incident in refusal.message
            else:
                assert (refusal.code, refusal.reason) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "UNREACHABLE",
                )
                incident = refusal.message.partition("see incident ")[2].split()[0].rstrip(",;")
            assert incident
            assert f"incident {incident}" in server.log()
        assert not stub.ListClusters(pb.ListClustersRequest(), timeout=9).clusters


def test_broken_core_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception out of the core itself: INTERNAL, an incident id, nothing of its text."""
    with serving(tmp_path) as server, stubs(server.target) as stub:

        def broken(*_: Any) -> Any:
            raise ValueError(SECRET)

        monkeypatch.setattr(server.replica.data_plane, "wrap", broken)
        monkeypatch.setattr(server.replica.status, "get", broken)
        for call, asked in (
            (stub.Wrap, pb.WrapRequest(cluster="c", region="r", plaintext=b"p")),
            (stub.GetStatus, pb.GetStatusRequest(cluster="c")),
        ):
            refusal = refused(call, asked)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
            assert refusal.metadata["incident"] in refusal.message
            assert SECRET not in repr(refusal)


def test_log_holds_no_key_material(start_server: StartServer) -> None:
    """Over the whole life of a key, with bad input in between, no log line holds a key's bytes."""
    server = start_server()
    server.enable("prod")
    secrets: list[bytes] = []
    with stubs(server.target) as stub:
        for number, region in itertools.product(range(5), ("eu", "us")):
            made = stub.GenerateDataKey(
                pb.GenerateDataKeyRequest(cluster="prod", region=region), timeout=9
            )
            own = os.urandom(32)
            wrapped = stub.Wrap(
                pb.WrapRequest(cluster="prod", region=region, plaintext=own), timeout=9
            )
            opened = stub.Unwrap(
                pb.UnwrapRequest(cluster="prod", wrapped_key=wrapped.wrapped_key), timeout=9
            )
            assert opened.plaintext == own
            secrets += [made.plaintext, own, wrapped.wrapped_key]
            bad = own + bytes(5000)
            changed = bytes([*wrapped.wrapped_key[:-1], wrapped.wrapped_key[-1] ^ 1])
            for call, asked in (
                (stub.Wrap, pb.WrapRequest(cluster="prod", region=region, plaintext=bad)),
                (stub.Wrap, pb.WrapRequest(cluster="", region=region, plaintext=own)),
                (stub.Unwrap, pb.UnwrapRequest(cluster="prod", wrapped_key=own)),
                (stub.Unwrap, pb.UnwrapRequest(cluster="prod", wrapped_key=changed)),
                (stub.TestKey, pb.TestKeyRequest(key_spec=res.KeySpec(type="LOCAL", uri="x"))),
            ):
                assert refused(call, asked).reason
            if number == 2:
                server.dev_keys("rotate", region)
                rotate = pb.RotateRequest(
                    cluster="prod", region_specs=[res.RegionSpec(region=region)]
                )
                stub.Rotate(rotate, timeout=9)
            if number == 3:
                stub.Revoke(pb.RevokeRequest(cluster="prod"), timeout=9)
                wrap = pb.WrapRequest(cluster="prod", region=region, plaintext=own)
                assert refused(stub.Wrap, wrap).reason == "REVOKED"
                stub.Restore(pb.RestoreRequest(cluster="prod"), timeout=9)
        server.dev_keys("disable", "eu")
        refused(stub.Rotate, pb.RotateRequest(cluster="prod", region_specs=[spec("eu")]))
    assert server.stop() == 0
    keys = server.keys.read_text()
    material = [version["material"] for key in _keys(keys) for version in key]
    log = server.log()
    assert log
    for secret in secrets:
        for form in (secret.hex(), repr(secret)[2:-1][:40], _base64(secret)):
            assert form not in log
    assert material
    for text in material:
        assert text not in log


def _keys(text: str) -> list[list[dict[str, str]]]:
    return list(json.loads(text)["keys"].values())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()[:40]


def test_address_taken_by_another_program_is_refused(start_server: StartServer) -> None:
    """A port that some other program listens on is refused the same way."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = failing(start_server(ready=False, keys=(), KEYFOLD_LISTEN=f"127.0.0.1:{port}"))
    assert error.code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in str(error)


def test_threads_of_a_stopped_in_process_server_end(tmp_path: Path) -> None:
    """A server that was stopped leaves no thread behind but those that hang in a provider."""
    before = 0
    for turn in ("first", "second"):  # gRPC's own thread comes with the first and stays.
        before = threading.active_count()
        (tmp_path / turn).mkdir()
        with serving(tmp_path / turn) as server, stubs(server.target) as stub:
            stub.ListClusters(pb.ListClustersRequest(), timeout=9)
    ends = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < ends:
        time.sleep(0.02)
    assert threading.active_count() <= before
