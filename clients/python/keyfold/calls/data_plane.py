"""The calls that wrap or unwrap one key each."""

from __future__ import annotations

from keyfold.arguments import checked
from keyfold.calls.call import Call
from keyfold.calls.key_calls import RewrapCall, UnwrapCall, WrapCall
from keyfold.models.results import DataKey
from keyfold.models.specs import Buffer, Context, Destination
from keyfold.v1 import key_management_service_pb2 as api


@checked
def wrap(cluster: str, region: str, plaintext: Buffer, context: Context | None) -> WrapCall:
    """Prepares a Wrap call."""
    return WrapCall(cluster, region, bytes(plaintext), context)


@checked
def unwrap(cluster: str, wrapped_key: Buffer, context: Context | None) -> UnwrapCall:
    """Prepares an Unwrap call."""
    return UnwrapCall(cluster, bytes(wrapped_key), context)


@checked
def generate_data_key(
    cluster: str, region: str, size: int, context: Context | None, *, wrapped_only: bool
) -> Call[api.GenerateDataKeyResponse, DataKey]:
    """Prepares a GenerateDataKey call."""
    request = api.GenerateDataKeyRequest(
        cluster=cluster, region=region, size=size, context=context, wrapped_only=wrapped_only
    )
    return Call("GenerateDataKey", request, DataKey.from_message)


@checked
def rewrap(
    cluster: str, wrapped_key: Buffer, context: Context | None, destination: Destination | None
) -> RewrapCall:
    """Prepares a Rewrap call."""
    return RewrapCall(cluster, bytes(wrapped_key), context, destination)
