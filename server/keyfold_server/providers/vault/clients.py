"""The SDK's clients for one Vault origin, and how they send requests.

Invariant: each request goes to the one origin, once, within its call's time (`shared.deadlines`).
The clients follow no redirect and keep no cookie. They add nothing that the SDK or its HTTP library
would take from the environment: no VAULT_TOKEN, no client certificate, no .netrc. This module must
not know what the calls are for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import hvac
import requests
from hvac.adapters import RawAdapter
from requests.utils import get_environ_proxies

from keyfold_server.providers.shared.deadlines import CONNECT_TIMEOUT, READ_TIMEOUT
from keyfold_server.providers.shared.requests_deadlines import guard
from keyfold_server.providers.vault.errors import GarbledError, StatusError
from keyfold_server.providers.vault.origins import Origin

_OK: Final = 200


class _Adapter(RawAdapter):  # type: ignore[misc]  # the SDK has no types
    """Sends as the SDK does, and keeps what the SDK drops: the status and Retry-After."""

    def request(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Sends a request and returns the answer's body.

        Raises:
            StatusError: The server answered with a status other than 200.
            GarbledError: The answer's body is not a JSON object.
        """
        reply = super().request(*args, raise_exception=False, **kwargs)
        body = _json(reply.content)
        if reply.status_code != _OK:
            errors = body.get("errors") if isinstance(body, dict) else None
            hint = str(reply.headers.get("Retry-After", ""))
            # The server itself writes a list of texts; anything else is from a proxy.
            told: Iterable[Any] | None = errors if isinstance(errors, list) else None
            raise StatusError(reply.status_code, told, hint)
        if not isinstance(body, dict):
            raise GarbledError
        return body

    def get_login_token(self, response: dict[str, Any]) -> str:
        """Returns the token from a login's answer; the SDK calls this."""
        return str(response["auth"]["client_token"])


def _json(content: bytes) -> Any:
    """Returns the JSON value, or None if the text is not JSON: an error would keep the text."""
    try:
        return json.loads(content)
    except ValueError:
        return None


class Clients:
    """Makes the SDK's clients of one origin; they share its connections."""

    def __init__(self, origin: str, section: Origin) -> None:
        """Prepares the session; opens no connection.

        Args:
            origin: Scheme, host and port.
            section: The origin's section of the settings.
        """
        self._origin = origin
        self._http = guard(requests.Session())
        # Neither .netrc nor CAs of the environment, which also cost time on every call.
        self._http.trust_env = False
        self._http.verify = True if section.ca is None else str(section.ca)
        self._http.proxies.update(get_environ_proxies(origin))
        self._http.headers["User-Agent"] = "keyfold"

    def of(self, token: str, namespace: str = "") -> Any:
        """Returns a client that sends a token.

        Args:
            token: The token; an empty text sends no token.
            namespace: The namespace in which the paths of its calls begin; empty for the root.
        """
        return hvac.Client(
            url=self._origin,
            token=token,
            # The SDK would replace a None, here or as the token, by the environment's value.
            cert=(),
            verify=self._http.verify,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
            session=self._http,
            adapter=_Adapter,
            namespace=namespace or None,
        )
