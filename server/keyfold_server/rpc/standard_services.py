"""Puts gRPC's standard services, health and reflection, behind Keyfold's rules.

Their callers are identified, bounded and checked like all others, and no exception's text reaches a
client; gRPC itself would send the text of an unhandled exception. Each handler is wrapped when its
service registers it. `methods` does the same for Keyfold's own methods.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from keyfold_server.domain.errors import (
    CallerUnknownError,
    KeyfoldError,
    MalformedRequestError,
    OverloadedError,
)
from keyfold_server.rpc import health
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.incoming.door import Door
from keyfold_server.rpc.incoming.receiver import Receiver, whole
from keyfold_server.rpc.incoming.request_room import Holder
from keyfold_server.rpc.incoming.sources import source_of
from keyfold_server.rpc.messages.sizes import check_size
from keyfold_server.rpc.messages.status import internal_status, to_status
from keyfold_server.service.limits import Account, Accounts
from keyfold_server.service.replica import Replica
from keyfold_server.service.shared_room import SharedRoom

log = logging.getLogger(__name__)

CHECKS: Final = 1_000
"""Most calls of health's Check at once. No source of calls can have more than half of them."""

_STRANGERS: Final = 200
"""Most other calls at once of callers without a credential; no source can have more than half."""

_CHECKS_PER_CALLER: Final = 1_000
"""Calls of Check per second of one caller."""

_PER_SOURCE: Final = 100
"""Calls of Check per second of one source without a credential, and as many other calls."""


class _Admitted(NamedTuple):
    """A call that was let in.

    Attributes:
        key: The caller's name; for a stranger, who has no credential, the source of the call.
        stranger: Whether the caller is a stranger.
        account: The caller's rate.
        holder: Counts the room that the caller's requests take. All strangers share one.
    """

    key: str
    stranger: bool
    account: Account
    holder: Holder


_Admit = Callable[[Any], AbstractAsyncContextManager[_Admitted]]
"""Lets a call in, for as long as its block lasts."""


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
            door: The door that each call but Check passes first.
        """
        self._door = door
        self._server = server
        self._receiver = receiver
        self._callers = callers
        self._replica = replica
        self._streams = _Streams(replica.bounds.streams_per_caller)
        clock, calls = replica.clock, replica.bounds.calls_per_caller
        self._strangers = Accounts(calls, _PER_SOURCE, "address", clock)
        self._stranger_places = SharedRoom(_STRANGERS, "calls without a credential")
        # Check has an allowance of its own, so that no flood of other calls, nor of anybody else's
        # checks, makes whoever restarts dead servers take this one for dead.
        self._checks = Accounts(calls, _CHECKS_PER_CALLER, "caller", clock)
        self._stranger_checks = Accounts(calls, _PER_SOURCE, "address", clock)
        self._check_places = SharedRoom(CHECKS, "health checks")

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing: the servicer registers the same handlers as methods, too."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Wraps each method of a service, and registers it."""
        wrapped = {
            name: _wrapped(handler, self._streams, self._receiver, self._admits(service, name))
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, wrapped),)
        )

    def _admits(self, service: str, name: str) -> _Admit:
        method = f"{service}/{name}"
        own = method == f"{health.SERVICE}/{health.CHECK}"
        return partial(self._check if own else self._call, service, method)

    @asynccontextmanager
    async def _call(self, service: str, method: str, context: Any) -> AsyncIterator[_Admitted]:
        """Lets in any call but Check."""
        self._door.enter()
        try:
            who = await self._identified(service, method, context)
            if who is not None:
                account = self._replica.callers.of(who)
                account.charge(self._replica.clock.monotonic())
                yield _Admitted(who, stranger=False, account=account, holder=account)
                return
            source = source_of(context.peer())
            with self._stranger_places.place(source):
                yield self._stranger(source, self._strangers)
        finally:
            self._door.leave()

    @asynccontextmanager
    async def _check(self, service: str, method: str, context: Any) -> AsyncIterator[_Admitted]:
        """Lets in a call of Check, past the door and the rates of all other calls."""
        who = await self._identified(service, method, context)
        key = source_of(context.peer()) if who is None else who
        with self._check_places.place(key):
            if who is None:
                yield self._stranger(key, self._stranger_checks)
                return
            account = self._checks.of(who)
            account.charge(self._replica.clock.monotonic())
            yield _Admitted(who, stranger=False, account=account, holder=account)

    def _stranger(self, source: str, accounts: Accounts) -> _Admitted:
        account = accounts.of(source)
        account.charge(self._replica.clock.monotonic())
        holder = self._replica.callers.of("")
        return _Admitted(source, stranger=True, account=account, holder=holder)

    async def _identified(self, service: str, method: str, context: Any) -> str | None:
        """Returns the caller's name; None for a stranger, who may ask for health alone."""
        try:
            caller = await self._callers.caller(context, context.peer())
        except CallerUnknownError:
            if service != health.SERVICE:
                raise
            return None
        caller.rights.check(method)
        return caller.name

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
    handler: Any, streams: _Streams, receiver: Receiver, admit: _Admit
) -> grpc.RpcMethodHandler[Any, Any]:
    """Wraps a handler on bytes, because gRPC would send the text of a decoding error, too."""
    decode, encode = handler.request_deserializer, handler.response_serializer
    if handler.unary_unary:
        return grpc.stream_unary_rpc_method_handler(
            _one(handler.unary_unary, decode, receiver, admit), response_serializer=encode
        )
    if handler.unary_stream:
        # Health's Watch writes to the context; it yields nothing.
        watch = _ending(handler.unary_stream, decode, streams, receiver, admit)
        return grpc.stream_stream_rpc_method_handler(watch, response_serializer=encode)
    return grpc.stream_stream_rpc_method_handler(
        _many(handler.stream_stream, decode, streams, receiver, admit),
        response_serializer=encode,
    )


def _one(behaviour: Any, decode: Any, receiver: Receiver, admit: _Admit) -> Any:
    async def guarded(_: object, context: Any) -> Any:
        async with _in_our_words(context), admit(context) as admitted:
            request = await _request(decode, receiver, context, admitted)
            return await behaviour(request, context)

    return guarded


def _ending(
    behaviour: Any, decode: Any, streams: _Streams, receiver: Receiver, admit: _Admit
) -> Any:
    async def guarded(_: object, context: Any) -> None:
        async with _in_our_words(context), admit(context) as admitted:
            with streams.one(admitted.key):
                request = await _request(decode, receiver, context, admitted)
                await behaviour(request, context)

    return guarded


def _many(behaviour: Any, decode: Any, streams: _Streams, receiver: Receiver, admit: _Admit) -> Any:
    async def guarded(_: object, context: Any) -> AsyncIterator[Any]:
        async with _in_our_words(context), admit(context) as admitted:
            with streams.one(admitted.key):
                requests = _requests(decode, receiver, context, admitted)
                async for reply in behaviour(requests, context):
                    yield reply

    return guarded


async def _request(decode: Any, receiver: Receiver, context: Any, admitted: _Admitted) -> Any:
    holder = admitted.holder
    data = whole(await receiver.request(context, holder, stranger=admitted.stranger))
    try:
        return _decoded(decode, data)
    finally:
        receiver.done(holder, data)


async def _requests(
    decode: Any, receiver: Receiver, context: Any, admitted: _Admitted
) -> AsyncIterator[Any]:
    holder = admitted.holder
    while (data := await receiver.request(context, holder)) is not None:
        try:
            # Each request of a stream counts as a call.
            admitted.account.charge(receiver.now())
            yield _decoded(decode, data)
        finally:
            receiver.done(holder, data)


def _decoded(decode: Any, data: bytes) -> Any:
    check_size(data)
    try:
        return decode(data)
    except DecodeError:
        raise MalformedRequestError(
            "the request is not a message of this method; build it with its stubs"
        ) from None


@asynccontextmanager
async def _in_our_words(context: Any) -> AsyncIterator[None]:
    """Answers an exception with a status of our own: its text must not reach the caller."""
    try:
        yield
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
