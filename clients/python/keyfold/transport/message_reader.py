"""Readers of a stream's messages, which end when nothing has come for a while.

A server whose machine has vanished ends no stream, and gRPC may not notice for long.

Nor does gRPC always tell whoever waits for a message that the stream has ended. With grpcio 1.80
to 1.85 (not with 1.74), about one in 500 synchronous streams that began just after their connection
was lost had its status, and yet its `next` never returned, nor did `cancel` wake it. So for
synchronous programs a thread of the reader's own waits for gRPC, and the program for that thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self

import grpc

_LAST: Final = 1.0
"""Seconds that the last word of a stream may take from when gRPC knows the stream's status."""


def pause(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


async def async_pause(seconds: float) -> None:
    """Waits, for asyncio."""
    await asyncio.sleep(seconds)


class _News(Enum):
    """What comes to a reader and is no message."""

    CUT = "somebody has cut the stream, or nothing has come for too long"
    STATUS = "gRPC knows the stream's status, and its last word is on its way"
    END = "the stream has ended without an error"


class MessageReader:
    """A reader with a thread of its own; use it in a `with`, and iterate over it there."""

    def __init__(self, stream: Any, patience: float) -> None:
        """Takes gRPC's own call, and the seconds without a message after which to end."""
        self._stream = stream
        self._patience = patience
        self._wanted = threading.Semaphore(0)
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ended = False

    def cut(self) -> None:
        """Ends the stream and the loop over its messages; any thread may call it."""
        self._news.put(_News.CUT)
        self._stream.cancel()

    def _read(self) -> None:
        # It asks gRPC for a message only when one is wanted, so that a slow program slows the
        # server down.
        while self._wanted.acquire() and not self._ended:
            try:
                self._news.put(next(self._stream))
            except StopIteration:
                self._news.put(_News.END)
            except grpc.RpcError as error:
                self._news.put(error)

    def _wait(self, seconds: float) -> Any:
        try:
            return self._news.get(timeout=seconds)
        except queue.Empty:
            return _News.CUT

    def __enter__(self) -> Self:
        threading.Thread(target=self._read, name="keyfold-reader", daemon=True).start()
        self._stream.add_done_callback(lambda _: self._news.put(_News.STATUS))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = True
        self._stream.cancel()
        self._wanted.release()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._wanted.release()
        news = self._wait(self._patience)
        if news is _News.STATUS:
            news = self._wait(_LAST)
            if news is _News.CUT and self._stream.code() is not grpc.StatusCode.OK:
                news = self._stream  # The stream is the error that it ended with.
        if isinstance(news, grpc.RpcError):
            raise news
        if isinstance(news, _News):
            raise StopIteration
        return news


class AsyncMessageReader:
    """A reader on the running event loop; use it in a `with`, and iterate over it there."""

    def __init__(self, stream: Any, patience: float) -> None:
        """Takes gRPC's own call, and the seconds without a message after which to end."""
        self._stream = stream
        self._messages = aiter(stream)
        self._patience = patience
        self._cut = False

    def cut(self) -> None:
        """Ends the stream and the loop over its messages."""
        self._cut = True
        self._stream.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            async with asyncio.timeout(self._patience):
                return await anext(self._messages)
        except TimeoutError:
            raise StopAsyncIteration from None
        except (grpc.RpcError, asyncio.CancelledError) as error:
            # A call that is cut here raises what a cancelled task raises. If somebody has cancelled
            # the task, too, that goes on.
            task = asyncio.current_task()
            cancelled = isinstance(error, asyncio.CancelledError) and task and task.cancelling()
            if self._cut and not cancelled:
                raise StopAsyncIteration from None
            raise
