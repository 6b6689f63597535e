"""Puts gRPC's standard services, health and reflection, behind Keyfold's rules.

Their callers are identified, bounded and checked like all others, and no exception's text reaches a
client. `methods` does the same for Keyfold's own methods.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from keyfold_server.domain.errors import (
    CallerUnknownError,
    MalformedRequestError,
    OverloadedError,
)
from keyfold_server.rpc import health, reflection
from keyfold_server.rpc.call import Answer, Call, Failed, Method, failed
from keyfold_server.rpc.health import Health
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.incoming.door import Door
from keyfold_server.rpc.incoming.receiver import Receiver, whole
from keyfold_server.rpc.incoming.request_room import Holder
from keyfold_server.rpc.incoming.sources import source_of
from keyfold_server.rpc.messages.sizes import check_size
from keyfold_server.service.limits import Account, Accounts
from keyfold_server.service.replica import Replica
from keyfold_server.service.shared_room import SharedRoom

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


_Admit = Callable[[Call], AbstractAsyncContextManager[_Admitted]]
"""Lets a call in, for as long as its block lasts."""

_Behaviour = Callable[[Call, _Admitted], Awaitable[Answer]]
"""Answers a call that was let in."""

_M = TypeVar("_M", bound=Message)


class StandardServices:
    """Makes the handlers of health and reflection."""

    def __init__(
        self,
        replica: Replica,
        callers: Callers,
        receiver: Receiver,
        door: Door,
        shown: Health,
        services: tuple[str, ...],
    ) -> None:
        """Joins the services to what surrounds each call.

        Args:
            replica: Keeps the bounds of each caller.
            callers: Identifies the caller of each call.
            receiver: Reads each request.
            door: The door that each call but Check passes first.
            shown: The server's health.
            services: The names of Keyfold's own services, which reflection describes, too.
        """
        self._door = door
        self._receiver = receiver
        self._callers = callers
        self._replica = replica
        self._health = shown
        self._reflects = reflection.reflects((*services, health.SERVICE))
        self._streams = _Streams(replica.bounds.streams_per_caller)
        clock, calls = replica.clock, replica.bounds.calls_per_caller
        self._strangers = Accounts(calls, _PER_SOURCE, "address", clock)
        self._stranger_places = SharedRoom(_STRANGERS, "calls without a credential")
        # Check has an allowance of its own, so that no flood of other calls, nor of anybody else's
        # checks, makes whoever restarts dead servers take this one for dead.
        self._checks = Accounts(calls, _CHECKS_PER_CALLER, "caller", clock)
        self._stranger_checks = Accounts(calls, _PER_SOURCE, "address", clock)
        self._check_places = SharedRoom(CHECKS, "health checks")

    def table(self) -> dict[str, Method]:
        """Returns the methods by their paths."""
        answers: dict[str, _Behaviour] = {health.CHECK: self._checked, "List": self._listed}
        methods = {
            f"/{health.SERVICE}/{name}": self._method(health.SERVICE, name, behaviour)
            for name, behaviour in answers.items()
        }
        streams = [(name, reflection.METHOD, self._reflected) for name in reflection.NAMES]
        for service, name, stream in ((health.SERVICE, "Watch", self._watched), *streams):
            methods[f"/{service}/{name}"] = self._method(service, name, stream, streams=True)
        return methods

    def _method(
        self, service: str, name: str, behaviour: _Behaviour, *, streams: bool = False
    ) -> Method:
        """Wraps a method in what all have in common."""
        method = f"{service}/{name}"
        own = method == f"{health.SERVICE}/{health.CHECK}"
        admit: _Admit = partial(self._check if own else self._call, service, method)

        async def handle(call: Call) -> Answer:
            try:
                async with admit(call) as admitted:
                    if not streams:
                        return await behaviour(call, admitted)
                    with self._streams.one(admitted.key):
                        return await behaviour(call, admitted)
            except Exception as error:  # noqa: BLE001  its text must not reach the caller
                return failed(error)
            return None  # The server has ended the stream.

        return Method(handle, streams)

    @asynccontextmanager
    async def _call(self, service: str, method: str, call: Call) -> AsyncIterator[_Admitted]:
        """Lets in any call but Check."""
        self._door.enter()
        try:
            who = await self._identified(service, method, call)
            if who is not None:
                account = self._replica.callers.of(who)
                account.charge(self._replica.clock.monotonic())
                yield _Admitted(who, stranger=False, account=account, holder=account)
                return
            source = source_of(call.peer)
            with self._stranger_places.place(source):
                yield self._stranger(source, self._strangers)
        finally:
            self._door.leave()

    @asynccontextmanager
    async def _check(self, service: str, method: str, call: Call) -> AsyncIterator[_Admitted]:
        """Lets in a call of Check, past the door and the rates of all other calls."""
        who = await self._identified(service, method, call)
        key = source_of(call.peer) if who is None else who
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

    async def _identified(self, service: str, method: str, call: Call) -> str | None:
        """Returns the caller's name; None for a stranger, who may ask for health alone."""
        try:
            caller = await self._callers.caller(call)
        except CallerUnknownError:
            if service != health.SERVICE:
                raise
            return None
        caller.rights.check(method)
        return caller.name

    def end_streams(self) -> None:
        """Ends all streams. They could go on for ever, and a drain would wait for them."""
        self._streams.end()

    async def _checked(self, call: Call, admitted: _Admitted) -> Answer:
        asked = await self._request(health_pb2.HealthCheckRequest, call, admitted)
        reply = self._health.check(asked.service)
        if reply is not None:
            return reply
        code = grpc.StatusCode.NOT_FOUND
        status = Status(code=code.value[0], message="this server has no such service")
        return Failed(status, code, "")

    async def _listed(self, call: Call, admitted: _Admitted) -> Answer:
        kind = getattr(health_pb2, "HealthListRequest")  # noqa: B009  the type stubs lack it
        await self._request(kind, call, admitted)
        return self._health.list()

    async def _watched(self, call: Call, admitted: _Admitted) -> None:
        asked = await self._request(health_pb2.HealthCheckRequest, call, admitted)
        await self._health.watch(asked.service, call.write)

    async def _reflected(self, call: Call, admitted: _Admitted) -> None:
        async for reply in self._reflects(self._requests(call, admitted), None):
            await call.write(reply.SerializeToString())

    async def _request(self, kind: type[_M], call: Call, admitted: _Admitted) -> _M:
        holder = admitted.holder
        data = whole(await self._receiver.request(call, holder, stranger=admitted.stranger))
        try:
            return _decoded(kind, data)
        finally:
            self._receiver.done(holder, data)

    async def _requests(self, call: Call, admitted: _Admitted) -> AsyncIterator[Any]:
        holder = admitted.holder
        while (data := await self._receiver.request(call, holder)) is not None:
            try:
                # Each request of a stream counts as a call.
                admitted.account.charge(self._receiver.now())
                yield _decoded(reflection_pb2.ServerReflectionRequest, data)
            finally:
                self._receiver.done(holder, data)


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
        assert task is not None  # noqa: S101  a transport runs each handler in a task
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


def _decoded(kind: type[_M], data: bytes) -> _M:
    check_size(data)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise MalformedRequestError(
            "the request is not a message of this method; build it with its stubs"
        ) from None
