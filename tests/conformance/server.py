"""The service that connectconformance calls, behind Keyfold's own ASGI binding.

connectconformance starts this program, writes on its standard input which server it wants, and
reads from its standard output where that is. SIGTERM ends the program.

    python -m conformance.server conformance.binpb

Keyfold's handlers send no headers and trailers of their own, so the contract of a call has no way
to send any. The tests want some in nearly every answer; `_Sent` puts them in behind the binding.
"""

from __future__ import annotations

import asyncio
import json
import signal
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from keyfold_server.domain.bounds import Bounds
from keyfold_server.rpc.asgi_connect import StreamCall, UnaryCall
from keyfold_server.rpc.asgi_server import AsgiServer
from keyfold_server.rpc.call import Answer, Failed, Method, failed

PACKAGE: Final = "connectrpc.conformance.v1"
SERVICE: Final = f"{PACKAGE}.ConformanceService"

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def load(path: Path) -> None:
    """Makes the service's messages known."""
    described = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
    pool = descriptor_pool.Default()
    for file in described.file:
        if not file.name.startswith("google/"):
            pool.Add(file)


def message(name: str) -> Any:
    """Returns a message class of the package."""
    found = descriptor_pool.Default().FindMessageTypeByName(f"{PACKAGE}.{name}")
    return message_factory.GetMessageClass(found)


class _Sent:
    """What a call sends, with the headers and trailers that its request asked for."""

    def __init__(self, call: Any, definition: Any) -> None:
        self._send = call._send
        self._unary, self._stream = isinstance(call, UnaryCall), isinstance(call, StreamCall)
        self._headers = _pairs(definition.response_headers)
        self._trailers = _pairs(definition.response_trailers)
        call._send = self

    async def __call__(self, sent: dict[str, Any]) -> None:
        if sent["type"] == "http.response.start":
            extra = [*self._headers]
            if self._unary:
                extra += [(b"trailer-" + name, value) for name, value in self._trailers]
            elif not self._stream and not sent.get("trailers"):
                extra += self._trailers
            sent = sent | {"headers": [*sent["headers"], *extra]}
        elif sent["type"] == "http.response.trailers":
            sent = sent | {"headers": [*sent["headers"], *self._trailers]}
        elif self._stream and not sent.get("more_body") and self._trailers:
            sent = sent | {"body": self._last(sent["body"])}
        await self._send(sent)

    def _last(self, body: bytes) -> bytes:
        end = json.loads(body[5:])
        end["metadata"] = {}
        for name, value in self._trailers:
            end["metadata"].setdefault(name.decode(), []).append(value.decode())
        text = json.dumps(end).encode()
        return struct.pack(">BI", body[0], len(text)) + text


def _pairs(headers: Iterable[Any]) -> list[tuple[bytes, bytes]]:
    return [
        (header.name.lower().encode(), value.encode())
        for header in headers
        for value in header.value
    ]


def _info(call: Any, requests: Iterable[Message]) -> Any:
    """Returns what the server saw of a call."""
    info = message("ConformancePayload").RequestInfo()
    headers: dict[str, list[str]] = {}
    for name, value in call._scope["headers"]:
        headers.setdefault(name.decode(), []).append(value.decode("latin-1"))
    for name, values in headers.items():
        info.request_headers.add(name=name, value=values)
    left = call.time_remaining()
    if left is not None:
        info.timeout_ms = round(left * 1000)
    for request in requests:
        info.requests.add().Pack(request)
    return info


def _failure(error: Any, details: Iterable[Message]) -> Failed:
    code = _CODES[error.code]
    status = Status(code=error.code, message=error.message, details=error.details)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return Failed(status, code, "")


async def _requests(call: Any, kind: Any) -> AsyncIterator[Any]:
    while (data := await call.read()) is not None:
        yield kind.FromString(data)


async def _one(call: Any, kind: Any) -> Any:
    """Returns the one request of a call, or the failure if it has none or several."""
    data = call.whole
    if data is None:
        data = await call.read()
    if data is None:
        return _unimplemented("a request is missing")
    # A unary call over HTTP has one body, which is its request.
    if not isinstance(call, UnaryCall) and await call.read() is not None:
        return _unimplemented("there are several requests")
    return kind.FromString(data)


def _unimplemented(text: str) -> Failed:
    code = grpc.StatusCode.UNIMPLEMENTED
    return Failed(Status(code=code.value[0], message=text), code, "")


async def _reply(call: Any, kind: str, requests: list[Any]) -> bytes | Failed:
    """Returns the reply of a method with one reply."""
    definition = requests[0].response_definition if requests else None
    info = _info(call, requests)
    if definition is not None:
        _Sent(call, definition)
        await asyncio.sleep(definition.response_delay_ms / 1000)
        if definition.HasField("error"):
            return _failure(definition.error, [info])
    data = b"" if definition is None else definition.response_data
    payload = message("ConformancePayload")(data=data, request_info=info)
    reply: bytes = message(kind)(payload=payload).SerializeToString()
    return reply


async def unary(call: Any) -> Answer:
    """Answers Unary and IdempotentUnary, whose messages are alike."""
    method = call._scope["path"].rpartition("/")[2]
    asked = await _one(call, message(f"{method}Request"))
    return asked if isinstance(asked, Failed) else await _reply(call, f"{method}Response", [asked])


async def client_stream(call: Any) -> Answer:
    """Answers ClientStream."""
    asked = [request async for request in _requests(call, message("ClientStreamRequest"))]
    reply = await _reply(call, "ClientStreamResponse", asked)
    if isinstance(reply, Failed):
        return reply
    await call.write(reply)
    return None


async def server_stream(call: Any) -> Answer:
    """Answers ServerStream."""
    asked = await _one(call, message("ServerStreamRequest"))
    if isinstance(asked, Failed):
        return asked
    return await _replies(call, "ServerStreamResponse", asked.response_definition, [asked])


async def bidi_stream(call: Any) -> Answer:
    """Answers BidiStream, whose first request says whether each request has its own reply."""
    stream = _requests(call, message("BidiStreamRequest"))
    first = await anext(stream, None)
    if first is None:
        return None
    definition = first.response_definition
    if not first.full_duplex:
        every = [first, *[request async for request in stream]]
        return await _replies(call, "BidiStreamResponse", definition, every)
    _Sent(call, definition)
    await call._start()
    left, sent, last = list(definition.response_data), 0, first
    while last is not None and left:
        info = _info(call, [last]) if not sent else None
        if info is None:
            info = message("ConformancePayload").RequestInfo()
            info.requests.add().Pack(last)
        await _write(call, "BidiStreamResponse", definition, left.pop(0), info)
        sent += 1
        last = await anext(stream, None)
    for data in left:
        await _write(call, "BidiStreamResponse", definition, data, None)
        sent += 1
    if definition.HasField("error"):
        return _failure(definition.error, [] if sent else [_info(call, [last or first])])
    return None


async def _replies(call: Any, kind: str, definition: Any, asked: list[Any]) -> Answer:
    _Sent(call, definition)
    info = _info(call, asked)
    await call._start()  # At once, before any delay.
    for number, data in enumerate(definition.response_data):
        await _write(call, kind, definition, data, None if number else info)
    if definition.HasField("error"):
        return _failure(definition.error, [] if definition.response_data else [info])
    return None


async def _write(call: Any, kind: str, definition: Any, data: bytes, info: Any) -> None:
    await asyncio.sleep(definition.response_delay_ms / 1000)
    payload = message("ConformancePayload")(data=data, request_info=info)
    await call.write(message(kind)(payload=payload).SerializeToString())


def _handled(answer: Callable[[Any], Awaitable[Answer]], *, streams: bool) -> Method:
    async def handle(call: Any) -> Answer:
        try:
            if streams:
                return await answer(call)
            async with asyncio.timeout(call.time_remaining()):
                return await answer(call)
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            return Failed(Status(code=code.value[0], message="too late"), code, "")
        except Exception as error:  # noqa: BLE001  as Keyfold's own handlers do
            return failed(error)

    return Method(handle, streams)


class _Tls:
    """TLS files that do not change."""

    def __init__(self, folder: Path, asked: Any) -> None:
        self._certificate, self._key = folder / "server.pem", folder / "server.key"
        self._certificate.write_bytes(asked.server_creds.cert)
        self._key.write_bytes(asked.server_creds.key)
        self._client_ca = folder / "client.pem" if asked.client_tls_cert else None
        if self._client_ca is not None:
            self._client_ca.write_bytes(asked.client_tls_cert)

    @property
    def paths(self) -> tuple[Path, Path, Path | None]:
        return self._certificate, self._key, self._client_ca

    def current(self) -> object:
        return self

    def is_on_disk(self) -> bool:
        return True


async def serve(folder: Path) -> None:
    """Serves as connectconformance asks, until SIGTERM."""
    (size,) = struct.unpack(">I", sys.stdin.buffer.read(4))
    asked = message("ServerCompatRequest").FromString(sys.stdin.buffer.read(size))
    tls = _Tls(folder, asked) if asked.use_tls else None
    table = {
        f"/{SERVICE}/{name}": _handled(answer, streams=streams)
        for name, answer, streams in (
            ("Unary", unary, False),
            ("IdempotentUnary", unary, False),
            ("ClientStream", client_stream, True),
            ("ServerStream", server_stream, True),
            ("BidiStream", bidi_stream, True),
        )
    }
    server = AsgiServer("127.0.0.1:0", Bounds(), tls=tls, grace=1.0)
    address = await server.start(table, 1_000)
    told = message("ServerCompatResponse")(
        host="127.0.0.1",
        port=int(address.rpartition(":")[2]),
        pem_cert=asked.server_creds.cert if asked.use_tls else b"",
    ).SerializeToString()
    sys.stdout.buffer.write(struct.pack(">I", len(told)) + told)
    sys.stdout.buffer.flush()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop()


if __name__ == "__main__":
    load(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(serve(Path(made)))
