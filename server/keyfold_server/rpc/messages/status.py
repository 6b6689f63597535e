"""Errors on the wire: one table gives each branch of the error tree its gRPC code."""

from __future__ import annotations

import secrets
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from keyfold_server.domain import errors

DOMAIN: Final = "keyfold"
"""`ErrorInfo.domain` of every error of ours."""

CODES: Final[dict[type[errors.KeyfoldError], grpc.StatusCode]] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ResumeTokenExpiredError: grpc.StatusCode.OUT_OF_RANGE,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.StateError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConflictError: grpc.StatusCode.ABORTED,
    # PERMISSION_DENIED would say that Keyfold refuses its own caller.
    errors.RefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ThrottledError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.CouldNotTellError: grpc.StatusCode.UNAVAILABLE,
    errors.KekMismatchError: grpc.StatusCode.DATA_LOSS,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.RateLimitedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.RowNotAuthenticError: grpc.StatusCode.DATA_LOSS,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""An error has the code of its nearest ancestor in this table."""

_LONGEST_TEXT: Final = 768
"""Bytes of a message. It travels three times, once with every byte escaped, in trailers of which
clients accept 8 KiB in all. Clients report larger trailers as another error without a reason."""

_LONGEST_NAME: Final = 256
"""Bytes of a name or path in the details. A longer string cannot be a name; the caller made it
up."""

INTERNAL: Final = "INTERNAL"
"""The reason of an unexpected exception, whose text stays in the server's log."""


def code_of(error: type[errors.KeyfoldError]) -> grpc.StatusCode:
    """Returns the gRPC code of an error class."""
    for branch in error.__mro__:
        code = CODES.get(branch)
        if code is not None:
            return code
    return grpc.StatusCode.INTERNAL


def to_status(error: errors.KeyfoldError) -> Status:
    """Returns the status that callers get for an error, of a call or of one item of a batch."""
    facts = {
        "source": error.source,
        "cluster": error.cluster,
        "region": error.region,
        "provider_request_id": error.provider_request_id,
        "missing_permission": error.missing_permission,
        "served_at": error.served_at if isinstance(error, errors.WrongRegionError) else None,
    }
    metadata = {name: _cut(value, _LONGEST_NAME) for name, value in facts.items() if value}
    message = _cut(error.message, _LONGEST_TEXT)
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.retry_after is not None:
        wait = Duration()
        wait.FromMilliseconds(max(1, int(error.retry_after * 1000)))
        details.append(RetryInfo(retry_delay=wait))
    if error.field is not None:
        violation = BadRequest.FieldViolation(
            field=_cut(error.field, _LONGEST_NAME), description=message, reason=error.reason
        )
        details.append(BadRequest(field_violations=[violation]))
    return _status(code_of(type(error)), message, details)


def internal_status() -> tuple[Status, str]:
    """Returns the status for an unexpected exception, and the incident id that the log has, too.

    The status does not repeat the exception's text, which may contain what a caller sent.
    """
    incident = secrets.token_hex(8)
    info = ErrorInfo(
        reason=INTERNAL, domain=DOMAIN, metadata={"source": "keyfold", "incident": incident}
    )
    message = f"an unexpected error; see incident {incident} in the server's log"
    return _status(grpc.StatusCode.INTERNAL, message, [info]), incident


def _cut(text: str, most: int) -> str:
    """Returns a text of at most `most` bytes; replaces what UTF-8 cannot express.

    It cuts out the middle, because messages begin with the fault and end with what to do.
    """
    data = text.encode(errors="replace")
    if len(data) <= most:
        return data.decode()
    head, tail = data[: most // 2], data[3 - most // 2 :]
    return f"{head.decode(errors='ignore')}…{tail.decode(errors='ignore')}"


def _status(code: grpc.StatusCode, message: str, details: list[Message]) -> Status:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status
