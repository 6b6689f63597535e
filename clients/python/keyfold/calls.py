"""Every call as a value: its method, its request, and how its answer is read.

The two clients differ only in how they send one; what is sent and what comes back is here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from google.protobuf.message import Message

from keyfold import access, answers, key_tests
from keyfold.specs import (
    Buffer,
    Context,
    Destination,
    KeySpec,
    RegionSpec,
    as_bytes,
    region_specs,
)
from keyfold.status import ClusterStatus
from keyfold.timeouts import Plane
from keyfold.v1 import key_management_service_pb2 as api

Response = TypeVar("Response", bound=Message)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Call(Generic[Response, Answer]):
    """One call, not yet sent.

    Attributes:
        method: The RPC's name.
        request: Its request; kept out of `repr`, since it may hold a plaintext.
        read: Makes the answer out of the response.
        plane: Which default deadline it has.
        request_id: The id of a change, or None.
    """

    method: str
    request: Message = field(repr=False)
    read: Callable[[Response], Answer] = field(repr=False)
    plane: Plane = Plane.DATA
    request_id: str | None = None


def _request_id(given: str | None) -> str:
    """Returns the id of a change: the caller's, or a fresh one.

    There is always one. gRPC's retries are set per method, not per request, and a change may be
    repeated only if the server can see that it is the same one.

    Raises:
        ValueError: The caller gave an empty one.
    """
    if given == "":
        raise ValueError("request_id must not be empty: leave it out to have one made")
    return given or str(uuid.uuid4())


def wrap(
    cluster: str, region: str, plaintext: Buffer, context: Context | None
) -> Call[api.WrapResponse, answers.Wrapped]:
    """Prepares Wrap."""
    request = api.WrapRequest(
        cluster=cluster,
        region=region,
        plaintext=as_bytes(plaintext, "plaintext"),
        context=context,
    )
    return Call("Wrap", request, answers.Wrapped.from_message)


def unwrap(
    cluster: str, wrapped_key: Buffer, context: Context | None
) -> Call[api.UnwrapResponse, answers.Unwrapped]:
    """Prepares Unwrap."""
    request = api.UnwrapRequest(
        cluster=cluster, wrapped_key=as_bytes(wrapped_key, "wrapped_key"), context=context
    )
    return Call("Unwrap", request, answers.Unwrapped.from_message)


def generate_data_key(
    cluster: str, region: str, size: int, context: Context | None, *, wrapped_only: bool
) -> Call[api.GenerateDataKeyResponse, answers.DataKey]:
    """Prepares GenerateDataKey."""
    request = api.GenerateDataKeyRequest(
        cluster=cluster, region=region, size=size, context=context, wrapped_only=wrapped_only
    )
    return Call("GenerateDataKey", request, answers.DataKey.from_message)


def rewrap(
    cluster: str, wrapped_key: Buffer, context: Context | None, destination: Destination | None
) -> Call[api.RewrapResponse, answers.Rewrapped]:
    """Prepares Rewrap."""
    request = api.RewrapRequest(
        cluster=cluster,
        wrapped_key=as_bytes(wrapped_key, "wrapped_key"),
        context=context,
        destination=None if destination is None else destination.to_message(),
    )
    return Call("Rewrap", request, answers.Rewrapped.from_message)


def enable(
    cluster: str,
    specs: Iterable[RegionSpec],
    *,
    organization: str,
    regions: Iterable[str],
    request_id: str | None,
    validate_only: bool,
) -> Call[api.EnableResponse, answers.Enabled]:
    """Prepares Enable."""
    request = api.EnableRequest(
        cluster=cluster,
        organization=organization,
        regions=_names(regions),
        region_specs=region_specs(specs),
        request_id=_request_id(request_id),
        validate_only=validate_only,
    )
    read = answers.Enabled.from_message
    return Call("Enable", request, read, Plane.CONTROL, request.request_id)


def add_regions(
    cluster: str,
    specs: Iterable[RegionSpec],
    *,
    organization: str,
    regions: Iterable[str],
    request_id: str | None,
    validate_only: bool,
) -> Call[api.AddRegionsResponse, answers.RegionsAdded]:
    """Prepares AddRegions."""
    request = api.AddRegionsRequest(
        cluster=cluster,
        organization=organization,
        regions=_names(regions),
        region_specs=region_specs(specs),
        request_id=_request_id(request_id),
        validate_only=validate_only,
    )
    read = answers.RegionsAdded.from_message
    return Call("AddRegions", request, read, Plane.CONTROL, request.request_id)


def rotate(
    cluster: str,
    specs: Iterable[RegionSpec],
    *,
    new_generation: bool,
    request_id: str | None,
    validate_only: bool,
) -> Call[api.RotateResponse, answers.Rotated]:
    """Prepares Rotate."""
    request = api.RotateRequest(
        cluster=cluster,
        region_specs=region_specs(specs),
        new_generation=new_generation,
        request_id=_request_id(request_id),
        validate_only=validate_only,
    )
    read = answers.Rotated.from_message
    return Call("Rotate", request, read, Plane.CONTROL, request.request_id)


def revoke(
    cluster: str, regions: Iterable[str], reason: str, request_id: str | None
) -> Call[api.RevokeResponse, answers.Revoked]:
    """Prepares Revoke."""
    request = api.RevokeRequest(
        cluster=cluster,
        regions=_names(regions),
        reason=reason,
        request_id=_request_id(request_id),
    )
    read = answers.Revoked.from_message
    return Call("Revoke", request, read, Plane.CONTROL, request.request_id)


def restore(
    cluster: str, regions: Iterable[str], reason: str, request_id: str | None
) -> Call[api.RestoreResponse, answers.Restored]:
    """Prepares Restore."""
    request = api.RestoreRequest(
        cluster=cluster,
        regions=_names(regions),
        reason=reason,
        request_id=_request_id(request_id),
    )
    read = answers.Restored.from_message
    return Call("Restore", request, read, Plane.CONTROL, request.request_id)


def retire_generation(
    cluster: str,
    region: str,
    generation: int,
    *,
    bring_back: bool,
    reason: str,
    request_id: str | None,
) -> Call[api.RetireGenerationResponse, answers.Retired]:
    """Prepares RetireGeneration."""
    request = api.RetireGenerationRequest(
        cluster=cluster,
        region=region,
        generation=generation,
        bring_back=bring_back,
        reason=reason,
        request_id=_request_id(request_id),
    )
    read = answers.Retired.from_message
    return Call("RetireGeneration", request, read, Plane.CONTROL, request.request_id)


def test_key(
    key_spec: KeySpec, cluster: str, region: str, organization: str
) -> Call[api.TestKeyResponse, key_tests.KeyTest]:
    """Prepares TestKey."""
    request = api.TestKeyRequest(
        key_spec=key_spec.to_message(), cluster=cluster, region=region, organization=organization
    )
    return Call("TestKey", request, key_tests.KeyTest.from_message, Plane.CONTROL)


def get_access_policy(
    key_spec: KeySpec, cluster: str, region: str, organization: str
) -> Call[api.GetAccessPolicyResponse, access.AccessPolicy]:
    """Prepares GetAccessPolicy."""
    request = api.GetAccessPolicyRequest(
        key_spec=key_spec.to_message(), cluster=cluster, region=region, organization=organization
    )
    return Call("GetAccessPolicy", request, access.AccessPolicy.from_message, Plane.CONTROL)


def get_status(cluster: str) -> Call[api.GetStatusResponse, ClusterStatus]:
    """Prepares GetStatus."""
    request = api.GetStatusRequest(cluster=cluster)
    return Call("GetStatus", request, _status, Plane.CONTROL)


def _status(response: api.GetStatusResponse) -> ClusterStatus:
    return ClusterStatus.from_message(response.status)


def _names(names: Iterable[str]) -> list[str]:
    """Returns a list of names.

    Raises:
        TypeError: It is one string, whose letters would each be taken for a name.
    """
    if isinstance(names, str):
        raise TypeError("regions must be a list of names, not one string")
    return list(names)
