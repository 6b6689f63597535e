"""Where the client finds servers, and how the connection is secured."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import keyfold
from certificates import self_signed
from in_process import grpc_alone, serving
from keyfold.calls.call import EVENTS, KEYS
from keyfold.transport.channel import endpoint
from keyfold.transport.tls import Tls
from relay import Relay
from served import Served, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod."""
    with served(tmp_path) as running:
        yield running


def test_calls_go_round_all_servers(server: Served) -> None:
    """The servers at both addresses get calls, in turn."""
    with Relay(server.keyfold.target) as one, Relay(server.keyfold.target) as two:

        def counts() -> tuple[int, int]:
            return len(one.requests["GetStatus"]), len(two.requests["GetStatus"])

        for target in ([one.target, two.target], f"{one.target}, {two.target}"):
            with keyfold.Client(target) as client:
                before = counts()
                # The connections come one after the other.
                while not all(now > then for now, then in zip(counts(), before, strict=True)):
                    client.get_status("prod")
                before = counts()
                for _ in range(20):
                    client.get_status("prod")
                assert min(now - then for now, then in zip(counts(), before, strict=True)) >= 8


def test_one_of_two_servers_is_down(server: Served) -> None:
    """While one of several servers is down, the others serve."""
    with Relay(server.keyfold.target) as other:
        down = other.target
    with keyfold.Client([down, server.target]) as client:
        for _ in range(5):
            client.get_status("prod")


def test_threads_share_one_channel(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that make a client's first calls at once open one channel between them."""
    opened: list[grpc.Channel] = []
    open_channel = grpc.insecure_channel

    def slowly(*arguments: Any) -> grpc.Channel:
        time.sleep(0.05)
        opened.append(open_channel(*arguments))
        return opened[-1]

    monkeypatch.setattr(grpc, "insecure_channel", slowly)
    with keyfold.Client(server.target) as client, ThreadPoolExecutor(4) as threads:
        list(threads.map(client.get_status, ["prod"] * 4))
    assert len(opened) == 1


def test_names_among_several() -> None:
    """Several addresses may be host names, although gRPC takes only IP addresses."""
    made = endpoint("localhost:7001,localhost:7002", None)
    assert made.target in {
        "ipv4:127.0.0.1:7001,127.0.0.1:7002",
        "ipv6:[::1]:7001,[::1]:7002",
    }


def test_unix_socket(tmp_path: Path) -> None:
    """The client reaches a server on a unix socket by its path."""
    with (
        serving(tmp_path, listen=f"unix:{tmp_path}/keyfold.sock") as server,
        keyfold.Client(server.target) as client,
    ):
        assert list(client.list_clusters()) == []


@grpc_alone
def test_mutual_tls(tmp_path: Path) -> None:
    """Server and client prove themselves under the expected name, with files or PEM bytes."""
    pair = self_signed("keyfold.example")
    credentials = grpc.ssl_server_credentials([pair], pair[1], require_client_auth=True)
    for name, content in zip(("key", "cert"), pair, strict=True):
        (tmp_path / name).write_bytes(content)
    files = Tls(tmp_path / "cert", tmp_path / "cert", tmp_path / "key", "keyfold.example")
    given = Tls(pair[1], pair[1], pair[0], "keyfold.example")
    with serving(tmp_path, credentials=credentials) as server:
        for tls in (files, given):
            with keyfold.Client(server.target, tls=tls) as client:
                assert list(client.list_clusters()) == []
        for wrong in (Tls(pair[1]), replace(given, server_name="other.example"), None):
            with (
                keyfold.Client(server.target, tls=wrong) as stranger,
                pytest.raises((keyfold.UnavailableError, keyfold.DeadlineError)),
            ):
                stranger.get_status("prod", timeout=0.2)
    assert pair[0].decode() not in repr(given)


def test_half_a_certificate() -> None:
    """A certificate without its key is an error at once, not at the first call."""
    with pytest.raises(ValueError, match="together"):
        keyfold.Client(tls=Tls(cert=b"x"))


def test_several_servers_prove_one_name() -> None:
    """Several hosts behind TLS need the name that all of them prove."""
    with pytest.raises(ValueError, match="server_name"):
        endpoint(["127.0.0.1:1", "127.0.0.2:1"], Tls())
    options = endpoint(["127.0.0.1:1", "127.0.0.2:1"], Tls(server_name="keyfold.example")).options
    assert ("grpc.ssl_target_name_override", "keyfold.example") in options


@pytest.mark.parametrize(
    "wrong", ["", "localhost", "https://keyfold.example:443", "a:1,", "a:1,unix:/x", "[::1]:x"]
)
def test_unusable_targets(wrong: str) -> None:
    """A new client refuses a malformed target."""
    with pytest.raises(ValueError, match="host:port"):
        keyfold.Client(wrong)


def test_a_target_with_a_password_is_not_repeated() -> None:
    """Who writes an address as in a URL gets an error without the password."""
    with pytest.raises(ValueError, match="has an @") as raised:
        keyfold.Client("user:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(raised.value)


def test_no_proxy_sees_plain_text() -> None:
    """Without TLS the client ignores proxies from the environment: they would read every key."""
    assert ("grpc.enable_http_proxy", 0) in endpoint("127.0.0.1:7443", None).options
    assert ("grpc.enable_http_proxy", 0) not in endpoint("127.0.0.1:7443", Tls()).options


def test_nobody_answers(tmp_path: Path) -> None:
    """A server that does not exist is unavailable, and the client says so in good time."""
    with serving(tmp_path) as server:
        gone = server.target
    with (
        keyfold.Client(gone) as client,
        pytest.raises(keyfold.UnavailableError) as raised,
    ):
        client.get_status("prod", timeout=5)
    assert raised.value.reason == "UNAVAILABLE"


def test_grpc_repeats_every_call_but_a_stream() -> None:
    """Of a stream that gRPC repeats while its server goes away, the end may never arrive."""
    options = dict(endpoint("127.0.0.1:1", None).options)
    config = json.loads(str(options["grpc.service_config"]))
    alone = {"service": EVENTS, "method": "WatchEvents"}
    (of_the_watch,) = [each for each in config["methodConfig"] if alone in each["name"]]
    assert "retryPolicy" not in of_the_watch
    (others,) = [each for each in config["methodConfig"] if "retryPolicy" in each]
    assert {"service": KEYS} in others["name"]
