"""The transport on h2corn: a server with KEYFOLD_TRANSPORT=asgi, called by other clients.

`make test-transports` runs the other end-to-end tests on it; docs/transports.md says in what it
differs.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import Authority, Issued
from e2e.conftest import StartServer
from e2e.server import Server
from e2e.wire import refused, spec, stubs
from in_process import serving
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.timing import Timing

WRAP = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k" * 32)

POLICY = """
[[grant]]
callers = ["spiffe://example.org/admin"]
roles = ["admin"]
keys = [{ type = "LOCAL", uri = "local:*" }]
"""


def write(path: Path, text: bytes) -> str:
    """Replaces a file in one step, as tools that renew files do."""
    new = path.with_suffix(".new")
    new.write_bytes(text)
    new.chmod(0o600)
    new.replace(path)
    return str(path)


@pytest.fixture(scope="module")
def server(start_module_server: StartServer) -> Server:
    """A server with cluster prod."""
    server = start_module_server(KEYFOLD_TRANSPORT="asgi")
    server.enable("prod")
    return server


def test_a_data_key_and_back(server: Server) -> None:
    """Wrap, Unwrap and batches do on this transport what they do on the other."""
    with server.client() as client:
        wrapped = client.wrap("prod", "eu", b"k" * 32, context={"a": "b"})
        opened = client.unwrap("prod", wrapped.wrapped_key, context={"a": "b"})
        assert opened.plaintext == b"k" * 32
        assert len(client.batch_wrap("prod", [b"k" * 32] * 1_000, region="eu")) == 1_000


def test_errors_come_with_their_details(server: Server) -> None:
    """Code, text, reason and fields of an error reach a client of gRPC."""
    with stubs(server.target) as stub:
        told = refused(stub.Wrap, pb.WrapRequest(cluster="nope", region="eu", plaintext=b"k"))
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "CLUSTER_NOT_FOUND")
        assert told.metadata["cluster"] == "nope"
        bad = refused(stub.Wrap, pb.WrapRequest(cluster="prod", region="eu"))
        assert bad.code is grpc.StatusCode.INVALID_ARGUMENT
        assert bad.fields


def test_calls_are_logged_with_their_address(server: Server) -> None:
    """The call log knows method, caller, address and reason, as on the other transport."""
    with stubs(server.target) as stub:
        refused(stub.Wrap, pb.WrapRequest(cluster="logged", region="eu", plaintext=b"k"))
    ends = time.monotonic() + 20
    lines: list[dict[str, Any]] = []
    while not lines and time.monotonic() < ends:
        whole = server.log().rpartition("\n")[0].splitlines()
        lines = [line for line in map(json.loads, whole) if line.get("cluster") == "logged"]
    assert lines[0]["method"] == "Wrap"
    assert lines[0]["reason"] == "CLUSTER_NOT_FOUND"
    assert lines[0]["address"].startswith("ipv4:127.0.0.1:")


def test_health_and_its_stream(server: Server) -> None:
    """Check answers, and Watch tells its first status at once and ends at its deadline."""
    with grpc.insecure_channel(server.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest()
        serving = health_pb2.HealthCheckResponse.SERVING
        assert health.Check(asked, timeout=10).status == serving
        watch = health.Watch(asked, timeout=2)
        assert next(watch).status == serving
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_drain_tells_watchers_and_waits_for_calls(tmp_path: Path) -> None:
    """SIGTERM's way: watchers hear NOT_SERVING and end, and a call under way gets its answer."""
    timing = Timing(provider_budget=30.0, store_poll=0.2)
    wrapped: list[pb.WrapResponse] = []
    seen: list[int] = []
    with serving(tmp_path, transport="asgi", grace=20.0, timing=timing) as server:
        server.provider.create_key("eu")
        with stubs(server.target) as stub, grpc.insecure_channel(server.target) as channel:
            asked = pb.EnableRequest(cluster="prod", region_specs=[spec("eu", "fake:eu", "FAKE")])
            stub.Enable(asked, timeout=10)
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            seen.append(next(watch).status)
            hang = server.provider.hang()
            call = threading.Thread(target=lambda: wrapped.append(stub.Wrap(WRAP, timeout=30)))
            call.start()
            hang.wait_entered()
            stopping = threading.Thread(target=lambda: server.wait(server.stop(), timeout=60))
            stopping.start()
            seen += [reply.status for reply in watch]
            answered = len(wrapped)
            server.provider.mend()
            call.join()
            stopping.join()
    status = health_pb2.HealthCheckResponse
    assert seen == [status.SERVING, status.NOT_SERVING]
    assert not answered
    assert wrapped[0].wrapped_key


def test_a_client_that_gives_up_ends_its_call(tmp_path: Path) -> None:
    """The server notices a cancelled call, and the call's place is free again."""
    timing = Timing(provider_budget=60.0, store_poll=0.2)
    with (
        serving(tmp_path, transport="asgi", timing=timing) as server,
        stubs(server.target) as stub,
    ):
        server.provider.create_key("eu")
        asked = pb.EnableRequest(cluster="prod", region_specs=[spec("eu", "fake:eu", "FAKE")])
        stub.Enable(asked, timeout=10)
        hang = server.provider.hang()
        call = stub.Wrap.future(WRAP, timeout=60)
        hang.wait_entered()
        room = server.replica.limits.callers.of("local").room
        call.cancel()
        ends = time.monotonic() + 20
        while room.empty is False and time.monotonic() < ends:
            time.sleep(0.01)
        assert room.empty
        server.provider.mend()


def _tls_settings(folder: Path, authority: Authority) -> dict[str, Any]:
    """Makes a new certificate of the server's, and returns the settings for mutual TLS."""
    own = authority.issue("dns:localhost", "ip:127.0.0.1")
    return {
        "KEYFOLD_TRANSPORT": "asgi",
        "KEYFOLD_TLS_CERT": write(folder / "server.pem", own.pem),
        "KEYFOLD_TLS_KEY": write(folder / "server.key", own.key_pem),
        "KEYFOLD_TLS_CLIENT_CA": write(folder / "ca.pem", authority.pem),
        "KEYFOLD_POLICY": write(folder / "policy.toml", POLICY.encode()),
    }


@contextmanager
def _secure(
    server: Server, authority: Authority, client: Issued | None
) -> Iterator[service.KeyManagementServiceStub]:
    credentials = grpc.ssl_channel_credentials(
        authority.pem,
        None if client is None else client.key_pem,
        None if client is None else client.pem,
    )
    target = server.target.replace("127.0.0.1", "localhost")
    # A connection of its own, and not one that another channel left behind.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(target, credentials, options) as channel:
        yield service.KeyManagementServiceStub(channel)


def _shown(server: Server) -> x509.Certificate:
    """Returns the certificate that the server shows."""
    host, _, port = server.target.rpartition(":")
    return x509.load_pem_x509_certificate(
        ssl.get_server_certificate((host, int(port)), timeout=10).encode()
    )


def test_certificates_change_under_load(start_server: StartServer, tmp_path: Path) -> None:
    """A new certificate counts within seconds, and no call fails for the change."""
    authority = Authority("one")
    server = start_server(**_tls_settings(tmp_path, authority))
    admin = authority.issue("spiffe://example.org/admin")
    listing = pb.ListClustersRequest()
    faults: list[Exception] = []
    made = [0]
    stop = threading.Event()

    def load() -> None:
        with _secure(server, authority, admin) as stub:
            while not stop.is_set():
                try:
                    stub.ListClusters(listing, timeout=20)
                    made[0] += 1
                except grpc.RpcError as error:
                    faults.append(error)

    loads = [threading.Thread(target=load) for _ in range(4)]
    for thread in loads:
        thread.start()
    try:
        for changes in range(1, 4):
            _tls_settings(tmp_path, authority)
            renewed = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
            ends = time.monotonic() + 30
            while server.log().count("TLS files reloaded") < changes and time.monotonic() < ends:
                time.sleep(0.05)
            assert server.log().count("TLS files reloaded") == changes
            while _shown(server) != renewed and time.monotonic() < ends:
                time.sleep(0.05)
            assert _shown(server) == renewed
            before = made[0]
            while made[0] < before + 20 and not faults and time.monotonic() < ends:
                time.sleep(0.05)
    finally:
        stop.set()
        for thread in loads:
            thread.join()
    assert not faults
    assert made[0] > 60


def test_client_authorities_change(start_server: StartServer, tmp_path: Path) -> None:
    """Only who has a certificate of the current authorities gets in."""
    authority, other = Authority("one"), Authority("other")
    server = start_server(**_tls_settings(tmp_path, authority))
    admin = authority.issue("spiffe://example.org/admin")
    listing = pb.ListClustersRequest()
    with _secure(server, authority, admin) as stub:
        assert not stub.ListClusters(listing, timeout=10).clusters
    for stranger in (None, other.issue("spiffe://example.org/admin")):
        with _secure(server, authority, stranger) as stub:
            assert refused(stub.ListClusters, listing).code is grpc.StatusCode.UNAVAILABLE
    write(tmp_path / "ca.pem", other.pem)
    with _secure(server, authority, other.issue("spiffe://example.org/admin")) as stub:
        assert not stub.ListClusters(listing, timeout=30, wait_for_ready=True).clusters
    with _secure(server, authority, admin) as stub:
        assert refused(stub.ListClusters, listing).code is grpc.StatusCode.UNAVAILABLE


def test_broken_files_leave_the_last_good_ones(start_server: StartServer, tmp_path: Path) -> None:
    """Files that do not fit together change nothing, and the engine's age renews nothing either."""
    authority = Authority("one")
    server = start_server(
        **_tls_settings(tmp_path, authority),
        KEYFOLD_MAX_CONNECTION_AGE="1s",
    )
    admin = authority.issue("spiffe://example.org/admin")
    write(tmp_path / "server.key", authority.issue("dns:localhost").key_pem)
    ends = time.monotonic() + 20
    while "goes on with its old" not in server.log() and time.monotonic() < ends:
        time.sleep(0.05)
    assert "goes on with its old" in server.log()
    with _secure(server, authority, admin) as stub:
        assert not stub.ListClusters(pb.ListClustersRequest(), timeout=10).clusters


def test_health_without_a_certificate(start_server: StartServer, tmp_path: Path) -> None:
    """Where clients need certificates, the health command has its socket on this transport, too."""
    authority = Authority("one")
    server = start_server(
        **_tls_settings(tmp_path, authority),
    )
    server.settings["KEYFOLD_LISTEN"] = server.target
    assert "SERVING" in server.command("health")


def test_without_h2corn_the_server_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lacks the extra does not start, and names it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with (
        pytest.raises(SetupError, match=r"keyfold\[fast\]"),
        serving(tmp_path, transport="asgi"),
    ):
        pass
