"""The values that pass between a listener of the Azure counterpart and its site."""

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
    """A request of a client.

    Attributes:
        method: The HTTP method.
        path: The path's segments, without empty ones.
        query: The query's parameters; the last value if one is repeated.
        headers: The headers, with names in lower case.
        body: The body.
        origin: Scheme, host and port as the client named them, for links in answers.
        address: The client's IP address.
        id: The request id that the answer carries.
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
    """A site's answer.

    Attributes:
        body: A JSON value, or None for no body.
        status: The HTTP status.
        headers: Headers beside those of every answer.
        principal: The caller as `tenant/client`, if it is known.
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
        operation: Name of the request's operation.
        request: The request, with everything that the client sent.
        status: The HTTP status of the answer; 0 if no answer was sent.
        principal: The caller as `tenant/client`, if it became known.
    """

    at: str
    operation: str
    request: Request
    status: int
    principal: str


class RequestLog:
    """The last 10,000 requests, with everything that the clients sent. Safe for many threads."""

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque(maxlen=_LOG)
        self._changed = threading.Condition()

    def add(self, exchange: Exchange) -> None:
        """Adds a request, before its answer is sent."""
        with self._changed:
            self._exchanges.append(exchange)
            self._changed.notify_all()

    def all(self) -> list[Exchange]:
        """Returns the requests, oldest first."""
        with self._changed:
            return list(self._exchanges)

    def wait(self, operation: str, timeout: float) -> Exchange:
        """Returns the first request for an operation; waits for one if it has not come yet.

        Raises:
            TimeoutError: No request came within so many seconds.
        """

        def found() -> Exchange | None:
            return next((one for one in self._exchanges if one.operation == operation), None)

        with self._changed:
            if (exchange := self._changed.wait_for(found, timeout)) is None:
                raise TimeoutError(f"no request for {operation} came within {timeout} s")
        return exchange


class Site(Protocol):
    """The site behind a listener."""

    def operation(self, request: Request) -> str:
        """Names a request's operation."""

    def answer(self, request: Request) -> Answer:
        """Answers a request, or raises AzureError."""

    def values(self, request: Request) -> Mapping[str, str]:
        """Returns the values of the names in this site's error answers."""

    def headers(self, request: Request) -> Mapping[str, str]:
        """Returns the headers that each of this site's answers carries."""
