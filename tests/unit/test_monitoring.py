"""The metrics address: /livez, /readyz and /metrics over HTTP, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from keyfold_server import monitoring
from keyfold_server.domain.errors import SetupError, StoreStaleError
from keyfold_server.service.readiness import Readiness
from keyfold_server.settings import load


class Site:
    """A metrics address, and the server behind it.

    Attributes:
        readiness: What the server says of itself.
        port: Its port on loopback.
    """

    def __init__(self) -> None:
        self.readiness = Readiness()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.end = monitoring.serve(("127.0.0.1", self.port), self.readiness)

    def get(self, path: str) -> tuple[int, str]:
        """Returns the status and the body of an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as got:
                return got.status, got.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def site() -> Iterator[Site]:
    """Gives a metrics address of its own."""
    made = Site()
    yield made
    made.end()


async def test_a_server_that_starts_lives_and_is_not_ready(site: Site) -> None:
    """Kubernetes leaves a server that still migrates its store alone, and sends it no calls."""
    assert await asyncio.to_thread(site.get, "/livez") == (200, "live\n")
    status, body = await asyncio.to_thread(site.get, "/readyz")
    assert status == 503
    assert body.startswith("NOT_SERVING: STARTING: ")


async def test_readyz_says_why_the_server_does_not_serve(site: Site) -> None:
    """S3: NOT_SERVING is 503 with the reason; the server lives on, and is ready again after."""
    faults = [StoreStaleError("this replica has not seen the store")]

    def check() -> None:
        for fault in faults:
            raise fault

    site.readiness.started(check)
    expected = (503, "NOT_SERVING: STORE_STALE: this replica has not seen the store\n")
    assert await asyncio.to_thread(site.get, "/readyz") == expected
    assert await asyncio.to_thread(site.get, "/livez") == (200, "live\n")
    faults.clear()
    assert await asyncio.to_thread(site.get, "/readyz") == (200, "SERVING\n")
    site.readiness.drain()
    status, body = await asyncio.to_thread(site.get, "/readyz")
    assert (status, body[:22]) == (503, "NOT_SERVING: DRAINING:")
    assert await asyncio.to_thread(site.get, "/livez") == (200, "live\n")


async def test_a_hung_server_is_neither_alive_nor_ready(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both probes fail while the event loop hangs, and the metrics still answer."""
    monkeypatch.setattr(monitoring, "_PATIENCE", 0.05)
    site.readiness.started(lambda: None)
    found: dict[str, tuple[int, str]] = {}

    def ask() -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            found[path] = site.get(path)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()  # This blocks the loop, as a hang does.
    assert found["/livez"][0] == 503
    assert "event loop" in found["/livez"][1]
    assert found["/readyz"][0] == 503
    assert found["/readyz"][1].startswith("NOT_SERVING: STALLED: ")
    assert found["/metrics"][0] == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics/", "/livez/x", "/favicon.ico"])
def test_no_other_path_has_an_answer(site: Site, path: str) -> None:
    """A probe with a wrong path fails, instead of finding metrics and taking them for health."""
    status, body = site.get(path)
    assert status == 404
    assert "/readyz" in body


def test_metrics_take_their_query(site: Site) -> None:
    """Prometheus may ask for single metrics by name."""
    status, body = site.get("/metrics?name[]=keyfold_serving")
    assert status == 200
    assert "# TYPE keyfold_serving gauge" in body
    assert "keyfold_cached_keks" not in body


def test_connections_beyond_the_bound_are_closed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that send nothing cannot take the threads that the service needs."""
    site.end()
    monkeypatch.setattr(monitoring, "_MOST", 2)
    site.end = monitoring.serve(("127.0.0.1", site.port), site.readiness)
    silent = [socket.create_connection(("127.0.0.1", site.port), timeout=20) for _ in range(3)]
    try:
        assert silent[2].recv(1) == b"", "the third one is closed without an answer"
        silent[1].sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert silent[1].recv(12) == b"HTTP/1.0 200"
    finally:
        for one in silent:
            one.close()


def test_an_address_in_use_is_told(site: Site) -> None:
    """A start with a taken metrics address fails with the setting to change."""
    with pytest.raises(SetupError, match="KEYFOLD_METRICS"):
        monitoring.serve(("127.0.0.1", site.port), Readiness())


def test_few_clusters_are_shown_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills Prometheus is refused at the start, and so is what no cluster can be called."""
    for names, fault in (
        (",".join(f"c{number}" for number in range(101)), "may name at most 100"),
        ("prod,a b", "has characters"),
    ):
        monkeypatch.setenv("KEYFOLD_METRICS_CLUSTERS", names)
        with pytest.raises(SetupError, match=f"KEYFOLD_METRICS_CLUSTERS: .*{fault}"):
            load()
    monkeypatch.setenv("KEYFOLD_METRICS_CLUSTERS", "prod, acme")
    assert load().metrics_clusters == ["prod", "acme"]
