"""The calls that change or show the keys of clusters: all but ListClusters and deletions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from keyfold.arguments import checked, wrong_value
from keyfold.calls.call import Call, Plane
from keyfold.models.access_policy import AccessPolicy
from keyfold.models.key_test import KeyTest
from keyfold.models.recheck import Recheck
from keyfold.models.results import Enabled, RegionsAdded, Restored, Retired, Revoked, Rotated
from keyfold.models.specs import KeySpec, RegionSpec
from keyfold.models.status import ClusterStatus
from keyfold.v1 import key_management_service_pb2 as api


@checked
def enable(
    cluster: str,
    region_specs: Iterable[RegionSpec],
    *,
    organization: str,
    regions: Iterable[str],
    request_id: str | None,
    validate_only: bool,
) -> Call[api.EnableResponse, Enabled]:
    """Prepares an Enable call."""
    request = api.EnableRequest(
        cluster=cluster,
        organization=organization,
        regions=regions,
        region_specs=[spec.to_message() for spec in region_specs],
        request_id=request_id_of(request_id),
        validate_only=validate_only,
    )
    read = Enabled.from_message
    return Call("Enable", request, read, Plane.CONTROL, request.request_id)


@checked
def add_regions(
    cluster: str,
    region_specs: Iterable[RegionSpec],
    *,
    organization: str,
    regions: Iterable[str],
    request_id: str | None,
    validate_only: bool,
    into_revoked: bool,
) -> Call[api.AddRegionsResponse, RegionsAdded]:
    """Prepares an AddRegions call."""
    request = api.AddRegionsRequest(
        cluster=cluster,
        organization=organization,
        regions=regions,
        region_specs=[spec.to_message() for spec in region_specs],
        request_id=request_id_of(request_id),
        validate_only=validate_only,
        into_revoked=into_revoked,
    )
    read = RegionsAdded.from_message
    return Call("AddRegions", request, read, Plane.CONTROL, request.request_id)


@checked
def rotate(
    cluster: str,
    region_specs: Iterable[RegionSpec],
    *,
    new_generation: bool,
    request_id: str | None,
    validate_only: bool,
    only_named_regions: bool,
) -> Call[api.RotateResponse, Rotated]:
    """Prepares a Rotate call."""
    request = api.RotateRequest(
        cluster=cluster,
        region_specs=[spec.to_message() for spec in region_specs],
        new_generation=new_generation,
        request_id=request_id_of(request_id),
        validate_only=validate_only,
        only_named_regions=only_named_regions,
    )
    read = Rotated.from_message
    return Call("Rotate", request, read, Plane.CONTROL, request.request_id)


@checked
def revoke(
    cluster: str, regions: Iterable[str], reason: str, request_id: str | None
) -> Call[api.RevokeResponse, Revoked]:
    """Prepares a Revoke call."""
    request = api.RevokeRequest(
        cluster=cluster,
        regions=regions,
        reason=reason,
        request_id=request_id_of(request_id),
    )
    read = Revoked.from_message
    return Call("Revoke", request, read, Plane.CONTROL, request.request_id)


@checked
def restore(
    cluster: str, regions: Iterable[str], reason: str, request_id: str | None
) -> Call[api.RestoreResponse, Restored]:
    """Prepares a Restore call."""
    request = api.RestoreRequest(
        cluster=cluster,
        regions=regions,
        reason=reason,
        request_id=request_id_of(request_id),
    )
    read = Restored.from_message
    return Call("Restore", request, read, Plane.CONTROL, request.request_id)


@checked
def retire_generation(
    cluster: str,
    region: str,
    generation: int,
    *,
    bring_back: bool,
    reason: str,
    request_id: str | None,
) -> Call[api.RetireGenerationResponse, Retired]:
    """Prepares a RetireGeneration call."""
    request = api.RetireGenerationRequest(
        cluster=cluster,
        region=region,
        generation=generation,
        bring_back=bring_back,
        reason=reason,
        request_id=request_id_of(request_id),
    )
    read = Retired.from_message
    return Call("RetireGeneration", request, read, Plane.CONTROL, request.request_id)


@checked
def test_key(
    key_spec: KeySpec, cluster: str, region: str, organization: str, geo: str
) -> Call[api.TestKeyResponse, KeyTest]:
    """Prepares a TestKey call."""
    request = api.TestKeyRequest(
        key_spec=key_spec.to_message(),
        cluster=cluster,
        region=region,
        organization=organization,
        geo=geo,
    )
    return Call("TestKey", request, KeyTest.from_message, Plane.CONTROL)


@checked
def get_access_policy(
    key_spec: KeySpec, cluster: str, region: str, organization: str, seats: int = 0
) -> Call[api.GetAccessPolicyResponse, AccessPolicy]:
    """Prepares a GetAccessPolicy call."""
    request = api.GetAccessPolicyRequest(
        key_spec=key_spec.to_message(),
        cluster=cluster,
        region=region,
        organization=organization,
        seats=seats,
    )
    return Call("GetAccessPolicy", request, AccessPolicy.from_message, Plane.CONTROL)


@checked
def recheck(
    cluster: str, regions: Iterable[str], key_uri: str
) -> Call[api.RecheckResponse, Recheck]:
    """Prepares a Recheck call."""
    request = api.RecheckRequest(cluster=cluster, regions=regions, key_uri=key_uri)
    return Call("Recheck", request, Recheck.from_message, Plane.CONTROL)


@checked
def get_status(cluster: str) -> Call[api.GetStatusResponse, ClusterStatus]:
    """Prepares a GetStatus call."""
    request = api.GetStatusRequest(cluster=cluster)
    return Call("GetStatus", request, _status, Plane.CONTROL)


def _status(response: api.GetStatusResponse) -> ClusterStatus:
    return ClusterStatus.from_message(response.status)


def request_id_of(given: str | None) -> str:
    """Returns the caller's request_id, or a new one if the caller gave None.

    Every change has one: gRPC repeats calls by method, and a repeated change is safe only if the
    server recognises it by its id.

    Raises:
        ArgumentValueError: The caller's request_id is empty.
    """
    if given == "":
        raise wrong_value("request_id must not be empty; leave it out and the client makes one")
    return given or str(uuid.uuid4())
