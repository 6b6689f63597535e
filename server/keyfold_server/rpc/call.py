"""One call, as the handlers see it, whichever transport carries it; and the table of handlers.

A transport (`grpc_aio`) makes a `Call` of each call that comes in, runs the handler that the table
has for the call's path, and sends what the handler returns. The handlers know nothing else of a
transport. They raise only CancelledError, where the client has gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import grpc
from google.rpc.status_pb2 import Status

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.rpc.messages.status import INTERNAL, code_of, internal_status, to_status

log: Final = logging.getLogger(__name__)


class Call(Protocol):
    """One call that a client makes."""

    @property
    def peer(self) -> str:
        """The client's address as gRPC writes it, such as `ipv4:192.0.2.1:50000`.

        It begins with `unix:` for a unix socket.
        """
        ...

    def header(self, name: str) -> Sequence[str | bytes]:
        """Returns the values of a header, in their order; empty if the call does not have it.

        Args:
            name: The header's name in lower case. The values of one that ends in `-bin` are bytes.
        """
        ...

    def certificate(self) -> bytes | None:
        """Returns the client's own certificate in PEM; None if the client showed none."""
        ...

    def time_remaining(self) -> float | None:
        """Returns the seconds until the caller's deadline; None if the call has no deadline."""
        ...

    @property
    def whole(self) -> bytes | None:
        """The request if it came with the call, and has at most `UNASKED` bytes.

        None if it must be `read`: it has not arrived, or is larger, or the transport cannot know.
        """
        ...

    async def read(self) -> bytes | None:
        """Reads the request, or the next one of a stream.

        Returns:
            The request's bytes, or None where the client ended the call before the request was
            whole.

        Raises:
            CancelledError: The client has gone.
            KeyfoldError: The request cannot be read.
        """
        ...

    async def write(self, message: bytes) -> None:
        """Sends a reply of a stream."""
        ...

    def when_done(self, callback: Callable[[], None]) -> None:
        """Has a function called when the reply has been sent, or the client has gone."""
        ...


class Failed(NamedTuple):
    """How a call failed.

    Attributes:
        status: The status that the caller gets.
        code: The status's code.
        reason: The reason in the status's details; empty if it has none.
    """

    status: Status
    code: grpc.StatusCode
    reason: str


Answer = bytes | Failed | None
"""What a handler returns: the reply's bytes, the failure, or None where a stream has ended well."""

Handler = Callable[[Call], Awaitable[Answer]]


class Method(NamedTuple):
    """A method of the table.

    Attributes:
        handle: Answers one call.
        streams: Whether requests or replies are streams. Then the handler sends its replies by
            `Call.write` and returns None or a failure.
    """

    handle: Handler
    streams: bool = False


Table = Mapping[str, Method]
"""The methods by their paths, `/package.Service/Method`."""


def failed(error: Exception, cluster: str = "", region: str = "") -> Failed:
    """Returns the failure for an exception: that of a Keyfold error, or an incident.

    Args:
        error: What a handler raised.
        cluster: The cluster that the call was about; empty if it is unknown.
        region: The region that the call was about; empty if it is unknown.
    """
    if isinstance(error, KeyfoldError):
        located = error.at(cluster=cluster or None, region=region or None)
        return Failed(to_status(located), code_of(type(error)), error.reason)
    status, incident = internal_status()
    log.error("incident %s", incident, exc_info=error)
    return Failed(status, grpc.StatusCode.INTERNAL, INTERNAL)
