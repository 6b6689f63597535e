"""Connections of urllib3 that end with the call that uses them; see `deadlines`.

`watch` makes a pool manager's connections end in time, `read` bounds an answer's size, and
`what_happened` says for people why there is no answer. This module must not know any provider.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)

from keyfold_server.providers.shared.deadlines import (
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    Handle,
    current,
    within,
)

MAX_ANSWER: Final = 1024 * 1024
"""Most bytes of an answer's body. What a KMS answers is less than a hundredth of that."""

POOL_SIZE: Final = 32
"""Connections that a pool keeps open to one host."""


class _Watched(HTTPConnection):
    """A connection that ends with the call that uses it."""

    _handle: Handle | None = None

    def _new_conn(self) -> socket.socket:
        """Connects to one address after the other, all within the call's time."""
        call, name, most = current(), self._dns_host, self.timeout
        failed: HTTPError | None = None
        try:
            for address in _addresses(self, name, self.port):
                self._dns_host = address
                left = call.remaining()
                self.timeout = min(most, left) if isinstance(most, int | float) else left
                try:
                    sock = super()._new_conn()
                except (ConnectTimeoutError, NewConnectionError) as error:
                    failed = error
                    continue
                self._handle = Handle(sock.dup())
                try:
                    call.watch(self._handle)
                except BaseException:
                    sock.close()
                    raise
                return sock
        finally:
            self._dns_host, self.timeout = name, most
        raise failed or NewConnectionError(self, "the name has no address")

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self._handle is not None:
            current().watch(self._handle)
        super().request(*args, **kwargs)

    def close(self) -> None:
        super().close()
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.leave()


def _addresses(connection: HTTPConnection, name: str, port: int) -> Iterable[str]:
    """Returns a name's addresses, in the resolver's order."""
    try:
        found = socket.getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise NameResolutionError(name, connection, error) from error
    return dict.fromkeys(str(each[4][0]) for each in found)


class _WatchedTls(_Watched, HTTPSConnection):
    """A connection over TLS that ends with the call, its handshake included."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


def watch(manager: urllib3.PoolManager) -> None:
    """Makes every connection that a pool manager opens from now on end with its call."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


class AnswerTooLargeError(HTTPError):
    """The answer's body is larger than `MAX_ANSWER`."""


def read(response: urllib3.BaseHTTPResponse) -> bytes:
    """Reads and decodes a body, and gives the connection back to its pool.

    Raises:
        AnswerTooLargeError: The body is too large. The connection is closed.
        TimeoutError: The call's time has passed; a body without a length merely seems to end then.
    """
    # The limit holds for the decoded body, since a small compressed one may decode to a large one.
    body = response.read(MAX_ANSWER + 1, decode_content=True)
    if len(body) > MAX_ANSWER:
        response.close()
        raise AnswerTooLargeError
    current().remaining()
    response.release_conn()
    return body


def what_happened(error: BaseException, call: within) -> str:
    """Says for people why there is no answer, without a library's text."""
    if call.passed or call.ends <= monotonic():
        return "gave no answer in the time that the call had"
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (AnswerTooLargeError, f"answered with more than {MAX_ANSWER} bytes, which is too many"),
        (NameResolutionError, "cannot be found: its name does not resolve"),
        (NewConnectionError, "refuses connections"),
        (ConnectTimeoutError, f"was not connected within {CONNECT_TIMEOUT:g} s"),
        (SSLError, "could not be trusted: the TLS handshake failed; check its CA"),
        (TimeoutError, f"sent nothing for {READ_TIMEOUT:g} s"),
        (urllib3.exceptions.TimeoutError, f"sent nothing for {READ_TIMEOUT:g} s"),
    )
    for kind, text in kinds:
        if isinstance(error, kind):
            return text
    return "broke the connection off"
