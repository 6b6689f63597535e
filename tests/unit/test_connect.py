"""The Connect protocol over ASGI: plain HTTP requests, message by message."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2

from asgi_exchange import GRPC, Exchange, framed
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    MalformedRequestError,
    OverloadedError,
)
from keyfold_server.rpc.asgi import AsgiApp
from keyfold_server.rpc.asgi_call import plain
from keyfold_server.rpc.call import Answer, Call, Method, failed
from keyfold_server.rpc.cors import Origins
from keyfold_server.rpc.messages.sizes import LARGEST, UNASKED
from keyfold_server.settings import Settings

WRAP = "/keyfold.v1.KeyManagementService/Wrap"
WATCH = "/grpc.health.v1.Health/Watch"
ASKED = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"k" * 32, context={"a": "b"})
TEXT = (
    b'{"cluster":"prod","region":"eu","plaintext":"a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",'
    b'"context":{"a":"b"}}'
)
PAGE = "https://console.example"


def kind(name: str) -> tuple[tuple[bytes, bytes], ...]:
    """Returns the headers of a request of a content type."""
    return ((b"content-type", f"application/{name}".encode()),)


def post(*bodies: bytes, of: str = "json", **scope: Any) -> Exchange:
    """Returns a request to the application, over HTTP/1.1 and without trailers."""
    scope = {"path": WRAP, "http_version": "1.1", "extensions": {}, "plain": kind(of)} | scope
    return Exchange(*bodies, **scope)


async def _read(call: Call) -> bytes:
    data = call.whole
    if data is None:
        data = await call.read()
    if data is None:
        raise MalformedRequestError("the call ended")
    return data


async def _wrap(call: Call) -> Answer:
    """Answers with the request's plaintext as the wrapped key."""
    try:
        asked = pb.WrapRequest.FromString(await _read(call))
    except Exception as error:  # noqa: BLE001  as all handlers do
        return failed(error)
    return pb.WrapResponse(wrapped_key=asked.plaintext, generation=7).SerializeToString()


async def _watch(call: Call) -> Answer:
    try:
        asked = health_pb2.HealthCheckRequest.FromString(await _read(call))
    except Exception as error:  # noqa: BLE001  as all handlers do
        return failed(error)
    if asked.service == "bad":
        return failed(ClusterNotFoundError("there is no such service"))
    for status in (1, 2):
        await call.write(health_pb2.HealthCheckResponse(status=status).SerializeToString())
    return None


def app(handle: Any = _wrap, most: int = 10, origins: tuple[str, ...] = ()) -> AsgiApp:
    """Returns an application with a unary method and a stream."""
    table = {WRAP: Method(handle), WATCH: Method(_watch, streams=True)}
    return AsgiApp(table, most, Origins(origins))


def told(made: Exchange) -> dict[str, Any]:
    """Returns the error in an answer."""
    assert made.headers[b"content-type"] == b"application/json"
    error: dict[str, Any] = json.loads(made.body)
    return error


async def test_json_in_and_out() -> None:
    """A request in JSON gets its reply in JSON, by protobuf's own mapping."""
    made = await post(TEXT).run(app())
    assert made.status == 200
    assert made.headers[b"content-type"] == b"application/json"
    assert made.headers[b"content-length"] == str(len(made.body)).encode()
    wrapped = base64.b64encode(ASKED.plaintext).decode()
    assert json.loads(made.body) == {"wrappedKey": wrapped, "generation": 7}


async def test_protobuf_in_and_out() -> None:
    """A request in protobuf gets its reply in protobuf, without any frame."""
    made = await post(ASKED.SerializeToString(), of="proto").run(app())
    assert made.headers[b"content-type"] == b"application/proto"
    assert pb.WrapResponse.FromString(made.body).wrapped_key == ASKED.plaintext


async def test_a_protobuf_request_that_came_whole_is_answered_in_one_step() -> None:
    """R3: what arrived whole reaches its handler without a wait, here as with gRPC."""
    made = post(ASKED.SerializeToString(), of="proto")
    with pytest.raises(StopIteration):
        made.run(app()).__await__().__next__()
    assert made.status == 200


@pytest.mark.parametrize("size", [0, UNASKED, UNASKED + 1, LARGEST])
@pytest.mark.parametrize("piece", [16_384, 1 << 24])
async def test_requests_in_pieces(size: int, piece: int) -> None:
    """However a body is cut on its way, the handler gets all of it once."""
    got: list[bytes | None] = []

    async def take(call: Call) -> Answer:
        data = call.whole
        got.append(await call.read() if data is None else data)
        return b""

    bodies = [bytes(size)[at : at + piece] for at in range(0, size, piece)] or [b""]
    made = await post(*bodies, of="proto").run(app(take))
    assert made.status == 200
    assert got == [bytes(size)]


async def test_a_request_that_never_becomes_whole() -> None:
    """A body that its client breaks off is no request, although no frame says its length."""
    for of, part in (("proto", ASKED.SerializeToString()), ("json", TEXT)):
        made = post(part, of=of, ends=False)
        made.gone.set()
        assert told(await made.run(app()))["message"] == "the call ended"


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"path": "/s/Nope"}, 404),
        ({"path": "/"}, 404),
        ({"method": "GET"}, 405),
        ({"method": "OPTIONS"}, 405),
        ({"of": "x-www-form-urlencoded"}, 415),
        ({"plain": ((b"content-type", b"text/plain"),)}, 415),
        ({"plain": ((b"content-type", b"text/plain; application/json"),)}, 415),
        ({"plain": ()}, 415),
        ({"of": "json; charset=latin-1"}, 415),
        ({"of": "jsonx"}, 415),
        ({"of": "connect+json"}, 415),
        ({"of": "json", "path": WATCH}, 415),
        ({"headers": kind("json")}, 400),
        ({"headers": [(b"content-encoding", b"gzip"), (b"content-encoding", b"identity")]}, 400),
        ({"headers": [(b"connect-timeout-ms", b"1"), (b"connect-timeout-ms", b"9")]}, 400),
    ],
)
async def test_what_is_no_call(scope: dict[str, Any], status: int) -> None:
    """A request that cannot be read in one way alone gets HTTP's own status and a line of text."""

    async def never(_: Call) -> Answer:
        raise AssertionError("no handler may see this")

    made = await post(TEXT, **scope).run(app(never))
    assert made.status == status
    assert made.headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert made.received == 0


async def test_over_http_2_an_answer_waits_for_a_small_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A body that is on its way meets no closed stream; one that does not come delays nothing long.

    Otherwise a client such as curl may report the stream's end instead of the refusal.
    """
    monkeypatch.setattr("keyfold_server.rpc.asgi_connect._LINGER", 0.01)

    async def unread(_: Call) -> Answer:
        return failed(OverloadedError("no"))

    for method in ("GET", "POST"):
        made = await post(b"{", b"}", method=method, http_version="2").run(app(unread))
        assert made.status == {"GET": 405, "POST": 429}[method]
        assert made.received == 2
        late = await post(b"{", method=method, http_version="2", ends=False).run(app(unread))
        assert late.status == made.status
    large = [(b"content-length", str(UNASKED + 1).encode())]
    made = await post(TEXT, http_version="2", headers=large).run(app(unread))
    assert (made.status, made.received) == (429, 0)
    endless = await post(*[bytes(10_000)] * 20, http_version="2", ends=False).run(app(unread))
    assert (endless.status, endless.received) == (429, 2)


@pytest.mark.parametrize("of", ["json; charset=utf-8", "json;charset=UTF-8", "JSON", "json ;"])
async def test_other_ways_to_write_a_content_type(of: str) -> None:
    """HTTP lets media types differ in case, and say that JSON is in UTF-8, as it always is."""
    assert (await post(TEXT, of=of).run(app())).status == 200


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        (b"connect-protocol-version", b"2", "invalid_argument"),
        (b"connect-timeout-ms", b"soon", "invalid_argument"),
        (b"connect-timeout-ms", b"12345678901", "invalid_argument"),
        (b"content-encoding", b"br", "unimplemented"),
        (b"content-encoding", b"deflate", "unimplemented"),
    ],
)
async def test_headers_that_this_server_does_not_take(
    header: bytes, value: bytes, code: str
) -> None:
    """What the protocol lets a client ask for, and this server does not have, is a clear error."""
    error = told(await post(TEXT, headers=[(header, value)]).run(app()))
    assert error["code"] == code
    assert header.decode() in error["message"]


async def test_errors_with_details() -> None:
    """An error has Connect's code and HTTP status, and the same details as over gRPC."""

    async def refuse(_: Call) -> Answer:
        return failed(OverloadedError("too “much”\r\nx: y", retry_after=1.5), "prod")

    made = await post(TEXT).run(app(refuse))
    error = told(made)
    assert (made.status, error["code"]) == (429, "resource_exhausted")
    assert error["message"] == "too “much”\r\nx: y"
    info, retry = ErrorInfo(), RetryInfo()
    for detail, message in zip(error["details"], (info, retry), strict=True):
        assert detail["type"] == message.DESCRIPTOR.full_name
        value = detail["value"]
        message.ParseFromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    assert (info.reason, info.metadata["cluster"]) == ("OVERLOADED", "prod")
    assert error["details"][0]["debug"]["reason"] == "OVERLOADED"
    assert retry.retry_delay.ToMilliseconds() == 1_500
    assert error["details"][1]["debug"] == {"retryDelay": "1.500s"}


async def test_no_text_of_an_error_is_in_a_header() -> None:
    """A line break in a message, which may come from a caller, cannot begin a header."""

    async def refuse(_: Call) -> Answer:
        return failed(ClusterNotFoundError("a\r\nset-cookie: b\r\n\r\n<script>"))

    for request in (post(TEXT), post(TEXT, path="/a\r\nset-cookie: b")):
        made = await request.run(app(refuse))
        assert b"set-cookie" not in made.headers
        for name, value in made.headers.items():
            assert b"\n" not in name + value
            assert b"script" not in value
        assert b"\n" not in made.body.rstrip(b"\n")


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
async def test_every_code_has_a_status(code: grpc.StatusCode) -> None:
    """No code of gRPC is without a name and an error status in Connect."""

    async def refuse(_: Call) -> Answer:
        return plain(code, "no")

    made = await post(TEXT).run(app(refuse))
    assert 400 <= made.status < 600
    name = "canceled" if code is grpc.StatusCode.CANCELLED else code.name.lower()
    assert told(made) == {"code": name, "message": "no"}


async def test_compressed_requests() -> None:
    """A request may be compressed with gzip; a body without a byte is taken as it is."""
    packed = [(b"content-encoding", b"gzip")]
    for of, body in (("json", TEXT), ("proto", ASKED.SerializeToString())):
        made = await post(gzip.compress(body), of=of, headers=packed).run(app())
        assert made.status == 200
        assert b"content-encoding" not in made.headers
    assert (await post(b"", of="proto", headers=packed).run(app())).status == 200


@pytest.mark.parametrize("of", ["json", "proto"])
@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(bytes(LARGEST + 1)),
        gzip.compress(bytes(200 * 1024 * 1024), compresslevel=1),
        b"junk",
        gzip.compress(TEXT)[:-1],
        gzip.compress(TEXT) + b"more",
    ],
)
async def test_bad_compression(of: str, packed: bytes) -> None:
    """What cannot be unpacked, or becomes too large, is refused; no more of it is unpacked."""
    made = await post(packed, of=of, headers=[(b"content-encoding", b"gzip")]).run(app())
    assert (made.status, told(made)["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize("of", ["json", "proto"])
async def test_a_request_that_is_too_large_is_not_read(of: str) -> None:
    """Nothing is taken of a body whose length is too large, and little of an endless one."""
    length = [(b"content-length", str(LARGEST + 1).encode())]
    made = await post(bytes(16_384), of=of, headers=length, ends=False).run(app())
    assert told(made)["code"] == "invalid_argument"
    assert made.received <= 1
    endless = post(*[bytes(1024 * 1024)] * 20, of=of, ends=False)
    assert told(await endless.run(app()))["code"] == "invalid_argument"
    assert endless.received <= 6


@pytest.mark.parametrize(("value", "left"), [(b"3000", 3.0), (b"0", 0.0), (None, None)])
async def test_timeouts(value: bytes | None, left: float | None) -> None:
    """The deadline is the client's `connect-timeout-ms`."""
    seen: list[float | None] = []

    async def look(call: Call) -> Answer:
        seen.append(call.time_remaining())
        return b""

    headers = () if value is None else ((b"connect-timeout-ms", value),)
    await post(TEXT, headers=headers).run(app(look))
    if left is None:
        assert seen == [None]
    else:
        assert seen[0] is not None
        assert max(0.0, left - 5) <= seen[0] <= left


async def test_deadlines_end_reads() -> None:
    """The wait for a request that does not come ends at the deadline."""
    soon = ((b"connect-timeout-ms", b"50"),)
    for request in (
        post(ends=False, headers=soon),
        post(ends=False, headers=soon, of="connect+json", path=WATCH),
    ):
        made = await request.run(app())
        assert b"deadline_exceeded" in made.body


async def test_what_a_handler_sees_of_its_caller() -> None:
    """Headers and address are what a handler sees of a call of gRPC."""
    seen: list[Any] = []

    async def look(call: Call) -> Answer:
        headers = [call.header(name) for name in ("authorization", "traceparent")]
        seen.append((call.peer, headers, call.certificate()))
        return b""

    trace = (b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")
    tls = {"tls": {"client_cert_chain": ("LEAF",)}}
    headers = [(b"authorization", b"Bearer x"), trace]
    await post(TEXT, headers=headers, extensions=tls).run(app(look))
    peer, values, leaf = seen[0]
    assert (peer, leaf) == ("ipv4:192.0.2.1:50000", b"LEAF")
    assert values == [["Bearer x"], [trace[1].decode()]]


async def test_more_calls_than_may_be_under_way() -> None:
    """Calls of both protocols count together, and one too many is turned away."""
    held = asyncio.Event()

    async def hold(_: Call) -> Answer:
        await held.wait()
        return b""

    full = app(hold, most=1)
    first = asyncio.create_task(Exchange(framed(b""), path=WRAP).run(full))
    await asyncio.sleep(0)
    made = await post(TEXT).run(full)
    assert (made.status, told(made)["code"]) == (429, "resource_exhausted")
    held.set()
    await first
    assert (await post(TEXT).run(full)).status == 200


async def test_a_reply_counts_until_the_client_has_it() -> None:
    """An ASGI server takes a reply at once; only its disconnect says that it has been sent."""
    done: list[str] = []

    async def counted(call: Call) -> Answer:
        call.when_done(lambda: done.append("done"))
        return await _wrap(call)

    made = post(TEXT, http_version="2")
    sent = asyncio.Event()
    send = made.send

    async def told_of(message: Any) -> None:
        await send(message)
        if message["type"] == "http.response.body":
            sent.set()

    made.send = told_of  # type: ignore[method-assign]
    running = asyncio.create_task(made.run(app(counted)))
    await sent.wait()
    await asyncio.sleep(0)
    assert not done
    made.gone.set()
    await running
    assert done == ["done"]


async def test_over_http_1_a_reply_counts_until_the_server_has_taken_it() -> None:
    """Over HTTP/1.1 nobody says when a reply was read, so it is given away in small pieces."""
    done: list[str] = []
    may_send = asyncio.Semaphore(3)
    stopped = asyncio.Event()

    async def large(call: Call) -> Answer:
        call.when_done(lambda: done.append("done"))
        return bytes(100_000)

    made = post(b"", of="proto")
    send = made.send

    async def slow(message: Any) -> None:
        if may_send.locked():
            stopped.set()
        await may_send.acquire()
        await send(message)

    made.send = slow  # type: ignore[method-assign]
    running = asyncio.create_task(made.run(app(large)))
    await stopped.wait()
    assert len(made.body) == 2 * 16_384
    assert not done
    for _ in range(10):
        may_send.release()
    await running
    assert made.body == bytes(100_000)
    assert done == ["done"]


async def test_over_http_1_who_does_not_read_loses_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that reads nothing holds its reply, and a place among the calls, for a time only."""
    monkeypatch.setattr("keyfold_server.rpc.asgi_connect.STALLED", 0.01)
    for of, path in (("json", WRAP), ("connect+json", WATCH)):
        made = post(TEXT if of == "json" else framed(b"{}"), of=of, path=path)
        send = made.send

        async def never(message: Any, send: Any = send) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()
            await send(message)

        made.send = never  # type: ignore[method-assign]
        one = app(most=1)
        await made.run(one)
        assert made.body == b""
        assert (await post(TEXT).run(one)).status == 200


async def test_replies_stay_out_of_caches() -> None:
    """A reply that may hold a key says that nobody may keep it, or guess what it is."""
    for body in (TEXT, b"{"):
        headers = (await post(body).run(app())).headers
        assert headers[b"cache-control"] == b"no-store"
        assert headers[b"x-content-type-options"] == b"nosniff"


async def test_streams() -> None:
    """A stream's messages come behind prefixes, and the last one says how it ended."""
    for of, asked, first in (
        ("connect+json", b"{}", b'{"status":"SERVING"}'),
        ("connect+proto", b"", b"\x08\x01"),
    ):
        made = await post(framed(asked), of=of, path=WATCH).run(app())
        assert made.headers[b"content-type"] == f"application/{of}".encode()
        assert made.sent[1]["body"] == framed(first)
        assert made.sent[-1]["body"] == b"\x02" + framed(b"{}")[1:]
    made = await post(framed(b'{"service":"bad"}'), of="connect+json", path=WATCH).run(app())
    assert made.status == 200
    flags, end = made.sent[-1]["body"][0], json.loads(made.sent[-1]["body"][5:])
    assert flags == 2
    assert end["error"]["code"] == "not_found"
    assert end["error"]["details"][0]["debug"]["reason"] == "CLUSTER_NOT_FOUND"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"\x02" + framed(b"{}")[1:], b"identity"),
        (b"\x80" + framed(b"{}")[1:], b"identity"),
        (framed(gzip.compress(b"{}"), packed=True), b"identity"),
        (framed(b"{}", packed=True), b"gzip"),
        (b"\0\xff\xff\xff\xff", b"identity"),
        (b"", b"identity"),
    ],
)
async def test_bad_messages_of_streams(body: bytes, encoding: bytes) -> None:
    """Flags, sizes and compression that the protocol does not allow end the stream."""
    headers = [(b"connect-content-encoding", encoding)]
    made = await post(body, of="connect+json", path=WATCH, headers=headers).run(app())
    assert json.loads(made.sent[-1]["body"][5:])["error"]["code"] == "invalid_argument"


async def test_browsers_are_refused_by_default() -> None:
    """A page reaches no server whose operator did not list its origin, not even a loopback one.

    Also where the page's host name points at the server, so that both have one origin.
    """

    async def never(_: Call) -> Answer:
        raise AssertionError("no page may get here")

    preflight = (b"access-control-request-method", b"POST")
    for origin in (b"https://evil.example", b"null", b"http://127.0.0.1:7443", b""):
        for method in ("POST", "OPTIONS", "GET"):
            headers = [(b"origin", origin), preflight]
            made = await post(TEXT, method=method, headers=headers).run(app(never))
            assert made.status == 403
            assert not [name for name in made.headers if name.startswith(b"access-control")]


async def test_pages_of_a_listed_origin() -> None:
    """Such a page may ask, call and read, also errors; never with cookies."""
    one = app(origins=(PAGE,))
    origin = (b"origin", PAGE.encode())
    asks = [origin, (b"access-control-request-method", b"POST")]
    asked = await post(method="OPTIONS", plain=(), headers=asks).run(one)
    assert asked.status == 204
    assert asked.headers[b"access-control-allow-methods"] == b"POST"
    assert b"authorization" in asked.headers[b"access-control-allow-headers"]
    for body, status in ((TEXT, 200), (b"{", 400)):
        made = await post(body, headers=[origin]).run(one)
        assert made.status == status
        assert made.headers[b"access-control-allow-origin"] == PAGE.encode()
        assert made.headers[b"vary"] == b"origin"
        assert b"access-control-allow-credentials" not in made.headers
    refused = await post(plain=(), headers=[origin]).run(one)
    assert (refused.status, refused.headers[b"access-control-allow-origin"]) == (
        415,
        PAGE.encode(),
    )


@pytest.mark.parametrize(
    "origin",
    [
        "https://console.example.evil.test",
        "https://evil.console.example",
        "http://console.example",
        "https://console.example:8443",
        "https://CONSOLE.example",
        "https://console.example/",
        "null",
        "*",
    ],
)
async def test_origins_match_exactly(origin: str) -> None:
    """What is almost a listed origin is another one."""
    made = await post(TEXT, headers=[(b"origin", origin.encode())]).run(app(origins=(PAGE,)))
    assert made.status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "console.example",
        "https://*.example",
        "https://console.example/",
        "HTTPS://a.b",
        "https://a.b/c",
        "https://u@a.b",
        "https://a.b:0",
        "https://a.b:",
        "ftp://a.b",
        "https://A.b",
    ],
)
def test_settings_take_origins_alone(origin: str) -> None:
    """What no browser would send is refused at the start, so that no operator relies on it."""
    with pytest.raises(ValueError, match="is not an origin"):
        Settings(transport="asgi", cors_origins=[PAGE, origin])


def test_origins_need_the_transport_that_browsers_can_speak_to() -> None:
    """The setting does not stand where it does nothing; its default lets no page in."""
    assert Settings(transport="asgi").cors_origins == []
    good = [PAGE, "http://localhost:3000", "http://[::1]:8080"]
    assert Settings(transport="asgi", cors_origins=good).cors_origins == good
    with pytest.raises(ValueError, match="KEYFOLD_TRANSPORT=asgi"):
        Settings(cors_origins=[PAGE])


async def test_two_origins_are_none() -> None:
    """Whoever sends a second origin gets in with neither."""
    headers = [(b"origin", b"https://evil.example"), (b"origin", PAGE.encode())]
    assert (await post(TEXT, headers=headers).run(app(origins=(PAGE,)))).status == 400


async def test_web_sockets_are_refused() -> None:
    """A page may open a socket to any server without asking, so there are none here."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    await app()({"type": "websocket", "path": WRAP, "headers": [*GRPC]}, receive, send)
    assert sent == [{"type": "websocket.close"}]
