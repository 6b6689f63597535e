"""Single HTTP requests within their call's time, for adapters whose SDK lets them send.

The SDK builds and signs the request and reads the answer; the sending is here, so that all of
`deadline` holds. It must not know any provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final

import urllib3
from urllib3.exceptions import HTTPError

from keyfold_server.domain.errors import UnreachableError
from keyfold_server.providers.shared.deadlines import (
    CONNECT_TIMEOUT,
    POOL_SIZE,
    READ_TIMEOUT,
    current,
    read,
    watch,
    what_happened,
)

_HOSTS: Final = 64
"""Hosts with open connections."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, whatever its status.

    Attributes:
        status: The status code.
        headers: The headers, looked up without regard to case.
        body: The whole body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Transport:
    """Sends single HTTP requests, each within its call. Safe for many threads."""

    def __init__(
        self,
        *,
        ca: str | None = None,
        client_cert: tuple[str, str | None] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> None:
        """Prepares the pools; nothing is opened.

        Args:
            ca: File of the certificates to trust; None takes the system's.
            client_cert: Files of a client certificate and of its key, where there is one.
            proxies: The proxy's url for `http` and `https` urls.
        """
        self._options: dict[str, Any] = {
            "cert_reqs": "CERT_REQUIRED",
            "ca_certs": ca,
            "num_pools": _HOSTS,
            "maxsize": POOL_SIZE,
            "timeout": urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT),
            "retries": False,
        }
        if client_cert is not None:
            self._options["cert_file"], self._options["key_file"] = client_cert
        self._direct = urllib3.PoolManager(**self._options)
        watch(self._direct)
        self._proxied = {scheme: self._proxy(url) for scheme, url in (proxies or {}).items()}

    def _proxy(self, url: str) -> urllib3.PoolManager:
        parsed = urllib3.util.parse_url(url)
        headers = urllib3.make_headers(proxy_basic_auth=parsed.auth) if parsed.auth else None
        manager = urllib3.ProxyManager(url, proxy_headers=headers, **self._options)
        watch(manager)
        return manager

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None
    ) -> Answer:
        """Sends a request and reads the whole answer, within the thread's call.

        Raises:
            UnreachableError: There is no whole answer; its text says what happened.
        """
        call = current()
        manager = self._proxied.get(url.partition(":")[0], self._direct)
        try:
            response = manager.request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False
            )
            return Answer(response.status, response.headers, read(response))
        except (HTTPError, HTTPException, OSError) as error:
            raise UnreachableError(f"the KMS {what_happened(error, call)}") from error

    def close(self) -> None:
        """Closes the connections that are open."""
        for manager in (self._direct, *self._proxied.values()):
            manager.clear()
