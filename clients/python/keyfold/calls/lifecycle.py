"""The calls for the life of a cluster's keys, and for what is known of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from keyfold.calls.call import Call, Plane
from keyfold.models.access_policy import AccessPolicy
from keyfold.models.key_test import KeyTest
from keyfold.models.results import Enabled, RegionsAdded, Restored, Retired, Revoked, Rotated
from keyfold.models.specs import KeySpec, RegionSpec, region_specs
from keyfold.models.status import ClusterStatus
from keyfold.v1 import key_management_service_pb2 as api


def enable(
    cluster: str,
    specs: Iterable[RegionSpec],
    *,
    organization: str,
    regions: Iterable[str],
    request_id: str | None,
    validate_only: bool,
) -> Call[api.EnableResponse, Enabled]:
    """Prepares Enable."""
    request = api.EnableRequest(
        cluster=cluster,
        organization=organization,
        regions=_names(regions),
        region_specs=region_specs(specs),
        request_id=_request_id(request_id),
        validate_only=validate_only,
    )
    read = Enabled.from_message
    return Call("Enable", request, read, Plane.CONTROL, request.request_id)


def add_regions(
    cluster: str,
    specs: Iterable[RegionSpec],
    *,
    organization: str,
    regions: Iterable[str],
    request_id: str | None,
    validate_only: bool,
) -> Call[api.AddRegionsResponse, RegionsAdded]:
    """Prepares AddRegions."""
    request = api.AddRegionsRequest(
        cluster=cluster,
        organization=organization,
        regions=_names(regions),
        region_specs=region_specs(specs),
        request_id=_request_id(request_id),
        validate_only=validate_only,
    )
    read = RegionsAdded.from_message
    return Call("AddRegions", request, read, Plane.CONTROL, request.request_id)


def rotate(
    cluster: str,
    specs: Iterable[RegionSpec],
    *,
    new_generation: bool,
    request_id: str | None,
    validate_only: bool,
) -> Call[api.RotateResponse, Rotated]:
    """Prepares Rotate."""
    request = api.RotateRequest(
        cluster=cluster,
        region_specs=region_specs(specs),
        new_generation=new_generation,
        request_id=_request_id(request_id),
        validate_only=validate_only,
    )
    read = Rotated.from_message
    return Call("Rotate", request, read, Plane.CONTROL, request.request_id)


def revoke(
    cluster: str, regions: Iterable[str], reason: str, request_id: str | None
) -> Call[api.RevokeResponse, Revoked]:
    """Prepares Revoke."""
    request = api.RevokeRequest(
        cluster=cluster,
        regions=_names(regions),
        reason=reason,
        request_id=_request_id(request_id),
    )
    read = Revoked.from_message
    return Call("Revoke", request, read, Plane.CONTROL, request.request_id)


def restore(
    cluster: str, regions: Iterable[str], reason: str, request_id: str | None
) -> Call[api.RestoreResponse, Restored]:
    """Prepares Restore."""
    request = api.RestoreRequest(
        cluster=cluster,
        regions=_names(regions),
        reason=reason,
        request_id=_request_id(request_id),
    )
    read = Restored.from_message
    return Call("Restore", request, read, Plane.CONTROL, request.request_id)


def retire_generation(
    cluster: str,
    region: str,
    generation: int,
    *,
    bring_back: bool,
    reason: str,
    request_id: str | None,
) -> Call[api.RetireGenerationResponse, Retired]:
    """Prepares RetireGeneration."""
    request = api.RetireGenerationRequest(
        cluster=cluster,
        region=region,
        generation=generation,
        bring_back=bring_back,
        reason=reason,
        request_id=_request_id(request_id),
    )
    read = Retired.from_message
    return Call("RetireGeneration", request, read, Plane.CONTROL, request.request_id)


def test_key(
    key_spec: KeySpec, cluster: str, region: str, organization: str
) -> Call[api.TestKeyResponse, KeyTest]:
    """Prepares TestKey."""
    request = api.TestKeyRequest(
        key_spec=key_spec.to_message(), cluster=cluster, region=region, organization=organization
    )
    return Call("TestKey", request, KeyTest.from_message, Plane.CONTROL)


def get_access_policy(
    key_spec: KeySpec, cluster: str, region: str, organization: str
) -> Call[api.GetAccessPolicyResponse, AccessPolicy]:
    """Prepares GetAccessPolicy."""
    request = api.GetAccessPolicyRequest(
        key_spec=key_spec.to_message(), cluster=cluster, region=region, organization=organization
    )
    return Call("GetAccessPolicy", request, AccessPolicy.from_message, Plane.CONTROL)


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
