"""The SDK's clients for Azure, and how their requests are sent.

Invariant: a request is sent within its call's time (`deadline`), once, with the token that its
call gives and to the origin that the client was made for; whatever a host answers, no token goes
anywhere else, and no other token there (protocol C3). So the SDK's own policies, which follow a
host's challenge and cache tokens, are left out. It must not know what the calls are for.
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
from keyfold_server.providers.azure.errors import Reply, parsed
from keyfold_server.providers.shared.connections import what_happened
from keyfold_server.providers.shared.deadlines import CONNECT_TIMEOUT, READ_TIMEOUT, current
from keyfold_server.providers.shared.requests_deadlines import guard, root_cause

# They write what a credential failed with, as Entra worded it, and where credentials were found.
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
"""What the SDK raises, for an answer that is not one, too."""


class _Heard(threading.local):
    """What this thread was last answered over a transport that listens."""

    sent = False
    refusal: Reply | None = None
    failed: BaseException | None = None

    def clear(self, *, sent: bool = False) -> None:
        self.sent, self.refusal, self.failed = sent, None, None


class Transport(RequestsTransport):  # type: ignore[misc]  # untyped where it is public
    """Sends for the SDK, within the thread's call. Safe for many threads.

    Keeps each thread's last refusal, since what the SDK makes of one loses its numbers.
    """

    def __init__(self, ca: str | None) -> None:
        """Prepares the pools; nothing is opened.

        Args:
            ca: File of the certificates to trust; None takes what requests takes.
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
        if not 200 <= status < 300:  # noqa: PLR2004  what holds a token is not kept
            self._heard.refusal = Reply(status, response.headers, parsed(response.content))
        return response

    @contextlib.contextmanager
    def listening(self) -> Iterator[_Heard]:
        """Gives what this thread is answered in the block."""
        heard = self._heard
        heard.clear()
        try:
            yield heard
        finally:
            heard.clear()


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stands for an authentication, so that requests looks for no other."""
    return request


class _NoCredential:
    """The SDK demands a credential; each request carries its token already."""

    def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        """Gives none."""
        raise AssertionError


class Vault:
    """The SDK's client of one vault or Managed HSM. Safe for many threads."""

    def __init__(self, origin: str, ca: str | None) -> None:
        """Prepares the client; nothing is opened.

        Args:
            origin: Scheme, host and port.
            ca: File of the certificates to trust; None takes what requests takes.
        """
        self._client = KeyClient(
            origin,
            _NoCredential(),
            transport=Transport(ca),
            policies=[UserAgentPolicy(base_user_agent="keyfold")],
        )

    def call(
        self, method: str, path: str, token: str, body: Mapping[str, Any] | None = None
    ) -> Reply:
        """Sends one request, within the thread's call.

        Args:
            method: The HTTP method.
            path: Below the origin, without a leading slash.
            token: What the request is authorized with.
            body: The JSON object, where there is one.

        Raises:
            UnreachableError: There is no whole answer; its text says what happened.
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
    """Raises what a request without an answer means.

    Raises:
        UnreachableError: Always.
    """
    call = current()
    raise UnreachableError(f"{who} {what_happened(root_cause(error), call)}") from error
