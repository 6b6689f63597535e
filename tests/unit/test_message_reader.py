"""Readers of streams: they end whatever gRPC does, and read no further than is wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from keyfold.transport.message_reader import MessageReader


class Stream(grpc.RpcError):
    """A stream of gRPC's whose messages and status a test gives, as gRPC's own is an error."""

    def __init__(self) -> None:
        self.given: SimpleQueue[Any] = SimpleQueue()
        self.asked = 0
        self.cancelled = threading.Event()
        self.done: list[Callable[[Any], None]] = []

    def __next__(self) -> Any:
        self.asked += 1
        news = self.given.get()
        if isinstance(news, BaseException):
            raise news
        return news

    def add_done_callback(self, done: Callable[[Any], None]) -> None:
        """Takes what gRPC calls once it knows the status."""
        self.done.append(done)

    def cancel(self) -> None:
        """Notes it, and wakes nobody."""
        self.cancelled.set()

    def code(self) -> grpc.StatusCode:
        """Returns the status."""
        return grpc.StatusCode.UNAVAILABLE

    def fail(self) -> None:
        """Makes the status known."""
        self.done[0](self)


@pytest.fixture
def stream() -> Iterator[Stream]:
    """Gives a stream, whose readers' threads end with the test."""
    stream = Stream()
    yield stream
    for _ in range(2):
        stream.given.put(StopIteration())


def test_a_stream_ends_whose_next_never_returns(stream: Stream) -> None:
    """R8: where gRPC knows the status and tells the waiting thread nothing, the program hears it.

    grpcio 1.80 to 1.85 did that after a lost connection, and `cancel` did not help.
    """
    with MessageReader(stream, 3_600.0) as messages:
        stream.given.put(b"first")
        assert next(messages) == b"first"
        stream.fail()
        with pytest.raises(Stream):
            next(messages)
    assert stream.cancelled.is_set()


def test_the_last_message_comes_before_the_status(stream: Stream) -> None:
    """What a server sent before it ended a stream is read."""
    with MessageReader(stream, 3_600.0) as messages:
        threading.Timer(0.2, stream.given.put, (b"last",)).start()
        stream.fail()
        assert next(messages) == b"last"
        refused = grpc.RpcError("a reason")
        stream.given.put(refused)
        with pytest.raises(grpc.RpcError, match="a reason"):
            next(messages)


def test_silence_and_a_cut_end_the_loop(stream: Stream) -> None:
    """Neither needs a word of gRPC's."""
    with MessageReader(stream, 0.05) as messages:
        assert list(messages) == []
    with MessageReader(stream, 3_600.0) as messages:
        threading.Timer(0.05, messages.cut).start()
        assert list(messages) == []


def test_no_message_is_read_before_it_is_wanted(stream: Stream) -> None:
    """A slow program slows the server down: nothing queues up between the two."""
    for message in range(5):
        stream.given.put(message)
    with MessageReader(stream, 3_600.0) as messages:
        assert next(messages) == 0
        time.sleep(0.1)  # A thread that read ahead would do it now.
        assert stream.asked == 1
