"""`keyfold check`: what a caller sees of deployments that are whole, and of broken ones."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Authority, Issued
from cli_runner import Cli, Ran
from e2e.conftest import StartServer
from e2e.server import Server
from e2e.test_callers import House, mutual  # noqa: F401  the fixture
from fakes import FakeClock
from keyfold.checks import FAILED, UNKNOWN
from keyfold.cli.commands.check.service import _age
from keyfold.models.caller import ReplicaInfo
from served import served


def _files(folder: Path, house: House, caller: Issued, ca: bytes | None = None) -> list[str]:
    """Writes a caller's files, and returns the options that name them."""
    parts = {"ca": ca or house.authority.pem, "cert": caller.pem, "key": caller.key_pem}
    words = []
    for name, text in parts.items():
        (folder / name).write_bytes(text)
        words += [f"--{name}", str(folder / name)]
    return words


def _by_check(ran: Ran) -> dict[str, dict[str, str]]:
    """Returns the worst line of each check of a report in JSON."""
    order = ["OK", "WARNING", "UNKNOWN", "FAILURE"]
    worst: dict[str, dict[str, str]] = {}
    for one in ran.json["checks"]:
        assert one["do"] or one["outcome"] == "OK", one
        former = worst.setdefault(one["check"], one)
        if order.index(one["outcome"]) > order.index(former["outcome"]):
            worst[one["check"]] = one
    return worst


def test_a_whole_deployment(mutual: House, tmp_path: Path) -> None:  # noqa: F811
    """Where all is well every check is ok, for a caller who may see the clusters."""
    place = mutual.server.target.rpartition(":")[2]
    caller = mutual.issue("spiffe://example.org/admin", ends=timedelta(days=60))
    cli = Cli(f"localhost:{place}")
    ran = cli("check", "-o", "json", *_files(tmp_path, mutual, caller))
    found = _by_check(ran)
    bad = {name: one for name, one in found.items() if one["outcome"] != "OK"}
    # The server's own certificate is short-lived in these tests.
    assert set(bad) <= {f"certificate localhost:{place}"}, bad
    assert ran.code == 0
    assert found["caller"]["seen"].startswith("spiffe://example.org/admin, by certificate")
    assert "2 ENABLED" in found["regions"]["seen"]
    token = tmp_path / "token"
    token.write_text(mutual.token(exp=int(time.time()) - 300))
    words = _files(tmp_path, mutual, caller)
    ran = cli("check", "-o", "json", *words, "--token-file", str(token))
    assert ran.code == FAILED
    assert "ended" in _by_check(ran)["token"]["seen"]
    assert any("--token-file, or with --cert" in one["do"] for one in ran.json["checks"])
    assert token.read_text() not in ran.out.decode()


def test_a_caller_with_less(mutual: House, tmp_path: Path) -> None:  # noqa: F811
    """What a caller may not see could not be told; that is neither good nor bad."""
    target = f"localhost:{mutual.server.target.rpartition(':')[2]}"
    files = _files(tmp_path, mutual, mutual.issue("spiffe://example.org/app"))
    ran = Cli(target)("check", "-o", "json", *files)
    assert ran.code == UNKNOWN
    assert _by_check(ran)["regions"]["seen"] == "the caller may not list clusters"
    files = _files(tmp_path, mutual, mutual.issue("spiffe://example.org/stranger"))
    found = _by_check(Cli(target)("check", "-o", "json", *files))
    assert "no grant holds for it" in found["caller"]["seen"]
    assert found["versions"]["outcome"] == "UNKNOWN"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("ca", "has an issuer"),
        ("client", "refuses the client's certificate"),
        ("plain", "speaks TLS, and this client plain text"),
        ("name", "is not for 127.0.0.2"),
    ],
)
def test_who_objects_to_what(mutual: House, tmp_path: Path, broken: str, told: str) -> None:  # noqa: F811
    """Each side's objection is told with what to do; the checks after it are still lines."""
    port = mutual.server.target.rpartition(":")[2]
    caller = mutual.issue("spiffe://example.org/admin")
    if broken == "client":
        begins, ends = timedelta(hours=-2), timedelta(hours=-1)
        caller = mutual.issue("spiffe://example.org/admin", begins=begins, ends=ends)
    words = _files(tmp_path, mutual, caller, Authority("other").pem if broken == "ca" else None)
    if broken == "name":
        words += ["--server-name", "127.0.0.2"]
    ran = Cli(f"localhost:{port}")("check", *([] if broken == "plain" else words))
    assert ran.code == FAILED
    text = ran.out.decode()
    assert told in text
    assert "could not tell  regions: no server answered" in text
    if broken == "client":
        assert "FAILURE         client certificate: the client's certificate" in text


def test_nobody_is_there(tmp_path: Path) -> None:
    """Where nothing listens, or a file is missing, that is a line, and not the end."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = f"127.0.0.1:{taken.getsockname()[1]}"
    ran = Cli(free)("check", "--timeout", "5s")
    assert ran.code == FAILED
    assert f"connection {free}: nothing listens on {free}" in ran.out.decode()
    ran = Cli(free)("check", "--ca", str(tmp_path / "nowhere.pem"))
    assert ran.code == FAILED
    assert "FAILURE         credentials: " in ran.out.decode()
    assert "not asked without the client's files" in ran.out.decode()
    assert Cli(free)("check", "--probe", "prod").code == 2


def test_somebody_says_nothing() -> None:
    """What takes connections and never answers is told, and the command ends."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        ran = Cli(target)("check", "--timeout", "500ms", "-o", "json")
    assert ran.code == FAILED
    found = _by_check(ran)
    assert "has said nothing for 0.5 s" in found[f"connection {target}"]["seen"]
    assert found[f"service {target}"]["outcome"] == "FAILURE"


def test_a_server_without_its_store(start_server: StartServer) -> None:
    """A server that does not see its store says so to whoever asks, as long as it runs."""
    server: Server = start_server(KEYFOLD_STORE_MAX_STALENESS="2s")
    server.enable()
    with closing(sqlite3.connect(server.store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with server.client() as client:
            while True:
                replica = client.get_caller().replica
                assert replica is not None
                if replica.store_age is not None and replica.store_age > timedelta(seconds=3):
                    break
                time.sleep(0.1)
        ran = Cli(server.target)("check", "-o", "json")
    assert ran.code == FAILED
    found = _by_check(ran)
    assert found[f"health {server.target}"]["seen"].startswith("NOT_SERVING")
    assert found["replicas"]["outcome"] == "FAILURE"
    assert "serves nothing after 2 s" in found["replicas"]["seen"]
    assert found["caller"]["outcome"] == "OK"
    assert found["regions"]["outcome"] == "UNKNOWN"
    assert "STORE_STALE" in found["regions"]["seen"]
    assert [one["check"] for one in ran.json["checks"]].count("regions") == 1


def _expired(authority: Authority) -> grpc.ServerCredentials:
    own = authority.issue("dns:localhost", begins=timedelta(days=-9), ends=timedelta(days=-1))
    return grpc.ssl_server_credentials([(own.key_pem, own.pem)])


def test_an_expired_certificate_of_the_server(tmp_path: Path) -> None:
    """A server whose certificate has expired is named, with the time at which that was."""
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    folder = tmp_path / "server"
    folder.mkdir()
    with served(folder, credentials=_expired(authority)) as relay:
        target = f"localhost:{relay.target.rpartition(':')[2]}"
        ran = Cli(target)("check", "--ca", str(tmp_path / "ca.pem"), "--timeout", "5s")
    assert ran.code == FAILED
    assert "has expired on" in ran.out.decode()


@pytest.fixture
def late(tmp_path: Path) -> Iterator[str]:
    """The address of a server whose clock is an hour behind."""
    with served(tmp_path, FakeClock(time.time() - 3600)) as relay:
        yield relay.target


def test_a_clock_that_is_off(late: str) -> None:
    """A server's clock that is off by an hour fails, and says which is behind."""
    ran = Cli(late)("check", "-o", "json")
    assert ran.code == FAILED
    assert "ahead of that of" in _by_check(ran)["clock"]["seen"]
    assert _by_check(ran)["clock"]["outcome"] == "FAILURE"


def test_a_key_that_is_refused(start_server: StartServer) -> None:
    """A region whose KMS refuses fails, with its cluster; the probe tells of its own."""
    server: Server = start_server()
    server.enable()
    server.enable("keyfold-probe")
    cli = Cli(server.target)
    assert "ok              probe: " in cli("check", "--probe", "keyfold-probe").out.decode()
    server.dev_keys("disable", "eu")
    server.cli("recheck", "prod", code=5)
    found = _by_check(cli("check", "-o", "json"))
    assert found["region prod/eu"]["outcome"] == "FAILURE"
    assert "KEY_DISABLED" in found["region prod/eu"]["seen"]
    assert "keyfold status prod" in found["region prod/eu"]["do"]


@pytest.mark.parametrize(
    ("age", "outcome"), [(None, "WARNING"), (1, "OK"), (30, "WARNING"), (130, "FAILURE")]
)
def test_how_old_a_replica_s_view_is(age: float | None, outcome: str) -> None:
    """A server that has not seen its store for long is told of before and after it stops."""
    seen = None if age is None else timedelta(seconds=age)
    now: Any = None
    one = ReplicaInfo("host:1:a", "1", now, seen, timedelta(seconds=120))
    assert _age(one).outcome.name == outcome


def test_the_form_for_a_ticket(late: str) -> None:
    """JSON and YAML have the same report, and say of which command, version and target it is."""
    shown = json.loads(Cli(late)("check", "-o", "json").out)
    assert (shown["command"], shown["about"]) == ("keyfold check", late)
    assert sum(shown["counts"].values()) == len(shown["checks"])
    assert b"outcome: FAILURE" in Cli(late)("check", "-o", "yaml").out
