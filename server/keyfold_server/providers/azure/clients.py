"""The SDK's clients for Azure, and how they send requests.

Invariant: each request is sent once, within its call's time (`shared.deadlines`), to the origin
that the client was made for, and with the token of its call. Whatever a host answers, that token
goes nowhere else, and no other token goes there (protocol C3). So the SDK's own policies, which
follow a host's challenge and cache tokens, are left out. This module must not know what the calls
are for.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

import requests
import urllib3
from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError
from azure.core.pipeline.policies import UserAgentPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest
from azure.keyvault.keys import KeyClient

from keyfold_server.domain.errors import UnreachableError
from keyfold_server.providers.azure.replies import Reply, parsed
from keyfold_server.providers.shared.connections import what_happened
from keyfold_server.providers.shared.deadlines import CONNECT_TIMEOUT, READ_TIMEOUT, current
from keyfold_server.providers.shared.requests_deadlines import guard, root_cause

# The SDK logs in Entra's own words why a credential failed, and where it found credentials.
for _name in ("azure", "msal"):
    logging.getLogger(_name).setLevel(logging.ERROR)

BROKEN: Final = (
    AzureError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
)
"""The errors that the SDK raises, including those for an answer that it cannot read."""


class _Heard(threading.local):
    """What became of this thread's last request over a transport.

    Attributes:
        sent: Whether a request was sent.
        refusal: The answer, if its status says that it holds no token.
        failed: The error, if there was no answer.
    """

    sent = False
    refusal: Reply | None = None
    failed: BaseException | None = None

    def clear(self, *, sent: bool = False) -> None:
        self.sent, self.refusal, self.failed = sent, None, None


class SdkTransport(RequestsTransport):  # type: ignore[misc]  # untyped where it is public
    """Sends for the SDK, within the thread's call. Safe for many threads.

    The transport keeps each thread's last refusal, because the SDK's errors drop Entra's numbers.
    """

    def __init__(self, ca: str | None) -> None:
        """Prepares the pools; opens no connection.

        Args:
            ca: File of the certificates to trust; None trusts those that requests trusts.
        """
        session = guard(requests.Session())
        # No ~/.netrc takes a token's place.
        session.auth = _as_it_is
        super().__init__(
            session=session,
            connection_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            connection_verify=ca or True,
        )
        self._heard = _Heard()

    def send(self, request: Any, **kwargs: Any) -> Any:
        """Sends a request; see the SDK."""
        self._heard.clear(sent=True)
        try:
            response: Any = super().send(request, **kwargs)
        except Exception as error:
            self._heard.failed = error
            raise
        status = int(response.status_code)
        if not 200 <= status < 300:  # noqa: PLR2004  an answer with a token is not kept
            self._heard.refusal = Reply(status, response.headers, parsed(response.content))
        return response

    @contextlib.contextmanager
    def listening(self) -> Iterator[_Heard]:
        """Yields what becomes of this thread's last request in the block."""
        heard = self._heard
        heard.clear()
        try:
            yield heard
        finally:
            heard.clear()


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Returns the request unchanged; as an authentication, it keeps requests from adding one."""
    return request


class _NoCredential:
    """Stands for the credential that the SDK demands; each request carries its token already."""

    def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        """Fails: nobody may ask for a token here."""
        raise AssertionError


class Vault:
    """The SDK's client of one vault or Managed HSM. Safe for many threads."""

    def __init__(self, origin: str, ca: str | None) -> None:
        """Prepares the client; opens no connection.

        Args:
            origin: Scheme, host and port.
            ca: File of the certificates to trust; None trusts those that requests trusts.
        """
        self._client = KeyClient(
            origin,
            _NoCredential(),
            transport=SdkTransport(ca),
            policies=[UserAgentPolicy(base_user_agent="keyfold")],
        )

    def call(
        self, method: str, path: str, token: str, body: Mapping[str, Any] | None = None
    ) -> Reply:
        """Sends one request, within the thread's call.

        Args:
            method: The HTTP method.
            path: The path and query below the origin, without a leading slash.
            token: The access token that authorizes the request.
            body: The JSON object to send, or None.

        Raises:
            UnreachableError: There is no whole answer; the text says what happened.
        """
        headers = {"Authorization": f"Bearer {token}"}
        try:
            response = self._client.send_request(
                HttpRequest(method, path, headers=headers, json=body)
            )
            return Reply(response.status_code, response.headers, parsed(response.content))
        except BROKEN as error:
            broken_off(error, "the vault")


def broken_off(error: BaseException, who: str) -> NoReturn:
    """Raises the error that a request without an answer means.

    Args:
        error: The SDK's error.
        who: The server that did not answer, for the text.

    Raises:
        UnreachableError: Always.
    """
    call = current()
    raise UnreachableError(f"{who} {what_happened(root_cause(error), call)}") from error
