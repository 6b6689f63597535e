"""HTTP/1.1 requests and replies as values, and a function that forwards them to a service."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final
from urllib.parse import urlsplit

_SLOW: Final = 60.0
"""Seconds after which a service behind the layer counts as broken."""

_OF_ONE_HOP: Final = frozenset(
    {"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"}
)


@dataclass(frozen=True)
class Request:
    """A request of a client.

    Attributes:
        method: The method.
        path: Path and query.
        headers: Headers by name in lower case.
        body: The whole body.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """The reply to a request.

    Attributes:
        status: The status code.
        headers: Headers without those of one hop and the length.
        body: The whole body.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


Answer = Callable[[Request], Reply]


def forward(url: str, tls: ssl.SSLContext | None = None) -> Answer:
    """Returns a function that asks the service at a URL; each thread keeps a connection open.

    Args:
        url: Scheme, host and port.
        tls: TLS context of an https URL.
    """
    target = urlsplit(url)
    assert target.hostname is not None
    place = (target.hostname, target.port)
    here = threading.local()

    def connect() -> http.client.HTTPConnection:
        if target.scheme == "https":
            return http.client.HTTPSConnection(*place, timeout=_SLOW, context=tls)
        return http.client.HTTPConnection(*place, timeout=_SLOW)

    def answer(request: Request) -> Reply:
        headers = {name: v for name, v in request.headers.items() if name not in _OF_ONE_HOP}
        for attempt in range(2):
            line = here.__dict__.setdefault("line", None) or connect()
            here.line = line
            try:
                line.request(request.method, request.path, request.body, headers)
                got = line.getresponse()
                body = got.read()
            except (OSError, http.client.HTTPException):
                # The connection that was kept open may have ended meanwhile.
                line.close()
                here.line = None
                if attempt:
                    raise
            else:
                kept = {k: v for k, v in got.getheaders() if k.lower() not in _OF_ONE_HOP}
                return Reply(got.status, kept, body)
        raise AssertionError

    return answer


def read(lines: BinaryIO) -> Request | None:
    """Reads one request; returns None at the end of the connection."""
    first = lines.readline(65_537).decode("latin-1").split()
    if len(first) != 3:
        return None
    parsed = http.client.parse_headers(lines)
    headers = {name.lower(): value for name, value in parsed.items()}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(lines.readline(64).split(b";")[0], 16):
            body += lines.read(size)
            lines.readline(4)
        lines.readline(4)
    else:
        body = lines.read(int(headers.get("content-length", "0")))
    return Request(first[0], first[1], headers, body)


def to_bytes(reply: Reply) -> bytes:
    """Returns a reply's bytes on the wire."""
    reason = http.client.responses.get(reply.status, "")
    head = [f"HTTP/1.1 {reply.status} {reason}"]
    head += [f"{name}: {value}" for name, value in reply.headers.items()]
    head += [f"Content-Length: {len(reply.body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + reply.body
