"""The method table: every method of the service as a handler on bytes, wrapped once.

The wrapper does what all methods have in common: it identifies the caller, takes the bounds, reads
the request, keeps the deadline, and turns errors into statuses. `data_calls` has what is special to
the data plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from time import perf_counter, time
from typing import Final

import grpc
from google.longrunning import operations_proto_pb2
from google.protobuf.descriptor import ServiceDescriptor

from keyfold.v1 import (
    event_service_pb2,
    key_management_service_pb2,
    organization_service_pb2,
)
from keyfold_server import telemetry
from keyfold_server.domain.errors import (
    DeadlineError,
    KeyfoldError,
    NotFoundError,
    OverloadedError,
)
from keyfold_server.domain.rights import Caller
from keyfold_server.rpc import tracing
from keyfold_server.rpc.call import Answer, Call, Failed, Handler, failed
from keyfold_server.rpc.call import Method as TableMethod
from keyfold_server.rpc.call_log import CallLog, Ended, Facts
from keyfold_server.rpc.data_calls import DataCalls, Method
from keyfold_server.rpc.handlers.data import DataMethods
from keyfold_server.rpc.handlers.events import EventMethods
from keyfold_server.rpc.handlers.life import LifeMethods
from keyfold_server.rpc.handlers.operations import OperationMethods
from keyfold_server.rpc.handlers.organizations import OrganizationMethods
from keyfold_server.rpc.handlers.unary import UnaryMethod
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.incoming.deadline import ANSWER_BEFORE, deadline_of
from keyfold_server.rpc.incoming.door import Door
from keyfold_server.rpc.incoming.receiver import Receiver, whole
from keyfold_server.rpc.messages.sizes import check_size
from keyfold_server.rpc.watch_calls import WatchMethod
from keyfold_server.service.life.requests import URGENT
from keyfold_server.service.limits import Account
from keyfold_server.service.replica import Replica
from keyfold_server.telemetry import NO_SPANS, Sampling

_KEYS: Final = key_management_service_pb2.DESCRIPTOR.services_by_name["KeyManagementService"]
_EVENTS: Final = event_service_pb2.DESCRIPTOR.services_by_name["EventService"]
_ORGANIZATIONS: Final = organization_service_pb2.DESCRIPTOR.services_by_name["OrganizationService"]
_OPERATIONS: Final = operations_proto_pb2.DESCRIPTOR.services_by_name["Operations"]

SERVICE: Final = _KEYS.full_name
"""The service of keys."""

SERVICES: Final = (
    SERVICE,
    _EVENTS.full_name,
    _ORGANIZATIONS.full_name,
    _OPERATIONS.full_name,
)
"""Keyfold's own services, and Google's of operations."""

_TOO_SHORT: Final = 0.005
"""Seconds. With less time left on arrival the server begins no change; gRPC rounds an expired
deadline up."""

_PERIOD: Final = 0.02
"""Seconds, at whole multiples of which a caller hears that something does not exist."""

Answered = Callable[[Call, Facts], Awaitable[Answer]]
"""Returns the reply to a call, or the failure; raises only CancelledError."""

STREAM: Final = "WatchEvents"
"""The method that streams its replies."""


class Methods:
    """Makes the handlers of one replica."""

    def __init__(
        self,
        replica: Replica,
        callers: Callers,
        receiver: Receiver,
        sampling: Sampling,
        call_log: CallLog,
        door: Door,
    ) -> None:
        """Joins the service to what surrounds each call.

        Args:
            replica: The service.
            callers: Identifies the caller of each call.
            receiver: Reads each request.
            sampling: Decides which calls get spans.
            call_log: Records each call.
            door: The door that each call passes first.
        """
        self._door = door
        self._replica = replica
        self._callers = callers
        self._receiver = receiver
        self._sampling = sampling
        self._call_log = call_log
        self._watch = WatchMethod(replica, callers)
        # A timer of uvloop counts in whole milliseconds of the loop's own clock, so by any other
        # clock its rounding would tell how long a read took.
        self._time = asyncio.get_running_loop().time

    def table(self) -> dict[str, TableMethod]:
        """Returns the methods of all services by their paths.

        Raises:
            RuntimeError: The table and the contract have different methods.
        """
        keys, events = self._keys(), self._events()
        return keys | events | self._organizations() | self._operations()

    def _keys(self) -> dict[str, TableMethod]:
        calls = DataCalls(self._replica)
        data = DataMethods(self._replica.data_plane).table()
        life = LifeMethods(self._replica).table()
        life |= OperationMethods(self._replica).starting()
        methods = {
            name: calls.batch(name, core) if name.startswith("Batch") else calls.unary(core)
            for name, core in data.items()
        }
        methods |= {name: self._life(m) for name, m in life.items() if name not in URGENT}
        answers: dict[str, Answered] = {
            name: partial(self._answered, name, method) for name, method in methods.items()
        }
        answers |= {name: partial(self._urgent, name, life[name]) for name in URGENT}
        return self._of_contract(_KEYS, answers)

    def _events(self) -> dict[str, TableMethod]:
        methods = EventMethods(self._replica).table()
        answers: dict[str, Answered] = {
            name: partial(self._answered, name, self._life(method))
            for name, method in methods.items()
        }
        return self._of_contract(_EVENTS, answers | {STREAM: self._streamed})

    def _organizations(self) -> dict[str, TableMethod]:
        return self._simple(_ORGANIZATIONS, OrganizationMethods(self._replica).table())

    def _operations(self) -> dict[str, TableMethod]:
        return self._simple(_OPERATIONS, OperationMethods(self._replica).table())

    def _simple(
        self, service: ServiceDescriptor, methods: Mapping[str, UnaryMethod]
    ) -> dict[str, TableMethod]:
        return self._of_contract(
            service,
            {
                name: partial(self._answered, name, self._life(method))
                for name, method in methods.items()
            },
        )

    def _of_contract(
        self, service: ServiceDescriptor, answers: Mapping[str, Answered]
    ) -> dict[str, TableMethod]:
        if set(answers) != set(service.methods_by_name):
            differ = set(answers) ^ set(service.methods_by_name)
            raise RuntimeError(f"table and contract differ in {differ}")
        return {
            f"/{service.full_name}/{name}": TableMethod(
                self._watched(f"{service.full_name}/{name}", name, answered),
                streams=name == STREAM,
            )
            for name, answered in answers.items()
        }

    def _watched(self, full: str, name: str, answered: Answered) -> Handler:
        """Wraps a method in what all have in common: door, span, status, log line."""
        sampling = self._sampling
        # If nobody collects spans, skip even the look at the caller's header.
        traced = sampling is not NO_SPANS
        door = self._door
        record = self._call_log.add

        async def handle(call: Call) -> Answer:
            began = perf_counter()
            if door.shut is not None:
                await door.wait()
            facts = Facts(call.peer)
            header = tracing.traceparent(call) if traced else ""
            if traced and sampling.sampled(header):
                with tracing.server_span(full, header, call) as span:
                    reply = await answered(call, facts)
                    header = tracing.header_of(span)
                    if isinstance(reply, Failed):
                        tracing.ended(span, reply.code, reply.reason)
                    else:
                        tracing.ended(span, grpc.StatusCode.OK, "")
            else:
                reply = await answered(call, facts)
            if isinstance(reply, Failed):
                code, reason = reply.code.name, reply.reason
            else:
                code, reason = telemetry.OK, ""
            trace = tracing.trace_id(header) if header else ""
            record(Ended(time(), name, facts, code, reason, perf_counter() - began, trace))
            return reply

        return handle

    async def _answered(
        self, name: str, answer: Method, call: Call, facts: Facts
    ) -> bytes | Failed:
        """Returns the reply, or the failure; raises only CancelledError."""
        door = self._door
        try:
            door.enter()
        except OverloadedError as error:
            return failed(error, facts.cluster, facts.region)
        replica = self._replica
        taken: tuple[Account, bytes] | None = None
        began: float | None = None
        try:
            caller = await self._callers.caller(call)
            noted = _noted(caller, facts)
            caller.rights.check(name)
            account = replica.callers.of(noted)
            now = replica.clock.monotonic()
            account.charge(now)
            if name.startswith("Batch"):
                account.check_unread(replica.bounds.unread_bytes)
            data = call.whole
            if data is None:
                data = whole(await self._receiver.request(call, account, now))
                taken = account, data
            began = self._time()
            reply = answer(data, call, caller, account, facts)
            if not isinstance(reply, bytes):
                reply = await reply
            if facts.not_found:
                await self._rest(began)
        except Exception as error:  # noqa: BLE001  each becomes a status for the caller
            if began is not None and isinstance(error, NotFoundError):
                await self._rest(began)
            # Unwrap does not name the region, and the error may know it.
            facts.region = facts.region or _region_of(error)
            return failed(error, facts.cluster, facts.region)
        else:
            return reply
        finally:
            if taken is not None:
                self._receiver.done(*taken)
            door.leave()

    async def _urgent(
        self, name: str, method: UnaryMethod, call: Call, facts: Facts
    ) -> bytes | Failed:
        """Answers as `_answered` does, without any room or rate that other calls use (R9).

        What the calls of one caller take here, they take from that caller alone.
        """
        began: float | None = None
        try:
            caller = await self._callers.caller(call)
            _noted(caller, facts)
            caller.rights.check(name)
            with self._replica.limits.urgent.place(caller.name) as share:
                data = whole(await self._receiver.request(call, share, bounded=False))
                try:
                    check_size(data)
                    began = self._time()
                    return await self._in_time(method, data, caller, call, facts)
                finally:
                    self._receiver.done(share, data)
        except Exception as error:  # noqa: BLE001  each becomes a status for the caller
            if began is not None and isinstance(error, NotFoundError):
                await self._rest(began)
            return failed(error, facts.cluster, facts.region)

    async def _streamed(self, call: Call, facts: Facts) -> Failed | None:
        """Streams until something ends that; raises only CancelledError.

        The watches have places of their own, so that they take none of those of calls.
        """
        try:
            with self._door.inside():
                caller = await self._callers.caller(call)
                account = self._replica.callers.of(_noted(caller, facts))
                caller.rights.check(STREAM)
                account.charge(self._replica.clock.monotonic())
                data = whole(await self._receiver.request(call, account))
                self._receiver.done(account, data)
                check_size(data)
            await self._watch.stream(data, call, caller, facts)
        except OSError:
            raise  # The client has gone.
        except Exception as error:  # noqa: BLE001  each becomes a status for the caller
            return failed(error, facts.cluster, facts.region)
        return None

    def _life(self, life: UnaryMethod) -> Method:
        async def answer(
            data: bytes, call: Call, caller: Caller, account: Account, facts: Facts
        ) -> bytes:
            check_size(data)
            with self._replica.limits.room.place(), account.room.place():
                return await self._in_time(life, data, caller, call, facts)

        return answer

    async def _in_time(
        self, life: UnaryMethod, data: bytes, caller: Caller, call: Call, facts: Facts
    ) -> bytes:
        deadline = deadline_of(call, self._replica.bounds, self._replica.clock)
        if deadline - self._replica.clock.monotonic() < _TOO_SHORT:
            # A change would go on after the deadline, and its caller would never hear of it.
            raise DeadlineError("the deadline had passed on arrival; allow more time")
        # A little after the service itself stops waiting: its error says more than this one.
        left = deadline - self._replica.clock.monotonic() + ANSWER_BEFORE / 2
        caller = replace(caller, trace_id=tracing.trace_of(call))
        try:
            async with asyncio.timeout(left):
                return await life(data, caller, deadline, facts)
        except TimeoutError:
            raise DeadlineError(
                "the deadline passed before the answer was there; allow more time"
            ) from None

    async def _rest(self, began: float) -> None:
        """Delays an answer by which something does not exist, to the period's end (protocol C8).

        A read of a hidden cluster takes longer than that of an absent one. Both end well within the
        same period, counted from when the request is whole, so their answers come at the same time.
        """
        await asyncio.sleep(_PERIOD - (self._time() - began) % _PERIOD)


def _region_of(error: Exception) -> str:
    return (error.region or "") if isinstance(error, KeyfoldError) else ""


def _noted(caller: Caller, facts: Facts) -> str:
    """Notes the caller for the log, and returns its name."""
    facts.behalf = caller.on_behalf_of
    facts.caller = name = caller.rights.identity.name
    return name
