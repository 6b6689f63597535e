"""Errors as the Connect protocol has them: an HTTP status, and the error in JSON."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import grpc
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2  # noqa: F401  so that the details are readable
from google.rpc.status_pb2 import Status

_CODES: Final = {
    code.value[0]: known
    for code, known in {
        grpc.StatusCode.CANCELLED: ("canceled", 499),
        grpc.StatusCode.UNKNOWN: ("unknown", 500),
        grpc.StatusCode.INVALID_ARGUMENT: ("invalid_argument", 400),
        grpc.StatusCode.DEADLINE_EXCEEDED: ("deadline_exceeded", 504),
        grpc.StatusCode.NOT_FOUND: ("not_found", 404),
        grpc.StatusCode.ALREADY_EXISTS: ("already_exists", 409),
        grpc.StatusCode.PERMISSION_DENIED: ("permission_denied", 403),
        grpc.StatusCode.RESOURCE_EXHAUSTED: ("resource_exhausted", 429),
        grpc.StatusCode.FAILED_PRECONDITION: ("failed_precondition", 400),
        grpc.StatusCode.ABORTED: ("aborted", 409),
        grpc.StatusCode.OUT_OF_RANGE: ("out_of_range", 400),
        grpc.StatusCode.UNIMPLEMENTED: ("unimplemented", 501),
        grpc.StatusCode.INTERNAL: ("internal", 500),
        grpc.StatusCode.UNAVAILABLE: ("unavailable", 503),
        grpc.StatusCode.DATA_LOSS: ("data_loss", 500),
        grpc.StatusCode.UNAUTHENTICATED: ("unauthenticated", 401),
    }.items()
}
"""Connect's name and HTTP status of each code of gRPC."""


def http_status(status: Status) -> int:
    """Returns the HTTP status of a failed unary call."""
    return _CODES[status.code][1]


def error_body(status: Status) -> bytes:
    """Returns the error as the body of a failed unary call."""
    return _dumped(_error(status))


def stream_end(status: Status | None) -> bytes:
    """Returns the last message of a stream, which says how it ended; None if it ended well."""
    return _dumped({} if status is None else {"error": _error(status)})


def _error(status: Status) -> dict[str, Any]:
    error: dict[str, Any] = {"code": _CODES[status.code][0]}
    if status.message:
        error["message"] = status.message
    if status.details:
        error["details"] = [_detail(detail) for detail in status.details]
    return error


def _detail(detail: AnyMessage) -> dict[str, Any]:
    """Returns a detail, in bytes for programs and in JSON for people."""
    value = base64.b64encode(detail.value).rstrip(b"=").decode()
    shown: dict[str, Any] = {"type": detail.TypeName(), "value": value}
    try:
        debug = json_format.MessageToDict(detail)
    except TypeError:  # A type that this server does not know.
        return shown
    debug.pop("@type", None)
    return shown | {"debug": debug}


def _dumped(value: Any) -> bytes:
    # Only ASCII, so that no text of a caller's means anything to who shows it.
    return json.dumps(value, separators=(",", ":")).encode()
