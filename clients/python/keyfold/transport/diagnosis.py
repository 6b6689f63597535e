"""What a call that reached no server says: which side objected to what.

gRPC tells little of it: a server that wants a client certificate is `Socket closed` to it. So after
such a call, and only then, `handshake` connects once itself and says what it saw.
"""

from __future__ import annotations

import asyncio
from threading import Lock
from time import monotonic
from typing import Final, TypeGuard

from keyfold.errors import HandshakeError, UnavailableError
from keyfold.transport.channel import Endpoint
from keyfold.transport.handshake import Attempt, objection
from keyfold.transport.objections import Objection

_MOST: Final = 2.0
"""Most seconds that a diagnosis takes."""

_AGAIN: Final = 5.0
"""Seconds for which what was found is said again, and not looked for."""


class Diagnosis:
    """Diagnoses the connections of one client, one at a time. Threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Takes where the connections lead."""
        self._endpoint = endpoint
        self._looking = Lock()
        self._found: Objection | None = None
        self._said = ""
        self._until = 0.0

    def explained(self, error: UnavailableError, seconds: float) -> UnavailableError:
        """Returns an error that says why no server was reached, or else the same error.

        Args:
            error: The error of a call.
            seconds: Most seconds to take, if they are fewer than 2.
        """
        certificates = self._endpoint.certificates
        if certificates is not None:
            certificates.look_soon()
        # One call looks. Those that fail beside it have gRPC's word.
        if not self._known(error) and self._looking.acquire(blocking=False):
            try:
                self._found = objection(self._attempt(min(seconds, _MOST)))
                self._said, self._until = error.message, monotonic() + _AGAIN
            finally:
                self._looking.release()
        return self._better(error)

    def said_again(self, error: BaseException) -> BaseException:
        """Returns an error that says what was just found, if that is about the same fault."""
        return self._better(error) if _reached_nobody(error) else error

    def _known(self, error: UnavailableError) -> bool:
        if self._found is not None and error.message == self._found.message:
            return True
        return error.message == self._said and monotonic() < self._until

    def _better(self, error: UnavailableError) -> UnavailableError:
        if self._found is None or error.message != self._said or not self._known(error):
            return error
        kind = HandshakeError if self._found.of_tls else UnavailableError
        better = kind(self._found.message, code=error.code, metadata=error.metadata)
        better.request_id, better.cluster = error.request_id, error.cluster
        return better

    def _attempt(self, seconds: float) -> Attempt:
        to = self._endpoint
        certificates = to.certificates
        return Attempt(
            to.addresses,
            None if certificates is None else certificates.pems,
            None if certificates is None else certificates.server_name,
            monotonic() + seconds,
        )


def explained(diagnosis: Diagnosis, error: BaseException, seconds: float) -> BaseException:
    """Returns the error of a call; if it reached no server, one that says why."""
    return diagnosis.explained(error, seconds) if _reached_nobody(error) else error


async def async_explained(
    diagnosis: Diagnosis, error: BaseException, seconds: float
) -> BaseException:
    """Returns the same in asyncio, and looks in a thread."""
    if not _reached_nobody(error):
        return error
    return await asyncio.to_thread(diagnosis.explained, error, seconds)


def _reached_nobody(error: BaseException) -> TypeGuard[UnavailableError]:
    """Returns whether gRPC itself, and no server, says that none is there."""
    return type(error) is UnavailableError and error.reason == "UNAVAILABLE"
