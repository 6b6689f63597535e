"""The operator's methods: from request bytes to the service and back to reply bytes."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final, TypeVar

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import ClusterBannedError, RowNotAuthenticError
from keyfold_server.domain.rights import Caller
from keyfold_server.rpc.handlers.unary import OnMessages, UnaryMethod
from keyfold_server.rpc.messages import key_usage, replies, requests
from keyfold_server.rpc.messages.caller import caller_reply, replica_info
from keyfold_server.rpc.messages.status import to_status
from keyfold_server.service.fleet.confirmations import PendingReplica
from keyfold_server.service.life.listing import page_token
from keyfold_server.service.life.requests import MutationCall
from keyfold_server.service.life.revocation import BanResult, RevokeResult
from keyfold_server.service.loop_turns import one_by_one
from keyfold_server.service.operations.decisions import decision_name
from keyfold_server.service.replica import Replica

_Reply = TypeVar("_Reply", pb.RevokeResponse, pb.RetireGenerationResponse)

_PAGE_BYTES: Final = 3 * 1024 * 1024
"""Bytes after which a page of ListClusters ends: less than gRPC's clients accept by default."""


class LifeMethods:
    """The operator's methods on bytes."""

    def __init__(self, replica: Replica) -> None:
        """Takes the service."""
        self._replica = replica

    def table(self) -> dict[str, UnaryMethod]:
        """Returns the methods, by their names in the contract."""
        methods = {
            "Enable": OnMessages(pb.EnableRequest, self._enable),
            "AddRegions": OnMessages(pb.AddRegionsRequest, self._add_regions),
            "Rotate": OnMessages(pb.RotateRequest, self._rotate),
            "Revoke": OnMessages(pb.RevokeRequest, self._revoke),
            "Restore": OnMessages(pb.RestoreRequest, self._restore),
            "RetireGeneration": OnMessages(pb.RetireGenerationRequest, self._retire_generation),
            "DeleteCluster": OnMessages(pb.DeleteClusterRequest, self._delete_cluster),
            "UndeleteCluster": OnMessages(pb.UndeleteClusterRequest, self._undelete_cluster),
            "TestKey": OnMessages(pb.TestKeyRequest, self._test_key),
            "GetAccessPolicy": OnMessages(pb.GetAccessPolicyRequest, self._get_access_policy),
            "Recheck": OnMessages(pb.RecheckRequest, self._recheck),
            "GetCaller": OnMessages(pb.GetCallerRequest, self._get_caller),
            "GetStatus": OnMessages(pb.GetStatusRequest, self._get_status),
            "ListClusters": OnMessages(pb.ListClustersRequest, self._list_clusters),
            "ListKeyUsage": OnMessages(
                pb.ListKeyUsageRequest, self._list_key_usage, key_usage.tells_nothing
            ),
        }
        return {name: method.on_bytes() for name, method in methods.items()}

    async def _enable(
        self, asked: pb.EnableRequest, caller: Caller, deadline: float
    ) -> pb.EnableResponse:
        request = requests.enable_request(asked, self._replica.geos)
        call = MutationCall(caller, "Enable", asked.request_id, request, deadline)
        result = await self._replica.clusters.enable(call)
        return pb.EnableResponse(
            status=await self._status(caller, result.cluster),
            replayed=result.replayed,
            superseded=result.superseded,
        )

    async def _add_regions(
        self, asked: pb.AddRegionsRequest, caller: Caller, deadline: float
    ) -> pb.AddRegionsResponse:
        request = requests.add_regions_request(asked, self._replica.geos)
        call = MutationCall(caller, "AddRegions", asked.request_id, request, deadline)
        result = await self._replica.clusters.add_regions(call)
        return pb.AddRegionsResponse(
            status=await self._status(caller, result.cluster),
            replayed=result.replayed,
            superseded=result.superseded,
        )

    async def _rotate(
        self, asked: pb.RotateRequest, caller: Caller, deadline: float
    ) -> pb.RotateResponse:
        request = requests.rotate_request(asked, self._replica.geos)
        call = MutationCall(caller, "Rotate", asked.request_id, request, deadline)
        rotated = await self._replica.rotation.rotate(call)
        report = rotated.report
        if report is None:
            report = await self._replica.reports.report(rotated.mutation.cluster, caller.rights)
        return pb.RotateResponse(
            status=replies.cluster_status(report),
            pending=self._pending(rotated.pending),
            replayed=rotated.mutation.replayed,
            superseded=rotated.mutation.superseded,
        )

    async def _revoke(
        self, asked: pb.RevokeRequest, caller: Caller, deadline: float
    ) -> pb.RevokeResponse:
        request = requests.revoke_request(asked)
        call = MutationCall(caller, "Revoke", asked.request_id, request, deadline)
        revoked = await self._replica.revocation.revoke(call)
        if isinstance(revoked, BanResult):
            return pb.RevokeResponse(
                status=res.ClusterStatus(cluster=request.cluster),
                confirmed=revoked.confirmed,
                pending=self._pending(revoked.pending),
                banned=True,
                operation=decision_name(revoked.decision),
            )
        return await self._acknowledged(pb.RevokeResponse, caller, revoked)

    async def _restore(
        self, asked: pb.RestoreRequest, caller: Caller, deadline: float
    ) -> pb.RestoreResponse:
        request = requests.restore_request(asked)
        call = MutationCall(caller, "Restore", asked.request_id, request, deadline)
        restored = await self._replica.restoration.restore(call)
        return pb.RestoreResponse(
            status=await self._status(caller, restored.mutation.cluster),
            restored=restored.regions,
            not_restored=[
                pb.NotRestored(region=region, error=to_status(error))
                for region, error in restored.failed.items()
            ],
            replayed=restored.mutation.replayed,
            superseded=restored.mutation.superseded,
        )

    async def _retire_generation(
        self, asked: pb.RetireGenerationRequest, caller: Caller, deadline: float
    ) -> pb.RetireGenerationResponse:
        request = requests.retire_generation_request(asked)
        call = MutationCall(caller, "RetireGeneration", asked.request_id, request, deadline)
        retired = await self._replica.revocation.retire(call)
        return await self._acknowledged(pb.RetireGenerationResponse, caller, retired)

    async def _delete_cluster(
        self, asked: pb.DeleteClusterRequest, caller: Caller, deadline: float
    ) -> pb.DeleteClusterResponse:
        request = requests.delete_cluster_request(asked)
        call = MutationCall(caller, "DeleteCluster", asked.request_id, request, deadline)
        deleted = await self._replica.deletion.delete(call)
        reply = replies.deleted(deleted)
        reply.pending.extend(self._pending(deleted.pending))
        return reply

    async def _undelete_cluster(
        self, asked: pb.UndeleteClusterRequest, caller: Caller, deadline: float
    ) -> pb.UndeleteClusterResponse:
        request = requests.undelete_cluster_request(asked)
        call = MutationCall(caller, "UndeleteCluster", asked.request_id, request, deadline)
        result = await self._replica.deletion.undelete(call)
        return pb.UndeleteClusterResponse(
            status=await self._status(caller, result.cluster),
            replayed=result.replayed,
            superseded=result.superseded,
        )

    async def _test_key(
        self, asked: pb.TestKeyRequest, caller: Caller, _deadline: float
    ) -> pb.TestKeyResponse:
        request = requests.test_key_request(asked)
        if request.geo:
            return replies.tested_in_geo(await self._replica.geo_trials.test(caller, request))
        return replies.tested(await self._replica.trials.test(caller, request))

    async def _get_access_policy(
        self, asked: pb.GetAccessPolicyRequest, caller: Caller, _deadline: float
    ) -> pb.GetAccessPolicyResponse:
        policies = self._replica.access_policies
        return replies.access_policy(
            await policies.get(caller, requests.access_policy_request(asked))
        )

    async def _recheck(
        self, asked: pb.RecheckRequest, caller: Caller, deadline: float
    ) -> pb.RecheckResponse:
        request = requests.recheck_request(asked)
        done = await self._replica.rechecks.recheck(caller, request, deadline)
        return pb.RecheckResponse(
            results=[replies.rechecked(each) for each in done.found],
            confirmed=done.confirmed,
            pending=self._pending(done.pending),
            more=done.more,
        )

    async def _get_caller(
        self, _asked: pb.GetCallerRequest, caller: Caller, _deadline: float
    ) -> pb.GetCallerResponse:
        reply = caller_reply(caller)
        if reply.grants:
            # Who may do nothing here learns nothing about the servers, either.
            reply.replica.CopyFrom(replica_info(self._replica))
        return reply

    async def _get_status(
        self, asked: pb.GetStatusRequest, caller: Caller, deadline: float
    ) -> pb.GetStatusResponse:
        report = await self._replica.status.get(caller.rights, asked.cluster, deadline)
        return pb.GetStatusResponse(status=replies.cluster_status(report))

    async def _list_clusters(
        self, asked: pb.ListClustersRequest, caller: Caller, _deadline: float
    ) -> pb.ListClustersResponse:
        page = await self._replica.listing.page(
            caller.rights, requests.cluster_filter(asked), asked.page_size, asked.page_token
        )
        reply = pb.ListClustersResponse()
        size, last, more = 0, "", page.more
        async for entry in one_by_one(page.entries):
            if isinstance(entry, RowNotAuthenticError | ClusterBannedError):
                last = entry.cluster or last
                banned = isinstance(entry, ClusterBannedError)
                (reply.banned if banned else reply.not_authentic).append(last)
                continue
            status = replies.cluster_status(entry)
            size += status.ByteSize()
            if size > _PAGE_BYTES and reply.clusters:
                # End a page of large clusters early, so that it never exceeds gRPC's own limit.
                more = True
                break
            reply.clusters.append(status)
            last = status.cluster
        if more:
            reply.next_page_token = page_token(last)
        return reply

    async def _list_key_usage(
        self, asked: pb.ListKeyUsageRequest, caller: Caller, _deadline: float
    ) -> pb.ListKeyUsageResponse:
        page = await self._replica.key_usage.page(
            caller.rights,
            key_usage.key_selector(asked.selector),
            asked.page_size,
            asked.page_token,
            key_usage.what_if(asked),
        )
        reply = key_usage.key_usage(page)
        async for use, impact in one_by_one(zip_longest(page.uses, page.impacts)):
            reply.uses.append(key_usage.key_use(use, impact))
        return reply

    async def _acknowledged(
        self, reply: type[_Reply], caller: Caller, outcome: RevokeResult
    ) -> _Reply:
        """Returns the response to a change that stops use: which replicas have applied it."""
        report = await self._replica.revocation.report(caller, outcome.mutation)
        return reply(
            status=replies.cluster_status(report),
            confirmed=outcome.confirmed,
            pending=self._pending(outcome.pending),
            operation=decision_name(outcome.decision),
            replayed=outcome.mutation.replayed,
            superseded=outcome.mutation.superseded,
        )

    async def _status(self, caller: Caller, cluster: Cluster) -> res.ClusterStatus:
        return replies.cluster_status(await self._replica.reports.report(cluster, caller.rights))

    def _pending(self, pending: tuple[PendingReplica, ...]) -> list[res.PendingReplica]:
        now = self._replica.clock.wall()
        return [replies.pending_replica(p, now) for p in pending]
