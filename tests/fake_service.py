"""A Keyfold in memory: enough of it to hold the client against.

It keeps the contract's shapes and reasons, not its promises: what a wrapped key looks like, say,
it makes up.
"""

# ruff: noqa: N802, N818  methods are named as the contract's; a failure is raised, and is data

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as resources

MAX_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(eq=False)
class Failure(Exception):
    """An error as the server sends it; without a reason, as gRPC itself does."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "it went wrong"
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    retry_after: int | None = None
    domain: str = "keyfold"

    def status(self) -> Status:
        status = Status(code=self.code.value[0], message=self.message)
        details: list[Any] = []
        if self.reason:
            info = ErrorInfo(reason=self.reason, domain=self.domain, metadata=self.metadata)
            details.append(info)
        if self.fields:
            violations = [
                BadRequest.FieldViolation(field=name, description=text)
                for name, text in self.fields.items()
            ]
            details.append(BadRequest(field_violations=violations))
        if self.retry_after is not None:
            retry = RetryInfo()
            retry.retry_delay.FromSeconds(self.retry_after)
            details.append(retry)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        return status


UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE, "BUSY", "try again")
KEY_DISABLED = Failure(
    grpc.StatusCode.FAILED_PRECONDITION,
    "KEY_DISABLED",
    "the key is disabled",
    {"cluster": "prod", "region": "eu", "source": "kms"},
)


@dataclass(frozen=True)
class _Blob:
    cluster: str
    region: str
    plaintext: bytes
    context: dict[str, str]
    generation: int


class Toy(service.KeyManagementServiceServicer):
    """The service, with one cluster `prod` in `eu` and `us` to begin with."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, _Blob] = {}
        self.clusters: dict[str, resources.ClusterStatus] = {}
        self._put("prod", "acme", [_spec("eu", "local:acme"), _spec("us", "local:acme")])

    # --- data plane ---

    def Wrap(self, request: api.WrapRequest, context: Any) -> api.WrapResponse:
        region = self._region(request.cluster, request.region)
        if not 1 <= len(request.plaintext) <= 4096:
            raise Failure(
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_PLAINTEXT",
                "a plaintext key has 1 to 4,096 bytes",
                {"source": "keyfold"},
                {"plaintext": "has 1 to 4,096 bytes"},
            )
        wrapped = b"\x01\x01" + os.urandom(88 + len(request.plaintext))
        generation = region.generations[-1].generation
        self.blobs[wrapped] = _Blob(
            request.cluster, region.region, request.plaintext, dict(request.context), generation
        )
        return api.WrapResponse(wrapped_key=wrapped, generation=generation)

    def Unwrap(self, request: api.UnwrapRequest, context: Any) -> api.UnwrapResponse:
        blob = self.blobs.get(request.wrapped_key)
        if blob is None:
            raise Failure(
                grpc.StatusCode.INVALID_ARGUMENT, "NOT_A_WRAPPED_KEY", "not a wrapped key"
            )
        self._region(request.cluster, blob.region)
        if blob.context != dict(request.context):
            raise Failure(
                grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_MISMATCH", "the context differs"
            )
        return api.UnwrapResponse(
            plaintext=blob.plaintext, region=blob.region, generation=blob.generation
        )

    def GenerateDataKey(
        self, request: api.GenerateDataKeyRequest, context: Any
    ) -> api.GenerateDataKeyResponse:
        plaintext = os.urandom(request.size or 32)
        wrapped = self.Wrap(
            api.WrapRequest(
                cluster=request.cluster,
                region=request.region,
                plaintext=plaintext,
                context=request.context,
            ),
            context,
        )
        return api.GenerateDataKeyResponse(
            plaintext=b"" if request.wrapped_only else plaintext,
            wrapped_key=wrapped.wrapped_key,
            generation=wrapped.generation,
        )

    def Rewrap(self, request: api.RewrapRequest, context: Any) -> api.RewrapResponse:
        opened = self.Unwrap(
            api.UnwrapRequest(
                cluster=request.cluster, wrapped_key=request.wrapped_key, context=request.context
            ),
            context,
        )
        moves = request.HasField("destination")
        to = request.destination
        target = self._region(to.cluster or request.cluster, to.region or opened.region)
        if not moves and target.generations[-1].generation == opened.generation:
            return api.RewrapResponse(
                wrapped_key=request.wrapped_key,
                generation=opened.generation,
                already_current=True,
            )
        wrapped = self.Wrap(
            api.WrapRequest(
                cluster=to.cluster or request.cluster,
                region=target.region,
                plaintext=opened.plaintext,
                context=to.context if moves else request.context,
            ),
            context,
        )
        return api.RewrapResponse(wrapped_key=wrapped.wrapped_key, generation=wrapped.generation)

    def BatchWrap(self, request: api.BatchWrapRequest, context: Any) -> api.BatchWrapResponse:
        response = api.BatchWrapResponse()
        _check_batch(request)
        for item in request.items:
            result = response.results.add()
            one = api.WrapRequest(
                cluster=request.cluster,
                region=item.region or request.region,
                plaintext=item.plaintext,
                context=item.context or request.context,
            )
            try:
                result.answer.CopyFrom(self.Wrap(one, context))
            except Failure as failed:
                result.error.CopyFrom(failed.status())
        return response

    def BatchUnwrap(self, request: api.BatchUnwrapRequest, context: Any) -> api.BatchUnwrapResponse:
        response = api.BatchUnwrapResponse()
        _check_batch(request)
        for item in request.items:
            result = response.results.add()
            one = api.UnwrapRequest(
                cluster=request.cluster,
                wrapped_key=item.wrapped_key,
                context=item.context or request.context,
            )
            try:
                result.answer.CopyFrom(self.Unwrap(one, context))
            except Failure as failed:
                result.error.CopyFrom(failed.status())
        return response

    def BatchRewrap(self, request: api.BatchRewrapRequest, context: Any) -> api.BatchRewrapResponse:
        response = api.BatchRewrapResponse()
        _check_batch(request)
        for item in request.items:
            result = response.results.add()
            own = item if item.HasField("destination") else request
            one = api.RewrapRequest(
                cluster=request.cluster,
                wrapped_key=item.wrapped_key,
                context=item.context or request.context,
                destination=own.destination if own.HasField("destination") else None,
            )
            try:
                result.answer.CopyFrom(self.Rewrap(one, context))
            except Failure as failed:
                result.error.CopyFrom(failed.status())
        return response

    # --- life of a key ---

    def Enable(self, request: api.EnableRequest, context: Any) -> api.EnableResponse:
        for index, spec in enumerate(request.region_specs):
            _prove(spec, index)
        made = self._put(
            request.cluster,
            request.organization,
            list(request.region_specs),
            keep=not request.validate_only,
        )
        return api.EnableResponse(status=made)

    def AddRegions(self, request: api.AddRegionsRequest, context: Any) -> api.AddRegionsResponse:
        status = self._cluster(request.cluster)
        for index, spec in enumerate(request.region_specs):
            _prove(spec, index)
            status.regions.append(_region_status(spec))
        return api.AddRegionsResponse(status=status)

    def Rotate(self, request: api.RotateRequest, context: Any) -> api.RotateResponse:
        for spec in request.region_specs:
            region = self._region(request.cluster, spec.region)
            if spec.HasField("key_spec"):
                region.key_spec.CopyFrom(spec.key_spec)
            region.key_version = str(int(region.key_version) + 1)
            if request.new_generation:
                region.generations.add(generation=region.generations[-1].generation + 1)
        pending = resources.PendingReplica(replica="host-2")
        pending.stops_within.FromSeconds(3)
        return api.RotateResponse(status=self._cluster(request.cluster), pending=[pending])

    def Revoke(self, request: api.RevokeRequest, context: Any) -> api.RevokeResponse:
        status = self._cluster(request.cluster)
        for region in status.regions:
            if not request.regions or region.region in request.regions:
                region.state = resources.STATE_REVOKED
                region.ClearField("can_wrap")
                region.ClearField("can_unwrap")
        return api.RevokeResponse(status=status, confirmed=["host-1"])

    def Restore(self, request: api.RestoreRequest, context: Any) -> api.RestoreResponse:
        status = self._cluster(request.cluster)
        response = api.RestoreResponse(status=status)
        for region in status.regions:
            if request.regions and region.region not in request.regions:
                continue
            if region.key_spec.uri == "local:disabled":
                response.not_restored.add(region=region.region, error=KEY_DISABLED.status())
            else:
                region.state = resources.STATE_ENABLED
                response.restored.append(region.region)
        response.status.CopyFrom(status)
        return response

    def TestKey(self, request: api.TestKeyRequest, context: Any) -> api.TestKeyResponse:
        works = request.key_spec.uri != "local:disabled"
        response = api.TestKeyResponse(accessible=works, key_version="1" if works else "")
        for step in (api.TEST_STEP_AUTHENTICATE, api.TEST_STEP_WRAP, api.TEST_STEP_UNWRAP):
            outcome = api.TEST_OUTCOME_PASSED
            last = step == api.TEST_STEP_UNWRAP
            if last and not works:
                outcome = api.TEST_OUTCOME_FAILED
            made = response.steps.add(step=step, outcome=outcome)
            made.latency.FromMilliseconds(7)
            if outcome == api.TEST_OUTCOME_FAILED:
                made.reason, made.message = "KEY_DISABLED", "the key is disabled"
        return response

    def GetStatus(self, request: api.GetStatusRequest, context: Any) -> api.GetStatusResponse:
        return api.GetStatusResponse(status=self._cluster(request.cluster))

    def ListClusters(
        self, request: api.ListClustersRequest, context: Any
    ) -> api.ListClustersResponse:
        found = [
            one
            for name, one in sorted(self.clusters.items())
            if name > request.page_token
            and request.organization in ("", one.organization)
            and (not request.state or any(it.state == request.state for it in one.regions))
        ]
        page = found[: request.page_size or 2]
        more = len(page) < len(found)
        return api.ListClustersResponse(
            clusters=page, next_page_token=page[-1].cluster if more else ""
        )

    def _put(
        self,
        cluster: str,
        organization: str,
        specs: list[resources.RegionSpec],
        *,
        keep: bool = True,
    ) -> resources.ClusterStatus:
        status = resources.ClusterStatus(
            cluster=cluster, organization=organization, regions=map(_region_status, specs)
        )
        if keep:
            self.clusters[cluster] = status
        return status

    def _cluster(self, name: str) -> resources.ClusterStatus:
        if name not in self.clusters:
            raise Failure(
                grpc.StatusCode.NOT_FOUND,
                "CLUSTER_NOT_FOUND",
                f"no cluster {name}",
                {"cluster": name, "source": "keyfold"},
            )
        return self.clusters[name]

    def _region(self, cluster: str, name: str) -> resources.RegionStatus:
        status = self._cluster(cluster)
        region = next((one for one in status.regions if one.region == name), None)
        where = {"cluster": cluster, "region": name, "source": "keyfold"}
        if region is None:
            raise Failure(grpc.StatusCode.NOT_FOUND, "REGION_NOT_FOUND", f"no region {name}", where)
        if region.state == resources.STATE_REVOKED:
            raise Failure(
                grpc.StatusCode.FAILED_PRECONDITION, "REVOKED", f"{name} is revoked", where
            )
        return region


def _spec(region: str, uri: str) -> resources.RegionSpec:
    key_spec = resources.KeySpec(type="LOCAL", uri=uri)
    return resources.RegionSpec(region=region, key_spec=key_spec)


def _prove(spec: resources.RegionSpec, index: int) -> None:
    if not spec.HasField("key_spec"):
        raise Failure(
            grpc.StatusCode.INVALID_ARGUMENT,
            "KEY_SPEC_MISSING",
            f"region {spec.region} has no key spec",
            {"region": spec.region, "source": "keyfold"},
            {f"region_specs[{index}].key_spec": "is missing"},
        )


def _region_status(spec: resources.RegionSpec) -> resources.RegionStatus:
    status = resources.RegionStatus(
        region=spec.region,
        key_spec=spec.key_spec,
        policy=spec.policy,
        state=resources.STATE_ENABLED,
        health=resources.HEALTH_HEALTHY,
        key_version="1",
        can_wrap=True,
        can_unwrap=True,
        key_owner=resources.KEY_OWNER_CLUSTER,
    )
    wrap = resources.GenerationWrap(type="LOCAL", uri=spec.key_spec.uri, key_version="1")
    made = status.generations.add(generation=1, kek_id=bytes(16), wraps=[wrap])
    for stamp in (made.create_time, status.last_check_time, status.state_time):
        stamp.FromSeconds(1_800_000_000)
    return status


def _check_batch(request: Any) -> None:
    if not 1 <= len(request.items) <= 1000 or request.ByteSize() > MAX_BATCH_BYTES:
        raise Failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_BATCH", "1 to 1,000 items, 4 MiB")
