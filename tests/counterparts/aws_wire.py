"""Requests to AWS as they arrive, and errors as AWS writes them.

KMS speaks JSON 1.1 (`__type`, status 400) and STS the query protocol (XML, status 403 for a refused
caller). The texts are those that the services send. The API reference lists the codes, and botocore
parses the answers by its service models.

https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html
https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html
"""

from __future__ import annotations

import hmac
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from counterparts.messages import Reply, Request

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/[0-9]{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/"
    r"aws4_request, SignedHeaders=(?P<signed>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)
_STS: Final = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        service: `kms` or `sts`.
        operation: Name of the operation, such as `Decrypt`.
        region: The region that it was signed for.
        access_key: The access key that signed it.
        token: The session token that came with it, or empty.
        asked: The operation's parameters.
        request: The HTTP request.
    """

    service: str
    operation: str
    region: str
    access_key: str
    token: str
    asked: dict[str, Any]
    request: Request

    @property
    def action(self) -> str:
        """The operation as policies name it."""
        return f"{self.service}:{self.operation}"

    def is_signed_with(self, secret: str) -> bool:
        """Returns whether the signature is right."""
        found = _AUTHORIZATION.fullmatch(self.request.headers["authorization"])
        assert found is not None
        headers = self.request.headers
        url = f"https://{headers['host']}{self.request.path}"
        signed = {name: headers.get(name, "") for name in found["signed"].split(";")}
        aws = AWSRequest(self.request.method, url, headers=signed, data=self.request.body)
        aws.context["timestamp"] = headers.get("x-amz-date", "")
        auth = SigV4Auth(Credentials(self.access_key, secret), self.service, self.region)
        text = auth.string_to_sign(aws, auth.canonical_request(aws))
        return hmac.compare_digest(auth.signature(text, aws), found["signature"])


def parse(request: Request) -> Call | None:
    """Returns the call that a request makes, or None if the request is not signed."""
    found = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
    if found is None:
        return None
    target = request.headers.get("x-amz-target", "")
    if target:
        operation, asked = target.rpartition(".")[2], json.loads(request.body or b"{}")
    else:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        operation, asked = form.get("Action", ""), form
    token = request.headers.get("x-amz-security-token", "")
    return Call(found["service"], operation, found["region"], found["key"], token, asked, request)


class AwsError(Exception):
    """An error in the service's answer."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def error_reply(service: str, error: AwsError, headers: dict[str, str] | None = None) -> Reply:
    """Returns an error as its service writes it."""
    id_ = str(uuid.uuid4())
    if service == "kms":
        body = json.dumps({"__type": error.code, "message": error.message})
        kind = "application/x-amz-json-1.1"
    else:
        body = (
            f'<ErrorResponse xmlns="{_STS}"><Error><Type>Sender</Type><Code>{error.code}</Code>'
            f"<Message>{escape(error.message)}</Message></Error><RequestId>{id_}</RequestId>"
            "</ErrorResponse>"
        )
        kind = "text/xml"
    return Reply(
        error.status,
        {"x-amzn-RequestId": id_, "Content-Type": kind, **(headers or {})},
        body.encode(),
    )


def sts_reply(operation: str, result: str) -> Reply:
    """Returns an answer of STS with the XML of its result."""
    id_ = str(uuid.uuid4())
    body = (
        f'<{operation}Response xmlns="{_STS}"><{operation}Result>{result}</{operation}Result>'
        f"<ResponseMetadata><RequestId>{id_}</RequestId></ResponseMetadata></{operation}Response>"
    )
    return Reply(200, {"x-amzn-RequestId": id_, "Content-Type": "text/xml"}, body.encode())
