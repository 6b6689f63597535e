"""Single HTTP requests that end with their call, for adapters that send requests themselves.

An SDK, or the adapter, builds and signs the request and reads the answer. The sending is here, so
that everything in `deadlines` and `connections` holds. This module must not know any provider.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final

import urllib3
from urllib3.exceptions import HTTPError

from keyfold_server.domain.errors import UnreachableError
from keyfold_server.providers.shared.connections import POOL_SIZE, read, watch, what_happened
from keyfold_server.providers.shared.deadlines import CONNECT_TIMEOUT, READ_TIMEOUT, current

_HOSTS: Final = 64
"""Most hosts to which one transport keeps connections open."""

_SECONDS: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


def retry_after(hint: str) -> float | None:
    """Returns the seconds that the header Retry-After asks to wait; None if it gives no number.

    The header may also give a date, which depends on the server's clock; Keyfold ignores that.
    """
    return float(hint) if _SECONDS.fullmatch(hint) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, whatever its status.

    Attributes:
        status: The status code.
        headers: The headers, looked up without regard to case.
        body: The whole body, decoded.
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
        """Prepares the pools; opens no connection.

        Args:
            ca: File of the certificates to trust; None trusts the system's.
            client_cert: Files of a client certificate and of its key, or None.
            proxies: Url of the proxy for `http` and for `https` urls; no proxy for what is left
                out.
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
            UnreachableError: There is no whole answer; the text says what happened.
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


class ProxiedTransport:
    """Sends as `Transport` does, through the proxies that the environment names for each host.

    Safe for many threads.
    """

    def __init__(
        self, ca: Callable[[], str | None], proxies: Callable[[str], Mapping[str, str]]
    ) -> None:
        """Prepares; looks at the environment with the first request to a host.

        Args:
            ca: Returns the file of the certificates to trust; None trusts the system's.
            proxies: Returns the proxies for an url, by the rules of the SDK: NO_PROXY and the
                like.
        """
        self._ca = ca
        self._proxies = proxies
        self._by_host: dict[str, Transport] = {}
        self._by_proxies: dict[tuple[tuple[str, str], ...], Transport] = {}
        self._lock = threading.Lock()

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None
    ) -> Answer:
        """Sends a request and reads the whole answer, within the thread's call.

        Raises:
            UnreachableError: There is no whole answer; the text says what happened.
        """
        host = "/".join(url.split("/", 3)[:3])
        transport = self._by_host.get(host) or self._transport(host)
        return transport.send(method, url, headers, body)

    def _transport(self, host: str) -> Transport:
        found = self._proxies(host)
        proxies = {scheme: found[scheme] for scheme in ("http", "https") if scheme in found}
        with self._lock:
            # Hosts with the same proxies share their pools.
            transport = self._by_proxies.get(tuple(proxies.items()))
            if transport is None:
                transport = Transport(ca=self._ca(), proxies=proxies)
                self._by_proxies[tuple(proxies.items())] = transport
            self._by_host[host] = transport
            return transport
