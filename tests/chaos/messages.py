"""Translates requests into messages, and answers into what the model compares."""

from __future__ import annotations

from typing import Any, Final

import grpc

from behaviour import Region, State, state_of
from chaos.history import Answer, Blob, Change
from e2e.wire import refusal
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res

UNKNOWN: Final = frozenset({"", "DEADLINE_EXCEEDED", "STORE_UNAVAILABLE", "REQUEST_IN_PROGRESS"})
"""Reasons that leave open whether a change was made; the empty one is gRPC's own errors."""


def opened(blob: Blob, reply: pb.UnwrapResponse) -> str:
    """Says what is wrong with an opened key; empty if nothing is."""
    if reply.plaintext != blob.plaintext:
        return "it opened to another key"
    if (reply.region, reply.generation) != (blob.region, blob.generation):
        return f"it says {reply.region}/{reply.generation}, not {blob.region}/{blob.generation}"
    return ""


def spec_of(region: str, uri: str | None) -> res.RegionSpec:
    """Makes a region spec; without a URI, it keeps the region's key."""
    spec = res.RegionSpec(region=region)
    if uri is not None:
        spec.key_spec.type = "LOCAL" if uri.startswith("local:") else "VAULT_TRANSIT"
        spec.key_spec.uri = uri
    return spec


def message(change: Change) -> Any:
    """Makes a change's message."""
    request = change.request
    common: dict[str, Any] = {"cluster": change.cluster, "request_id": change.request_id}
    if request.method in {"Revoke", "Restore"}:
        kind = pb.RevokeRequest if request.method == "Revoke" else pb.RestoreRequest
        return kind(regions=request.regions, **common)
    uris = dict(request.uris)
    specs = [spec_of(name, uris.get(name)) for name in request.regions]
    if request.method == "Rotate":
        return pb.RotateRequest(region_specs=specs, new_generation=request.fresh, **common)
    if request.method == "AddRegions":
        return pb.AddRegionsRequest(region_specs=specs, into_revoked=request.into_revoked, **common)
    return pb.EnableRequest(region_specs=specs, **common)


def shown(status: res.ClusterStatus) -> State:
    """Reads a cluster off its status; its generations must be numbered without a gap."""
    regions = {}
    for region in status.regions:
        numbers = [generation.generation for generation in region.generations]
        assert numbers == list(range(1, len(numbers) + 1)), numbers
        revoked = region.state == res.STATE_REVOKED
        regions[region.region] = Region(region.key_spec.uri, len(numbers), revoked)
    return state_of(regions)


def answer_of(reply: Any) -> Answer:
    """Reads the outcome off the reply to a change."""
    stops = 0.0
    if isinstance(reply, pb.RevokeResponse):
        stops = max((p.stops_within.ToMicroseconds() / 1e6 for p in reply.pending), default=0.0)
    return Answer(
        shown=shown(reply.status),
        told=True,
        replayed=reply.replayed,
        superseded=reply.superseded,
        stops_within=stops,
    )


def refusal_of(error: grpc.RpcError) -> Answer:
    """Reads the outcome off a refusal."""
    refused = refusal(error)
    reason = refused.reason
    if refused.code is grpc.StatusCode.INTERNAL and not reason:
        reason = "INTERNAL"
    return Answer(
        reason=reason or refused.code.name,
        unknown=reason in UNKNOWN,
        again=refused.retry_after is not None,
    )
