"""An issuer's keys: which ones count, where they come from, and what holds without the issuer."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from certificates import Authority
from fakes import FakeClock
from keyfold_server.access.tokens import fetching, key_set, key_source
from keyfold_server.access.tokens.key_set import KeySetError
from keyfold_server.access.tokens.key_source import KeySource
from keyfold_server.domain.errors import SetupError
from keyfold_server.service.supervisor import Supervisor

_EC = ec.generate_private_key(ec.SECP256R1())
_RSA = rsa.generate_private_key(65_537, 2_048)
_GOOD: dict[str, Any] = {**ECAlgorithm.to_jwk(_EC.public_key(), as_dict=True), "kid": "ec"}
_RSA_JWK: dict[str, Any] = {**RSAAlgorithm.to_jwk(_RSA.public_key(), as_dict=True), "kid": "rsa"}


def _set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


# --- which keys are taken -----------------------------------------------------------------


def test_algorithms_of_each_key() -> None:
    """A key serves the algorithms of its own type and curve, or the one that it declares."""
    ed = OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key(), as_dict=True)
    keys = key_set.parse(
        _set(_GOOD, _RSA_JWK, {**ed, "kid": "ed"}, {**_RSA_JWK, "kid": "ps", "alg": "PS384"})
    )
    taken = {
        key_id: [name for name in key_set.ALGORITHMS if keys.get(key_id, name)]
        for key_id in ("ec", "rsa", "ed", "ps", "nobody")
    }
    assert taken == {
        "ec": ["ES256"],
        "rsa": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        "ed": ["EdDSA"],
        "ps": ["PS384"],
        "nobody": [],
    }
    assert keys.get("rsa", "HS256") is None
    assert (len(keys), keys.skipped) == (4, 0)
    assert "ec" in keys
    assert "nobody" not in keys


def _weak() -> dict[str, Any]:
    return RSAAlgorithm.to_jwk(rsa.generate_private_key(65_537, 1_024).public_key(), as_dict=True)


def _private() -> dict[str, Any]:
    return ECAlgorithm.to_jwk(_EC, as_dict=True)


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "RS256"},
        {**_GOOD, "use": "enc"},
        {**_GOOD, "key_ops": ["sign"]},
        {**_GOOD, "key_ops": "verify"},
        {**_GOOD, "alg": "HS256"},
        {**_GOOD, "alg": "ES384"},
        {**_GOOD, "alg": "none"},
        {**_GOOD, "alg": ["ES256"]},
        {**_GOOD, "kty": "RSA"},
        {**_GOOD, "crv": "P-384"},
        {**_GOOD, "crv": "P-521"},
        {**_GOOD, "crv": "secp256k1"},
        {**_GOOD, "crv": None},
        {**_GOOD, "x": _GOOD["y"]},  # Not on the curve.
        {**_GOOD, "x": 7},
        {**_GOOD, "y": "AA"},
        {**_RSA_JWK, "e": "AA"},
        {**_RSA_JWK, "e": _RSA_JWK["n"]},
        {**_RSA_JWK, "n": "AQAB"},
        {**_RSA_JWK, "n": "a" * 2_000},
        {**_RSA_JWK, "alg": "RSA-OAEP"},
        _weak(),
        _private(),
        OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True),
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": "EC"},
        {},
        "key",
        None,
    ],
)
def test_keys_that_are_left_out(key: dict[str, Any] | str | None) -> None:
    """Weak, private, symmetric, misdeclared and foreign keys are left out; the others stay."""
    odd = {**key, "kid": "odd"} if isinstance(key, dict) else key
    keys = key_set.parse(_set(odd, _GOOD))
    assert (len(keys), keys.skipped) == (1, 1)
    assert "odd" not in keys
    with pytest.raises(KeySetError, match="none of its keys"):
        key_set.parse(_set(odd))


@pytest.mark.parametrize("key_id", [None, "", 7, ["ec"], ...])
def test_keys_without_an_id(key_id: object) -> None:
    """A key that no token could name is left out."""
    key = {**_GOOD, "kid": key_id} if key_id is not ... else {**_GOOD, "kid": None}
    assert key_set.parse(_set(key, _RSA_JWK)).skipped == 1


def test_two_keys_of_one_id() -> None:
    """Of two keys with one id and algorithm the first counts, whatever a token says."""
    other = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
    keys = key_set.parse(_set(_GOOD, {**other, "kid": "ec"}, {**_RSA_JWK, "kid": "ec"}))
    found = keys.get("ec", "ES256")
    assert found is not None
    assert found.key.public_numbers() == _EC.public_key().public_numbers()
    assert keys.get("ec", "RS256") is not None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no list"),
        (b"{}", "no list"),
        (b'{"keys": {}}', "no list"),
        (b'{"keys": []}', "none of its keys"),
        (_set(*[_GOOD] * 101), "more than 100"),
        (b" " * (256 * 1024 + 1), "larger than"),
    ],
)
def test_what_is_no_key_set(text: bytes, why: str) -> None:
    """A key set that cannot be used is refused as a whole, with the reason."""
    with pytest.raises(KeySetError, match=why):
        key_set.parse(text)


# --- from where ---------------------------------------------------------------------------


class _Issuer:
    """An issuer's web server, whose answers the test sets."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.visits: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.gives(_set(_GOOD))
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.visits.append(self.path)
                issuer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}/jwks?v=1"
        self.context = ssl.create_default_context(cadata=self.authority.pem.decode())

    def gives(
        self, text: bytes, status: int = 200, location: str | None = None
    ) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            if location:
                request.send_header("Location", location)
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)

        return answer


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Issuer]:
    """An issuer over HTTPS on loopback."""
    monkeypatch.setenv("no_proxy", "*")
    made = _Issuer()
    issued = made.authority.issue("ip:127.0.0.1")
    pem = tmp_path / "issuer.pem"
    pem.write_bytes(issued.key_pem + issued.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    made.server.socket = context.wrap_socket(made.server.socket, server_side=True)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


async def test_keys_over_https(issuer: _Issuer, clock: FakeClock) -> None:
    """The key set is fetched from the url that was given, and rotated keys drop out."""
    source = KeySource(issuer.url, clock, issuer.context)
    assert source.current() is None
    await source.start()
    first = source.current()
    assert first is not None
    assert "ec" in first
    await source.refresh()
    assert source.current() is first  # Nothing changed, so nothing is verified anew.
    issuer.answer = issuer.gives(_set(_RSA_JWK))
    await source.refresh()
    second = source.current()
    assert second is not None
    assert ("ec" in second, "rsa" in second) == (False, True)
    assert issuer.visits == ["/jwks?v=1"] * 3


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        (302, b"", "answered 302"),
        (404, b"{}", "answered 404"),
        (500, b"", "answered 500"),
        (204, b"", "answered 204"),
        (200, b"<html>", "not JSON"),
        (200, b" " * 300_000, "larger than"),
    ],
)
async def test_an_issuer_out_of_order(
    issuer: _Issuer,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    status: int,
    text: bytes,
    why: str,
) -> None:
    """A bad answer leaves the last good keys and is logged once; redirects are not followed."""
    source = KeySource(issuer.url, clock, issuer.context)
    await source.start()
    keys = source.current()
    issuer.answer = issuer.gives(text, status, location=issuer.url + "&elsewhere")
    for _ in range(3):
        await source.refresh()
    assert source.current() is keys
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [why in record.__dict__["fault"] for record in warnings] == [True]
    assert set(issuer.visits) == {"/jwks?v=1"}


async def test_an_untrusted_issuer(issuer: _Issuer, clock: FakeClock) -> None:
    """The keys of an issuer whose certificate is not trusted are not taken."""
    source = KeySource(issuer.url, clock)
    await source.start()
    assert source.current() is None
    assert issuer.visits == []
    assert "not trusted" in source._fault


async def test_an_issuer_that_is_down(issuer: _Issuer, clock: FakeClock) -> None:
    """A server starts without its issuer, and fetches the keys once it can."""
    answer = issuer.answer
    issuer.answer = issuer.gives(b"", 503)
    source = KeySource(issuer.url, clock, issuer.context)
    await source.start()
    assert source.current() is None
    issuer.answer = answer
    await source.refresh()
    assert source.current() is not None


async def test_keys_through_a_proxy(
    issuer: _Issuer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests go through the environment's proxy, which only sees what TLS protects."""
    asked: list[bytes] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()).strip():
            asked.append(line)
        host, _, port = asked[0].split()[1].decode().partition(":")
        there, to = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pipe(reader, to), _pipe(there, writer))

    proxy = await asyncio.start_server(carry, "127.0.0.1", 0)
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
    async with proxy:
        source = KeySource(issuer.url, clock, issuer.context)
        await source.start()
    assert source.current() is not None
    assert asked[0].startswith(b"CONNECT 127.0.0.1:")
    assert len(issuer.visits) == 1


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4_096):
        writer.write(data)
    writer.close()


@pytest.mark.parametrize("declared", [True, False])
async def test_a_dripping_issuer(
    issuer: _Issuer, monkeypatch: pytest.MonkeyPatch, *, declared: bool
) -> None:
    """The total time for an answer is bounded, however slowly it comes."""
    ended = threading.Event()
    timers: list[threading.Timer] = []

    def start(timer: threading.Timer) -> None:
        timers.append(timer)

    # The time is up amid the answer, however long the way to it took.
    monkeypatch.setattr(threading.Timer, "start", start)

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if declared:
            request.send_header("Content-Length", "100000")
        request.end_headers()
        try:
            for sent in itertools.count():
                request.wfile.write(b" ")
                if sent == 5:
                    timers[0].function()
                if ended.wait(0.02):
                    break
        except OSError:
            ended.set()

    issuer.answer = drip
    fetch = fetching.fetcher(issuer.url, 30, issuer.context)
    try:
        with pytest.raises(KeySetError, match="within 30 s"):
            await fetching.in_thread(fetch)
        assert await asyncio.to_thread(ended.wait, 10)
    finally:
        ended.set()


async def test_the_loop_goes_on_meanwhile(issuer: _Issuer, clock: FakeClock) -> None:
    """While the issuer is slow, the event loop runs, and all waiting calls share one fetch."""
    asked, go = threading.Event(), threading.Event()
    answer = issuer.answer

    def slow(request: BaseHTTPRequestHandler) -> None:
        asked.set()
        go.wait(10)
        answer(request)

    issuer.answer = slow
    source = KeySource(issuer.url, clock, issuer.context)
    waiting = [asyncio.create_task(source.refresh()) for _ in range(20)]
    assert await asyncio.to_thread(asked.wait, 10)
    assert source.may_help()  # A fetch under way is joined, whenever it began.
    waiting[0].cancel()  # A caller who gives up ends it for nobody else.
    go.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["CancelledError"] + [
        "NoneType"
    ] * 19
    assert len(issuer.visits) == 1
    assert source.current() is not None


@pytest.mark.parametrize(
    "where",
    [
        "http://issuer.example/jwks",
        "http://127.0.0.1/jwks",
        "ftp://issuer.example/jwks",
        "file:///etc/jwks",
        "https://",
        "https:///jwks",
        "https://user:secret@issuer.example/jwks",
        "https://issuer.example:x/jwks",
        "https://issuer.example/jwks#x",
    ],
)
def test_other_places(where: str, clock: FakeClock) -> None:
    """Keys come over HTTPS or from a file, loopback included; anything else stops the start."""
    with pytest.raises(SetupError, match="KEYFOLD_JWT_JWKS") as caught:
        KeySource(where, clock)
    assert "secret" not in str(caught.value)


# --- kept fresh ---------------------------------------------------------------------------


async def test_keys_from_a_file(tmp_path: Path, clock: FakeClock) -> None:
    """A changed file is read again; a broken or missing one leaves the last good keys."""
    file = tmp_path / "key_set.json"
    file.write_bytes(_set(_GOOD))
    source = KeySource(str(file), clock)
    await source.start()
    file.write_bytes(b"{")
    await source.refresh()
    file.unlink()
    await source.refresh()
    keys = source.current()
    assert keys is not None
    assert "ec" in keys
    file.write_bytes(_set(_RSA_JWK))
    await source.refresh()
    keys = source.current()
    assert keys is not None
    assert ("ec" in keys, "rsa" in keys) == (False, True)


@pytest.mark.parametrize("text", [None, b"{", b'{"keys": []}'])
async def test_a_bad_file_at_start(tmp_path: Path, clock: FakeClock, text: bytes | None) -> None:
    """A file that is missing or not a key set stops the start; the error names the setting."""
    file = tmp_path / "key_set.json"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(SetupError, match=f"^KEYFOLD_JWT_JWKS: {file}: "):
        await KeySource(str(file), clock).start()


async def test_keys_too_old(tmp_path: Path, clock: FakeClock) -> None:
    """The last good keys stay in use for 24 h without the issuer, and no longer."""
    file = tmp_path / "key_set.json"
    file.write_bytes(_set(_GOOD))
    source = KeySource(str(file), clock)
    await source.start()
    file.unlink()
    clock.advance(24 * 3_600)
    await source.refresh()
    assert source.current() is not None
    clock.advance(1)
    assert source.current() is None
    file.write_bytes(_set(_GOOD))
    await source.refresh()
    assert source.current() is not None


async def test_unknown_keys_cause_no_flood(tmp_path: Path, clock: FakeClock) -> None:
    """Unknown key ids cause at most one fetch in 10 s, even if it fails."""
    source = KeySource(str(tmp_path / "missing"), clock)
    assert source.may_help()
    for _ in range(3):
        await source.refresh()
        assert not source.may_help()
        clock.advance(9.9)
        assert not source.may_help()
        clock.advance(0.1)
        assert source.may_help()


async def test_it_keeps_itself_fresh(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background task reads a changed file, and survives whatever goes wrong."""
    monkeypatch.setattr(key_source, "FILE_PERIOD", 0.005)
    file = tmp_path / "key_set.json"
    file.write_bytes(_set(_GOOD))
    source = KeySource(str(file), clock)
    await source.start()
    fetch = source._fetch
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def broken() -> bytes:
        loop.call_soon_threadsafe(failed.set)
        raise RuntimeError("unexpected")

    keeping = Supervisor(clock).start("token_keys", source.turn)
    source._fetch = broken
    await asyncio.wait_for(failed.wait(), 10)
    source._fetch = fetch
    read = asyncio.Event()
    parse = key_set.parse

    def parsed(text: bytes) -> key_set.KeySet:
        read.set()
        return parse(text)

    monkeypatch.setattr(key_set, "parse", parsed)
    draft = tmp_path / "draft"
    draft.write_bytes(_set(_RSA_JWK))
    draft.replace(file)
    await asyncio.wait_for(read.wait(), 10)
    keys = source.current()
    assert keys is not None
    assert "rsa" in keys
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert keeping.cancelled()
