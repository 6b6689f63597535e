"""The conversion of a gRPC status to an error. No other module looks at gRPC codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from keyfold.errors.branches import (
    AlreadyExistsError,
    CancelledError,
    ConflictError,
    CouldNotTellError,
    DeadlineError,
    FieldViolation,
    ForbiddenError,
    InternalError,
    InvalidInputError,
    KeyfoldError,
    KmsError,
    LimitError,
    NotFoundError,
    RefusedError,
    StateError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from keyfold.errors.reasons import BY_REASON

_DOMAIN: Final = "keyfold"
"""`ErrorInfo.domain` of Keyfold's reasons. A word of another domain means something else."""

_DETAILS: Final = "grpc-status-details-bin"
"""The trailing metadata in which gRPC carries a `google.rpc.Status`."""

_BY_CODE: Final[dict[str, type[KeyfoldError]]] = {
    "ABORTED": ConflictError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "CANCELLED": CancelledError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "FAILED_PRECONDITION": StateError,
    "INTERNAL": InternalError,
    "INVALID_ARGUMENT": InvalidInputError,
    "NOT_FOUND": NotFoundError,
    "OUT_OF_RANGE": InvalidInputError,
    "PERMISSION_DENIED": ForbiddenError,
    "RESOURCE_EXHAUSTED": LimitError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "UNAVAILABLE": UnavailableError,
    "UNIMPLEMENTED": UnimplementedError,
}
"""The branch for each gRPC code, if the client does not know the reason."""

_BY_CODE_OF_KMS: Final[dict[str, type[KeyfoldError]]] = {
    "DATA_LOSS": KmsError,
    "FAILED_PRECONDITION": RefusedError,
    "RESOURCE_EXHAUSTED": CouldNotTellError,
    "UNAVAILABLE": CouldNotTellError,
}
"""The error class of each gRPC code, if the server names the customer's KMS as the source."""

_CODE_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


def error_of(status: Status, cluster: str = "") -> KeyfoldError:
    """Returns the error of a status, without the details that cannot be read.

    Args:
        status: The status.
        cluster: The cluster that the failed call or item was about, if it was about one.
    """
    reason, metadata = "", dict[str, str]()
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    for detail in status.details:
        info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
        try:
            if detail.Unpack(info) and info.domain == _DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad):
                violations += (
                    FieldViolation(one.field, one.description) for one in bad.field_violations
                )
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        except DecodeError:
            continue
    code = _CODE_NAMES.get(status.code, "UNKNOWN")
    error = _class_of(reason, code, metadata.get("source", ""))(
        status.message or code.lower().replace("_", " "),
        reason=reason or code,
        code=code,
        metadata=metadata,
        field_violations=tuple(violations),
        retry_after=retry_after,
    )
    error.cluster = error.cluster or cluster or None
    return error


def error_of_call(
    failed: grpc.RpcError, request_id: str | None = None, cluster: str = ""
) -> KeyfoldError:
    """Returns the error of a failed call.

    Args:
        failed: The exception that the channel raised, either a synchronous or an asyncio one.
        request_id: The request_id of a change.
        cluster: The cluster that the call was about, if it was about one.
    """
    error = error_of(_status_of(failed), cluster)
    error.request_id = request_id
    return error


def _status_of(failed: grpc.RpcError) -> Status:
    code, text, trailers = _parts(failed)
    for key, value in trailers:
        if key == _DETAILS and isinstance(value, bytes):
            try:
                status = Status.FromString(value)
            except DecodeError:
                break
            # A proxy may have replaced the status and left the trailer.
            if status.code == code.value[0]:
                return status
    return Status(code=code.value[0], message=text)


def _parts(
    failed: grpc.RpcError,
) -> tuple[grpc.StatusCode, str, Iterable[tuple[str, str | bytes]]]:
    # A channel raises an RpcError that is also a Call; the base class alone has no status.
    if not isinstance(failed, (grpc.Call, grpc.aio.AioRpcError)):
        return grpc.StatusCode.UNKNOWN, str(failed), ()
    trailers = failed.trailing_metadata() or ()
    return failed.code(), failed.details() or "", tuple(trailers)


def _class_of(reason: str, code: str, source: str) -> type[KeyfoldError]:
    if known := BY_REASON.get(reason):
        return known
    if source == "kms" and code in _BY_CODE_OF_KMS:
        return _BY_CODE_OF_KMS[code]
    return _BY_CODE.get(code, KeyfoldError)
