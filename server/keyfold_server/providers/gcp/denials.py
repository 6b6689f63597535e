"""Why Google denies a call: for want of a permission, or for a reason that is not about the key.

Google answers PERMISSION_DENIED, or 403, for far more than a missing permission: a quota, a
service perimeter, a suspended project. Only a missing permission is the customer's refusal.

Invariant: a reason that nobody here knows is never a missing permission. Google's text decides only
where there is no `ErrorInfo`, and none of it is passed on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

OWN_SIDE: Final = frozenset(
    {
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        "USER_PROJECT_DENIED",
    }
)
"""Google's reasons that reject Keyfold's credential, and not what Keyfold asked for."""

QUOTAS: Final = frozenset({"RATE_LIMIT_EXCEEDED", "RESOURCE_QUOTA_EXCEEDED"})
"""Google's reasons that ask to slow down."""

_MISSING: Final = "IAM_PERMISSION_DENIED"

CLOSED: Final[Mapping[str, str]] = {
    "BILLING_DISABLED": "billing is disabled for a project that the call concerns",
    "CONSUMER_INVALID": "a project that the call concerns is not valid",
    "CONSUMER_SUSPENDED": "a project that the call concerns is suspended",
    "GCP_SUSPENDED": "a project or organization that the call concerns is suspended",
    "LOCATION_POLICY_VIOLATED": "a location policy keeps the network shut",
    "ORG_RESTRICTION_VIOLATION": "an organization restriction keeps the network shut",
    "SECURITY_POLICY_VIOLATED": "a service perimeter (VPC Service Controls) keeps the network shut",
    "SERVICE_DISABLED": "the API is disabled in a project that the call concerns",
}
"""Google's reasons that shut the API as a closed network does. They say nothing about the key."""

NO_ANSWER: Final = frozenset({*CLOSED, *OWN_SIDE, *QUOTAS})
"""All of these reasons: none of them answers the call itself."""

_WORDED: Final = (
    ("Quota exceeded", "RATE_LIMIT_EXCEEDED"),
    ("vpcServiceControlsUniqueIdentifier", "SECURITY_POLICY_VIOLATED"),
    ("prohibited by organization's policy", "SECURITY_POLICY_VIOLATED"),
    ("API has not been used in", "SERVICE_DISABLED"),
)
"""What Google says in an answer without `ErrorInfo`."""

_PERIMETER: Final = "VPC_SERVICE_CONTROLS"
"""The violation that names a service perimeter."""

_PERMISSION: Final = re.compile(r"Permission '([A-Za-z0-9.]{1,128})' denied")
_NO_PERMISSION: Final = "The caller does not have permission"
"""What IAM said of a missing permission before it gave details."""

_NAME: Final = re.compile(r"[A-Za-z0-9.]{1,128}")
_WORD: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Denial:
    """What Google said when it denied a call.

    Attributes:
        word: Google's word for the reason.
        permission: The permission that is missing, or None if Google does not name it.
        missing: Whether a missing permission is the reason.
    """

    word: str
    permission: str | None
    missing: bool

    @property
    def meaning(self) -> str:
        """Why the call was denied, for people, with Google's word for it."""
        why = CLOSED.get(self.word, "Google Cloud denies the call for a reason of its own")
        return f"{why} ({self.word})"


def denial(
    reason: Any, metadata: Any, text: Any, violations: Iterable[str] = (), status: Any = None
) -> Denial:
    """Returns what is certain about a denial.

    Args:
        reason: The reason in its `ErrorInfo`, or None.
        metadata: The metadata there.
        text: The text of the answer.
        violations: The types in its `PreconditionFailure`.
        status: Google's word for the answer's status, which names a denial without a reason.
    """
    said = text if isinstance(text, str) else ""
    found = _PERMISSION.search(said)
    named = metadata.get("permission") if isinstance(metadata, Mapping) else None
    if not isinstance(named, str) or not _NAME.fullmatch(named):
        named = found[1] if found else None
    if reason:
        return Denial(word_of(reason), named, reason == _MISSING)
    if _PERIMETER in violations:
        return Denial("SECURITY_POLICY_VIOLATED", named, missing=False)
    if found is not None:  # Before the other texts, since it repeats the customer's names.
        return Denial(word_of(status), named, missing=True)
    word = next((word for words, word in _WORDED if words in said), status)
    return Denial(word_of(word), named, missing=False)


def http_denial(body: bytes) -> Denial | None:
    """Returns a Google API's denial over HTTP, or None if the answer is not a Google API's."""
    try:
        error = json.loads(body)["error"]
        status, details = str(error["status"]), error.get("details") or ()
        infos = [
            each for each in details if each.get("@type", "").endswith("/google.rpc.ErrorInfo")
        ]
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
    info, text = infos[0] if infos else {}, error.get("message")
    told = denial(info.get("reason"), info.get("metadata"), text, status=status)
    bare = not infos and text == _NO_PERMISSION
    return Denial(told.word, told.permission, missing=True) if bare else told


def word_of(word: Any) -> str:
    """Returns a word of Google's if it has the form of one."""
    return word if isinstance(word, str) and _WORD.fullmatch(word) else "without a reason"
