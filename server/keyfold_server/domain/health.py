"""Health: what the customer's KMS last answered about a root key, or that it did not.

Refused and could-not-tell are two families, kept apart everywhere. An error of the tree
belongs to exactly one health value, and the mapping is the error's reason itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from keyfold_server.domain.errors import KmsError


class Health(Enum):
    """The KMS's last answer."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    ACCESS_DENIED = "ACCESS_DENIED"
    KEY_DISABLED = "KEY_DISABLED"
    KEY_PENDING_DELETION = "KEY_PENDING_DELETION"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    KEY_INVALID = "KEY_INVALID"
    KEK_MISMATCH = "KEK_MISMATCH"
    UNREACHABLE = "UNREACHABLE"
    THROTTLED = "THROTTLED"
    CREDENTIALS_FAILED = "CREDENTIALS_FAILED"

    @staticmethod
    def of(error: KmsError) -> Health:
        """Returns the health that an answer of the KMS means."""
        return Health(error.reason)


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one root key version, or of one KEK that differs from its root key.

    Attributes:
        subject: Whom it is about: `root:` and a `Wrap.root_id`, or `kek:` and a kek_id in hex.
        health: The last answer.
        since: When the health took this value, milliseconds of Unix time.
        last_check: When the KMS was last asked, milliseconds of Unix time.
        last_success: When it last unwrapped, or None.
        message: The last error's text, empty where there was none.
        request_id: The provider's id of the last failed call, empty where it gave none.
        can_wrap: Whether wrapping worked when it was last tried; None: not tried.
        can_unwrap: The same for unwrapping.
        reason: The last error's reason, empty where there was none. It says more than the health
            where a root key unwraps and does not wrap.
        missing_permission: The permission that the last error named, or empty.
    """

    subject: str
    health: Health
    since: int
    last_check: int
    last_success: int | None = None
    message: str = ""
    request_id: str = ""
    can_wrap: bool | None = None
    can_unwrap: bool | None = None
    reason: str = ""
    missing_permission: str = ""
