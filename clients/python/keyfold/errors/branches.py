"""What a call can raise: the base, and a branch for each kind of failure.

The leaves, one for each *reason* that the server sends, are in `reasons`. A branch is what most
callers catch: `except RefusedError` needs no list of reasons. A reason newer than this client is
raised as its branch, with the word itself in `reason`.

    KeyfoldError
    ├── InvalidInputError           the request cannot be right; nothing was tried
    ├── NotFoundError               what was named does not exist, or may not be seen
    ├── AlreadyExistsError          it exists, and differs from what was asked
    ├── StateError                  the lifecycle forbids it, such as RevokedError
    ├── ConflictError               another change came first; ask again
    ├── KmsError                    about the customer's KMS
    │   ├── RefusedError            it answered no
    │   ├── CouldNotTellError       it gave no answer that counts
    │   └── KekMismatchError        a stored KEK does not open
    ├── LimitError                  too much at once, or too large
    ├── RowNotAuthenticError        somebody else wrote into the server's store
    ├── UnavailableError            Keyfold itself cannot answer now, or was not reached
    ├── DeadlineError               no answer within the deadline
    ├── ForbiddenError              the caller may not do this
    ├── UnauthenticatedError        the server does not know the caller
    ├── UnimplementedError          the server does not have this method
    ├── CancelledError              the call was cancelled
    └── InternalError               a fault in the server; the message names the incident

"Refused" and "could not tell" are never mixed: the first is the customer's decision, the second
an outage that passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that is wrong.

    Attributes:
        field: Its path, such as `region_specs[1].key_spec.uri`.
        description: What is wrong with it, in one line.
    """

    field: str
    description: str


class KeyfoldError(Exception):
    """Base of the tree.

    Attributes:
        reason: The stable word. Where the answer did not come from Keyfold itself but from gRPC,
            such as an unreachable address, it is the name of the gRPC code.
        message: One line for people.
        code: The name of the gRPC code, such as `FAILED_PRECONDITION`.
        metadata: What else the server said, such as `provider_request_id`.
        field_violations: The fields that are wrong, for input errors.
        retry_after: Seconds after which asking again makes sense, or None.
        request_id: The id that a change was sent with, or None. Where it is not known whether
            the change was made, sending it again with the same id is safe.
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
        """Makes an error; see the class for the meaning of each argument."""
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason or code
        self.code = code
        self.metadata = dict(metadata or {})
        self.field_violations = field_violations
        self.retry_after = retry_after
        self.request_id: str | None = None

    @property
    def cluster(self) -> str | None:
        """The cluster concerned, where there is one."""
        return self.metadata.get("cluster")

    @property
    def region(self) -> str | None:
        """The region concerned, where there is one."""
        return self.metadata.get("region")

    @property
    def source(self) -> str:
        """Whose answer it is: `keyfold`, or `kms` for the customer's KMS."""
        return self.metadata.get("source") or ("kms" if isinstance(self, KmsError) else "keyfold")


class InvalidInputError(KeyfoldError):
    """The request cannot be right as it stands; nothing was tried and nothing changed."""


class NotFoundError(KeyfoldError):
    """What the request names does not exist, or the caller may not see it."""


class AlreadyExistsError(KeyfoldError):
    """It exists, and is not what the request describes."""


class StateError(KeyfoldError):
    """The state of the cluster or region forbids the call."""


class ConflictError(KeyfoldError):
    """Another change came first; nothing was changed."""


class KmsError(KeyfoldError):
    """What the customer's KMS said, or that it said nothing."""


class RefusedError(KmsError):
    """The KMS answered no: the customer has taken the key away, or it cannot be used."""


class CouldNotTellError(KmsError):
    """The KMS gave no answer that counts; this says nothing about the customer's will."""


class LimitError(KeyfoldError):
    """Too much at once, or a message over the size limit."""


class UnavailableError(KeyfoldError):
    """Keyfold itself cannot answer now, or could not be reached."""


class ForbiddenError(KeyfoldError):
    """The server's policy does not let this caller do that."""


class UnauthenticatedError(KeyfoldError):
    """The server does not know who is calling."""


class UnimplementedError(KeyfoldError):
    """The server does not have this method: it is older than the client, or something else."""


class CancelledError(KeyfoldError):
    """The call was cancelled before an answer came."""


class InternalError(KeyfoldError):
    """A fault in the server; its log has more under the incident that the message names."""


class DeadlineError(KeyfoldError):
    """The deadline passed before the answer was there. A change may have been made or not."""

    reason = "DEADLINE_EXCEEDED"
