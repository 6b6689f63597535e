"""The least that 64 callers of one client cost in Python, as a measure for coalescing.

These clients have batches of gRPC's bare stub made for their callers, and do nothing else: they
check no argument, keep no deadline and no cancellation, tell no caller, key encryption key or
context from another, make no span, and understand no error. What they get is what CPython's
threads, asyncio, gRPC and the server leave to any client.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from time import sleep
from types import TracebackType
from typing import Any, Final, Self

import grpc

from bench import cases
from bench.contenders import Service
from keyfold.models.results import Unwrapped, Wrapped
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1.key_management_service_pb2_grpc import KeyManagementServiceStub

_RESULTS: Final[dict[str, Callable[[Any], Any]]] = {
    "Wrap": Wrapped.from_message,
    "Unwrap": Unwrapped.from_message,
}


def _request(method: str, keys: Sequence[bytes]) -> Any:
    if method == "Wrap":
        wraps = pb.BatchWrapRequest(
            cluster=cases.CLUSTER, region=cases.REGION, context=cases.CONTEXT
        )
        for key in keys:
            wraps.items.add(plaintext=key)
        return wraps
    unwraps = pb.BatchUnwrapRequest(cluster=cases.CLUSTER, context=cases.CONTEXT)
    for key in keys:
        unwraps.items.add(wrapped_key=key)
    return unwraps


class _Waiter:
    """A call of a thread, which waits at the gate for its result."""

    __slots__ = ("gate", "key", "result")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.result: Any = None
        self.gate = threading.Lock()
        self.gate.acquire()


class Least:
    """The least client for threads. A thread of its own makes the batches."""

    def __init__(self, service: Service, method: str) -> None:
        """Connects, for calls of Wrap or of Unwrap."""
        self._method = method
        self._read = _RESULTS[method]
        self._channel = grpc.insecure_channel(service.address)
        self._batch = getattr(KeyManagementServiceStub(self._channel), f"Batch{method}")
        self._metadata = (("authorization", f"Bearer {service.token}"),)
        self._waiting: list[_Waiter] = []
        self._came = threading.Event()
        self._closed = False
        self._sender = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        self._sender.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._came.set()
        self._sender.join()
        self._channel.close()

    def wrap(self, _cluster: str, _region: str, key: bytes, **_: Any) -> Any:
        """Wraps a key."""
        return self._ask(key)

    def unwrap(self, _cluster: str, key: bytes, **_: Any) -> Any:
        """Unwraps a key."""
        return self._ask(key)

    def _ask(self, key: bytes) -> Any:
        me = _Waiter(key)
        self._waiting.append(me)
        if not self._came.is_set():
            self._came.set()
        me.gate.acquire()
        return self._read(me.result.answer)

    def _send(self) -> None:
        while True:
            self._came.wait()
            if self._closed:
                return
            seen = 0
            while len(self._waiting) > seen:  # All who have been answered call again.
                seen = len(self._waiting)
                sleep(0)
            self._came.clear()
            batch, self._waiting = self._waiting, []
            request = _request(self._method, [one.key for one in batch])
            reply = self._batch(request, metadata=self._metadata, timeout=cases.CALL_WITHIN)
            for one, result in zip(batch, reply.results, strict=True):
                one.result = result
                one.gate.release()


class AsyncLeast:
    """The least client for tasks. A task of its own makes the batches."""

    def __init__(self, service: Service, method: str) -> None:
        """Connects, for calls of Wrap or of Unwrap."""
        self._method = method
        self._read = _RESULTS[method]
        self._channel = grpc.aio.insecure_channel(service.address)
        self._batch = getattr(KeyManagementServiceStub(self._channel), f"Batch{method}")
        self._metadata = (("authorization", f"Bearer {service.token}"),)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._came = asyncio.Event()
        self._sender = self._loop.create_task(self._send())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sender.cancel()
        await self._channel.close()

    async def wrap(self, _cluster: str, _region: str, key: bytes, **_: Any) -> Any:
        """Wraps a key."""
        result = await self._ask(key)
        return self._read(result.answer)

    async def unwrap(self, _cluster: str, key: bytes, **_: Any) -> Any:
        """Unwraps a key."""
        result = await self._ask(key)
        return self._read(result.answer)

    def _ask(self, key: bytes) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((key, future))
        self._came.set()
        return future

    async def _send(self) -> None:
        while True:
            await self._came.wait()
            await asyncio.sleep(0)  # All who have been answered call again.
            self._came.clear()
            batch, self._waiting = self._waiting, []
            request = _request(self._method, [key for key, _ in batch])
            reply = await self._batch(request, metadata=self._metadata, timeout=cases.CALL_WITHIN)
            for (_, future), result in zip(batch, reply.results, strict=True):
                future.set_result(result)
