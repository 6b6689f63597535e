"""The errors of calls that failed, whatever gRPC or asyncio raised for them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

from keyfold.calls.call import Call
from keyfold.errors import CancelledError, ClosedError, KeyfoldError
from keyfold.errors.rpc_status import error_of_call

FAILURES: Final = (grpc.RpcError, grpc.aio.UsageError, ValueError, asyncio.CancelledError)
"""What a call raises that fails: gRPC says of a closed channel that it was used wrongly."""


def failure_of(
    failed: BaseException, call: Call[Any, Any], *, closed: bool
) -> KeyfoldError | BaseException:
    """Returns the error of a call that failed.

    Args:
        failed: What was raised, one of `FAILURES`.
        call: The call.
        closed: Whether the client was closed meanwhile.
    """
    error: KeyfoldError
    if isinstance(failed, grpc.RpcError):
        error = error_of_call(failed, call.request_id)
    elif not closed:
        return failed
    elif isinstance(failed, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            return failed
        error = CancelledError("the client was closed during the call", code="CANCELLED")
        error.request_id = call.request_id
    else:
        error = closed_error()
    return about(error, call)


def about(error: KeyfoldError, call: Call[Any, Any]) -> KeyfoldError:
    """Returns an error that names the cluster of the call, unless it names one already."""
    if error.cluster is None:
        error.cluster = getattr(call.request, "cluster", None) or None
    return error


def closed_error() -> ClosedError:
    """Returns the error of a call that a client was asked for after its end."""
    return ClosedError(
        "the client is closed; make the call before, or a new client", code="FAILED_PRECONDITION"
    )
