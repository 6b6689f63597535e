"""How google-auth reaches what issues credentials: token endpoints, IAM, a machine's metadata.

google-auth builds the requests and reads the answers. The sending is here, so that each request
ends with its call (`shared.deadlines`), follows no redirect, and is made once. google-auth would
wait and try some failures again, so these are raised past it.

Invariant: a request is sent only from within a call. So google-auth's own threads, which would show
a credential to hosts that no setting names, send nothing. This module must not know what the calls
are for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from google.auth import transport
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies

from keyfold_server.domain.errors import ThrottledError, UnreachableError
from keyfold_server.providers.shared.transport import Answer, ProxiedTransport, retry_after

_PASSING: Final = re.compile(
    rb'"error(?:_description)?"\s*:\s*"(?:internal_failure|server_error|temporarily_unavailable)"'
)
"""The words with which a token endpoint says, with any status, that the fault is its own."""


class Sender:
    """Sends HTTP requests; through a proxy where the environment says so. Safe for many threads."""

    def __init__(self, ca: str | None) -> None:
        """Takes the file of the certificates to trust; None trusts those that google-auth would."""
        trusted = ca or os.environ.get("REQUESTS_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
        self._transport = ProxiedTransport(lambda: trusted, get_environ_proxies)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Answer:
        """Sends a request and reads the answer, within the thread's call.

        Raises:
            UnreachableError: There is no answer, or the answer says that the fault is not ours.
            ThrottledError: The server asks to slow down.
        """
        host = urlsplit(url).hostname or "an endpoint without a name"
        try:
            answer = self._transport.send(method, url, headers, body)
        except UnreachableError as error:
            what = error.message.removeprefix("the KMS ")
            raise UnreachableError(f"{host}, which gives Google credentials, {what}") from error
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise ThrottledError(
                f"{host} asks to slow down",
                retry_after=retry_after(answer.headers.get("retry-after", "")),
            )
        if (
            answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            or answer.status == HTTPStatus.REQUEST_TIMEOUT
            or (answer.status != HTTPStatus.OK and _PASSING.search(answer.body))
        ):
            raise UnreachableError(
                f"{host}, which gives Google credentials, failed with status {answer.status}"
            )
        return answer


class _Response(transport.Response):
    """An answer in the form that google-auth reads."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @property
    def data(self) -> bytes:
        return self._answer.body


class Exchange(transport.Request):
    """Sends for google-auth, in one exchange.

    Attributes:
        last: The last answer, because google-auth's errors do not tell its status.
    """

    def __init__(self, sender: Sender) -> None:
        """Takes the sender."""
        self._sender = sender
        self.last: Answer | None = None

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> transport.Response:
        """Sends a request; see `Sender.send`. The thread's call bounds it, not `timeout`."""
        del timeout
        if options:
            raise ValueError(f"a request cannot be sent with {', '.join(options)}")
        self.last = None
        self.last = self._sender.send(method, url, dict(headers or {}), body)
        return _Response(self.last)
