"""Single HTTP requests, each within a total time and with a bounded answer.

A redirect is an answer like any other and is never followed. Proxies, cookies and credentials that
the environment names are not used: a proxy would connect where `addresses` cannot look.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from keyfold_relay.http.addresses import Addresses, ForbiddenAddressError

MAX_ANSWER: Final = 64 * 1024
"""Most bytes of an answer's body that are read; the connection of a longer one is cut off."""

_SECONDS: Final = re.compile(r"[0-9]{1,7}", re.ASCII)
_AGENT: Final = "keyfold-relay"


class NoAnswerError(Exception):
    """There is no answer; the message says why, without text of a library or of the other side."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whatever its status.

    Attributes:
        status: The status code.
        headers: The headers, in lower case.
        body: The body, or its first `MAX_ANSWER` bytes.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def retry_after(self) -> float | None:
        """The seconds that the header Retry-After asks to wait, or None.

        The header may also give a date, which depends on the other side's clock; it is ignored.
        """
        given = self.headers.get("retry-after", "")
        return float(given) if _SECONDS.fullmatch(given) else None


class Outbound:
    """Sends requests for one target, over connections of its own.

    Args:
        addresses: The addresses that are allowed.
        timeout: Seconds for a whole request: look-up, connection, request and answer.
        ca: A file with the authorities to trust in place of the system's.

    Raises:
        OSError: The file cannot be read.
        ssl.SSLError: It holds no certificates.
    """

    def __init__(self, addresses: Addresses, timeout: float, ca: Path | None = None) -> None:
        self._addresses = addresses
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=ca)
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        """Returns the session, which belongs to the event loop of the first request."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._tls, socket_factory=self._addresses.socket, use_dns_cache=False
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                headers={"User-Agent": _AGENT},
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends a request and reads the answer, as far as it is bounded.

        Raises:
            NoAnswerError: There is no answer in time, or no request was sent.
        """
        try:
            async with self._open().request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                content = await _bounded(response)
                given = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, given, content)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswerError(self._why(error)) from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _why(self, error: BaseException) -> str:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(cause, ForbiddenAddressError):
            return str(cause)
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return "its certificate is not trusted; check its name, and the authorities in `ca`"
        kinds: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
            (TimeoutError, f"no answer within {self._timeout:g} s"),
            (aiohttp.ClientConnectorDNSError, "its name does not resolve"),
            (aiohttp.ClientSSLError, "the TLS handshake failed"),
            (aiohttp.ClientConnectorError, "it refuses connections, or is not reached"),
            (aiohttp.InvalidURL, "its url cannot be used"),
        )
        for kind, text in kinds:
            if isinstance(error, kind):
                return text
        return "it broke the connection off"


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """Returns the body, or its beginning.

    The status has arrived and decides. So a body that is too long, ends early or does not come is
    not an error; its connection is closed.
    """
    read = bytearray()
    try:
        while len(read) <= MAX_ANSWER:
            part = await response.content.read(MAX_ANSWER + 1 - len(read))
            if not part:
                return bytes(read)
            read += part
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
    response.close()
    return bytes(read[:MAX_ANSWER])
