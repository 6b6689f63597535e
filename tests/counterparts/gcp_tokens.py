"""The HTTPS side of the Google Cloud counterpart: tokens, impersonation, control.

`POST /token` takes a service account's signed assertion (RFC 7523). `POST
/v1/projects/-/serviceAccounts/EMAIL:generateAccessToken` is IAM Credentials' method of that name,
with delegates. `POST /control` exists if the counterpart runs by itself, and is not Google's. Each
connection has one request.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from counterparts.gcp_errors import RecordedRefusal, Refusal
from counterparts.gcp_faults import Faults, Met
from counterparts.gcp_iam import CLOUD_PLATFORM, GOOGLE_TOKEN_URI, Api, Iam

IAM_CREDENTIALS = Api(
    "iamcredentials.googleapis.com",
    frozenset({CLOUD_PLATFORM, "https://www.googleapis.com/auth/iam"}),
)
_METHOD = "google.iam.credentials.v1.IAMCredentials.GenerateAccessToken"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ACCOUNT = re.compile(r"projects/-/serviceAccounts/([^/:]+)")
_GENERATE = re.compile(rf"/v1/{_ACCOUNT.pattern}:generateAccessToken")
_LONGEST_LIFETIME = 3600
_LARGEST_REQUEST = 64 * 1024


class TokenServer:
    """The server.

    Args:
        iam: The service accounts, tokens and bindings.
        faults: The faults, under "token" and "generateAccessToken".
        lifetime: Seconds for which tokens of the token endpoint are good.
        control: Function that takes the body of a `/control` request; None to serve no such path.
        record: Takes each operation, its caller and its request.
    """

    def __init__(
        self,
        iam: Iam,
        faults: Faults,
        *,
        lifetime: int,
        control: Callable[[Any], Any] | None,
        record: Callable[[str, str, Any], None],
    ) -> None:
        self.iam = iam
        self.faults = faults
        self.control = control
        self.record = record
        self._lifetime = lifetime
        self.uri = ""

    def start(self, port: int, certificate: Path, key: Path) -> None:
        """Listens on a port of this machine, or with 0 on any free one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.owner = self
        # Each connection's own thread does the handshake, so that a slow one delays no other.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.uri = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops listening; open connections end with their threads."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def token(self, form: dict[str, list[str]]) -> dict[str, Any]:
        """Answers a grant of the token endpoint."""
        if form.get("grant_type") != [_GRANT]:
            raise Refusal("grant_unsupported")
        claims = self.iam.assertion(
            form.get("assertion", [""])[0], {GOOGLE_TOKEN_URI, f"{self.uri}/token"}
        )
        self.record("token", claims["iss"], claims)
        scopes = str(claims.get("scope", "")).split()
        if not scopes:
            raise Refusal("scope_missing")
        token = self.iam.issue(claims["iss"], scopes, self._lifetime)
        return {"access_token": token, "expires_in": self._lifetime, "token_type": "Bearer"}

    def generate(self, caller: str, target: str, body: Any) -> dict[str, Any]:
        """Answers generateAccessToken."""
        self.record("generateAccessToken", caller, {"target": target, "body": body})
        lifetime = re.fullmatch(r"([0-9]+)s", str(body.get("lifetime") or "3600s"))
        if lifetime is None or not 0 < int(lifetime[1]) <= _LONGEST_LIFETIME:
            why = f"take 1s to {_LONGEST_LIFETIME}s"
            raise Refusal("invalid_field", field="lifetime", why=why)
        scopes = body.get("scope")
        if not scopes or not _texts(scopes):
            raise Refusal("invalid_field", field="scope", why="at least one is needed")
        named = body.get("delegates") or []
        delegates = [_ACCOUNT.fullmatch(each) for each in named] if _texts(named) else [None]
        if None in delegates:
            why = "a delegate is projects/-/serviceAccounts/EMAIL"
            raise Refusal("invalid_field", field="delegates", why=why)
        chain = [caller, *(each[1] for each in delegates if each), target]
        if not self.iam.may_impersonate(chain):
            raise Refusal("impersonation_denied")
        seconds = int(lifetime[1])
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        return {
            "accessToken": self.iam.issue(target, scopes, seconds),
            "expireTime": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: TokenServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing: a client that goes away or distrusts the certificate is a test."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_POST(self) -> None:
        owner = self.server.owner
        length = int(self.headers.get("content-length") or 0)
        if length > _LARGEST_REQUEST:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {})
            return
        body = self.rfile.read(length)
        account = _GENERATE.fullmatch(self.path)
        try:
            if self.path == "/token":
                if not self._gone_wrong(owner.faults.take("token")):
                    self._answer(HTTPStatus.OK, owner.token(parse_qs(body.decode())))
            elif account:
                if not self._gone_wrong(owner.faults.take("generateAccessToken")):
                    caller = owner.iam.authenticate(self.headers["authorization"], IAM_CREDENTIALS)
                    answer = owner.generate(caller, account[1], self._object(body))
                    self._answer(HTTPStatus.OK, answer)
            elif self.path == "/control" and owner.control:
                self._answer(HTTPStatus.OK, owner.control(json.loads(body)))
            else:
                self._answer(HTTPStatus.NOT_FOUND, {})
        except Refusal as refusal:
            self._answer(*refusal.located(service=IAM_CREDENTIALS.name, method=_METHOD).http())
        except (KeyError, TypeError, ValueError) as error:
            # Mostly for /control, whose caller may read what is wrong with the order.
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Logs nothing: requests hold tokens."""

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise Refusal("invalid_field", field="body", why="it is no JSON object")
        return parsed

    def _gone_wrong(self, met: Met | None) -> bool:
        # Returns whether the fault has already dealt with the request.
        if met is None:
            return False
        if met.fault.kind == "error":
            raise Refusal(met.fault.error, seconds=int(met.fault.seconds))
        if met.fault.answer is not None:
            raise RecordedRefusal(met.fault.answer)
        self.server.owner.faults.hold(met)
        return met.fault.kind == "hang"

    def _answer(self, status: int, body: Any) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=UTF-8")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
