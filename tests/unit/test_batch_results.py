"""Results of batches on the wire: byte for byte what protobuf makes of the whole reply."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.rpc.messages.batch_results import around_opened, around_wrapped

keys = st.lists(st.binary(min_size=1, max_size=300) | st.binary(min_size=4_186, max_size=4_186))
generations = st.integers(0, 2**32 - 1)


@given(keys, generations)
def test_wrapped_keys_are_written_as_protobuf_writes_them(
    blobs: list[bytes], generation: int
) -> None:
    """A client reads the results of a BatchWrap as it would read protobuf's own bytes."""
    answers = [pb.WrapResponse(wrapped_key=blob, generation=generation) for blob in blobs]
    whole = pb.BatchWrapResponse(results=[pb.BatchWrapResult(answer=each) for each in answers])
    parts = [around_wrapped(len(blob), generation) for blob in blobs]
    wire = b"".join(
        before + blob + after for (before, after), blob in zip(parts, blobs, strict=True)
    )
    assert wire == whole.SerializeToString()


@given(keys, st.text(max_size=64), generations)
def test_opened_keys_are_written_as_protobuf_writes_them(
    plaintexts: list[bytes], region: str, generation: int
) -> None:
    """A client reads the results of a BatchUnwrap as it would read protobuf's own bytes."""
    whole = pb.BatchUnwrapResponse()
    wire = b""
    for plaintext in plaintexts:
        answer = whole.results.add().answer
        answer.plaintext, answer.region, answer.generation = plaintext, region, generation
        before, after = around_opened(len(plaintext), region, generation)
        wire += before + plaintext + after
    assert wire == whole.SerializeToString()
