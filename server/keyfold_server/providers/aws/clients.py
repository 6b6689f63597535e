"""The SDK's clients for AWS, and how they send requests.

Invariant: an SDK session and its connections belong to one credential. Each request is sent once,
within its call's time (`shared.deadlines`). Endpoint, CA, proxy and the rest come from the
environment that every AWS tool reads. This module must not know what the calls are for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.httpsession import get_cert_path
from botocore.session import Session
from botocore.utils import get_environ_proxies

from keyfold_server.providers.shared.deadlines import CONNECT_TIMEOUT, READ_TIMEOUT
from keyfold_server.providers.shared.transport import ProxiedTransport

# At the level DEBUG the SDK logs requests and answers, plaintexts included. At INFO it logs again
# and again where it found each credential.
logging.getLogger("botocore").setLevel(logging.WARNING)

_CONFIG: Final = Config(
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
    # The service decides whether another attempt makes sense.
    retries={"mode": "standard", "total_max_attempts": 1},
    user_agent_extra="keyfold",
)

_loader_lock: Final = threading.Lock()
_loader: Any = None
"""Loads the SDK's descriptions of AWS's services, once for all sessions."""


class Signs(Protocol):
    """A credential in the form that the SDK's clients take."""

    method: str

    def get_frozen_credentials(self) -> ReadOnlyCredentials | None:
        """Returns the keys that sign the next request, without asking AWS."""
        ...

    def get_deferred_property(self, name: str) -> Callable[[], None]:
        """Returns a function that returns the value of a further property."""
        ...


class _Body:
    """An answer's body in the form that the SDK reads."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        yield self._body


class _Sender:
    """Sends an SDK session's requests, through a proxy where the environment says so."""

    def __init__(self, session: Session) -> None:
        self._transport = ProxiedTransport(
            lambda: session.get_config_variable("ca_bundle") or get_cert_path(True),  # noqa: FBT003
            lambda host: get_environ_proxies(host) if urlsplit(host).hostname else {},
        )

    def send(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        """Sends a signed request, in place of the SDK."""
        url = str(request.url)
        headers = dict(request.headers.items())
        answer = self._transport.send(request.method, url, headers, request.body)
        return AWSResponse(url, answer.status, answer.headers, _Body(answer.body))


def new_session() -> Session:
    """Returns an SDK session that sends within each call's time and finds the usual credentials."""
    global _loader  # noqa: PLW0603
    session = Session()
    with _loader_lock:
        _loader = _loader or session.get_component("data_loader")
    session.register_component("data_loader", _loader)
    session.set_default_client_config(_CONFIG)
    session.register("before-send", _Sender(session).send)
    return session


class _Only:
    """Stands for the SDK's chain of places that may have a credential, and has exactly one."""

    def __init__(self, credential: Signs) -> None:
        self._credential = credential

    def load_credentials(self) -> Signs:
        return self._credential


class Clients:
    """The SDK's clients for one credential, each made on first use. Safe for many threads."""

    def __init__(self, credential: Signs) -> None:
        """Takes the credential; the SDK reads it whenever it signs a request."""
        self._session = new_session()
        self._session.register_component("credential_provider", _Only(credential))
        self._made: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def of(self, service: str, region: str) -> Any:
        """Returns the client for a service, `kms` or `sts`, in a region."""
        made = self._made.get((service, region))
        if made is not None:
            return made
        # The SDK's clients serve many threads, but a session serves one thread at a time.
        with self._lock:
            if (service, region) not in self._made:
                self._made[service, region] = self._session.create_client(
                    service, region_name=region
                )
            return self._made[service, region]
