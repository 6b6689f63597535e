"""Batches of any length, cut into calls that fit the server's limits.

A call has at most 1,000 items, its request at most 4 MiB, and its response at most 4 MiB. If a
call fails, only its own items fail; the results of the other calls stay.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from keyfold.arguments import checked, wrong_value
from keyfold.calls.call import Call
from keyfold.errors import FieldViolation, InternalError, InvalidSizeError, KeyfoldError
from keyfold.errors.rpc_status import error_of
from keyfold.models.plaintext import Plaintext
from keyfold.models.results import DataKey, Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Buffer, Context, Destination, RewrapItem, UnwrapItem, WrapItem
from keyfold.v1 import key_management_service_pb2 as api

MAX_ITEMS: Final = 1000
"""Most items of one call."""

MAX_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of one request, and of one response."""

DATA_KEY_SIZES: Final = (16, 24, 32, 64)
"""Sizes in bytes of the data keys that a server makes."""

_RESULT_OVERHEAD: Final = 192
"""Bytes that an item's result may have beyond the key in the item: the 90 bytes by which a wrapped
key is longer than its plaintext, or a region's name of 128 bytes, and protobuf's framing."""

_ERROR_SIZE: Final = 1024
"""Bytes to reserve for an item's error, which may stand in place of its result."""

Result = TypeVar("Result")
Item = TypeVar("Item", bound=Message)
Response = TypeVar("Response", bound=Message)


class _ItemResult(Protocol):
    """The result message of an item, whatever the batch does."""

    @property
    def error(self) -> Status: ...


@dataclass(frozen=True, slots=True)
class Part(Generic[Response, Result]):
    """One call of a batch.

    Attributes:
        call: The call. Its result has one entry for each item, in the items' order.
        count: The number of items.
    """

    call: Call[Response, list[Result | KeyfoldError]]
    count: int

    def checked(self, results: list[Result | KeyfoldError]) -> list[Result | KeyfoldError]:
        """Returns the results, or an error for every item if their number is wrong.

        Only its place says which item a result belongs to, so a missing or extra result could
        give an item another item's key.
        """
        if len(results) == self.count:
            return results
        text = f"the server sent {len(results)} results for {self.count} items"
        return self.failed(InternalError(text, code="INTERNAL"))

    def failed(self, error: KeyfoldError) -> list[Result | KeyfoldError]:
        """Returns the results of a call that failed: its error, once for each item."""
        return [error] * self.count


@checked
def wraps(
    cluster: str, items: Iterable[WrapItem | Buffer], region: str, context: Context | None
) -> Iterator[Part[api.BatchWrapResponse, Wrapped]]:
    """Prepares the BatchWrap calls of a batch."""
    made = [(one if isinstance(one, WrapItem) else WrapItem(one)).to_message() for one in items]
    base = api.BatchWrapRequest(cluster=cluster, region=region, context=context)
    for part in split(base.ByteSize(), made, lambda one: len(one.plaintext)):
        request = api.BatchWrapRequest(cluster=cluster, region=region, context=context, items=part)
        yield Part(Call("BatchWrap", request, partial(_read_wraps, cluster)), len(part))


@checked
def unwraps(
    cluster: str, items: Iterable[UnwrapItem | Buffer], context: Context | None
) -> Iterator[Part[api.BatchUnwrapResponse, Unwrapped]]:
    """Prepares the BatchUnwrap calls of a batch."""
    made = [(one if isinstance(one, UnwrapItem) else UnwrapItem(one)).to_message() for one in items]
    base = api.BatchUnwrapRequest(cluster=cluster, context=context)
    for part in split(base.ByteSize(), made, lambda one: len(one.wrapped_key)):
        request = api.BatchUnwrapRequest(cluster=cluster, context=context, items=part)
        yield Part(Call("BatchUnwrap", request, partial(_read_unwraps, cluster)), len(part))


@checked
def rewraps(
    cluster: str,
    items: Iterable[RewrapItem | Buffer],
    context: Context | None,
    destination: Destination | None,
) -> Iterator[Part[api.BatchRewrapResponse, Rewrapped]]:
    """Prepares the BatchRewrap calls of a batch."""
    made = [(one if isinstance(one, RewrapItem) else RewrapItem(one)).to_message() for one in items]
    move = None if destination is None else destination.to_message()
    base = api.BatchRewrapRequest(cluster=cluster, context=context, destination=move)
    for part in split(base.ByteSize(), made, lambda one: len(one.wrapped_key)):
        request = api.BatchRewrapRequest(
            cluster=cluster, context=context, items=part, destination=move
        )
        yield Part(Call("BatchRewrap", request, partial(_read_rewraps, cluster)), len(part))


@checked
def draw(cluster: str, region: str, count: int, size: int) -> Iterator[list[Plaintext]]:
    """Draws data keys from the operating system's random source, as many at once as a call wraps.

    Raises:
        InvalidSizeError: No data key has this size. The client has sent nothing then.
        ArgumentValueError: The count is negative.
    """
    if count < 0:
        raise wrong_value(f"count must not be negative, and is {count}")
    if size not in DATA_KEY_SIZES:
        text = f"a data key has 16, 24, 32 or 64 bytes, not {size}"
        raise InvalidSizeError(
            text,
            code="INVALID_ARGUMENT",
            metadata={"source": "keyfold", "cluster": cluster, "region": region},
            field_violations=(FieldViolation("size", text),),
        )
    return (
        [Plaintext(os.urandom(size)) for _ in range(min(MAX_ITEMS, count - done))]
        for done in range(0, count, MAX_ITEMS)
    )


def data_keys(
    keys: Sequence[Plaintext], results: Sequence[Wrapped | KeyfoldError]
) -> Iterator[DataKey]:
    """Returns keys with their wrapped forms.

    Raises:
        KeyfoldError: One of them is not wrapped.
    """
    for key, result in zip(keys, results, strict=True):
        if isinstance(result, KeyfoldError):
            raise result
        yield DataKey(key, result.wrapped_key, result.generation, result.max_cache_age)


def split(
    base: int, items: Iterable[Item], key_size: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Cuts items, in their order, into as few parts as possible that each fit into one call.

    An item that is too large for any call becomes a part of its own, which the server refuses.

    Args:
        base: Size of the request without items, in bytes.
        items: The items.
        key_size: A function that returns the size of an item's key, in bytes.
    """
    part: list[Item] = []
    request = response = 0
    for item in items:
        size = item.ByteSize()
        size += _framing(size)
        result = max(key_size(item) + _RESULT_OVERHEAD, _ERROR_SIZE)
        full = len(part) == MAX_ITEMS
        if part and (full or base + request + size > MAX_BYTES or response + result > MAX_BYTES):
            yield part
            part, request, response = [], 0, 0
        part.append(item)
        request += size
        response += result
    if part:
        yield part


def _framing(size: int) -> int:
    """Returns the bytes that protobuf puts before a repeated message: its tag and its length."""
    return 1 + max(1, (size.bit_length() + 6) // 7)


def _read_wraps(cluster: str, response: api.BatchWrapResponse) -> list[Wrapped | KeyfoldError]:
    return [
        Wrapped.from_message(one.answer) if one.HasField("answer") else _error(one, cluster)
        for one in response.results
    ]


def _read_unwraps(
    cluster: str, response: api.BatchUnwrapResponse
) -> list[Unwrapped | KeyfoldError]:
    return [
        Unwrapped.from_message(one.answer) if one.HasField("answer") else _error(one, cluster)
        for one in response.results
    ]


def _read_rewraps(
    cluster: str, response: api.BatchRewrapResponse
) -> list[Rewrapped | KeyfoldError]:
    return [
        Rewrapped.from_message(one.answer) if one.HasField("answer") else _error(one, cluster)
        for one in response.results
    ]


def _error(result: _ItemResult, cluster: str) -> KeyfoldError:
    return error_of(result.error, cluster)
