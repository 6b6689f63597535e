"""The errors in the answers of the Google Cloud counterpart.

They are data, `data/gcp_errors.json`: each has its shape, the source of that shape, and what in it
is assumed. The code names them and fills in the parts in braces; the counterpart writes no other
errors. An entry with a `status` is a `google.rpc.Status`; an entry with `http` is the body of an
OAuth answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

ERRORS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "gcp_errors.json").read_text(encoding="utf-8")
)

# Details are made by the name of their type, which must be in the descriptor pool by then.
_DETAILS = error_details_pb2.DESCRIPTOR
# google/rpc/code.proto gives each code its HTTP status; these are the ones in use.
_HTTP = {
    "ALREADY_EXISTS": HTTPStatus.CONFLICT,
    "FAILED_PRECONDITION": HTTPStatus.BAD_REQUEST,
    "INTERNAL": HTTPStatus.INTERNAL_SERVER_ERROR,
    "INVALID_ARGUMENT": HTTPStatus.BAD_REQUEST,
    "NOT_FOUND": HTTPStatus.NOT_FOUND,
    "PERMISSION_DENIED": HTTPStatus.FORBIDDEN,
    "RESOURCE_EXHAUSTED": HTTPStatus.TOO_MANY_REQUESTS,
    "UNAUTHENTICATED": HTTPStatus.UNAUTHORIZED,
    "UNAVAILABLE": HTTPStatus.SERVICE_UNAVAILABLE,
}


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the counterpart
    """An answer that is an error.

    Args:
        name: The error's name in the data file.
        fields: Values for the parts in braces.

    Raises:
        ValueError: The data file has no such error.
    """

    def __init__(self, name: str, **fields: object) -> None:
        if name not in ERRORS:
            raise ValueError(f"no error is called {name!r}, take one of gcp_errors.json")
        super().__init__(name)
        self._name = name
        self._entry = ERRORS[name]
        self._fields = fields

    def located(self, **fields: object) -> Refusal:
        """Returns the same answer with further fields, which only the receiving server knows."""
        return Refusal(self._name, **{**fields, **self._fields})

    def check(self) -> None:
        """Raises KeyError if a brace has no field to fill it."""
        self.http()

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        """Ends a gRPC call with this answer."""
        entry = self._entry
        if "status" not in entry:
            raise ValueError(f"{self._name} is an answer of the token endpoint, not of gRPC")
        status = status_pb2.Status(
            code=code_pb2.Code.Value(entry["status"]),
            message=self._filled(entry["message"]),
        )
        for detail in self._filled(entry.get("details", [])):
            json_format.ParseDict(detail, status.details.add())
        if status.details:
            context.abort_with_status(rpc_status.to_status(status))
        context.abort(grpc.StatusCode[entry["status"]], status.message)
        raise AssertionError("unreachable: abort raises")

    def http(self) -> tuple[int, dict[str, Any]]:
        """Returns the HTTP status and the JSON body of this answer."""
        entry = self._entry
        if "status" not in entry:
            return entry["http"], self._filled(entry["body"])
        code = _HTTP[entry["status"]]
        error = {
            "code": int(code),
            "message": self._filled(entry["message"]),
            "status": entry["status"],
        }
        if "details" in entry:
            error["details"] = self._filled(entry["details"])
        return int(code), {"error": error}

    def _filled(self, template: Any) -> Any:
        if isinstance(template, str):
            return template.format(**self._fields)
        if isinstance(template, list):
            return [self._filled(part) for part in template]
        if isinstance(template, dict):
            return {name: self._filled(part) for name, part in template.items()}
        return template


class RecordedRefusal(Refusal):
    """An answer that was seen elsewhere, which the counterpart repeats word by word.

    Args:
        entry: The answer, in the form of the data file.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        Exception.__init__(self, "a recorded answer")
        self._name = "a recorded answer"
        self._entry = dict(entry)
        self._fields = {}

    def located(self, **fields: object) -> Refusal:
        """Returns the answer as it is."""
        del fields
        return self

    def _filled(self, template: Any) -> Any:
        return template
