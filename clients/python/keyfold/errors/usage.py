"""What is wrong with how the client is used. The client finds these itself, and no server.

Some derive from a class of Python's own, too: from the one that Python raises for the same fault.
A program that treats a wrong type as every other wrong type does not need to know Keyfold's name
for it, and what was written for an earlier client goes on working.
"""

from __future__ import annotations

from keyfold.errors.branches import (
    InvalidInputError,
    KeyfoldError,
    UnauthenticatedError,
    UnavailableError,
)


class ArgumentTypeError(InvalidInputError, TypeError):
    """An argument, or a part of one, has a type that the method does not take."""

    reason = "ARGUMENT_TYPE"


class ArgumentValueError(InvalidInputError, ValueError):
    """An argument has the right type and a value that nothing can be done with."""

    reason = "ARGUMENT_VALUE"


class FileUnreadableError(InvalidInputError, OSError):
    """The file of a token, certificate or key cannot be read."""

    reason = "FILE_UNREADABLE"


class CallerSourceError(UnauthenticatedError):
    """The program's own callable for `token` or `on_behalf_of` failed; the cause says how."""

    reason = "CALLER_SOURCE_FAILED"


class HandshakeError(UnavailableError):
    """TLS with the server does not come about; the message says which side objected to what."""

    reason = "HANDSHAKE_FAILED"

    @property
    def retryable(self) -> bool:
        """False: somebody has to change a certificate or a setting first."""
        return False


class ClosedError(KeyfoldError, ValueError):
    """The client, cache or borrowed key was closed before this use of it."""

    reason = "CLOSED"


class ExtraMissingError(KeyfoldError, ImportError):
    """The method needs an extra of the package that is not installed; the message names it."""

    reason = "EXTRA_MISSING"


class EventLoopError(KeyfoldError, RuntimeError):
    """The asynchronous client is in use on another event loop: make one client for each loop."""

    reason = "EVENT_LOOP"
