"""Plain HTTP to a whole server with KEYFOLD_TRANSPORT=asgi: by curl, and by raw bytes."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, Final

import pytest

import pages
from certificates import Authority
from e2e.conftest import StartServer
from e2e.server import ROOT, Server
from in_process import serving
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.timing import Timing

SERVICE: Final = "/keyfold.v1.KeyManagementService/"
STATUS: Final = b'{"cluster":"prod"}'
JSON: Final = {"content-type": "application/json"}
PROTO: Final = {"content-type": "application/proto"}

POLICY = """
[[grant]]
callers = ["spiffe://example.org/admin"]
roles = ["auditor"]
"""


@pytest.fixture(scope="module")
def server(start_module_server: StartServer) -> Server:
    """A server with cluster prod."""
    server = start_module_server(KEYFOLD_TRANSPORT="asgi")
    server.enable("prod")
    return server


def post(
    target: str, method: str, body: bytes, headers: dict[str, str] = JSON
) -> tuple[int, bytes]:
    """Makes a call over HTTP/1.1; returns the status and the body."""
    connection = HTTPConnection(target, timeout=20)
    try:
        connection.request("POST", f"{SERVICE}{method}", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def reason(body: bytes) -> str:
    """Returns the reason of an error."""
    told: str = json.loads(body)["details"][0]["debug"]["reason"]
    return told


def test_what_the_page_shows(server: Server) -> None:
    """Whoever pastes the commands of docs/transports.md gets what it shows."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    page = (ROOT / "docs" / "transports.md").read_text(encoding="utf-8")
    [(command, shown)] = pages.blocks(page)
    assert shown is not None
    done = subprocess.run(
        ["bash", "-ec", command.replace("'\n", "'; echo\n")],
        capture_output=True,
        text=True,
        env=server.environment,
        timeout=40,
        check=True,
    )
    assert pages.shape(shown).fullmatch(pages.tidy(done.stdout)), done.stdout


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_curl_over_both_versions_of_http(server: Server, version: str) -> None:
    """HTTP/1.1 and HTTP/2 answer alike, and say what a request lacks that is no call."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def curl(path: str, *arguments: str) -> str:
        url = f"http://{server.target}{path}"
        shown = subprocess.run(
            ["curl", "-sS", "-i", version, url, *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return shown.stdout

    assert '"cluster":"prod"' in curl(f"{SERVICE}GetStatus", "--json", STATUS.decode())
    for path, arguments, status in (
        ("/", (), "404"),
        (f"{SERVICE}GetStatus", (), "405"),
        (f"{SERVICE}GetStatus", ("-d", "{}"), "415"),
        (f"{SERVICE}GetStatus", ("--json", "{}", "-H", "origin: http://evil.example"), "403"),
        (f"{SERVICE}GetStatus", ("--json", "{"), "400"),
    ):
        assert f" {status} " in curl(path, *arguments).splitlines()[0] + " "


def test_protobuf_without_grpc(server: Server) -> None:
    """Wrap and Unwrap work for a client that has protobuf and HTTP, and nothing else."""
    asked = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k" * 32)
    status, body = post(server.target, "Wrap", asked.SerializeToString(), PROTO)
    assert status == 200
    key = pb.WrapResponse.FromString(body).wrapped_key
    again = pb.UnwrapRequest(cluster="prod", wrapped_key=key).SerializeToString()
    status, body = post(server.target, "Unwrap", again, PROTO)
    assert pb.UnwrapResponse.FromString(body).plaintext == b"k" * 32


def test_a_connection_serves_many_calls(server: Server) -> None:
    """Batches, whose replies count until they are read, follow one another on one connection."""
    batch = {"cluster": "prod", "region": "eu", "items": [{"plaintext": "AAAA"}] * 1_000}
    connection = HTTPConnection(server.target, timeout=20)
    for _ in range(3):
        connection.request("POST", f"{SERVICE}BatchWrap", json.dumps(batch).encode(), JSON)
        assert len(json.loads(connection.getresponse().read())["results"]) == 1_000
    connection.close()


def test_calls_are_logged_and_counted(server: Server) -> None:
    """The call log and the metrics know a call over HTTP as any other."""
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    post(server.target, "GetStatus", b'{"cluster":"logged"}', JSON | {"traceparent": trace})
    ends = time.monotonic() + 20
    lines: list[dict[str, Any]] = []
    while not lines and time.monotonic() < ends:
        whole = server.log().rpartition("\n")[0].splitlines()
        lines = [line for line in map(json.loads, whole) if line.get("cluster") == "logged"]
    assert lines[0]["method"] == "GetStatus"
    assert lines[0]["reason"] == "CLUSTER_NOT_FOUND"
    assert lines[0]["address"].startswith("ipv4:127.0.0.1:")


def raw(target: str, request: bytes, *, answers: int = 1) -> bytes:
    """Sends bytes, and returns what comes back until the connection ends or the answers are in."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        while received.count(b"HTTP/1.1 ") < answers or not received.endswith((b"}", b"\n")):
            try:
                part = connection.recv(65_536)
            except ConnectionResetError:
                part = b""
            if not part:
                break
            received += part
        return received


def head(*lines: str, method: str = "GetStatus") -> bytes:
    """Returns the head of a request over HTTP/1.1."""
    first = (f"POST {SERVICE}{method} HTTP/1.1", "host: x", "content-type: application/json")
    return "\r\n".join((*first, *lines, "", "")).encode()


LENGTH: Final = f"content-length: {len(STATUS)}"
CHUNKED: Final = "transfer-encoding: chunked"
CHUNKS: Final = b"12\r\n" + STATUS + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        head(LENGTH, CHUNKED) + CHUNKS,
        head(LENGTH, "content-length: 3") + STATUS,
        head("content-length: +18") + STATUS,
        head("content-length: 0x12") + STATUS,
        head("content-length: -1") + STATUS,
        head(CHUNKED, CHUNKED) + CHUNKS,
        head("transfer-encoding: xchunked") + CHUNKS,
        head("transfer-encoding: chunked, identity") + CHUNKS,
        head("transfer-encoding : chunked") + CHUNKS,
        head(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKS,
        head(CHUNKED) + b"-12\r\n" + STATUS + b"\r\n0\r\n\r\n",
        head(CHUNKED) + b"fffffffffffffffff\r\n" + STATUS,
        head(LENGTH, "x: a\rb") + STATUS,
        head(LENGTH, "x: a\0b") + STATUS,
        head(LENGTH, "x: a", " folded") + STATUS,
        head(LENGTH, "host: y") + STATUS,
        head(LENGTH).replace(b"host: x\r\n", b"") + STATUS,
        head("content-length: 100000000") + STATUS,
        head(LENGTH, "x: " + "y" * 20_000) + STATUS,
        b"POST /" + b"a" * 2_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_requests_that_two_servers_may_read_in_two_ways(
    server: Server, request_bytes: bytes
) -> None:
    """What a proxy in front may take for another request is refused, and ends the connection.

    What follows it on the connection is then never read as a request of its own. A body that turns
    out to be none, when its call has begun, ends the connection without an answer.
    """
    answer = raw(server.target, request_bytes + head(LENGTH) + STATUS, answers=2)
    assert re.fullmatch(rb"(HTTP/1\.[01] (400|413|414|431|501) .*)?", answer, re.DOTALL)
    assert answer.count(b"HTTP/1.") <= 1


def test_a_refused_body_is_no_request(server: Server) -> None:
    """The body of a request that was refused unread does not become the next request."""
    inside = head(LENGTH) + STATUS
    outside = head(f"content-length: {len(inside)}").replace(b"application/json", b"text/plain")
    answer = raw(server.target, outside + inside + head(LENGTH) + STATUS, answers=2)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) in ([b"415"], [b"415", b"200"])


def test_slow_bodies(tmp_path: Path) -> None:
    """A body that does not arrive in time loses its place, as a request of gRPC does."""
    with serving(tmp_path, transport="asgi", bounds=Bounds(receive_timeout=0.5)) as server:
        answer = raw(server.target, head(LENGTH) + STATUS[:5])
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"did not arrive within" in answer
        assert server.replica.limits.callers.of("local").request_bytes == 0


def test_the_drain_waits_for_calls(tmp_path: Path) -> None:
    """A call over HTTP that is under way when the server stops gets its answer."""
    timing = Timing(provider_budget=30.0, store_poll=0.2)
    answers: list[tuple[int, bytes]] = []
    spec = {"region": "eu", "keySpec": {"type": "FAKE", "uri": "fake:eu"}}
    enable = json.dumps({"cluster": "prod", "regionSpecs": [spec]}).encode()
    wrap = b'{"cluster":"prod","region":"eu","plaintext":"AAAA"}'
    with serving(tmp_path, transport="asgi", grace=20.0, timing=timing) as server:
        server.provider.create_key("eu")
        assert post(server.target, "Enable", enable)[0] == 200
        hang = server.provider.hang()
        call = threading.Thread(target=lambda: answers.append(post(server.target, "Wrap", wrap)))
        call.start()
        hang.wait_entered()
        stopping = threading.Thread(target=lambda: server.wait(server.stop(), timeout=60))
        stopping.start()
        server.provider.mend()
        call.join()
        stopping.join()
    assert answers[0][0] == 200


def write(path: Path, text: bytes) -> str:
    """Writes a file that nobody else may read."""
    path.write_bytes(text)
    path.chmod(0o600)
    return str(path)


def _context(authority: Authority, folder: Path, names: Sequence[str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if names:
        client = authority.issue(*names)
        chain = write(folder / "client.pem", client.pem + client.key_pem)
        context.load_cert_chain(chain)
    return context


def test_certificates_and_policy(start_server: StartServer, tmp_path: Path) -> None:
    """A caller over HTTPS is who its certificate says, and may do what the policy says."""
    authority = Authority("one")
    own = authority.issue("dns:localhost", "ip:127.0.0.1")
    server = start_server(
        KEYFOLD_TRANSPORT="asgi",
        KEYFOLD_TLS_CERT=write(tmp_path / "server.pem", own.pem),
        KEYFOLD_TLS_KEY=write(tmp_path / "server.key", own.key_pem),
        KEYFOLD_TLS_CLIENT_CA=write(tmp_path / "ca.pem", authority.pem),
        KEYFOLD_POLICY=write(tmp_path / "policy.toml", POLICY.encode()),
        KEYFOLD_CORS_ORIGINS="https://console.example",
    )

    def call(method: str, body: bytes, *names: str, **headers: str) -> Any:
        connection = HTTPSConnection(
            server.target, timeout=20, context=_context(authority, tmp_path, names)
        )
        try:
            connection.request("POST", f"{SERVICE}{method}", body, JSON | headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    admin, other = "spiffe://example.org/admin", "spiffe://example.org/other"
    assert call("ListClusters", b"{}", admin)[:2] == (200, b"{}")
    status, body, _ = call("ListClusters", b"{}", other)
    assert (status, reason(body)) == (403, "NOT_ALLOWED")
    wrap = b'{"cluster":"prod","region":"eu","plaintext":"AAAA"}'
    status, body, _ = call("Wrap", wrap, admin)
    assert status in {403, 404}
    assert b"AAAA" not in body
    with pytest.raises(OSError):
        call("ListClusters", b"{}")
    allowed = call("ListClusters", b"{}", admin, origin="https://console.example")
    assert allowed[2]["access-control-allow-origin"] == "https://console.example"
    assert call("ListClusters", b"{}", admin, origin="https://console.example.evil")[0] == 403
