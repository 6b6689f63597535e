"""Batches on the wire (protocol W5): their items are counted, and they are cut, before decoding."""

from __future__ import annotations

from typing import Any, Final

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.errors import InvalidBatchError, MalformedRequestError
from keyfold_server.rpc.messages.batches import MOST_BESIDE, MOST_BYTES, MOST_ITEMS, parts_of
from keyfold_server.rpc.messages.sizes import MAX_BATCH

KINDS: Final[dict[str, Any]] = {
    "BatchWrap": pb.BatchWrapRequest,
    "BatchUnwrap": pb.BatchUnwrapRequest,
    "BatchRewrap": pb.BatchRewrapRequest,
}


def number(value: int, least: int = 1) -> bytes:
    """Returns a number as it is on the wire, in at least so many bytes."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < least:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(tag: int, value: bytes, least: int = 1) -> bytes:
    """Returns a field of bytes; its numbers have at least so many bytes."""
    return number(tag << 3 | 2, least) + number(len(value), least) + value


@pytest.mark.parametrize("method", KINDS)
@given(st.data())
def test_the_parts_are_the_batch(method: str, data: st.DataObject) -> None:
    """W5: together the parts hold the batch's items in their order, and each all the rest."""
    items = data.draw(st.integers(0, 1_000))
    size = data.draw(st.sampled_from([0, 1, 100, 130, 1_000, 4_000]))
    of = KINDS[method].DESCRIPTOR.fields_by_name["items"].message_type._concrete_class
    key = "plaintext" if method == "BatchWrap" else "wrapped_key"
    batch = KINDS[method](
        cluster="prod",
        context={"k": "v" * data.draw(st.integers(0, 200))},
        items=[of(**{key: n.to_bytes(2) + bytes(size)}) for n in range(items)],
    )
    if method == "BatchRewrap":
        batch.destination.region = "us"
    wire = batch.SerializeToString()
    if len(wire) > MAX_BATCH:
        return
    count, requests = parts_of(method, wire)
    parts = [KINDS[method].FromString(part) for part in requests]
    assert count == items
    assert [item for part in parts for item in part.items] == list(batch.items)
    del batch.items[:]
    for part, request in zip(parts, requests, strict=True):
        assert len(part.items) <= MOST_ITEMS
        assert len(request) <= MOST_BYTES + MOST_BESIDE
        assert items == 0 or part.items
        del part.items[:]
        assert part == batch


@pytest.mark.parametrize("method", KINDS)
@given(st.binary(max_size=60))
@example(b'"\x80\x80\x10')
def test_what_protobuf_takes_is_taken(method: str, data: bytes) -> None:
    """W5: whatever the bytes are, the items that protobuf finds are the items that are counted."""
    tag = KINDS[method].DESCRIPTOR.fields_by_name["items"].number
    for before in (b"", field(tag, field(9, bytes(100))) * 190):
        try:
            message = KINDS[method].FromString(before + data)
        except DecodeError:
            message = None
        try:
            count = parts_of(method, before + data).items
        except MalformedRequestError:
            # A large batch may not have groups, which no message of the contract has.
            assert before or message is None
        except InvalidBatchError:
            assert message is None  # It says that it has more bytes than it has.
        else:
            assert message is None or count == len(message.items)


@pytest.mark.parametrize("least", [1, 3, 5])
@pytest.mark.parametrize("method", KINDS)
def test_two_million_items_are_not_made(method: str, least: int) -> None:
    """W5: too many items are refused on the wire, however their numbers are written."""
    tag = KINDS[method].DESCRIPTOR.fields_by_name["items"].number
    many = field(tag, b"", least)
    with pytest.raises(InvalidBatchError, match="a batch has 1 to 1,000 items"):
        parts_of(method, many * (MAX_BATCH // len(many)))
    assert parts_of(method, many * 1_000).items == 1_000


def test_what_is_besides_the_items_is_bounded() -> None:
    """W5: a batch whose context is as large as the batch may be is refused on the wire."""
    pair = field(3, field(1, b"k") + field(2, b"v"))
    with pytest.raises(InvalidBatchError, match="16,384 bytes besides its items"):
        parts_of("BatchWrap", pair * (MAX_BATCH // len(pair)))
    assert parts_of("BatchWrap", pair * (MOST_BESIDE // len(pair))).items == 0


def test_an_item_is_no_larger_than_a_request() -> None:
    """W5: an item that would be too large a request of its own makes the batch fail."""
    pair = field(3, field(1, b"k"))
    with pytest.raises(InvalidBatchError, match="an item has at most 262,144 bytes"):
        parts_of("BatchWrap", field(4, pair * (MAX_BATCH // len(pair) - 2)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x22",
        b"\x22\x05abc",
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0d\x00",
        b"\x09\x00\x00",
        b"\x08\x80",
    ],
    ids=["no-length", "short", "long-number", "four-bytes", "eight-bytes", "number"],
)
def test_what_is_not_whole_is_malformed(data: bytes) -> None:
    """W5: bytes that end within a field are no batch, whichever way its items are counted."""
    for before in (b"", field(4, bytes(40)) * 500):
        with pytest.raises(MalformedRequestError, match="build it with the stubs"):
            parts_of("BatchWrap", before + data)


def test_a_large_batch_has_no_group() -> None:
    """W5: no message of the contract has a group, and the count on the wire knows none."""
    with pytest.raises(MalformedRequestError, match="build it with the stubs"):
        parts_of("BatchWrap", field(4, bytes(40)) * 500 + b"\x23\x24")
