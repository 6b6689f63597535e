"""`keyfold-server --check`: never good before a start that fails, and without effects."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from certificates import Authority
from e2e.conftest import StartServer
from e2e.server import NotReadyError, Server

POLICY = '[[grant]]\ncallers = ["*"]\nroles = ["admin"]\n'


@pytest.fixture
def prepared(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that is not started, whose machine holds no cloud's credential."""
    for name in tuple(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "VAULT_", "OTEL_")):
            monkeypatch.delenv(name)
    return start_server(ready=False)


def files(server: Server) -> dict[Path, tuple[int, bytes]]:
    """Returns what is in the server's folder, apart from what SQLite makes to read."""
    return {
        path: (path.stat().st_mode, path.read_bytes())
        for path in server.folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def used(server: Server) -> None:
    """Lets the server make its store and its service key."""
    server.start()
    server.stop()


def other_service_key(server: Server) -> None:
    """Puts another service key in the place of the store's."""
    used(server)
    key = Path(f"{server.store}.service-key")
    key.write_bytes(bytes(32))


def lost_service_key(server: Server) -> None:
    """Takes the service key of a store away."""
    used(server)
    Path(f"{server.store}.service-key").unlink()


def open_service_key(server: Server) -> None:
    """Lets others read the service key."""
    used(server)
    Path(f"{server.store}.service-key").chmod(0o644)


def lost_store(server: Server) -> None:
    """Takes the store of a service key away."""
    used(server)
    for file in server.folder.glob("store.db*"):
        if not file.name.endswith(".service-key"):
            file.unlink()


def no_database(server: Server) -> None:
    """Puts something else in the store's place."""
    server.store.write_text("something else")


def no_folder(server: Server) -> None:
    """Names a store in a folder that does not exist."""
    server.settings["KEYFOLD_STORE"] = f"sqlite:///{server.folder}/nowhere/store.db"


def tls(server: Server) -> None:
    """Sets TLS up with tokens, all of it good."""
    authority = Authority()
    own = authority.issue("dns:localhost")
    for name, text in (("CERT", own.pem), ("KEY", own.key_pem), ("CLIENT_CA", authority.pem)):
        file = server.folder / f"tls-{name}"
        file.write_bytes(text)
        file.chmod(0o600)
        server.settings[f"KEYFOLD_TLS_{name}"] = str(file)
    policy = server.folder / "policy.toml"
    policy.write_text(POLICY)
    server.settings["KEYFOLD_POLICY"] = str(policy)


def foreign_tls_key(server: Server) -> None:
    """Gives the TLS certificate another one's key."""
    tls(server)
    (server.folder / "tls-KEY").write_bytes(Authority().issue("dns:localhost").key_pem)


def no_client_ca(server: Server) -> None:
    """Takes the file of the clients' authorities away."""
    tls(server)
    (server.folder / "tls-CLIENT_CA").unlink()


def broken_policy(server: Server) -> None:
    """Breaks the policy file."""
    tls(server)
    (server.folder / "policy.toml").write_text("[[grant]]\ncallers = [\n")


def no_token_keys(server: Server) -> None:
    """Names a key set of tokens that does not exist."""
    tls(server)
    server.settings |= {
        "KEYFOLD_JWT_ISSUER": "https://issuer",
        "KEYFOLD_JWT_AUDIENCE": "keyfold",
        "KEYFOLD_JWT_JWKS": str(server.folder / "nowhere.json"),
    }


def foreign_metrics_address(server: Server) -> None:
    """Names an address of no machine for the metrics."""
    server.settings["KEYFOLD_METRICS"] = "192.0.2.1:9464"


def file_for_a_socket(server: Server) -> None:
    """Puts a file in the place of the unix socket."""
    path = server.folder / "k.sock"
    path.write_text("something else")
    server.settings["KEYFOLD_LISTEN"] = f"unix:{path}"


def one_address_twice(server: Server) -> None:
    """Gives calls and metrics one address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server.settings |= {
        "KEYFOLD_LISTEN": f"127.0.0.1:{port}",
        "KEYFOLD_METRICS": f"127.0.0.1:{port}",
    }


def unknown_exporter(server: Server) -> None:
    """Names an exporter of traces that Keyfold does not know."""
    server.settings["OTEL_TRACES_EXPORTER"] = "zipkin"


FAULTS: dict[Callable[[Server], None], str] = {
    other_service_key: "service key",
    lost_service_key: "service key",
    open_service_key: "chmod 600",
    lost_store: "is missing, but its service key",
    file_for_a_socket: "not a socket",
    no_database: "is not a database",
    no_folder: "nowhere",
    foreign_tls_key: "KEYFOLD_TLS_KEY",
    no_client_ca: "KEYFOLD_TLS_CLIENT_CA",
    broken_policy: "policy.toml",
    no_token_keys: "KEYFOLD_JWT_JWKS",
    foreign_metrics_address: "192.0.2.1:9464",
    one_address_twice: "127.0.0.1:",
    unknown_exporter: "OTEL_TRACES_EXPORTER",
}


@pytest.mark.parametrize("break_", FAULTS, ids=lambda each: each.__name__)
def test_check_refuses_what_a_start_refuses(
    prepared: Server, break_: Callable[[Server], None]
) -> None:
    """Each thing on which a start fails is one that --check names, and it changes no file."""
    break_(prepared)
    before = files(prepared)
    told = prepared.command("--check", code=2)
    assert FAULTS[break_] in told
    assert "the settings are good" not in told
    assert "Traceback" not in told
    assert files(prepared) == before
    with pytest.raises(NotReadyError) as caught:
        prepared.start()
    assert caught.value.code == 2


@pytest.mark.parametrize("set_up", [lambda _: None, used, tls], ids=["new", "used", "tls"])
def test_what_check_calls_good_starts(prepared: Server, set_up: Callable[[Server], None]) -> None:
    """Settings that --check calls good start, whether the store is there yet or not."""
    set_up(prepared)
    assert prepared.command("--check").splitlines()[-1] == "the settings are good"
    prepared.start()


def test_check_beside_a_server(prepared: Server) -> None:
    """Beside a server with these settings --check says so, and does not disturb the server."""
    prepared.start()
    prepared.settings["KEYFOLD_LISTEN"] = prepared.target
    told = prepared.command("--check").splitlines()[-1]
    assert told == "a server runs on these settings now; they are good for its next start"
    prepared.enable()
    # Nobody answers for a server at another address that would take the same store.
    prepared.settings["KEYFOLD_LISTEN"] = "127.0.0.1:0"
    assert "another server uses" in prepared.command("--check", code=2)


@pytest.mark.parametrize("setting", ["KEYFOLD_LISTEN", "KEYFOLD_METRICS"])
def test_an_address_of_another_program(prepared: Server, setting: str) -> None:
    """An address that another program has taken is a fault."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        prepared.settings[setting] = f"127.0.0.1:{taken.getsockname()[1]}"
        told = prepared.command("--check", code=2)
        assert f"{setting}: {prepared.settings[setting]} is in use" in told


# --- credentials ---


@contextmanager
def sts(status: int, body: str) -> Iterator[str]:
    """Serves one answer to everybody, as AWS's STS would give it; yields its url."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


REJECTED = (
    '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
    "<Code>InvalidClientTokenId</Code><Message>The security token is invalid.</Message></Error>"
    "<RequestId>1</RequestId></ErrorResponse>"
)
KNOWN = (
    '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
    "<GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/k</Arn><UserId>A</UserId>"
    "<Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
)


@pytest.mark.parametrize(
    ("status", "body", "code", "shown"),
    [
        (200, KNOWN, 0, "the settings are good"),
        (403, REJECTED, 2, "AWS_KMS: "),
        (503, "busy", 0, "warning: AWS_KMS: its credentials could not be tried"),
    ],
)
def test_credentials_are_tried(
    prepared: Server, status: int, body: str, code: int, shown: str
) -> None:
    """A credential that its cloud rejects is a fault; one that could not be tried is a warning."""
    with sts(status, body) as url:
        prepared.settings |= {
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "hush-hush",
            "AWS_ENDPOINT_URL_STS": url,
            "AWS_REGION": "eu-west-1",
        }
        told = prepared.command("--check", code=code)
    assert shown in told
    assert "hush-hush" not in told


def test_the_key_file_is_tried(prepared: Server) -> None:
    """A key file of LOCAL that cannot be read is a fault, although a server would start with it."""
    prepared.keys.write_text("{")
    told = prepared.command("--check", code=2)
    assert any(line.startswith("LOCAL: ") and "keys.json" in line for line in told.splitlines())


def test_vaults_are_tried(prepared: Server) -> None:
    """Each Vault of the settings is tried, with the credential that its section names."""
    file = prepared.folder / "keyfold.toml"
    prepared.settings["KEYFOLD_CONFIG"] = str(file)
    section = '[vault."http://127.0.0.1:1"]\nauth = "token"\ncredential = "{}"\n'
    endpoints = 'allowed_endpoints = ["http://127.0.0.1:1"]\n'
    token = prepared.folder / "token"
    file.write_text(endpoints + section.format(token))
    assert "VAULT_TRANSIT: the credential for" in prepared.command("--check", code=2)
    token.write_text("hush-hush")
    told = prepared.command("--check")
    assert "warning: VAULT_TRANSIT: its credentials could not be tried" in told
    assert "hush-hush" not in told
