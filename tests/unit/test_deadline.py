"""Calls over HTTP end when their time is up, on both stacks that adapters use (protocol C4)."""

from __future__ import annotations

import gc
import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
import requests

from certificates import Authority
from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request
from keyfold_server.domain.errors import UnreachableError
from keyfold_server.providers.shared import deadlines
from keyfold_server.providers.shared.connections import MAX_ANSWER
from keyfold_server.providers.shared.deadlines import within
from keyfold_server.providers.shared.requests_deadlines import guard
from keyfold_server.providers.shared.transport import Transport
from lateness import in_time

Get = Callable[[str], bytes]

_ERRORS: Final = (UnreachableError, requests.RequestException)
_BUDGET: Final = 0.4
_SLACK: Final = 0.5
"""Seconds after its budget within which a call ends, beyond those that the machine was late."""


def _echo(request: Request) -> Reply:
    return Reply(body=request.path.encode())


@pytest.fixture
def layer() -> Iterator[FaultLayer]:
    """A server that answers with the path."""
    with FaultLayer(_echo) as layer:
        yield layer


@pytest.fixture(params=["urllib3", "requests"])
def get(request: pytest.FixtureRequest) -> Iterator[Get]:
    """Gets a url on one of the stacks; raises one of `_ERRORS`."""
    if request.param == "urllib3":
        transport = Transport()
        yield lambda url: transport.send("GET", url, {}, None).body
        transport.close()
    else:
        with guard(requests.Session()) as session:
            yield lambda url: bytes(session.get(url).content)


def _over_in_time(get: Get, url: str) -> None:
    with in_time(_BUDGET + _SLACK), pytest.raises(_ERRORS), within(_BUDGET) as call:
        get(url)
    # Connecting has a timeout of its own, which a busy machine may notice before the watchdog does.
    assert call.passed or call.ends <= monotonic()


def test_an_answer_comes_whole(get: Get, layer: FaultLayer) -> None:
    """A connection serves one call after the other, each with a time of its own."""
    for path in ("/one", "/two"):
        with within(5.0) as call:
            assert get(layer.url + path) == path.encode()
        assert not call.passed


def test_a_drip_ends_in_time(get: Get, layer: FaultLayer) -> None:
    """A byte now and then satisfies every single read, but the call still ends in time (C4)."""
    with layer.dripping(0.05):
        _over_in_time(get, layer.url)


def test_a_drip_of_the_body_ends_in_time(get: Get) -> None:
    """A body that drips on a connection about to close ends in time, too (C4)."""
    over = threading.Event()
    with _raw(b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n", over) as port:
        _over_in_time(get, f"http://127.0.0.1:{port}/")
    assert over.is_set()


def test_a_hang_ends_in_time(get: Get, layer: FaultLayer) -> None:
    """A call ends in time if nobody answers the connection or the request (C4)."""
    with layer.hanging_at_connect():
        _over_in_time(get, layer.url)
    with layer.hanging_at_read():
        _over_in_time(get, layer.url)


def test_a_kept_connection_ends_in_time(get: Get, layer: FaultLayer) -> None:
    """The watchdog also watches a connection that served an earlier call (C4)."""
    held = threading.Event()

    def hold(request: Request) -> Reply:
        if request.path == "/held":
            held.wait(10)
        return _echo(request)

    with FaultLayer(hold) as there:
        with within(5.0):
            get(there.url)
        _over_in_time(get, there.url + "/held")
        held.set()
        with within(5.0):
            assert get(there.url + "/after") == b"/after"


def test_a_drip_in_the_handshake_ends_in_time(tmp_path: Path) -> None:
    """A handshake ends in time, though TLS has taken the socket over (C4)."""
    (tmp_path / "ca").write_bytes(Authority().pem)
    transport, over = Transport(ca=str(tmp_path / "ca")), threading.Event()
    # A handshake record that announces more bytes than will come.
    with _raw(b"\x16\x03\x03\x40\x00", over) as port:
        _over_in_time(
            lambda url: transport.send("GET", url, {}, None).body, f"https://127.0.0.1:{port}/"
        )
    assert over.is_set()


def test_a_late_end_cuts_nobody_elses_connection(layer: FaultLayer) -> None:
    """A call that ends late does not cut a connection that another call has taken over."""
    transport, taken_over, passed = Transport(), threading.Event(), threading.Event()

    def slow(request: Request) -> Reply:
        if request.path == "/second":
            taken_over.set()
            assert passed.wait(10)
        return _echo(request)

    def second() -> bytes:
        with within(30.0):
            return transport.send("GET", there.url + "/second", {}, None).body

    with FaultLayer(slow) as there, ThreadPoolExecutor(1) as pool:
        with within(30.0) as first:
            transport.send("GET", there.url + "/first", {}, None)
            other = pool.submit(second)
            assert taken_over.wait(10)
            # As the watchdog does once the time of a call is up.
            first.cut()
        passed.set()
        assert other.result(10) == b"/second"


def test_too_large_an_answer_is_not_read(get: Get, layer: FaultLayer) -> None:
    """An answer is bounded in size, and in what it decompresses to."""
    for reply in (
        Reply(body=bytes(MAX_ANSWER + 1)),
        Reply(headers={"Content-Encoding": "gzip"}, body=gzip.compress(bytes(8 * MAX_ANSWER))),
    ):
        with layer.answering(reply), within(5.0), pytest.raises(_ERRORS):
            get(layer.url)
    with layer.answering(Reply(body=bytes(MAX_ANSWER))), within(5.0):
        assert len(get(layer.url)) == MAX_ANSWER


def test_a_redirect_is_not_followed(layer: FaultLayer) -> None:
    """A redirect would carry a credential to another host (protocol C3)."""
    asked: list[str] = []

    def elsewhere(request: Request) -> Reply:
        asked.append(request.path)
        return Reply(307, {"Location": "/elsewhere"})

    with layer.instead(elsewhere), within(5.0):
        assert Transport().send("GET", layer.url + "/a", {}, None).status == 307
        with pytest.raises(requests.TooManyRedirects), guard(requests.Session()) as session:
            session.get(layer.url + "/b")
    assert asked == ["/a", "/b"]


def test_a_proxy_is_asked_where_there_is_one(layer: FaultLayer) -> None:
    """A proxy gets the whole url, and a call through it ends in time, too (C4)."""
    transport = Transport(proxies={"http": layer.url})
    url = "http://kms.invalid/key"
    with within(5.0):
        assert transport.send("GET", url, {}, None).body == url.encode()
    with layer.dripping(0.05):
        _over_in_time(lambda url: transport.send("GET", url, {}, None).body, url)


def test_no_call_without_an_end(get: Get, layer: FaultLayer) -> None:
    """A call outside of `within` is a bug of Keyfold, which raises before it sends."""
    with pytest.raises(RuntimeError):
        get(layer.url)


def test_nothing_is_sent_once_the_time_is_up(get: Get, layer: FaultLayer) -> None:
    """Keyfold does not send a request whose time has passed already."""
    asked: list[str] = []

    def note(request: Request) -> Reply:
        asked.append(request.path)
        return Reply()

    with layer.instead(note):
        with pytest.raises(_ERRORS), within(0.0):
            get(layer.url)
        with within(5.0):
            get(layer.url)
    assert len(asked) == 1


def test_an_inner_time_cannot_be_longer() -> None:
    """A call within a call ends with the outer one at the latest."""
    with within(1.0) as outer, within(9.0) as inner:
        assert inner.ends == outer.ends


def test_the_watchdog_starts_once_there_is_a_thread_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W4: a call that could not start the watchdog fails alone; the next one starts it."""
    monkeypatch.setattr(deadlines, "_watchdog", deadlines._Watchdog())
    full, started = [True], []

    def start(thread: threading.Thread) -> None:
        if full:
            full.clear()
            raise RuntimeError("can't start new thread")
        started.append(thread.name)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError), within(1.0):
        pass
    with within(9.0) as later:
        assert later.remaining() > 8.0
    for _ in range(2):
        with within(1.0):
            pass
    assert started == ["deadlines"]


def test_one_watchdog_for_all(get: Get, layer: FaultLayer) -> None:
    """However many calls there are, one thread watches them."""
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(_within, get, layer.url) for _ in range(32)]:
            done.result()
    assert [each.name for each in threading.enumerate()].count("deadlines") == 1


def test_a_forgotten_pool_closes_at_any_moment(layer: FaultLayer) -> None:
    """Where the garbage collector closes connections amid the watchdog, no call hangs (C4)."""
    transport = Transport()
    with within(5.0):
        transport.send("GET", layer.url, {}, None)
    circle: list[object] = [transport]
    circle.append(circle)
    del transport, circle

    def collect() -> None:
        with deadlines._lock:
            gc.collect()

    collecting = threading.Thread(target=collect, daemon=True)
    collecting.start()
    collecting.join(10.0)
    assert not collecting.is_alive()


def _within(get: Get, url: str) -> bytes:
    with within(5.0):
        return get(url)


@pytest.mark.parametrize(
    ("way", "said"),
    [("refusing", "refuses connections"), ("resetting", "broke the connection off")],
)
def test_what_happened_is_said(layer: FaultLayer, way: str, said: str) -> None:
    """The error says in Keyfold's own words what happened."""
    with getattr(layer, way)(), within(5.0), pytest.raises(UnreachableError, match=said):
        Transport().send("GET", layer.url, {}, None)


def test_an_untrusted_certificate_is_said(tmp_path: Path) -> None:
    """The error says that the server's certificate is not a trusted one."""
    ca, stranger = Authority(), Authority("stranger")
    (tmp_path / "ca").write_bytes(ca.pem)
    issued = stranger.issue("ip:127.0.0.1")
    (tmp_path / "pair").write_bytes(issued.key_pem + issued.pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "pair")
    transport = Transport(ca=str(tmp_path / "ca"))
    with (
        FaultLayer(_echo, server) as there,
        within(5.0),
        pytest.raises(UnreachableError, match="TLS handshake failed"),
    ):
        transport.send("GET", there.url, {}, None)


def test_an_unknown_name_is_said() -> None:
    """A name that does not resolve is UNREACHABLE, and the error says so (protocol F6)."""
    with within(5.0), pytest.raises(UnreachableError, match="does not resolve"):
        Transport().send("GET", "https://nobody.invalid/", {}, None)


class _raw:  # noqa: N801  it reads as a statement
    """A server that begins an answer with these bytes and drips zeros until it is cut."""

    def __init__(self, begins: bytes, over: threading.Event) -> None:
        self._begins, self._over = begins, over
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._listening.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listening.close()

    def _serve(self) -> None:
        sock, _ = self._listening.accept()
        with sock:
            try:
                sock.sendall(self._begins)
                sock.settimeout(0.05)
                while True:
                    sock.send(b"0")
                    try:
                        if not sock.recv(65_536):
                            break
                    except TimeoutError:
                        continue
            except OSError:
                pass
        self._over.set()
