"""The method table: every method of the service as a generic handler on bytes, wrapped once.

The wrapper is where a call's deadline, its errors and its cold path are dealt with, the same for
every method; a data-plane call that finds everything in memory passes through it without an await.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter, time
from typing import Any, Final, NamedTuple, NoReturn

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server import telemetry
from keyfold_server.domain.errors import (
    BusyError,
    DeadlineError,
    InvalidBatchError,
    KeyfoldError,
    MalformedRequestError,
    OverloadedError,
)
from keyfold_server.rpc import tracing
from keyfold_server.rpc.call_log import CallLog, Ended, Facts
from keyfold_server.rpc.data_methods import MAX_MESSAGE, Core, DataMethods
from keyfold_server.rpc.door import Door
from keyfold_server.rpc.life_methods import Life, LifeMethods
from keyfold_server.rpc.status import INTERNAL, code_of, internal_status, to_status
from keyfold_server.service.keyring import Call, Need, NeedsLoad
from keyfold_server.service.replica import Replica
from keyfold_server.telemetry import NO_SPANS, Sampling

log = logging.getLogger(__name__)

SERVICE: Final = pb.DESCRIPTOR.services_by_name["KeyManagementService"].full_name

DEFAULT_DEADLINE: Final = 10.0
"""Seconds for a call that comes without a deadline; design section 2."""

LONGEST_DEADLINE: Final = 300.0
"""Seconds that a call may wait at most, whatever its deadline says."""

MAX_REQUEST: Final = 256 * 1024
"""Bytes of a request that is no batch: many times the largest sensible one."""

_ROUNDS: Final = 8
"""Times that a call's keys may change under it before it is told to try again."""

_ANSWER_BEFORE: Final = 0.05
"""Seconds before the caller's deadline at which the answer is sent, so that it arrives."""

_TOO_SHORT: Final = 0.005
"""Seconds left on arrival with which no change is begun; gRPC rounds an expired deadline up."""

_NOTHING: Final = Call()
"""What a call has fetched when it arrives. The core only reads it."""

Context = Any
"""`grpc.aio.ServicerContext` of bytes, which its type stubs cannot say of a generic handler."""

Handler = Callable[[bytes, Context], Awaitable[bytes]]
Answer = Callable[[bytes, Context, Facts], Awaitable["bytes | _Failure"]]
"""Answers a call, or says why not; it raises nothing."""


class _Failure(NamedTuple):
    """How a call failed."""

    status: Status
    code: grpc.StatusCode
    reason: str


class _Room:
    """Calls that may wait at once. gRPC's own limit refuses without a reason (protocol 7)."""

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def __enter__(self) -> None:
        if not self._left:
            raise OverloadedError("too many calls are under way; try again", retry_after=1.0)
        self._left -= 1

    def __exit__(self, *_: object) -> None:
        self._left += 1


class Methods:
    """Makes the handlers of one replica for one kind of caller.

    Attributes:
        door: Where each call comes in.
    """

    def __init__(
        self,
        replica: Replica,
        caller: str,
        most: int,
        sampling: Sampling,
        call_log: CallLog,
    ) -> None:
        """Joins the service to who calls and to what is told of it.

        Args:
            replica: The service.
            caller: `local`, or `socket:` and a path (protocol section 7).
            most: Calls of the data plane that may wait at once, and as many of the others: a flood
                of the former does not get in Revoke's way.
            sampling: Which calls get spans.
            call_log: Is told of each call.
        """
        self.door = Door()
        self._cold_room = _Room(most)
        self._life_room = _Room(most)
        self._replica = replica
        self._caller = caller
        self._sampling = sampling
        self._call_log = call_log

    def handlers(self) -> grpc.GenericRpcHandler:
        """Returns the service's handlers.

        Raises:
            RuntimeError: The table and the contract differ.
        """
        data = DataMethods(self._replica.data_plane).table()
        life = LifeMethods(self._replica).table()
        table = {name: self._watched(name, self._data(name, core)) for name, core in data.items()}
        table |= {name: self._watched(name, self._life(method)) for name, method in life.items()}
        methods = pb.DESCRIPTOR.services_by_name["KeyManagementService"].methods_by_name
        if set(table) != set(methods):
            raise RuntimeError(f"table and contract differ in {set(table) ^ set(methods)}")
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {name: grpc.unary_unary_rpc_method_handler(h) for name, h in table.items()},
        )

    def _watched(self, name: str, answer: Answer) -> Handler:
        """Wraps a method in what is the same for all: span, errors, metric, line."""
        full = f"{SERVICE}/{name}"
        sampling = self._sampling
        # Where nobody collects spans, the caller's header is not even looked at.
        traced = sampling is not NO_SPANS
        door = self.door

        async def handle(data: bytes, context: Context) -> bytes:
            began = perf_counter()
            if door.shut is not None:
                await door.shut.wait()
            facts = Facts()
            header = tracing.traceparent(context) if traced else ""
            if traced and sampling.sampled(header):
                with tracing.server_span(full, header, context) as span:
                    reply = await answer(data, context, facts)
                    header = tracing.header_of(span)
                    if isinstance(reply, _Failure):
                        tracing.ended(span, reply.code, reply.reason)
                    else:
                        tracing.ended(span, grpc.StatusCode.OK, "")
            else:
                reply = await answer(data, context, facts)
            seconds = perf_counter() - began
            if isinstance(reply, _Failure):
                self._tell(name, facts, reply.code.name, reply.reason, seconds, header)
                await context.abort_with_status(rpc_status.to_status(reply.status))
                return b""  # pragma: no cover  abort always raises
            self._tell(name, facts, telemetry.OK, "", seconds, header)
            return reply

        return handle

    def _tell(
        self, name: str, facts: Facts, code: str, reason: str, seconds: float, header: str
    ) -> None:
        trace = tracing.trace_id(header)
        self._call_log.add(Ended(time(), name, self._caller, facts, code, reason, seconds, trace))

    def _data(self, name: str, core: Core) -> Answer:
        batch = name.startswith("Batch")
        largest = MAX_MESSAGE if batch else MAX_REQUEST

        async def answer(data: bytes, context: Context, facts: Facts) -> bytes | _Failure:
            try:
                if len(data) > largest:
                    _too_large(len(data), largest, batch=batch)
                try:
                    return core(data, _NOTHING, facts)
                except NeedsLoad as lacking:
                    needs = lacking.needs
                with self._cold_room:
                    return await self._cold(core, data, facts, needs, self._deadline(context))
            except Exception as error:  # noqa: BLE001  all become what a caller may read
                return _failure(error, facts)

        return answer

    def _life(self, life: Life) -> Answer:
        async def answer(data: bytes, context: Context, facts: Facts) -> bytes | _Failure:
            try:
                if len(data) > MAX_REQUEST:
                    _too_large(len(data), MAX_REQUEST, batch=False)
                with self._life_room:
                    return await self._in_time(life, data, self._deadline(context), facts)
            except Exception as error:  # noqa: BLE001  all become what a caller may read
                return _failure(error, facts)

        return answer

    async def _in_time(self, life: Life, data: bytes, deadline: float, facts: Facts) -> bytes:
        if deadline - self._replica.clock.monotonic() < _TOO_SHORT:
            # A change that began would go on, and nobody be there to hear of it.
            raise DeadlineError("the deadline had passed on arrival; allow more time")
        # A little later than the service itself stops waiting, which says more.
        left = deadline - self._replica.clock.monotonic() + _ANSWER_BEFORE / 2
        try:
            async with asyncio.timeout(left):
                return await life(data, self._caller, deadline, facts)
        except TimeoutError:
            raise DeadlineError(
                "the deadline passed before the answer was there; allow more time"
            ) from None

    async def _cold(
        self, core: Core, data: bytes, facts: Facts, needs: Sequence[Need], deadline: float
    ) -> bytes:
        """Fetches what the core lacks and runs it again, a bounded number of times."""
        call = Call(self._replica.clock.monotonic())
        for _ in range(_ROUNDS):
            await self._replica.loads.satisfy(needs, call, deadline)
            try:
                return core(data, call, facts)
            except NeedsLoad as lacking:
                needs = lacking.needs
        raise BusyError("the cluster's keys keep changing under this call; try again")

    def _deadline(self, context: Context) -> float:
        left: float | None = context.time_remaining()
        if left is None:
            left = DEFAULT_DEADLINE
        left = min(left, LONGEST_DEADLINE)
        return self._replica.clock.monotonic() + left - min(_ANSWER_BEFORE, left / 10)


def _too_large(size: int, most: int, *, batch: bool) -> NoReturn:
    if batch:
        raise InvalidBatchError(
            f"the batch has {size:,} bytes and may have {most:,}; split it", field="items"
        )
    raise MalformedRequestError(f"the request has {size:,} bytes and may have {most:,}")


def _failure(error: Exception, facts: Facts) -> _Failure:
    """Returns an exception as a caller may read it: one of ours, or an incident."""
    if isinstance(error, KeyfoldError):
        located = error.at(cluster=facts.cluster or None, region=facts.region or None)
        return _Failure(to_status(located), code_of(type(error)), error.reason)
    status, incident = internal_status()
    log.error("incident %s", incident, exc_info=error)
    return _Failure(status, grpc.StatusCode.INTERNAL, INTERNAL)
