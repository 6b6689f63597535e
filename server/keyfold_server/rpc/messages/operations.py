"""Converts operations between plain values and the messages of the contract and of Google's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc
from google.longrunning import operations_proto_pb2 as longrunning
from google.rpc.error_details_pb2 import ErrorInfo

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import operations_pb2 as ops
from keyfold_server.domain.errors import InvalidOperationError
from keyfold_server.domain.operations import (
    AT_ONCE,
    CANCELLED,
    DONE,
    PREFIX,
    ActionKind,
    Census,
    Failure,
    Operation,
    Work,
    full_name,
)
from keyfold_server.rpc.messages import replies, requests
from keyfold_server.rpc.messages.status import DOMAIN
from keyfold_server.service.operations.decisions import Followed
from keyfold_server.service.operations.operations import StartResult

_KINDS: Final = {
    "rotate": ActionKind.ROTATE,
    "test": ActionKind.TEST,
    "recheck": ActionKind.RECHECK,
    "policy": ActionKind.POLICY,
    "move_link": ActionKind.MOVE_LINK,
}


def work(asked: pb.StartOperationRequest) -> Work:
    """Returns what a request asks an operation to do.

    Raises:
        InvalidOperationError: The request has no action or no scope.
        InvalidInputError: A part of it cannot be right.
    """
    action, scope = asked.action, asked.scope
    kind = action.WhichOneof("action")
    if kind is None:
        raise InvalidOperationError(
            "the request names no action; give rotate, test, recheck, policy or move_link",
            field="action",
        )
    rotate, policy = action.rotate, action.policy
    moves = action.move_link if kind == "move_link" else rotate
    organization, clusters = _organization(scope), tuple(sorted(set(scope.clusters.clusters)))
    principal = None
    match scope.WhichOneof("scope"):
        case None:
            raise InvalidOperationError("the request names no scope; give one", field="scope")
        case "organization" | "key_link" if not organization:
            raise InvalidOperationError("the scope's organization has no name", field="scope")
        case "key_link" if not scope.key_link.key_link:
            raise InvalidOperationError("the scope's key link has no name", field="scope.key_link")
        case "root_key" if not scope.root_key.uri:
            raise InvalidOperationError("the scope's root key has no uri", field="scope.root_key")
        case "clusters" if not clusters:
            raise InvalidOperationError("the scope names no cluster", field="scope.clusters")
        case "principal":
            sought = requests.sought(scope.principal.auth_principal, "scope.principal")
            principal = sought or ""
        case _:
            pass
    return Work(
        kind=_KINDS[kind],
        organization=organization or None,
        key_link=scope.key_link.key_link,
        key_uri=requests.sought(scope.root_key.uri, "scope.root_key.uri") or "",
        key_version=requests.sought(scope.root_key.version, "scope.root_key.version") or "",
        principal=principal,
        clusters=clusters,
        key_spec=requests.key_spec(moves.key_spec) if moves.HasField("key_spec") else None,
        new_generation=rotate.new_generation,
        policy=requests.policy(policy.policy) if policy.HasField("policy") else None,
        at_once=asked.max_concurrency or AT_ONCE,
        reason=asked.reason,
    )


def _organization(scope: ops.OperationScope) -> str:
    return scope.organization or scope.key_link.organization


def started(result: StartResult) -> pb.StartOperationResponse:
    """Returns the response of StartOperation."""
    operation = result.operation
    reply = pb.StartOperationResponse(replayed=result.replayed)
    if result.census is not None:
        reply.census.CopyFrom(_census(result.census))
    if operation is not None:
        reply.name = full_name(operation.key)
        reply.metadata.CopyFrom(metadata(operation, ()))
    return reply


def operation(
    shown: Operation, failures: Sequence[Failure] = (), notice: str = ""
) -> longrunning.Operation:
    """Returns an operation as `google.longrunning` has it.

    Args:
        shown: The operation.
        failures: What it lists of its failures.
        notice: What keeps it from going on; may be empty.
    """
    reply = longrunning.Operation(name=full_name(shown.key), done=shown.ended)
    told = metadata(shown, failures)
    told.notice = notice
    reply.metadata.Pack(told)
    if not shown.ended:
        return reply
    if shown.outcome == DONE:
        progress = shown.progress
        reply.response.Pack(
            ops.OperationResult(
                done=progress.done, failed=progress.failed, skipped=progress.skipped
            )
        )
        return reply
    cancelled = shown.outcome == CANCELLED
    code = grpc.StatusCode.CANCELLED if cancelled else grpc.StatusCode.PERMISSION_DENIED
    reply.error.code = code.value[0]
    reply.error.message = shown.message
    reply.error.details.add().Pack(ErrorInfo(reason=shown.outcome.upper(), domain=DOMAIN))
    return reply


def followed(shown: Followed, now: float) -> longrunning.Operation:
    """Returns a decision whose confirmations somebody follows; `now` is Unix time in seconds."""
    event, done = shown.event, len(shown.confirmed)
    reply = longrunning.Operation(name=shown.name, done=shown.ended)
    told = ops.OperationMetadata(
        operation=shown.name.removeprefix(PREFIX),
        state=ops.OPERATION_STATE_DONE if shown.ended else ops.OPERATION_STATE_RUNNING,
        total=done + len(shown.pending),
        done=done,
        caller=event.caller,
        reason=event.request.get("reason", ""),
        create_time=replies.time_of(event.time),
        update_time=replies.time_of(event.time),
        confirmations=ops.DecisionConfirmations(
            action=event.action,
            cluster=event.cluster or "",
            regions=shown.regions,
            confirmed=shown.confirmed,
            pending=[replies.pending_replica(each, now) for each in shown.pending],
        ),
    )
    reply.metadata.Pack(told)
    if shown.ended:
        reply.response.Pack(ops.OperationResult(done=done))
    return reply


def metadata(shown: Operation, failures: Sequence[Failure]) -> ops.OperationMetadata:
    """Returns the metadata of an operation."""
    asked, progress = shown.work, shown.progress
    told = ops.OperationMetadata(
        operation=shown.key.name,
        action=_action(asked),
        scope=_scope(asked),
        state=_state(shown),
        total=shown.total or 0,
        done=progress.done,
        failed=progress.failed,
        skipped=progress.skipped,
        failures=[
            ops.OperationFailure(
                cluster=each.cluster,
                region=each.region,
                reason=each.reason,
                message=each.message,
                time=replies.time_of(each.time),
            )
            for each in failures
        ],
        caller=shown.starter.identity.name,
        reason=asked.reason,
        max_concurrency=asked.at_once,
        create_time=replies.time_of(shown.created_at),
        update_time=replies.time_of(shown.updated_at),
        replica=shown.holder.rpartition("/")[0],
    )
    if shown.census is not None:
        told.census.CopyFrom(_census(shown.census))
    if shown.ended_at is not None:
        told.end_time.CopyFrom(replies.time_of(shown.ended_at))
    return told


def _state(shown: Operation) -> ops.OperationState.ValueType:
    if shown.ended:
        return ops.OPERATION_STATE_DONE
    if shown.cancelled_at is not None:
        return ops.OPERATION_STATE_CANCELLING
    return ops.OPERATION_STATE_RUNNING if shown.holder else ops.OPERATION_STATE_PENDING


def _action(asked: Work) -> ops.OperationAction:
    match asked.kind:
        case ActionKind.TEST:
            return ops.OperationAction(test=ops.TestAction())
        case ActionKind.RECHECK:
            return ops.OperationAction(recheck=ops.RecheckAction())
        case ActionKind.POLICY:
            told = None if asked.policy is None else replies.region_policy(asked.policy)
            return ops.OperationAction(policy=ops.PolicyAction(policy=told))
        case ActionKind.MOVE_LINK:
            spec = None if asked.key_spec is None else replies.key_spec(asked.key_spec)
            return ops.OperationAction(move_link=ops.MoveLinkAction(key_spec=spec))
        case ActionKind.ROTATE:
            spec = None if asked.key_spec is None else replies.key_spec(asked.key_spec)
            rotate = ops.RotateAction(key_spec=spec, new_generation=asked.new_generation)
            return ops.OperationAction(rotate=rotate)


def _scope(asked: Work) -> ops.OperationScope:
    if asked.key_link:
        link = ops.KeyLinkScope(organization=asked.organization or "", key_link=asked.key_link)
        return ops.OperationScope(key_link=link)
    if asked.organization is not None:
        return ops.OperationScope(organization=asked.organization)
    if asked.key_uri:
        key = ops.RootKeyScope(uri=asked.key_uri, version=asked.key_version)
        return ops.OperationScope(root_key=key)
    if asked.principal is not None:
        principal = ops.PrincipalScope(auth_principal=asked.principal)
        return ops.OperationScope(principal=principal)
    return ops.OperationScope(clusters=ops.ClustersScope(clusters=asked.clusters))


def _census(census: Census) -> ops.OperationCensus:
    told = ops.OperationCensus(
        regions=census.regions,
        keys=census.keys,
        expected_kms_calls=census.kms_calls,
        pinned_regions=census.pinned,
    )
    told.expected_duration.FromMilliseconds(int(census.seconds * 1000))
    return told
