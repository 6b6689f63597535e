"""Structured garbage at every method: never INTERNAL, never UNKNOWN, never a hang."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import grpc
import pytest
from google.protobuf import descriptor as descriptors
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e.conftest import StartServer
from e2e.server import Server
from e2e.wire import METHODS, raw, refusal, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain import errors

CALM: Final = settings(max_examples=25)

TIMEOUT: Final = 5.0

NEVER: Final = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.DATA_LOSS,
}

REASONS: Final = {
    kind.reason
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.KeyfoldError) and hasattr(kind, "reason")
}

WORDS: Final = (
    "prod",
    "eu",
    "us",
    "LOCAL",
    "PLATFORM",
    "local:eu",
    "",
    "prod\0",
    "'; DROP TABLE clusters; --",
    "ü" * 200,
    "../../etc/passwd",
    "%s%n{0}",
    "\u202e🔑\ud7ff",
    "x" * 5000,
)


class Target(NamedTuple):
    """A server, a function that calls it with bytes, and a wrapped key of it."""

    server: Server
    call: Any
    wrapped: bytes


@pytest.fixture(scope="module")
def target(start_module_server: StartServer) -> Iterator[Target]:
    """The server of this file, with a cluster."""
    server = start_module_server()
    server.enable("prod")
    with stubs(server.target) as stub, raw(server.target) as call:
        wrap = pb.WrapRequest(cluster="prod", region="eu", plaintext=b"p")
        yield Target(server, call, stub.Wrap(wrap, timeout=9).wrapped_key)


def scalars(field: FieldDescriptor, wrapped: bytes) -> st.SearchStrategy[Any]:
    """Returns values of a field: likely, extreme and arbitrary ones."""
    kind = field.cpp_type
    if field.type == FieldDescriptor.TYPE_BYTES:
        likely = st.sampled_from([wrapped, wrapped[:-1], b"", bytes(4096), bytes(4097)])
        return likely | st.binary(max_size=300)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return st.sampled_from(WORDS) | st.text(
            st.characters(exclude_categories=["Cs"]), max_size=140
        )
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return st.integers(-(2**31), 2**31 - 1) | st.integers(0, 14)
    unsigned = kind in {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
    bits = 32 if kind in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32} else 64
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.sampled_from([0, 1, 32, low, high]) | st.integers(low, high)


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, wrapped: bytes) -> Message:
    """Builds a message with any of its fields set to anything of their types."""
    message: Message = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        if field.name not in {"cluster", "region"} and not draw(st.booleans()):
            continue
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            pair = st.tuples(*(scalars(f, wrapped) for f in inner.fields))
            getattr(message, field.name).update(dict(draw(st.lists(pair, max_size=18))))
        elif field.is_repeated:
            values = messages(inner, wrapped) if inner is not None else scalars(field, wrapped)
            getattr(message, field.name).extend(draw(st.lists(values, max_size=3)))
        elif inner is not None:
            getattr(message, field.name).CopyFrom(draw(messages(inner, wrapped)))
        else:
            setattr(message, field.name, draw(scalars(field, wrapped)))
    return message


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """Changes, removes, doubles and inserts bytes."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(changed)))
        how = draw(st.integers(0, 3))
        if how == 0:
            changed[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif how == 1:
            del changed[place : place + draw(st.integers(1, 9))]
        elif how == 2:
            changed[place:place] = draw(st.binary(max_size=20))
        else:
            changed[place:place] = changed[: draw(st.integers(0, 40))]
    return bytes(changed)


def survives(target: Target, method: str, data: bytes) -> None:
    """Calls a method with bytes, and checks for an answer or a refusal with a reason."""
    began = time.monotonic()
    try:
        target.call(method, data, timeout=TIMEOUT)
    except grpc.RpcError as error:
        answer = refusal(error)
        assert answer.code not in NEVER, answer
        assert answer.domain == "keyfold", answer
        assert answer.reason in REASONS
        assert answer.message
        assert answer.metadata["source"] in {"keyfold", "kms"}
    assert time.monotonic() - began < TIMEOUT


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_garbage(target: Target, method: descriptors.MethodDescriptor) -> None:
    """Random bytes, random fields, mutated requests: an answer or a refusal with its reason."""

    @CALM
    @given(st.binary(max_size=200))
    def any_bytes(data: bytes) -> None:
        survives(target, method.name, data)

    @CALM
    @given(messages(method.input_type, target.wrapped))
    def any_fields(message: Message) -> None:
        survives(target, method.name, message.SerializeToString())

    @CALM
    @given(
        messages(method.input_type, target.wrapped).flatmap(
            lambda message: mutations(message.SerializeToString())
        )
    )
    def mutated(data: bytes) -> None:
        survives(target, method.name, data)

    any_bytes()
    any_fields()
    mutated()
    assert target.server.running
    # The whole event is searched for, since hypothesis may make up any word.
    assert '"event": "incident ' not in target.server.log()
