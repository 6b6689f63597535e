"""The calls that wrap or unwrap one key each."""

from __future__ import annotations

from keyfold.arguments import checked
from keyfold.calls.call import Call
from keyfold.models.results import DataKey, Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Buffer, Context, Destination
from keyfold.v1 import key_management_service_pb2 as api


@checked
def wrap(
    cluster: str, region: str, plaintext: Buffer, context: Context | None
) -> Call[api.WrapResponse, Wrapped]:
    """Prepares a Wrap call."""
    request = api.WrapRequest(
        cluster=cluster,
        region=region,
        plaintext=bytes(plaintext),
        context=context,
    )
    return Call("Wrap", request, Wrapped.from_message)


@checked
def unwrap(
    cluster: str, wrapped_key: Buffer, context: Context | None
) -> Call[api.UnwrapResponse, Unwrapped]:
    """Prepares an Unwrap call."""
    request = api.UnwrapRequest(cluster=cluster, wrapped_key=bytes(wrapped_key), context=context)
    return Call("Unwrap", request, Unwrapped.from_message)


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
) -> Call[api.RewrapResponse, Rewrapped]:
    """Prepares a Rewrap call."""
    request = api.RewrapRequest(
        cluster=cluster,
        wrapped_key=bytes(wrapped_key),
        context=context,
        destination=None if destination is None else destination.to_message(),
    )
    return Call("Rewrap", request, Rewrapped.from_message)
