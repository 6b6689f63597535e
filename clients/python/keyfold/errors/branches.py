"""The exceptions that a call raises: their base, and a branch for each kind of failure.

The module `reasons` has the leaves, one for each *reason* that the server sends; `messages` has
those about an envelope's messages, and `usage` those about how the client is used, which the client
finds itself. Most callers
catch a branch: `except RefusedError` needs no list of reasons. For a reason newer than itself the
client raises the branch, with the reason in its attribute `reason`.

    KeyfoldError
    ├── InvalidInputError           the request is wrong; nothing was changed
    │   ├── ArgumentTypeError       a TypeError, too: an argument has a type that is not taken
    │   ├── ArgumentValueError      a ValueError, too: nothing can be done with an argument
    │   ├── FileUnreadableError     an OSError, too: the file of a token, certificate or key
    │   └── MessageInvalidError     a message of an envelope does not open
    ├── NotFoundError               it does not exist, or the caller may not see it
    ├── AlreadyExistsError          it exists, and differs from the request
    ├── StateError                  the state forbids the call, as with RevokedError
    ├── ConflictError               another change came first; try again
    ├── KmsError                    about the customer's KMS
    │   ├── RefusedError            the KMS answered no
    │   ├── CouldNotTellError       the KMS gave no answer that counts
    │   └── KekMismatchError        a stored KEK does not unwrap
    ├── LimitError                  too many calls, or a message too large
    ├── RowNotAuthenticError        somebody else wrote into the server's store
    ├── UnavailableError            Keyfold cannot answer now, or cannot be reached
    │   └── HandshakeError          TLS with the server does not come about
    ├── DeadlineError               no response within the deadline
    ├── ForbiddenError              the caller may not do this
    ├── UnauthenticatedError        the server does not know the caller
    ├── UnimplementedError          the server does not have this method
    ├── CancelledError              the caller cancelled the call, or a stopping server did
    ├── ForkedError                 the process was forked after the client was in use
    ├── ClosedError                 the client, cache or borrowed key was closed before
    ├── ExtraMissingError           an ImportError, too: the method needs an extra of the package
    ├── EventLoopError              the asynchronous client belongs to another event loop
    └── InternalError               a fault in the server; the message names the incident

Keyfold never mixes "refused" and "could not tell": the first is the customer's decision, the
second an outage that passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that is wrong.

    Attributes:
        field: The field's path, such as `region_specs[1].key_spec.uri`.
        description: The fault, in one line.
    """

    field: str
    description: str


class KeyfoldError(Exception):
    """Base of the tree.

    Attributes:
        reason: A stable word. If gRPC itself raised the error, as for an unreachable address, it
            is the name of the gRPC code.
        message: One line for people.
        code: The name of the gRPC code, such as `FAILED_PRECONDITION`.
        metadata: Further facts from the server, such as `provider_request_id`.
        field_violations: The fields that are wrong, for input errors.
        retry_after: Seconds to wait before trying again, or None.
        request_id: The request_id of a change, or None for other calls. If it is unknown whether
            the change was made, sending it again with this id is safe.
        cluster: The cluster that the error concerns: what the server says, or else the one that
            the call named; None if there is none. `str` of the error names it.
    """

    reason: str = ""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "UNKNOWN",
        metadata: Mapping[str, str] | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        """Makes an error from the values that the class describes."""
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason or code
        self.code = code
        self.metadata = dict(metadata or {})
        self.field_violations = field_violations
        self.retry_after = retry_after
        self.request_id: str | None = None
        self.cluster = self.metadata.get("cluster")

    def __str__(self) -> str:
        said = self.cluster is None or f"cluster {self.cluster}" in self.message
        return self.message if said else f"cluster {self.cluster}: {self.message}"

    @property
    def region(self) -> str | None:
        """The region that the error concerns, or None."""
        return self.metadata.get("region")

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later although nobody changes anything.

        That is so if Keyfold or the KMS could not be asked, if there were too many calls, or if
        another change was under way. A refusal is the customer's decision, so it is not retryable,
        even if `retry_after` says when Keyfold asks again.
        """
        if isinstance(self, ConflictError):
            return self.reason not in {"ETAG_MISMATCH", "CURSOR_TAKEN"}
        if isinstance(self, LimitError):
            return self.retry_after is not None
        passing = (UnavailableError, CouldNotTellError, DeadlineError, CancelledError)
        return isinstance(self, passing)

    def to_dict(self) -> dict[str, Any]:
        """Returns the error as a dict that `json.dumps` takes, without what is empty."""
        details: dict[str, Any] = {
            "reason": self.reason,
            "message": self.message,
            "code": self.code,
            "source": self.source,
            "cluster": self.cluster,
            "metadata": self.metadata,
            "field_violations": [
                {"field": one.field, "description": one.description}
                for one in self.field_violations
            ],
            "retry_after": self.retry_after,
            "request_id": self.request_id,
        }
        return {name: value for name, value in details.items() if value not in (None, {}, [])}

    @property
    def source(self) -> str:
        """The origin of the error: `keyfold`, or `kms` for the customer's KMS."""
        return self.metadata.get("source") or ("kms" if isinstance(self, KmsError) else "keyfold")


class InvalidInputError(KeyfoldError):
    """The request is wrong as it stands, and Keyfold changed nothing."""


class NotFoundError(KeyfoldError):
    """What the request names does not exist, or the caller may not see it."""


class AlreadyExistsError(KeyfoldError):
    """The cluster or region exists, and differs from what the request describes."""


class StateError(KeyfoldError):
    """The state of the cluster or region forbids the call."""


class ConflictError(KeyfoldError):
    """Another change came first; nothing was changed."""


class KmsError(KeyfoldError):
    """A failure in the customer's KMS, or on the way to it."""


class RefusedError(KmsError):
    """The KMS answered no: the customer has taken the key away, or it cannot be used."""


class CouldNotTellError(KmsError):
    """The KMS gave no answer that counts; this says nothing about the customer's will."""


class LimitError(KeyfoldError):
    """Too many calls, or a message over the size limit."""


class UnavailableError(KeyfoldError):
    """Keyfold cannot answer now, or the client could not reach it."""


class ForbiddenError(KeyfoldError):
    """The server's policy does not let this caller do that."""


class UnauthenticatedError(KeyfoldError):
    """The server does not know who is calling."""


class UnimplementedError(KeyfoldError):
    """The server does not have this method: it is older than the client, or something else."""


class CancelledError(KeyfoldError):
    """The caller, or a server that was stopping, cancelled the call before it had a response."""


class ForkedError(KeyfoldError):
    """The process was forked after the client or cache was in use: make both after the fork."""

    reason = "FORKED"


class InternalError(KeyfoldError):
    """A fault in the server; its log has more under the incident that the message names."""


class DeadlineError(KeyfoldError):
    """The deadline passed before the response arrived. A change may or may not have been made."""

    reason = "DEADLINE_EXCEEDED"
