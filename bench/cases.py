"""The calls that `cpu` measures: their bytes, and how to check their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res

CLUSTER: Final = "prod-orders"
REGION: Final = "eu-central-1"
ROOT_KEY: Final = "bench"
CONTEXT: Final = {"table": "orders", "column": "card_number"}
KEY_SIZE: Final = 32

SERVICE: Final = pb.DESCRIPTOR.services_by_name["KeyManagementService"].full_name

CALL_WITHIN: Final = 20.0
"""Seconds that each single call before and after the runs may take."""


class WrongAnswerError(Exception):
    """A server gave a wrong answer."""


def enabling() -> pb.EnableRequest:
    """Returns the request that makes the cluster."""
    spec = res.KeySpec(type="LOCAL", uri=f"local:{ROOT_KEY}")
    return pb.EnableRequest(
        cluster=CLUSTER, region_specs=[res.RegionSpec(region=REGION, key_spec=spec)]
    )


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


Ask = Callable[[str, bytes], bytes]
"""Makes a call of a method; raises an error unless the status is OK."""


def request(ask: Ask, method: str, keys: list[bytes]) -> bytes:
    """Returns the request of Wrap, Unwrap or BatchWrap for some keys; has them wrapped first."""
    if method == "BatchWrap":
        return batch_wrapping(keys).SerializeToString()
    made = wrapping(keys[0]).SerializeToString()
    if method == "Wrap":
        return made
    wrapped = pb.WrapResponse.FromString(ask("Wrap", made)).wrapped_key
    return unwrapping(wrapped).SerializeToString()


def checked(ask: Ask, method: str, asked: bytes, keys: list[bytes]) -> bytes:
    """Makes a call, and returns its answer.

    Raises:
        WrongAnswerError: The answer is wrong: what it wrapped does not open, or it is no such key.
    """
    answer = ask(method, asked)
    if method == "Unwrap":
        opened = [pb.UnwrapResponse.FromString(answer).plaintext]
    else:
        if method == "Wrap":
            wrapped = [pb.WrapResponse.FromString(answer).wrapped_key]
        else:
            results = pb.BatchWrapResponse.FromString(answer).results
            wrapped = [result.answer.wrapped_key for result in results]
        reply = ask("BatchUnwrap", batch_unwrapping(wrapped).SerializeToString())
        opened = [r.answer.plaintext for r in pb.BatchUnwrapResponse.FromString(reply).results]
    if opened != keys:
        raise WrongAnswerError(f"{method} gave a key that is not the one it was given")
    return answer
