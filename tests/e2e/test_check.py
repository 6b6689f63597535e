"""`keyfold-server check`: never good before a start that fails, and without effects."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from certificates import Authority
from e2e.conftest import StartServer
from e2e.server import NotReadyError, Server
from keyfold.checks import FAILED, UNKNOWN

POLICY = '[[grant]]\ncallers = ["dns:ops.example"]\nroles = ["operator"]\n'


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
    """Each thing on which a start fails is one that check names, and it changes no file."""
    break_(prepared)
    before = files(prepared)
    told = prepared.command("check", code=FAILED)
    assert FAULTS[break_] in told
    assert "FAILURE" in told
    assert "Traceback" not in told
    assert files(prepared) == before
    with pytest.raises(NotReadyError) as caught:
        prepared.start()
    assert caught.value.code == 2


@pytest.mark.parametrize("set_up", [lambda _: None, used, tls], ids=["new", "used", "tls"])
def test_what_check_calls_good_starts(prepared: Server, set_up: Callable[[Server], None]) -> None:
    """Settings that check calls good start, whether the store is there yet or not."""
    set_up(prepared)
    assert " 0 failed, 0 could not tell" in prepared.command("check").splitlines()[-1]
    prepared.start()


def test_check_beside_a_server(prepared: Server) -> None:
    """Beside a server with these settings check says so, and does not disturb the server."""
    prepared.start()
    prepared.settings["KEYFOLD_LISTEN"] = prepared.target
    told = prepared.command("check")
    assert f"addresses: a server of these settings has {prepared.target}" in told
    assert "server: it runs, and serves" in told
    prepared.enable()
    # Nobody answers for a server at another address that would take the same store.
    prepared.settings["KEYFOLD_LISTEN"] = "127.0.0.1:0"
    assert "another server uses" in prepared.command("check", code=FAILED)


@pytest.mark.parametrize("setting", ["KEYFOLD_LISTEN", "KEYFOLD_METRICS"])
def test_an_address_of_another_program(prepared: Server, setting: str) -> None:
    """An address that another program has taken is a fault."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        prepared.settings[setting] = f"127.0.0.1:{taken.getsockname()[1]}"
        told = prepared.command("check", code=FAILED)
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
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
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
        (200, KNOWN, 0, "provider AWS_KMS: the KMS accepts its credentials"),
        (403, REJECTED, FAILED, "FAILURE         provider AWS_KMS: "),
        (503, "busy", UNKNOWN, "provider AWS_KMS: its credentials could not be tried"),
    ],
)
def test_credentials_are_tried(
    prepared: Server, status: int, body: str, code: int, shown: str
) -> None:
    """A credential that its cloud rejects fails; of one that could not be tried nothing is said."""
    with sts(status, body) as url:
        prepared.settings |= {
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "hush-hush",
            "AWS_ENDPOINT_URL_STS": url,
            "AWS_REGION": "eu-west-1",
        }
        told = prepared.command("check", code=code)
    assert shown in told
    assert "hush-hush" not in told


def test_the_key_file_is_tried(prepared: Server) -> None:
    """A key file of LOCAL that cannot be read is a fault, although a server would start with it."""
    prepared.keys.write_text("{")
    told = prepared.command("check", code=FAILED)
    assert any("provider LOCAL: " in line and "keys.json" in line for line in told.splitlines())


def test_vaults_are_tried(prepared: Server) -> None:
    """Each Vault of the settings is tried, with the credential that its section names."""
    file = prepared.folder / "keyfold.toml"
    prepared.settings["KEYFOLD_CONFIG"] = str(file)
    section = '[vault."http://127.0.0.1:1"]\nauth = "token"\ncredential = "{}"\n'
    endpoints = 'allowed_endpoints = ["http://127.0.0.1:1"]\n'
    token = prepared.folder / "token"
    file.write_text(endpoints + section.format(token))
    assert "VAULT_TRANSIT: the credential for" in prepared.command("check", code=FAILED)
    token.write_text("hush-hush")
    told = prepared.command("check", code=UNKNOWN)
    assert "provider VAULT_TRANSIT: its credentials could not be tried" in told
    assert "hush-hush" not in told


# --- a deployment that somebody broke ---


def test_none_of_many_faults_hides_another(prepared: Server) -> None:
    """A refused key, a foreign trigger, a dropped index and a hole in the policy: all are told.

    The form for a support ticket has the same lines, and nothing secret.
    """
    prepared.start()
    prepared.enable()
    prepared.stop()
    prepared.dev_keys("disable", "eu")
    with closing(sqlite3.connect(prepared.store)) as database:
        database.execute("CREATE TRIGGER mine AFTER INSERT ON log BEGIN DELETE FROM usage; END")
        [index] = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%(root_uri, %'"
        ).fetchone()
        database.execute(f'DROP INDEX "{index}"')
    policy = prepared.folder / "policy.toml"
    policy.write_text('[[grant]]\ncallers = ["*"]\nroles = ["admin"]\n')
    prepared.settings["KEYFOLD_POLICY"] = str(policy)
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"
    prepared.settings["KEYFOLD_LISTN"] = token
    found = json.loads(prepared.command("check", "-o", "json", code=FAILED))
    assert token not in json.dumps(found)
    assert found["outcome"] == "FAILURE"
    by: dict[str, list[dict[str, str]]] = {}
    for one in found["checks"]:
        by.setdefault(one["check"], []).append(one)
        assert one["do"] or one["outcome"] == "OK", one
    assert by["KEYFOLD_LISTN"][0]["outcome"] == "FAILURE"
    assert "KEY_DISABLED" in by["key LOCAL local:eu"][0]["seen"]
    assert by["key LOCAL local:us"][0]["outcome"] == "OK"
    assert "trigger mine on log" in by["store triggers"][0]["seen"]
    assert f"index {index}" in by["store schema"][0]["seen"]
    assert "gives admin" in " ".join(
        one["seen"] for one in by["policy"] if one["outcome"] == "FAILURE"
    )
    assert by["audit log"][0]["outcome"] == by["service key"][0]["outcome"] == "OK"


def test_a_log_is_held_against_anchors(prepared: Server) -> None:
    """An old store that somebody puts back is whole, and only an anchor from elsewhere tells."""
    prepared.start()
    prepared.enable("one")
    prepared.stop()
    old = prepared.store.read_bytes()
    prepared.start()
    prepared.enable("two")
    line = prepared.cli("events", "anchor")
    prepared.stop()
    anchors = prepared.folder / "anchors"
    anchors.write_text(line)
    assert "audit anchor: the log has entry" in prepared.command("check", "--anchors", str(anchors))
    for file in prepared.folder.glob("store.db-*"):
        file.unlink()
    prepared.store.write_bytes(old)
    told = prepared.command("check", "--anchors", str(anchors), code=FAILED)
    assert "audit anchor: the store was rolled back" in told
    assert "audit log: its" in told


@pytest.mark.parametrize(("left", "outcome"), [(-60, "FAILURE"), (3600, "WARNING")])
def test_a_certificate_near_its_end(prepared: Server, left: int, outcome: str) -> None:
    """An expired certificate fails, one that ends soon gets a warning, and both say renew it."""
    tls(prepared)
    ends = timedelta(seconds=left)
    own = Authority().issue("dns:localhost", begins=timedelta(days=-90), ends=ends)
    for name, text in (("CERT", own.pem), ("KEY", own.key_pem)):
        (prepared.folder / f"tls-{name}").write_bytes(text)
    told = prepared.command("check", code=FAILED if left < 0 else 0)
    [line] = [
        line for line in told.splitlines() if line.startswith(outcome) and "ertificate" in line
    ]
    assert "localhost" in line or "expired" in line
    assert "renew" in told


def test_a_store_that_is_away(prepared: Server) -> None:
    """Where no database answers the store fails, what is in it is unknown, and the rest is told."""
    key = prepared.folder / "service-key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        prepared.settings |= {
            "KEYFOLD_STORE": f"postgresql://u@127.0.0.1:{port}/d?connect_timeout=2",
            "KEYFOLD_SERVICE_KEY": str(key),
        }
        told = prepared.command("check", "--timeout", "4", code=FAILED)
    lines = [line.split(": ")[0] for line in told.splitlines()]
    assert any("could not tell" in line or "FAILURE" in line for line in lines)
    assert "could not tell  replicas" in lines
    assert "ok              provider LOCAL" in lines
    assert "ok              open files" in lines


def test_a_regions_server_needs_no_other_regions_keys(prepared: Server) -> None:
    """A server that serves eu alone tries neither another region's root keys nor its platform key.

    It needs no credential for them. That nobody serves the other region is told.
    """
    aws = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000001"
    prepared.settings["KEYFOLD_PLATFORM_KEY"] = json.dumps({"eu": "local:eu", "us": aws})
    prepared.start()
    prepared.enable()
    prepared.stop()
    prepared.dev_keys("disable", "us")
    prepared.settings["KEYFOLD_SERVES"] = "eu"
    prepared.start()
    prepared.settings["KEYFOLD_LISTEN"] = prepared.target
    told = prepared.command("check")
    assert "key LOCAL local:eu: Keyfold can" in told
    assert "local:us" not in told
    assert "AWS_KMS" not in told
    assert "WARNING         regions: no live replica serves region us; clusters that have" in told
    # Whoever is about to start region us's first server needs no warning.
    prepared.settings |= {"KEYFOLD_SERVES": "us", "KEYFOLD_LISTEN": "127.0.0.1:0"}
    told = prepared.command("check", code=FAILED)
    assert "region us; clusters that have it enabled: 1; a server with these settings" in told
    assert "key LOCAL local:us: " in told
    assert f"key AWS_KMS {aws}: " in told
    assert "local:eu" not in told
    # A name that nobody uses is a new region, or a misspelt one.
    prepared.settings["KEYFOLD_SERVES"] = "eu-1"
    told = prepared.command("check", code=FAILED)
    assert (
        "keys: no cluster uses a root key yet in what this server serves alone, eu-1; look" in told
    )
