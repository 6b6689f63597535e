"""The calls that delete the keys of clusters, and take a deletion back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from keyfold.arguments import checked
from keyfold.calls.call import Call, Plane
from keyfold.calls.lifecycle import request_id_of
from keyfold.models.deletion import Deleted, Undeleted
from keyfold.v1 import key_management_service_pb2 as api


@checked
def delete_cluster(
    cluster: str,
    regions: Iterable[str],
    *,
    all_regions: bool,
    waiting_period: timedelta | None,
    reason: str,
    request_id: str | None,
    validate_only: bool,
) -> Call[api.DeleteClusterResponse, Deleted]:
    """Prepares a DeleteCluster call."""
    request = api.DeleteClusterRequest(
        cluster=cluster,
        regions=regions,
        all_regions=all_regions,
        request_id=request_id_of(request_id),
        reason=reason,
        validate_only=validate_only,
    )
    if waiting_period is not None:
        waiting = Duration()
        waiting.FromTimedelta(waiting_period)
        request.waiting_period.CopyFrom(waiting)
    read = Deleted.from_message
    return Call("DeleteCluster", request, read, Plane.CONTROL, request.request_id)


@checked
def undelete_cluster(
    cluster: str, regions: Iterable[str], reason: str, request_id: str | None
) -> Call[api.UndeleteClusterResponse, Undeleted]:
    """Prepares an UndeleteCluster call."""
    request = api.UndeleteClusterRequest(
        cluster=cluster,
        regions=regions,
        request_id=request_id_of(request_id),
        reason=reason,
    )
    read = Undeleted.from_message
    return Call("UndeleteCluster", request, read, Plane.CONTROL, request.request_id)
