"""Results of batches on the wire: byte for byte what protobuf makes of the whole reply."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.rpc.messages.batch_results import (
    around_opened,
    around_wrapped,
    max_cache_age,
    written,
)

some_keys = st.binary(min_size=1, max_size=300) | st.binary(min_size=4_186, max_size=4_186)
keys = st.lists(some_keys) | st.lists(st.binary(min_size=32, max_size=32))
generations = st.integers(0, 2**32 - 1)


@given(keys, generations, st.integers(0, 10**10))
def test_wrapped_keys_are_written_as_protobuf_writes_them(
    blobs: list[bytes], generation: int, microseconds: int
) -> None:
    """A client reads the results of a BatchWrap as it would read protobuf's own bytes."""
    whole = pb.BatchWrapResponse()
    for blob in blobs:
        answer = whole.results.add().answer
        answer.wrapped_key, answer.generation = blob, generation
        answer.max_cache_age.FromMicroseconds(microseconds)
    ttl = microseconds / 1_000_000
    wire = written(blobs, lambda size: around_wrapped("eu", generation, ttl, size))
    assert wire == whole.SerializeToString()


@given(keys, st.text(max_size=64), generations, st.integers(0, 10**10))
def test_opened_keys_are_written_as_protobuf_writes_them(
    plaintexts: list[bytes], region: str, generation: int, microseconds: int
) -> None:
    """A client reads the results of a BatchUnwrap as it would read protobuf's own bytes."""
    whole = pb.BatchUnwrapResponse()
    for plaintext in plaintexts:
        answer = whole.results.add().answer
        answer.plaintext, answer.region, answer.generation = plaintext, region, generation
        answer.max_cache_age.FromMicroseconds(microseconds)
    ttl = microseconds / 1_000_000
    wire = written(plaintexts, lambda size: around_opened(region, generation, ttl, size))
    assert wire == whole.SerializeToString()


@given(st.integers(0, 10**10))
def test_the_age_of_a_cache_joins_an_answer_as_protobuf_writes_it(microseconds: int) -> None:
    """Each answer about a plaintext says how long it may be kept, zero told apart from unset."""
    for whole in (
        pb.WrapResponse(wrapped_key=b"w", generation=2),
        pb.UnwrapResponse(plaintext=b"k", region="eu", generation=2),
        pb.GenerateDataKeyResponse(plaintext=b"k", wrapped_key=b"w", generation=2),
    ):
        wire = whole.SerializeToString() + max_cache_age(microseconds / 1_000_000)
        whole.max_cache_age.FromMicroseconds(microseconds)
        assert wire == whole.SerializeToString()
