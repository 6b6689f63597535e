"""Results of batches on the wire: what protobuf writes around a key, once for all keys of one size.

To build a message for each of a thousand results takes four times as long as to join their bytes.
So protobuf serializes one result with zeros in the key's place, and what it wrote before and after
the zeros stands around each key of that size. Results one after the other are a batch's reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import Message

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.rpc.messages.replies import span


class Around(NamedTuple):
    """The bytes of a result that stand around its key."""

    before: bytes
    after: bytes


@lru_cache(maxsize=1_024)
def around_wrapped(_region: str, generation: int, ttl: float, size: int) -> Around:
    """Returns what stands around a wrapped key of so many bytes in a BatchWrapResponse."""
    answer = pb.WrapResponse(wrapped_key=bytes(size), generation=generation)
    answer.max_cache_age.CopyFrom(span(ttl))
    return _around(pb.BatchWrapResponse(results=[pb.BatchWrapResult(answer=answer)]), size)


@lru_cache(maxsize=1_024)
def around_opened(region: str, generation: int, ttl: float, size: int) -> Around:
    """Returns what stands around a plaintext of so many bytes in a BatchUnwrapResponse."""
    answer = pb.UnwrapResponse(plaintext=bytes(size), region=region, generation=generation)
    answer.max_cache_age.CopyFrom(span(ttl))
    return _around(pb.BatchUnwrapResponse(results=[pb.BatchUnwrapResult(answer=answer)]), size)


@lru_cache(maxsize=1_024)
def max_cache_age(ttl: float) -> bytes:
    """Returns the field that says for how many seconds the caller may keep a plaintext.

    WrapResponse, UnwrapResponse and GenerateDataKeyResponse have it under one number. Protobuf
    joins what is written one after the other into one message, so it costs a call nothing to speak
    of.
    """
    return pb.UnwrapResponse(max_cache_age=span(ttl)).SerializeToString()


def written(keys: Sequence[bytes], around: Callable[[int], Around]) -> bytes:
    """Returns the results of some keys that differ in nothing else.

    Args:
        keys: The keys, in their order.
        around: Returns what stands around a key of so many bytes.
    """
    if len({len(key) for key in keys}) == 1:
        before, after = around(len(keys[0]))
        return before + (after + before).join(keys) + after
    return b"".join([key.join(around(len(key))) for key in keys])


def _around(reply: Message, size: int) -> Around:
    wire = reply.SerializeToString()
    # Neither tags nor lengths hold a zero, and the key is the first field of its result.
    at = wire.index(0)
    return Around(wire[:at], wire[at + size :])
