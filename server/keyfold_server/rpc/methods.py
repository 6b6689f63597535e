"""The method table: every method of the service as a generic handler on bytes, wrapped once.

The wrapper is where a call's deadline, its errors and its cold path are dealt with, the same for
every method; a data-plane call that finds everything in memory passes through it without an await.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.errors import (
    BusyError,
    DeadlineError,
    InvalidBatchError,
    KeyfoldError,
    MalformedRequestError,
)
from keyfold_server.rpc.data_methods import MAX_MESSAGE, Core, DataMethods
from keyfold_server.rpc.life_methods import Life, LifeMethods
from keyfold_server.rpc.status import internal_status, to_status
from keyfold_server.service.data_plane import Call, Need, NeedsLoad
from keyfold_server.service.replica import Replica

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

_NOTHING: Final = Call()
"""What a call has fetched when it arrives. The core only reads it."""

Handler = Callable[[bytes, Any], Awaitable[bytes]]


class Methods:
    """Makes the handlers of one replica for one kind of caller."""

    def __init__(self, replica: Replica, caller: str) -> None:
        """Takes the service, and who calls: `local`, or `socket:` and a path (protocol 7)."""
        self._replica = replica
        self._caller = caller

    def handlers(self) -> grpc.GenericRpcHandler:
        """Returns the service's handlers.

        Raises:
            RuntimeError: The table and the contract differ.
        """
        table: dict[str, Handler] = {
            name: self._data(core, batch=name.startswith("Batch"))
            for name, core in DataMethods(self._replica.data_plane).table().items()
        }
        table |= {
            name: self._life(life) for name, life in LifeMethods(self._replica).table().items()
        }
        methods = pb.DESCRIPTOR.services_by_name["KeyManagementService"].methods_by_name
        if set(table) != set(methods):
            raise RuntimeError(f"table and contract differ in {set(table) ^ set(methods)}")
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {name: grpc.unary_unary_rpc_method_handler(h) for name, h in table.items()},
        )

    def _data(self, core: Core, *, batch: bool) -> Handler:
        largest = MAX_MESSAGE if batch else MAX_REQUEST

        async def handle(data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            try:
                if len(data) > largest:
                    _too_large(len(data), largest, batch=batch)
                try:
                    return core(data, _NOTHING)
                except NeedsLoad as lacking:
                    needs = lacking.needs
                return await self._cold(core, data, needs, self._deadline(context))
            except KeyfoldError as error:
                status = to_status(error)
            except Exception as error:  # noqa: BLE001  its text must not reach the caller
                status = _unexpected(error)
            return await _abort(context, status)

        return handle

    def _life(self, life: Life) -> Handler:
        async def handle(data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            try:
                if len(data) > MAX_REQUEST:
                    _too_large(len(data), MAX_REQUEST, batch=False)
                deadline = self._deadline(context)
                left = deadline - self._replica.clock.monotonic()
                try:
                    async with asyncio.timeout(left):
                        return await life(data, self._caller, deadline)
                except TimeoutError:
                    raise DeadlineError(
                        "the deadline passed before the answer was there; allow more time"
                    ) from None
            except KeyfoldError as error:
                status = to_status(error)
            except Exception as error:  # noqa: BLE001  its text must not reach the caller
                status = _unexpected(error)
            return await _abort(context, status)

        return handle

    async def _cold(self, core: Core, data: bytes, needs: Sequence[Need], deadline: float) -> bytes:
        """Fetches what the core lacks and runs it again, a bounded number of times."""
        call = Call(self._replica.clock.monotonic())
        for _ in range(_ROUNDS):
            await self._replica.loads.satisfy(needs, call, deadline)
            try:
                return core(data, call)
            except NeedsLoad as lacking:
                needs = lacking.needs
        raise BusyError("the cluster's keys keep changing under this call; try again")

    def _deadline(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> float:
        left = context.time_remaining()
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


def _unexpected(error: Exception) -> Status:
    status, incident = internal_status()
    log.error("incident %s", incident, exc_info=error)
    return status


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], status: Status) -> bytes:
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError  # pragma: no cover  abort always raises
