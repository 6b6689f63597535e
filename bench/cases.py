"""The calls that `cpu` measures: their bytes, and how to check their answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from bench.load import Load
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as stubs
from keyfold.v1 import resources_pb2 as res

CLUSTER: Final = "prod-orders"
REGION: Final = "eu-central-1"
ROOT_KEY: Final = "bench"
CONTEXT: Final = {"table": "orders", "column": "card_number"}
KEY_SIZE: Final = 32

SERVICE: Final = pb.DESCRIPTOR.services_by_name["KeyManagementService"].full_name

_CALL_WITHIN: Final = 20.0
"""Seconds that each single call before and after the runs may take."""


class WrongAnswerError(Exception):
    """A server gave a wrong answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        name: The row's name.
        method: The method of the contract that the row calls.
        items: Number of keys in one call.
        request: The request's bytes, the same in every call.
        load: The calls of one run.
        check: Raises WrongAnswerError unless the service's answer to `request` is right.
    """

    name: str
    method: str
    items: int
    request: bytes
    load: Load
    check: Callable[[bytes], None]

    @property
    def path(self) -> str:
        """The method's path in HTTP/2."""
        return f"/{SERVICE}/{self.method}"


def enable(address: str) -> None:
    """Makes the cluster that the calls use."""
    with grpc.insecure_channel(address) as channel:
        stubs.KeyManagementServiceStub(channel).Enable(enabling(), timeout=_CALL_WITHIN)


def enabling() -> pb.EnableRequest:
    """Returns the request that makes the cluster."""
    spec = res.KeySpec(type="LOCAL", uri=f"local:{ROOT_KEY}")
    return pb.EnableRequest(
        cluster=CLUSTER, region_specs=[res.RegionSpec(region=REGION, key_spec=spec)]
    )


def ask(address: str, path: str, request: bytes) -> bytes:
    """Makes one call through a gRPC client, which raises an error unless the status is OK."""
    with grpc.insecure_channel(address) as channel:
        call: Callable[..., bytes] = channel.unary_unary(path)
        return call(request, timeout=_CALL_WITHIN)


def wrapping(key: bytes, *, context: bool = True) -> pb.WrapRequest:
    """Returns a Wrap of one key, with two context pairs or without a context."""
    return pb.WrapRequest(
        cluster=CLUSTER, region=REGION, plaintext=key, context=CONTEXT if context else None
    )


def unwrapping(wrapped_key: bytes, *, context: bool = True) -> pb.UnwrapRequest:
    """Returns an Unwrap of one key."""
    return pb.UnwrapRequest(
        cluster=CLUSTER, wrapped_key=wrapped_key, context=CONTEXT if context else None
    )


def batch_wrapping(keys: list[bytes], *, own_context: bool = False) -> pb.BatchWrapRequest:
    """Returns a BatchWrap with one context for all items, or the same context in each item."""
    own = CONTEXT if own_context else None
    return pb.BatchWrapRequest(
        cluster=CLUSTER,
        region=REGION,
        context=None if own_context else CONTEXT,
        items=[pb.BatchWrapItem(plaintext=key, context=own) for key in keys],
    )


def batch_unwrapping(wrapped_keys: list[bytes]) -> pb.BatchUnwrapRequest:
    """Returns a BatchUnwrap with one context for all items."""
    return pb.BatchUnwrapRequest(
        cluster=CLUSTER,
        context=CONTEXT,
        items=[pb.BatchUnwrapItem(wrapped_key=wrapped_key) for wrapped_key in wrapped_keys],
    )


def cases(address: str, scale: float) -> list[Case]:
    """Returns the rows.

    Args:
        address: The service's address. The service wraps the key that the rows unwrap, and unwraps
            answers to check them.
        scale: Factor of the number of calls; 1 makes runs of about half a second.
    """
    key = os.urandom(KEY_SIZE)
    wrapped = pb.WrapResponse.FromString(
        ask(address, f"/{SERVICE}/Wrap", wrapping(key).SerializeToString())
    ).wrapped_key

    def opens(wrapped_keys: list[bytes], keys: list[bytes]) -> None:
        reply = pb.BatchUnwrapResponse.FromString(
            ask(
                address,
                f"/{SERVICE}/BatchUnwrap",
                batch_unwrapping(wrapped_keys).SerializeToString(),
            )
        )
        if [result.answer.plaintext for result in reply.results] != keys:
            raise WrongAnswerError("a wrapped key did not unwrap to the same key")

    def check_wrap(answer: bytes) -> None:
        opens([pb.WrapResponse.FromString(answer).wrapped_key], [key])

    def check_unwrap(answer: bytes) -> None:
        if pb.UnwrapResponse.FromString(answer).plaintext != key:
            raise WrongAnswerError("Unwrap returned another key")

    def batch(count: int, calls: int) -> Case:
        keys = [os.urandom(KEY_SIZE) for _ in range(count)]

        def check_batch(answer: bytes) -> None:
            results = pb.BatchWrapResponse.FromString(answer).results
            opens([result.answer.wrapped_key for result in results], keys)

        return Case(
            f"BatchWrap of {count:,}",
            "BatchWrap",
            count,
            batch_wrapping(keys).SerializeToString(),
            # Eight batches at once keep the server as busy as 64 single calls.
            Load(max(8, int(calls * scale)), connections=4, streams=2),
            check_batch,
        )

    unary = Load(max(64, int(3_000 * scale)), connections=4, streams=16)
    return [
        Case("Wrap", "Wrap", 1, wrapping(key).SerializeToString(), unary, check_wrap),
        Case("Unwrap", "Unwrap", 1, unwrapping(wrapped).SerializeToString(), unary, check_unwrap),
        batch(100, 1_000),
        batch(1_000, 200),
    ]
