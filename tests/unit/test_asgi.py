"""gRPC over ASGI: the application on a server that this test is, message by message."""

from __future__ import annotations

import asyncio
import base64
import gzip
import struct
import zlib
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from asgi_exchange import Exchange, framed
from keyfold_server.domain.errors import ClusterNotFoundError, MalformedRequestError
from keyfold_server.rpc.asgi import AsgiApp
from keyfold_server.rpc.call import Answer, Call, Method, failed
from keyfold_server.rpc.messages.sizes import LARGEST, UNASKED


async def _echo(call: Call) -> Answer:
    data = call.whole
    try:
        return await call.read() if data is None else data
    except Exception as error:  # noqa: BLE001  as all handlers do
        return failed(error)


def app(handle: Any = _echo, most: int = 10, *, streams: bool = False) -> AsgiApp:
    """Returns an application with one method."""
    return AsgiApp({"/s/M": Method(handle, streams)}, most)


async def test_a_request_that_came_whole_is_answered_in_one_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R3: what arrived whole reaches its handler without a wait, a task or a lock."""

    def none(*_: object) -> None:
        raise AssertionError("a whole request needs no task")

    made = Exchange(framed(b"request"))
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "current_task", none)
        with pytest.raises(StopIteration):
            made.run(app()).__await__().__next__()
    assert made.body == framed(b"request")
    assert made.code == 0
    assert made.received == 1


@pytest.mark.parametrize(
    ("size", "piece"),
    [
        *((size, 7) for size in (0, 1, UNASKED, UNASKED + 1)),
        *((size, 16_384) for size in (0, UNASKED, UNASKED + 1, LARGEST)),
        *((size, 1 << 24) for size in (0, 1, UNASKED, UNASKED + 1, LARGEST)),
    ],
)
async def test_requests_in_pieces(size: int, piece: int) -> None:
    """However a request is cut on its way, the handler gets all of it once."""
    wire = framed(bytes(size))
    pieces = [wire[at : at + piece] for at in range(0, len(wire), piece)]
    made = await Exchange(*pieces).run(app())
    assert made.code == 0
    assert made.body == wire


async def test_a_request_that_comes_late() -> None:
    """A request that is not there at once is read as it comes."""
    made = Exchange()
    whole: list[bytes | None] = []
    bodies = asyncio.Queue[dict[str, Any]]()
    made.receive = bodies.get  # type: ignore[method-assign]

    async def handle(call: Call) -> Answer:
        whole.append(call.whole)
        return await call.read()

    running = asyncio.create_task(made.run(app(handle)))
    await asyncio.sleep(0)
    for body in (b"\0\0", b"\0\0\3ab", b"c"):
        bodies.put_nowait({"type": "http.request", "body": body, "more_body": True})
    await running
    assert whole == [None]
    assert made.body == framed(b"abc")


@pytest.mark.parametrize("bodies", [(), (b"",), (b"\0\0\0",), (framed(b"long")[:-1],)])
async def test_a_request_that_never_becomes_whole(bodies: tuple[bytes, ...]) -> None:
    """A handler hears that the client ended the call before its request was whole."""
    made = Exchange(*bodies)
    made.gone.set()
    heard: list[bytes | None] = []

    async def handle(call: Call) -> Answer:
        heard.extend((call.whole, await call.read()))
        return b""

    await made.run(app(handle))
    assert heard == [None, None]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
@pytest.mark.parametrize("size", [0, 100, 70_000, LARGEST])
async def test_compressed_requests(encoding: str, pack: Any, size: int) -> None:
    """A compressed request counts and reads as what it is unpacked."""
    headers = ((b"grpc-encoding", encoding.encode()),)
    made = await Exchange(framed(pack(bytes(size)), packed=True), headers=headers).run(app())
    assert made.code == 0
    assert len(made.body) == size + 5


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        (b"gzip", gzip.compress(bytes(LARGEST + 1))),
        (b"gzip", gzip.compress(bytes(200 * 1024 * 1024), compresslevel=1)),
        (b"gzip", b"junk"),
        (b"gzip", gzip.compress(b"cut off")[:-1]),
        (b"gzip", gzip.compress(b"x") + b"more"),
        (b"deflate", gzip.compress(b"of another kind")),
        (b"identity", b"packed in no way that it says"),
    ],
)
async def test_bad_compression(encoding: bytes, packed: bytes) -> None:
    """What cannot be unpacked, or becomes too large, is refused; no more of it is unpacked."""
    headers = ((b"grpc-encoding", encoding),)
    made = await Exchange(framed(packed, packed=True), headers=headers).run(app())
    assert made.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_an_encoding_that_nobody_here_reads() -> None:
    """By gRPC's protocol an unknown compression is UNIMPLEMENTED, with the known ones beside it."""
    made = await Exchange(framed(b""), headers=((b"grpc-encoding", b"zstd"),)).run(app())
    assert made.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert made.trailers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"


async def test_a_request_that_is_too_large_is_not_read() -> None:
    """Its prefix says so, and the server takes none of the rest."""
    wire = struct.pack(">BI", 0, LARGEST + 1)
    made = await Exchange(wire, *[bytes(16_384)] * 20, ends=False).run(app())
    assert made.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert f"{LARGEST:,}".encode() in made.trailers[b"grpc-message"]
    assert made.received == 1


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"method": "GET"}, 405),
        ({"headers": [(b"content-type", b"application/grpc-web")]}, 415),
        ({"headers": [(b"content-type", b"application/grpc+json")]}, 415),
        ({"headers": [(b"content-type", b"application/grpcx")]}, 415),
        ({"extensions": {}}, 505),
        ({"http_version": "1.1"}, 505),
    ],
)
async def test_what_is_no_grpc_call(scope: dict[str, Any], status: int) -> None:
    """Other HTTP requests get a status of HTTP and a text that says what to do."""
    made = await Exchange(framed(b""), **scope).run(app())
    assert made.status == status
    assert made.body


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc; charset=utf-8"])
async def test_content_types_of_grpc(kind: bytes) -> None:
    """What has a content type of gRPC with a suffix or parameters is gRPC."""
    made = await Exchange(framed(b"x"), headers=((b"content-type", kind),)).run(app())
    assert made.code == 0


async def test_a_method_that_is_not_there() -> None:
    """An unknown path is UNIMPLEMENTED, as gRPC itself says it."""
    made = await Exchange(framed(b""), path="/s/Nope").run(app())
    assert made.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert made.trailers[b"grpc-message"] == b"Method not found!"


async def test_more_calls_than_may_be_under_way() -> None:
    """Beyond the bound a call is turned away; one that ends, however it ends, makes room."""
    held = asyncio.Event()

    async def hold(_: Call) -> Answer:
        await held.wait()
        return b""

    full = app(hold, most=1)
    first = asyncio.create_task(Exchange(framed(b"")).run(full))
    await asyncio.sleep(0)
    turned_away = await Exchange(framed(b"")).run(full)
    assert turned_away.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    held.set()
    assert (await Exchange(framed(b"")).run(full)).code == 0


async def test_errors_with_details() -> None:
    """An error comes with code, an escaped message and its details, where trailers come."""
    text = "there is no “prod”, 100% sure\n"

    async def refuse(_: Call) -> Answer:
        return failed(ClusterNotFoundError(text), "prod")

    made = await Exchange(framed(b"")).run(app(refuse))
    assert made.code == grpc.StatusCode.NOT_FOUND.value[0]
    message = made.trailers[b"grpc-message"]
    assert message == b"there is no %E2%80%9Cprod%E2%80%9D, 100%25 sure%0A"
    details = made.trailers[b"grpc-status-details-bin"]
    assert not details.endswith(b"=")
    status = Status.FromString(base64.b64decode(details + b"=" * (-len(details) % 4)))
    assert status.message == text
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.metadata["cluster"]) == ("CLUSTER_NOT_FOUND", "prod")


async def test_streams_end_with_trailers_however_they_end() -> None:
    """Replies of a stream come one by one, and its status comes behind them."""

    async def stream(call: Call) -> Answer:
        while (data := call.whole or await call.read()) is not None:
            if data == b"bad":
                return failed(MalformedRequestError("bad"))
            await call.write(data)
        return None

    for last, code in ((b"b", 0), (b"bad", grpc.StatusCode.INVALID_ARGUMENT.value[0])):
        made = await Exchange(framed(b"a"), framed(last)).run(app(stream, streams=True))
        replies = [framed(b"a"), framed(b"b")] if code == 0 else [framed(b"a")]
        assert [m["body"] for m in made.sent if m.get("more_body")] == replies
        assert made.sent[-1]["type"] == "http.response.trailers"
        assert made.code == code


async def test_deadlines_end_streams_and_reads() -> None:
    """A stream ends at its deadline, and so does the wait for a request that does not come."""

    async def for_ever(call: Call) -> Answer:
        await call.write(b"one")
        await asyncio.Event().wait()
        return None

    soon = ((b"grpc-timeout", b"50m"),)
    for method in (app(for_ever, streams=True), app()):
        made = await Exchange(ends=False, headers=soon).run(method)
        assert made.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"3S", 3.0),
        (b"2H", 7_200.0),
        (b"1M", 60.0),
        (b"500m", 0.5),
        (b"99999999u", 99.999999),
        (b"1n", 0.0),
        (b"0S", 0.0),
        (None, None),
        (b"", None),
        (b"S", None),
        (b"1.5S", None),
        (b"-1S", None),
        (b"3", None),
        (b"123456789S", None),
    ],
)
async def test_timeouts(value: bytes | None, seconds: float | None) -> None:
    """The deadline is the client's `grpc-timeout`; what cannot be read is none, as gRPC has it."""
    left: list[float | None] = []

    async def look(call: Call) -> Answer:
        left.append(call.time_remaining())
        return b""

    headers = () if value is None else ((b"grpc-timeout", value),)
    await Exchange(framed(b""), headers=headers).run(app(look))
    if seconds is None:
        assert left == [None]
    else:
        assert left[0] is not None
        assert seconds - 5 < left[0] <= seconds


async def test_what_a_handler_sees_of_its_caller() -> None:
    """Headers, binary headers, address and certificate are what gRPC's library would give."""
    seen: list[Any] = []

    async def look(call: Call) -> Answer:
        names = ("authorization", "k-bin", "absent")
        headers = [(name, call.header(name)) for name in names]
        seen.append((call.peer, headers, call.certificate()))
        return b""

    headers = [
        (b"authorization", b"Bearer x"),
        (b"k-bin", b"AAE,Ag=="),
        (b"k-bin", b"no base64!"),
    ]
    tls = {"client_cert_chain": ("LEAF", "ISSUER")}
    extensions = {"http.response.trailers": {}, "tls": tls}
    await Exchange(framed(b""), headers=headers, extensions=extensions).run(app(look))
    await Exchange(framed(b""), client=("2001:db8::1", 7)).run(app(look))
    made = Exchange(framed(b""))
    del made.scope["client"]
    await made.run(app(look))
    (peer, found, leaf), (peer_6, _, no_leaf), (peer_unix, _, _) = seen
    assert (peer, leaf) == ("ipv4:192.0.2.1:50000", b"LEAF")
    assert found == [
        ("authorization", ["Bearer x"]),
        ("k-bin", [b"\0\1", b"\2", b""]),
        ("absent", ()),
    ]
    assert (peer_6, no_leaf) == ("ipv6:%5B2001:db8::1%5D:7", None)
    assert peer_unix == "unix:"


async def test_a_reply_counts_until_the_client_has_it() -> None:
    """An ASGI server takes a reply at once; only its disconnect says that it has been sent."""
    done: list[str] = []

    async def counted(call: Call) -> Answer:
        call.when_done(lambda: done.append("done"))
        return await _echo(call)

    made = Exchange(framed(b"x"), ends=False)
    running = asyncio.create_task(made.run(app(counted)))
    await asyncio.sleep(0)
    assert made.sent[-1]["type"] == "http.response.trailers"
    assert not done
    made.gone.set()
    await running
    assert done == ["done"]


async def test_a_client_that_goes_ends_its_call() -> None:
    """The call of a client that has gone is cancelled, and what waits for its end hears it."""
    done: list[str] = []
    began = asyncio.Event()

    async def hold(call: Call) -> Answer:
        call.when_done(lambda: done.append("done"))
        began.set()
        await asyncio.Event().wait()
        return b""

    running = asyncio.create_task(Exchange(framed(b"")).run(app(hold)))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert done == ["done"]


async def test_nobody_is_told_where_nobody_listens() -> None:
    """A client that went while its answer was made is no error of the server's."""
    made = Exchange(framed(b""))

    async def closed(_: Any) -> None:
        raise OSError("the stream has ended")

    made.send = closed  # type: ignore[assignment,method-assign]
    await made.run(app())
