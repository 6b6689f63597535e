"""What Google answers, as errors of Keyfold's tree.

Invariant: Keyfold writes the messages itself. It looks for known words in Google's text and passes
none of that text on, since it may repeat what was sent. An answer that says nothing certain about
the key is "could not tell".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from google.api_core import exceptions as api
from google.auth.exceptions import GoogleAuthError
from google.rpc.error_details_pb2 import PreconditionFailure, RetryInfo

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KekMismatchError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    KeyPendingDeletionError,
    KmsError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.providers.gcp.denials import OWN_SIDE, QUOTAS, denial, word_of
from keyfold_server.providers.shared.logins import RejectedError

BROKEN: Final = (
    api.GoogleAPIError,
    GoogleAuthError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    TimeoutError,
)
"""What the SDK raises, also for an answer that it cannot read."""

DECRYPT: Final = "cloudkms.cryptoKeyVersions.useToDecrypt"
ENCRYPT: Final = "cloudkms.cryptoKeyVersions.useToEncrypt"
GET: Final = "cloudkms.cryptoKeys.get"
IMPERSONATE: Final = "iam.serviceAccounts.getAccessToken"
DELEGATE: Final = "iam.serviceAccounts.implicitDelegation"

_LONGEST_HINT: Final = 86_400.0
"""Most seconds that Google's hint when to call again may say."""

_ABOUT_VERSION: Final[Mapping[str, tuple[type[KmsError], str]]] = {
    "DISABLED": (KeyDisabledError, "has a disabled version; enable it in Cloud KMS"),
    "DESTROY_SCHEDULED": (KeyPendingDeletionError, "has a version scheduled for destruction"),
    "PENDING_EXTERNAL_DESTRUCTION": (
        KeyPendingDeletionError,
        "has a version that is being destroyed",
    ),
    "DESTROYED": (KeyNotFoundError, "has only a destroyed version for this"),
    "PENDING_IMPORT": (KeyInvalidError, "has a version without its imported material"),
    "IMPORT_FAILED": (KeyInvalidError, "has a version whose import failed"),
    "GENERATION_FAILED": (KeyInvalidError, "has a version whose generation failed"),
}
"""The refusal that a version's state means. PENDING_GENERATION ends by itself and is not one."""

_OF_MANAGER: Final[Mapping[str, tuple[type[KmsError], str]]] = {
    "EXTERNAL_PERMISSION_DENIED": (
        AccessDeniedError,
        "is an external key, and its key manager denies Google Cloud the use of it; grant it there",
    ),
    "EXTERNAL_NOT_FOUND": (
        KeyNotFoundError,
        "is an external key, and its key manager does not have it; check the external key's uri",
    ),
    "EXTERNAL_RESOURCE_EXHAUSTED": (
        ThrottledError,
        "is an external key, and its key manager asks to slow down",
    ),
}
"""What an external key manager said of a key of Cloud EKM. Other types are faults on the way."""

_MISMATCH: Final = (
    "does not open the stored key with this context: it was changed, or wrapped for another"
)
_STATE: Final = re.compile(r"current state is: ([A-Z_]{1,64})")
_ELSEWHERE: Final = re.compile(r"concerns location '[^']{1,64}' but was sent to location")
_CHECKSUM: Final = re.compile(r"checksum|crc32c", re.IGNORECASE)


class NotAcceptedError(RejectedError):
    """Google rejected the caller's credential, and not what the caller asked for."""

    def __init__(self, word: str) -> None:
        """Takes Google's word for the reason."""
        super().__init__(not_accepted(word))


def oauth_word(body: bytes) -> str | None:
    """Returns a token endpoint's word for its reason, or None if the answer is not its own."""
    try:
        word = json.loads(body)["error"]
    except (ValueError, TypeError, LookupError):
        return None
    if isinstance(word, dict):
        word = word.get("status")
    return word_of(word) if isinstance(word, str) else None


def translate(error: Exception, permission: str, key: str) -> KmsError:
    """Returns what an error of the SDK means.

    Args:
        error: One of `BROKEN`.
        permission: The permission that the call needs, such as `cloudkms.cryptoKeys.get`.
        key: The name of the key that the call was about.
    """
    if isinstance(error, api.PermissionDenied):
        return _denied(error, permission, key)
    if isinstance(error, api.ResourceExhausted):
        return _exhausted(error)
    if isinstance(error, api.Unauthenticated):
        return not_accepted(word_of(error.reason))
    meant: tuple[type[KmsError], str] | None = None
    if isinstance(error, api.NotFound):
        meant = _not_found(error)
    elif isinstance(error, api.FailedPrecondition):
        meant = _precondition(error)
    elif isinstance(error, api.InvalidArgument) and permission == DECRYPT:
        # A checksum that did not fit means that Keyfold's request was damaged on its way.
        meant = None if _CHECKSUM.search(_text(error)) else (KekMismatchError, _MISMATCH)
    if meant is not None:
        kind, text = meant
        return kind(f"root key {key} {text}")
    return UnreachableError(f"Cloud KMS {_what_happened(error)}")


def not_accepted(word: str) -> CredentialsFailedError:
    """Returns the error for a credential that Google does not accept, even after a renewal."""
    return CredentialsFailedError(
        f"Google Cloud does not accept the credential that Keyfold calls with ({word}); look at "
        "the server's GOOGLE_* environment and at the service account"
    )


def of_state(state: str) -> tuple[type[KmsError], str] | None:
    """Returns the refusal that a version's state means, or None if the state is not a refusal."""
    return _ABOUT_VERSION.get(state)


def _denied(error: api.GoogleAPICallError, permission: str, key: str) -> KmsError:
    text, status = _text(error), "PERMISSION_DENIED"
    told = denial(error.reason, error.metadata, text, _violations(error), status)
    if told.missing:
        # Without a name, it is the call's own permission that is missing.
        needed = told.permission or permission
        return AccessDeniedError(
            f"Google Cloud denies {needed} on {key}; grant it to the principal there",
            missing_permission=needed,
        )
    if told.word in OWN_SIDE:
        return not_accepted(told.word)
    if told.word in QUOTAS:
        return ThrottledError(f"Cloud KMS asks to slow down: a quota is used up ({told.word})")
    return UnreachableError(f"Cloud KMS cannot be called: {told.meaning}; have that changed")


def _not_found(error: api.GoogleAPICallError) -> tuple[type[KmsError], str]:
    if _ELSEWHERE.search(_text(error)):
        return UnreachableError, (
            "is in a location that this endpoint of Cloud KMS does not serve; set endpoint in "
            "[providers.gcp] to one that serves it"
        )
    return KeyNotFoundError, "does not exist"


def _exhausted(error: api.GoogleAPICallError) -> KmsError:
    # Keyfold's own gRPC uses the same code when it refuses an answer.
    if "larger than max" in _text(error):
        return UnreachableError("Cloud KMS sent an answer that is too large; try again")
    hints = [each.retry_delay for each in error.details if isinstance(each, RetryInfo)]
    seconds = hints[0].seconds + hints[0].nanos / 1e9 if hints else 0.0
    return ThrottledError(
        "Cloud KMS asks to slow down: a quota is used up",
        retry_after=seconds if 0 < seconds <= _LONGEST_HINT else None,
    )


def _precondition(error: api.GoogleAPICallError) -> tuple[type[KmsError], str] | None:
    for kind in _violations(error):
        if kind == "CRYPTO_SCHEME_MISMATCH":
            return KeyInvalidError, "is not a symmetric encryption key"
        meant = _OF_MANAGER.get(kind) or _ABOUT_VERSION.get(kind.removeprefix("KEY_"))
        if meant is not None:
            return meant
    state = _STATE.search(_text(error))
    if state is not None:
        return _ABOUT_VERSION.get(state[1])
    if "no primary version" in _text(error):
        return KeyInvalidError, "has no primary version; make one of its versions the primary"
    return None


def _violations(error: api.GoogleAPICallError) -> Iterator[str]:
    for detail in error.details:
        if isinstance(detail, PreconditionFailure):
            yield from (each.type for each in detail.violations)


_UNRESOLVED: Final = ("DNS resolution", "esolution failed", "ddress lookup failed")
"""What gRPC says if a name does not resolve; it depends on its release and resolver."""


def _what_happened(error: Exception) -> str:
    """Says for people why there is no answer, without a library's text."""
    if isinstance(error, TimeoutError | api.DeadlineExceeded):
        return "gave no answer in the time that the call had"
    if not isinstance(error, api.GoogleAPICallError):
        return "answered with something that Keyfold cannot read; try again"
    text = _text(error)
    if isinstance(error, api.ServiceUnavailable):
        for words, what in (
            (("CERTIFICATE", "handshak", "SSL_ERROR"), "could not be trusted; check its CA"),
            (_UNRESOLVED, "cannot be found: its name does not resolve"),
            (("onnection refused",), "refuses connections"),
            (("failed to connect",), "was not connected"),
        ):
            if any(each in text for each in words):
                return what
    code = error.grpc_status_code
    told = [code.name if code else "no status", *map(word_of, _violations(error))]
    return f"did not carry out the call ({', '.join(told)})"


def _text(error: api.GoogleAPICallError) -> str:
    return str(error.message or "")
