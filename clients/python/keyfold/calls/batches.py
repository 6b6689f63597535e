"""Batches of any length, cut into calls that the server takes.

A call holds at most 1,000 items and 4 MiB of request, and its answer at most 4 MiB. A part that
fails as a whole fails for its own items alone: what the other parts brought is not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from keyfold.calls.call import Call
from keyfold.errors import InternalError, KeyfoldError
from keyfold.errors.rpc_status import error_of
from keyfold.models.results import Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Buffer, Context, Destination, RewrapItem, UnwrapItem, WrapItem
from keyfold.v1 import key_management_service_pb2 as api

MAX_ITEMS: Final = 1000
"""Items of one call."""

MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one request, and of one answer."""

_ANSWER_OVERHEAD: Final = 192
"""Bytes of an item's answer beside the key itself: 90 of a wrapped key more than of a plaintext,
or a region's name of 128, and the framing."""

_ERROR_SIZE: Final = 1024
"""Bytes to expect of an item's error, which may take an answer's place."""

Result = TypeVar("Result")
Item = TypeVar("Item", bound=Message)
Response = TypeVar("Response", bound=Message)


class _Result(Protocol):
    """What the results of every batch have in common."""

    @property
    def error(self) -> Status: ...


@dataclass(frozen=True, slots=True)
class Part(Generic[Response, Result]):
    """One call of a batch.

    Attributes:
        call: The call; its answer has one entry for each item, in the items' order.
        count: How many items it has.
    """

    call: Call[Response, list[Result | KeyfoldError]]
    count: int

    def checked(self, results: list[Result | KeyfoldError]) -> list[Result | KeyfoldError]:
        """Returns the results, or an error for each item where one too many or few came.

        Results belong to items by their place alone. A key in the wrong place is worse than none.
        """
        if len(results) == self.count:
            return results
        text = f"the server sent {len(results)} results for {self.count} items"
        return self.failed(InternalError(text, code="INTERNAL"))

    def failed(self, error: KeyfoldError) -> list[Result | KeyfoldError]:
        """Returns the results of a call that failed as a whole: its error for each item."""
        return [error] * self.count


def wraps(
    cluster: str, items: Iterable[WrapItem | Buffer], region: str, context: Context | None
) -> Iterator[Part[api.BatchWrapResponse, Wrapped]]:
    """Prepares BatchWrap.

    Raises:
        TypeError: An item is neither bytes nor a WrapItem; nothing was sent.
    """
    made = [(one if isinstance(one, WrapItem) else WrapItem(one)).to_message() for one in items]
    base = api.BatchWrapRequest(cluster=cluster, region=region, context=context)
    for part in split(base.ByteSize(), made, lambda one: len(one.plaintext)):
        request = api.BatchWrapRequest(cluster=cluster, region=region, context=context, items=part)
        yield Part(Call("BatchWrap", request, _read_wraps), len(part))


def unwraps(
    cluster: str, items: Iterable[UnwrapItem | Buffer], context: Context | None
) -> Iterator[Part[api.BatchUnwrapResponse, Unwrapped]]:
    """Prepares BatchUnwrap.

    Raises:
        TypeError: An item is neither bytes nor an UnwrapItem; nothing was sent.
    """
    made = [(one if isinstance(one, UnwrapItem) else UnwrapItem(one)).to_message() for one in items]
    base = api.BatchUnwrapRequest(cluster=cluster, context=context)
    for part in split(base.ByteSize(), made, lambda one: len(one.wrapped_key)):
        request = api.BatchUnwrapRequest(cluster=cluster, context=context, items=part)
        yield Part(Call("BatchUnwrap", request, _read_unwraps), len(part))


def rewraps(
    cluster: str,
    items: Iterable[RewrapItem | Buffer],
    context: Context | None,
    destination: Destination | None,
) -> Iterator[Part[api.BatchRewrapResponse, Rewrapped]]:
    """Prepares BatchRewrap.

    Raises:
        TypeError: An item is neither bytes nor a RewrapItem; nothing was sent.
    """
    made = [(one if isinstance(one, RewrapItem) else RewrapItem(one)).to_message() for one in items]
    move = None if destination is None else destination.to_message()
    base = api.BatchRewrapRequest(cluster=cluster, context=context, destination=move)
    for part in split(base.ByteSize(), made, lambda one: len(one.wrapped_key)):
        request = api.BatchRewrapRequest(
            cluster=cluster, context=context, items=part, destination=move
        )
        yield Part(Call("BatchRewrap", request, _read_rewraps), len(part))


def split(
    base: int, items: Iterable[Item], key_size: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Cuts items into parts that fit one call each, in order and as few as that allows.

    Args:
        base: Bytes of the request without items.
        items: The items; one that is too large by itself is a part of its own, for the server
            to refuse.
        key_size: Bytes of the key in an item.
    """
    part: list[Item] = []
    request = answer = 0
    for item in items:
        size = item.ByteSize()
        size += _framing(size)
        reply = max(key_size(item) + _ANSWER_OVERHEAD, _ERROR_SIZE)
        full = len(part) == MAX_ITEMS
        if part and (full or base + request + size > MAX_BYTES or answer + reply > MAX_BYTES):
            yield part
            part, request, answer = [], 0, 0
        part.append(item)
        request += size
        answer += reply
    if part:
        yield part


def _framing(size: int) -> int:
    """Returns the bytes that protobuf puts before a repeated message: its tag and its length."""
    return 1 + max(1, (size.bit_length() + 6) // 7)


def _read_wraps(response: api.BatchWrapResponse) -> list[Wrapped | KeyfoldError]:
    return [
        Wrapped.from_message(one.answer) if one.HasField("answer") else _error(one)
        for one in response.results
    ]


def _read_unwraps(response: api.BatchUnwrapResponse) -> list[Unwrapped | KeyfoldError]:
    return [
        Unwrapped.from_message(one.answer) if one.HasField("answer") else _error(one)
        for one in response.results
    ]


def _read_rewraps(response: api.BatchRewrapResponse) -> list[Rewrapped | KeyfoldError]:
    return [
        Rewrapped.from_message(one.answer) if one.HasField("answer") else _error(one)
        for one in response.results
    ]


def _error(result: _Result) -> KeyfoldError:
    return error_of(result.error)
