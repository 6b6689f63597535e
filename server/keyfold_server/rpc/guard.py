"""Other people's servicers behind our rule: no exception's text reaches a caller.

gRPC sends the text of an unhandled exception to the client. Our own methods are wrapped in
`methods`; health and reflection are wrapped here, when they register themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from keyfold_server.domain.errors import KeyfoldError, MalformedRequestError
from keyfold_server.rpc.status import internal_status, to_status

log = logging.getLogger(__name__)


class Guarded:
    """Stands in for a server while a servicer registers its handlers, and wraps each once."""

    def __init__(self, server: grpc.aio.Server) -> None:
        """Takes the server that gets the wrapped handlers."""
        self._server = server
        self._streams = _Streams()

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing: the same handlers come as registered methods too."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Registers a service's methods, each wrapped."""
        wrapped = {name: _wrapped(handler, self._streams) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, wrapped),)
        )

    def end_streams(self) -> None:
        """Ends the streams that would go on for ever; a drain would wait for them."""
        self._streams.end()


class _Streams:
    """The streams under way, each a task."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = False

    def end(self) -> None:
        self._ended = True
        for task in self._tasks:
            task.cancel()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Surrounds a stream, which ends in order when all are ended."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  gRPC runs each handler in a task
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._ended:
                raise
            task.uncancel()
        finally:
            self._tasks.discard(task)


def _wrapped(handler: Any, streams: _Streams) -> grpc.RpcMethodHandler[Any, Any]:
    """Wraps a handler on bytes: gRPC sends the text of a failed decoding to the caller, too."""
    decode, encode = handler.request_deserializer, handler.response_serializer
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(
            _one(handler.unary_unary, decode), response_serializer=encode
        )
    if handler.unary_stream:
        # Health's Watch writes to the context and yields nothing.
        watch = _ending(_one(handler.unary_stream, decode), streams)
        return grpc.unary_stream_rpc_method_handler(watch, response_serializer=encode)
    return grpc.stream_stream_rpc_method_handler(
        _many(handler.stream_stream, decode, streams), response_serializer=encode
    )


def _one(behaviour: Any, decode: Any) -> Any:
    async def guarded(data: bytes, context: Any) -> Any:
        try:
            return await behaviour(_decoded(decode, data), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  its text must not reach the caller
            await _abort(context, error)

    return guarded


def _ending(behaviour: Any, streams: _Streams) -> Any:
    async def ending(data: bytes, context: Any) -> None:
        with streams.one():
            await behaviour(data, context)

    return ending


def _many(behaviour: Any, decode: Any, streams: _Streams) -> Any:
    async def guarded(parts: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        try:
            with streams.one():
                requests = (_decoded(decode, data) async for data in parts)
                async for reply in behaviour(requests, context):
                    yield reply
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  its text must not reach the caller
            await _abort(context, error)

    return guarded


def _decoded(decode: Any, data: bytes) -> Any:
    try:
        return decode(data)
    except DecodeError:
        raise MalformedRequestError(
            "the request is not a message of this method; build it with its stubs"
        ) from None


async def _abort(context: Any, error: Exception) -> None:
    if isinstance(error, KeyfoldError):
        status = to_status(error)
    else:
        status, incident = internal_status()
        log.error("incident %s", incident, exc_info=error)
    await context.abort_with_status(rpc_status.to_status(status))
