"""The operators' half of the Keyfold in memory: clusters, their keys, and what is told of them."""

# ruff: noqa: N802  methods are named as the contract's

from __future__ import annotations

from typing import Any

import grpc

from fake_failures import KEY_DISABLED, Failure
from fake_regions import (
    BEGAN,
    copied,
    local_spec,
    region_of,
    region_status,
    resolved,
    rewrap,
    specs_of,
)
from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as resources

_STEPS = (
    api.TEST_STEP_AUTHENTICATE,
    api.TEST_STEP_DESCRIBE,
    api.TEST_STEP_WRAP,
    api.TEST_STEP_UNWRAP,
    api.TEST_STEP_CONTEXT,
)


class Lifecycle(service.KeyManagementServiceServicer):
    """The clusters, with `prod` in `eu` and `us` to begin with.

    Attributes:
        clusters: What is stored, by name.
        disabled: Uris of root keys that do not unwrap.
        forbidden: Uris of root keys that Keyfold lacks a permission for, and which one.
    """

    def __init__(self) -> None:
        self.clusters: dict[str, resources.ClusterStatus] = {}
        self.disabled = {"local:disabled"}
        self.forbidden = {"local:forbidden": "kms:Decrypt"}
        self._put("prod", "acme", [local_spec("eu", "local:acme"), local_spec("us", "local:acme")])

    # --- changes ---

    def Enable(self, request: api.EnableRequest, context: Any) -> api.EnableResponse:
        specs = list(request.region_specs)
        made = self._put(
            request.cluster,
            request.organization,
            [resolved(spec, index, specs) for index, spec in enumerate(specs)],
            keep=not request.validate_only,
        )
        return api.EnableResponse(status=made)

    def AddRegions(self, request: api.AddRegionsRequest, context: Any) -> api.AddRegionsResponse:
        status = copied(self.cluster(request.cluster))
        known = [*request.region_specs, *specs_of(status)]
        for index, spec in enumerate(request.region_specs):
            status.regions.append(region_status(resolved(spec, index, known)))
        self._keep(status, dry=request.validate_only)
        return api.AddRegionsResponse(status=status)

    def Rotate(self, request: api.RotateRequest, context: Any) -> api.RotateResponse:
        status = copied(self.cluster(request.cluster))
        for spec in request.region_specs:
            region = region_of(status, spec.region)
            if spec.HasField("key_spec") and spec.key_spec != region.key_spec:
                region.key_spec.CopyFrom(spec.key_spec)
                region.key_version = "1"
            else:
                region.key_version = str(int(region.key_version) + 1)
            if spec.HasField("policy"):
                region.policy.CopyFrom(spec.policy)
            rewrap(region, fresh=request.new_generation)
        self._keep(status, dry=request.validate_only)
        pending = resources.PendingReplica(replica="host-2")
        pending.stops_within.FromSeconds(3)
        waits = [] if request.validate_only else [pending]
        return api.RotateResponse(status=status, pending=waits)

    def Revoke(self, request: api.RevokeRequest, context: Any) -> api.RevokeResponse:
        status = self.cluster(request.cluster)
        for region in status.regions:
            if not request.regions or region.region in request.regions:
                region.state = resources.STATE_REVOKED
                region.ClearField("can_wrap")
                region.ClearField("can_unwrap")
        return api.RevokeResponse(status=status, confirmed=["host-1"])

    def Restore(self, request: api.RestoreRequest, context: Any) -> api.RestoreResponse:
        status = self.cluster(request.cluster)
        response = api.RestoreResponse(status=status)
        for region in status.regions:
            if request.regions and region.region not in request.regions:
                continue
            if not request.regions and region.state != resources.STATE_REVOKED:
                continue
            if region.key_spec.uri in self.disabled:
                response.not_restored.add(region=region.region, error=KEY_DISABLED.status())
            else:
                region.state = resources.STATE_ENABLED
                response.restored.append(region.region)
        response.status.CopyFrom(status)
        return response

    def RetireGeneration(
        self, request: api.RetireGenerationRequest, context: Any
    ) -> api.RetireGenerationResponse:
        status = self.cluster(request.cluster)
        region = region_of(status, request.region, revoked=True)
        where = {"cluster": request.cluster, "region": request.region, "source": "keyfold"}
        numbers = [one.generation for one in region.generations]
        if request.generation not in numbers:
            raise Failure(
                grpc.StatusCode.NOT_FOUND,
                "GENERATION_NOT_FOUND",
                f"region {request.region} has no generation {request.generation}",
                where,
            )
        generation = region.generations[numbers.index(request.generation)]
        if request.bring_back:
            generation.ClearField("retire_time")
        elif request.generation == numbers[-1]:
            raise Failure(
                grpc.StatusCode.FAILED_PRECONDITION,
                "GENERATION_IN_USE",
                f"generation {request.generation} is the newest, which wraps",
                where,
            )
        elif not generation.HasField("retire_time"):
            generation.retire_time.FromSeconds(BEGAN)
        pending = resources.PendingReplica(replica="host-2")
        pending.stops_within.FromSeconds(3)
        return api.RetireGenerationResponse(status=status, confirmed=["host-1"], pending=[pending])

    # --- looking ---

    def TestKey(self, request: api.TestKeyRequest, context: Any) -> api.TestKeyResponse:
        uri = request.key_spec.uri
        permission = self.forbidden.get(uri, "")
        works = uri not in self.disabled and not permission
        response = api.TestKeyResponse(
            accessible=works,
            key_version="1" if works else "",
            summary="the key wraps and unwraps" if works else "the key does not unwrap",
            key_region="here",
            notices=["the key is here"],
        )
        for step in _STEPS:
            made = response.steps.add(step=step, outcome=api.TEST_OUTCOME_PASSED)
            if step == api.TEST_STEP_CONTEXT and (not request.cluster or not works):
                made.outcome = api.TEST_OUTCOME_SKIPPED
                continue
            made.latency.FromMilliseconds(7)
            if step == api.TEST_STEP_UNWRAP and not works:
                made.outcome = api.TEST_OUTCOME_FAILED
                made.reason, made.message = "KEY_DISABLED", "the key is disabled"
                if permission:
                    made.reason, made.message = "ACCESS_DENIED", "the KMS does not permit it"
                    made.missing_permission = permission
        return response

    def GetAccessPolicy(
        self, request: api.GetAccessPolicyRequest, context: Any
    ) -> api.GetAccessPolicyResponse:
        if not request.cluster and not request.organization:
            raise Failure(
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_NAME",
                "name the cluster, or the organization",
                {"source": "keyfold"},
                {"cluster": "is missing"},
            )
        principal = request.key_spec.auth_principal or "keyfold"
        bound = {"keyfold:cluster": request.cluster, "keyfold:region": request.region}
        response = api.GetAccessPolicyResponse(
            principal=principal,
            external_id=f"kf-{request.organization or request.cluster}",
            bound_context={name: value for name, value in bound.items() if value},
            notices=["the role's session lasts 10 minutes"],
        )
        response.statements.add(
            title="Key policy of the root key",
            attach_to=request.key_spec.uri,
            language="json",
            text=f'{{\n  "Principal": "{principal}"\n}}',
            permissions=["kms:Encrypt", "kms:Decrypt"],
        )
        response.statements.add(
            title="The vendor's role",
            attach_to=principal,
            language="shell",
            text="cloud iam attach\n",
            by_vendor=True,
        )
        return response

    def GetStatus(self, request: api.GetStatusRequest, context: Any) -> api.GetStatusResponse:
        return api.GetStatusResponse(status=self.cluster(request.cluster))

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

    # --- what is stored ---

    def cluster(self, name: str) -> resources.ClusterStatus:
        """Returns a cluster as it is stored; whoever changes it changes the store."""
        if name not in self.clusters:
            raise Failure(
                grpc.StatusCode.NOT_FOUND,
                "CLUSTER_NOT_FOUND",
                f"no cluster {name}",
                {"cluster": name, "source": "keyfold"},
            )
        return self.clusters[name]

    def _put(
        self,
        cluster: str,
        organization: str,
        specs: list[resources.RegionSpec],
        *,
        keep: bool = True,
    ) -> resources.ClusterStatus:
        status = resources.ClusterStatus(
            cluster=cluster, organization=organization, regions=map(region_status, specs)
        )
        self._keep(status, dry=not keep)
        return status

    def _keep(self, status: resources.ClusterStatus, *, dry: bool) -> None:
        if not dry:
            self.clusters[status.cluster] = status
