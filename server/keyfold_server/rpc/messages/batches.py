"""Parts of batches: what a batch asks for, cut on its bytes into smaller batches (protocol W5).

A message of 4 MiB can hold two million empty items. Building it would hold the event loop for a
tenth of a second, and listing its items for more than a second. So the items of a request beyond
16 KiB are counted on the wire, before any message is built, and the counting ends at the first item
too many. A large batch is cut between its items into parts, each a request of its own. The event
loop has other turns between them, and their replies, one after the other, are the batch's reply.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.errors import InvalidBatchError, MalformedRequestError
from keyfold_server.rpc.messages.sizes import MAX_BATCH, MAX_REQUEST
from keyfold_server.service.data.data_plane import MAX_BATCH_ITEMS

MOST_ITEMS: Final = 200
"""Most items of one part."""

MOST_BYTES: Final = MAX_REQUEST
"""Most bytes of the items of one part, and so of one item: as many as of any other request."""

MOST_BESIDE: Final = 16 * 1024
"""Most bytes of a batch besides its items. Each part repeats them. Names, a context and a
destination have at most 10 KiB."""

_SMALL: Final = MOST_BESIDE
"""Bytes of a request that cannot break any limit but that of the items, of which it has 8,192 at
most. To build it and count them takes a fifth of a millisecond then, and less than to count them on
the wire."""

_LONGEST: Final = 10
"""Most bytes of a number on the wire."""

_MORE: Final = 0x80
"""The bit of a number's byte that says that more bytes follow."""

_NUMBER: Final = 0
_BYTES: Final = 2
"""Two kinds of fields: a number, and a length with so many bytes. A tag ends with the kind."""

_FIXED: Final = {1: 8, 5: 4}
"""The bytes of fields of the kinds that have a fixed size."""

_Batch = pb.BatchWrapRequest | pb.BatchUnwrapRequest | pb.BatchRewrapRequest

_KINDS: Final[dict[str, type[_Batch]]] = {
    "BatchWrap": pb.BatchWrapRequest,
    "BatchUnwrap": pb.BatchUnwrapRequest,
    "BatchRewrap": pb.BatchRewrapRequest,
}
"""The request of each method."""

_TAGS: Final = {
    method: kind.DESCRIPTOR.fields_by_name["items"].number << 3 | _BYTES
    for method, kind in _KINDS.items()
}
"""The tag of the items of each."""


class Parts(NamedTuple):
    """A batch in parts.

    Attributes:
        items: The number of its items.
        requests: The parts, in the items' order. Each is a request of the batch's method.
    """

    items: int
    requests: list[bytes]


def parts_of(method: str, data: bytes) -> Parts:
    """Cuts a batch into parts, without building a large message.

    Args:
        method: The RPC's name.
        data: The request.

    Raises:
        InvalidBatchError: The batch, an item, or what is besides the items, is too large; or there
            are too many items.
        MalformedRequestError: The bytes are not a request.
    """
    if len(data) <= _SMALL:
        items = len(_built(method, data).items)
        if items <= MOST_ITEMS:
            return Parts(items, [data])
    if len(data) > MAX_BATCH:
        raise _invalid(f"the batch has {len(data):,} bytes, and at most {MAX_BATCH:,} are allowed")
    beside = bytearray()
    try:
        runs = _runs(method, data, beside)
    except InvalidBatchError as error:
        raise error.at(cluster=_cluster(method, beside)) from None
    except (IndexError, KeyError):
        raise _malformed(method) from None
    items = sum(run.items for run in runs)
    if items <= MOST_ITEMS and len(data) <= MOST_BYTES:
        return Parts(items, [data])
    requests: list[bytes] = []
    part: list[bytes | bytearray] = [beside]
    places, room = MOST_ITEMS, MOST_BYTES
    for start, end, count in runs:
        if count > places or end - start > room:
            requests.append(b"".join(part))
            part, places, room = [beside], MOST_ITEMS, MOST_BYTES
        part.append(data[start:end])
        places -= count
        room -= end - start
    requests.append(b"".join(part))
    return Parts(items, requests)


def _built(method: str, data: bytes) -> _Batch:
    try:
        return _KINDS[method].FromString(data)
    except DecodeError:
        raise _malformed(method) from None


def _cluster(method: str, beside: bytearray) -> str | None:
    """Returns the cluster that a batch names, for its error."""
    try:
        asked = _built(method, bytes(beside))
    except MalformedRequestError:
        return None
    return asked.cluster or None


class _Run(NamedTuple):
    """Items that stand one after the other and fit into one part.

    Attributes:
        start: Where the first begins.
        end: Where the last ends.
        items: Their number.
    """

    start: int
    end: int
    items: int


def _runs(method: str, data: bytes, beside: bytearray) -> list[_Run]:
    """Returns all items in their order, and adds the bytes of all other fields to `beside`.

    Raises:
        InvalidBatchError: Something is too large, or there are too many items.
        IndexError: A field is not whole.
        KeyError: A field is of a kind that no message of this contract has.
    """
    tag = _TAGS[method]
    runs: list[_Run] = []
    items = at = 0
    size = len(data)
    while at < size:
        start, count = at, 0
        # Most items have less than 128 bytes, so that a part's most items are far below its bytes.
        while at < size and data[at] == tag and data[at + 1] < _MORE and count < MOST_ITEMS:
            at += 2 + data[at + 1]
            count += 1
        if not count:
            found, at = _field(data, at)
            if found != tag:
                beside += data[start:at]
                if len(beside) > MOST_BESIDE:
                    raise _invalid(f"a batch has at most {MOST_BESIDE:,} bytes besides its items")
                continue
            if at - start > MOST_BYTES:
                raise _invalid(f"an item has at most {MOST_BYTES:,} bytes, not {at - start:,}")
            count = 1
        runs.append(_Run(start, at, count))
        items += count
        if items > MAX_BATCH_ITEMS:
            raise _invalid(f"a batch has 1 to {MAX_BATCH_ITEMS:,} items, and this one has more")
    if at > size:
        raise IndexError(at)
    return runs


def _field(data: bytes, at: int) -> tuple[int, int]:
    """Returns a field's tag, and where the field ends."""
    tag, at = _number(data, at)
    kind = tag & 7
    if kind == _BYTES:
        size, at = _number(data, at)
        return tag, at + size
    if kind == _NUMBER:
        return tag, _number(data, at)[1]
    return tag, at + _FIXED[kind]


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number of one byte or more, and where it ends."""
    number = 0
    for place in range(_LONGEST):
        byte = data[at + place]
        number |= (byte & (_MORE - 1)) << 7 * place
        if byte < _MORE:
            return number, at + place + 1
    raise IndexError(at)


def _malformed(method: str) -> MalformedRequestError:
    return MalformedRequestError(
        f"the request is not a {method}Request; build it with the stubs of this contract"
    )


def _invalid(fault: str) -> InvalidBatchError:
    return InvalidBatchError(f"{fault}; split it", field="items")
