"""Errors as gRPC carries them: a status, with Keyfold's details packed beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status


@dataclass(frozen=True)
class WireError:
    """An error on the wire; without a reason, it is one that gRPC itself makes."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "it went wrong"
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    retry_after: int | None = None
    domain: str = "keyfold"

    def status(self) -> Status:
        """Returns the status with its details."""
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


UNAVAILABLE = WireError(grpc.StatusCode.UNAVAILABLE, "BUSY", "try again")
KEY_DISABLED = WireError(
    grpc.StatusCode.FAILED_PRECONDITION,
    "KEY_DISABLED",
    "the key is disabled",
    {"cluster": "prod", "region": "eu", "source": "kms"},
)
