"""The calls about operations."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

from google.longrunning import operations_proto_pb2 as longrunning
from google.protobuf.empty_pb2 import Empty

from keyfold.arguments import checked
from keyfold.calls.call import OPERATIONS, Call, Plane
from keyfold.models.operations import (
    Operation,
    OperationAction,
    OperationScope,
    OperationStarted,
)
from keyfold.v1 import key_management_service_pb2 as api

OperationPage: TypeAlias = Call[longrunning.ListOperationsResponse, tuple[Operation, ...]]
"""The call for one page of operations."""


@checked
def start_operation(
    name: str,
    action: OperationAction,
    scope: OperationScope,
    *,
    dry_run: bool,
    max_concurrency: int,
    reason: str,
) -> Call[api.StartOperationResponse, OperationStarted]:
    """Prepares a StartOperation call. Its name makes it safe to repeat."""
    request = api.StartOperationRequest(
        operation=name,
        action=action.message,
        scope=scope.message,
        dry_run=dry_run,
        max_concurrency=max_concurrency,
        reason=reason,
    )
    return Call("StartOperation", request, OperationStarted.from_message, Plane.CONTROL)


@checked
def get_operation(name: str) -> Call[longrunning.Operation, Operation]:
    """Prepares a GetOperation call."""
    request = longrunning.GetOperationRequest(name=name)
    read = Operation.from_message
    return Call("GetOperation", request, read, Plane.CONTROL, service=OPERATIONS)


@checked
def wait_operation(name: str, most: timedelta | None) -> Call[longrunning.Operation, Operation]:
    """Prepares a WaitOperation call; without a time it waits until the deadline."""
    request = longrunning.WaitOperationRequest(name=name)
    if most is not None:
        request.timeout.FromTimedelta(most)
    read = Operation.from_message
    return Call("WaitOperation", request, read, Plane.CONTROL, service=OPERATIONS)


@checked
def first_operations(page_size: int) -> OperationPage:
    """Prepares the call for the first page of operations."""
    request = longrunning.ListOperationsRequest(name="operations", page_size=page_size)
    return Call("ListOperations", request, _listed, Plane.CONTROL, service=OPERATIONS)


def _listed(message: longrunning.ListOperationsResponse) -> tuple[Operation, ...]:
    return tuple(map(Operation.from_message, message.operations))


@checked
def cancel_operation(name: str) -> Call[Empty, None]:
    """Prepares a CancelOperation call."""
    request = longrunning.CancelOperationRequest(name=name)
    return Call("CancelOperation", request, _nothing, Plane.CONTROL, service=OPERATIONS)


@checked
def delete_operation(name: str) -> Call[Empty, None]:
    """Prepares a DeleteOperation call."""
    request = longrunning.DeleteOperationRequest(name=name)
    return Call("DeleteOperation", request, _nothing, Plane.CONTROL, service=OPERATIONS)


def _nothing(_: Empty) -> None:
    """Reads an answer that holds nothing."""
