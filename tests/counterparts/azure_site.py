"""What passes between a listener of the Azure counterpart and the site behind it."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

_LOG: Final = 10_000


@dataclass(frozen=True)
class Request:
    """One request as it came.

    Attributes:
        method: The HTTP method.
        path: The path's segments, without empty ones.
        query: The query's parameters; of a repeated one the last.
        headers: The headers, their names in lower case.
        body: The body.
        origin: Scheme, host and port as the client named them, for links in answers.
        address: The client's IP address.
        id: The request id that goes into the answer.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    origin: str
    address: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True)
class Answer:
    """What a site answers.

    Attributes:
        body: A JSON value, or None for no body.
        status: The HTTP status.
        headers: Headers beside those of every answer.
        principal: `tenant/client` of the caller, where it is known.
    """

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    principal: str = ""


@dataclass(frozen=True)
class Exchange:
    """One line of the request log.

    Attributes:
        at: The listener's URL.
        operation: What was asked for.
        request: The request, with all that the client sent.
        status: The HTTP status of the answer; 0 where none was sent.
        principal: `tenant/client` of the caller, where it became known.
    """

    at: str
    operation: str
    request: Request
    status: int
    principal: str


class RequestLog:
    """The last 10,000 requests, with everything that the clients sent; safe from any thread."""

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque(maxlen=_LOG)
        self._changed = threading.Condition()

    def add(self, exchange: Exchange) -> None:
        """Notes a request, before its answer is sent."""
        with self._changed:
            self._exchanges.append(exchange)
            self._changed.notify_all()

    def all(self) -> list[Exchange]:
        """Returns what is noted, the oldest first."""
        with self._changed:
            return list(self._exchanges)

    def wait(self, operation: str, timeout: float) -> Exchange:
        """Returns the first request for an operation, and waits for it if there is none yet.

        Raises:
            TimeoutError: None came within so many seconds.
        """

        def found() -> Exchange | None:
            return next((one for one in self._exchanges if one.operation == operation), None)

        with self._changed:
            if (exchange := self._changed.wait_for(found, timeout)) is None:
                raise TimeoutError(f"no request for {operation} came within {timeout} s")
        return exchange


class Site(Protocol):
    """What stands behind a listener."""

    def operation(self, request: Request) -> str:
        """Names what a request asks for."""

    def answer(self, request: Request) -> Answer:
        """Answers a request, or raises AzureError."""

    def values(self, request: Request) -> Mapping[str, str]:
        """Returns what the names in this site's error answers stand for."""

    def headers(self, request: Request) -> Mapping[str, str]:
        """Returns the headers that each of this site's answers carries."""
