"""Puts gRPC's standard services, health and reflection, behind Keyfold's rules.

Their callers are identified, bounded and checked like all others, and no exception's text reaches a
client; gRPC itself would send the text of an unhandled exception. Each handler is wrapped when its
service registers it. `methods` does the same for Keyfold's own methods.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from keyfold_server.domain.errors import (
    CallerUnknownError,
    KeyfoldError,
    MalformedRequestError,
    OverloadedError,
)
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.incoming.door import Door
from keyfold_server.rpc.incoming.receiver import Receiver, whole
from keyfold_server.rpc.messages.sizes import check_size
from keyfold_server.rpc.messages.status import internal_status, to_status
from keyfold_server.service.limits import Account
from keyfold_server.service.replica import Replica

log = logging.getLogger(__name__)

OPEN: Final = "grpc.health.v1.Health"
"""The service that also answers callers without a credential, since probes have none."""

Admit = Callable[[Any], Awaitable[tuple[str, Account]]]
"""Lets a call in. Returns the caller's name, empty for an unknown caller, and the caller's
account."""


class Guarded:
    """Stands in for a server while a servicer registers its handlers, and wraps each once."""

    def __init__(
        self,
        server: grpc.aio.Server,
        callers: Callers,
        receiver: Receiver,
        replica: Replica,
        door: Door,
    ) -> None:
        """Joins the server to what surrounds each call.

        Args:
            server: The server that gets the wrapped handlers.
            callers: Identifies the caller of each call.
            receiver: Reads each request.
            replica: Keeps the bounds of each caller.
            door: The door that each call passes first.
        """
        self._door = door
        self._server = server
        self._receiver = receiver
        self._callers = callers
        self._replica = replica
        self._streams = _Streams(replica.bounds.streams_per_caller)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing: the servicer registers the same handlers as methods, too."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Wraps each method of a service, and registers it."""
        wrapped = {
            name: _wrapped(
                handler, self._streams, self._receiver, self._admits(service, name), self._door
            )
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, wrapped),)
        )

    def _admits(self, service: str, name: str) -> Admit:
        async def admit(context: Any) -> tuple[str, Account]:
            try:
                caller = await self._callers.caller(context, context.peer())
            except CallerUnknownError:
                if service != OPEN:
                    raise
                who = ""
            else:
                caller.rights.check(f"{service}/{name}")
                who = caller.name
            account = self._replica.callers.of(who)
            account.charge(self._replica.clock.monotonic())
            return who, account

        return admit

    def end_streams(self) -> None:
        """Ends all streams. They could go on for ever, and a drain would wait for them."""
        self._streams.end()


class _Streams:
    """The streams that are open, each a task."""

    def __init__(self, most: int) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._of: Counter[str] = Counter()
        self._most = most
        self._ended = False

    def end(self) -> None:
        self._ended = True
        for task in self._tasks:
            task.cancel()

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """Surrounds one stream; when `end` ends the streams, this one ends without an error."""
        if self._of[caller] >= self._most:
            raise OverloadedError(
                f"the caller has {self._most} streams open already; close one", retry_after=1.0
            )
        self._of[caller] += 1
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
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]


def _wrapped(
    handler: Any, streams: _Streams, receiver: Receiver, admit: Admit, door: Door
) -> grpc.RpcMethodHandler[Any, Any]:
    """Wraps a handler on bytes, because gRPC would send the text of a decoding error, too."""
    decode, encode = handler.request_deserializer, handler.response_serializer
    if handler.unary_unary:
        return grpc.stream_unary_rpc_method_handler(
            _one(handler.unary_unary, decode, receiver, admit, door), response_serializer=encode
        )
    if handler.unary_stream:
        # Health's Watch writes to the context; it yields nothing.
        watch = _ending(handler.unary_stream, decode, streams, receiver, admit, door)
        return grpc.stream_stream_rpc_method_handler(watch, response_serializer=encode)
    return grpc.stream_stream_rpc_method_handler(
        _many(handler.stream_stream, decode, streams, receiver, admit, door),
        response_serializer=encode,
    )


def _one(behaviour: Any, decode: Any, receiver: Receiver, admit: Admit, door: Door) -> Any:
    async def guarded(_: object, context: Any) -> Any:
        async with _in_our_words(context, door):
            request = await _request(decode, receiver, context, *await admit(context))
            return await behaviour(request, context)

    return guarded


def _ending(
    behaviour: Any, decode: Any, streams: _Streams, receiver: Receiver, admit: Admit, door: Door
) -> Any:
    async def guarded(_: object, context: Any) -> None:
        async with _in_our_words(context, door):
            who, account = await admit(context)
            with streams.one(who):
                request = await _request(decode, receiver, context, who, account)
                await behaviour(request, context)

    return guarded


def _many(
    behaviour: Any, decode: Any, streams: _Streams, receiver: Receiver, admit: Admit, door: Door
) -> Any:
    async def guarded(_: object, context: Any) -> AsyncIterator[Any]:
        async with _in_our_words(context, door):
            who, account = await admit(context)
            with streams.one(who):
                requests = _requests(decode, receiver, context, account)
                async for reply in behaviour(requests, context):
                    yield reply

    return guarded


async def _request(
    decode: Any, receiver: Receiver, context: Any, who: str, account: Account
) -> Any:
    data = whole(await receiver.request(context, account, stranger=not who))
    try:
        return _decoded(decode, data)
    finally:
        receiver.done(account, data)


async def _requests(
    decode: Any, receiver: Receiver, context: Any, account: Account
) -> AsyncIterator[Any]:
    while (data := await receiver.request(context, account)) is not None:
        try:
            yield _decoded(decode, data)
        finally:
            receiver.done(account, data)


def _decoded(decode: Any, data: bytes) -> Any:
    check_size(data)
    try:
        return decode(data)
    except DecodeError:
        raise MalformedRequestError(
            "the request is not a message of this method; build it with its stubs"
        ) from None


@asynccontextmanager
async def _in_our_words(context: Any, door: Door) -> AsyncIterator[None]:
    """Surrounds a call inside the door.

    Answers an exception with a status of our own: its text must not reach the caller.
    """
    try:
        door.enter()
        try:
            yield
        finally:
            door.leave()
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # noqa: BLE001  whatever a servicer may raise
        await _abort(context, error)


async def _abort(context: Any, error: Exception) -> None:
    if isinstance(error, KeyfoldError):
        status = to_status(error)
    else:
        status, incident = internal_status()
        log.error("incident %s", incident, exc_info=error)
    await context.abort_with_status(rpc_status.to_status(status))
