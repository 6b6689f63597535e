"""What AWS answers, as errors of Keyfold's tree.

Invariant: Keyfold writes the messages itself. It looks for known words in AWS's text and passes
none of that text on, since it may repeat what was sent. An answer that says nothing certain about
the key is "could not tell".
"""

from __future__ import annotations

import re
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

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
from keyfold_server.providers.shared.transport import retry_after

BROKEN: Final = (
    BotoCoreError,
    ClientError,
    ResponseParserError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
"""What the SDK raises, also for an answer that it cannot read."""

_OWN: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RegionDisabledException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException"})
_THROTTLED: Final = frozenset(
    {
        "LimitExceededException",
        "RequestLimitExceeded",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_MISMATCH: Final = (
    "does not open the stored key with this context: it was changed, or wrapped for another"
)

_ABOUT_KEY: Final[dict[str, tuple[type[KmsError], str]]] = {
    "NotFoundException": (KeyNotFoundError, "does not exist"),
    "DisabledException": (KeyDisabledError, "is disabled; enable it in AWS KMS"),
    "InvalidKeyUsageException": (KeyInvalidError, "is not a symmetric encryption key"),
    "InvalidCiphertextException": (KekMismatchError, _MISMATCH),
    "IncorrectKeyException": (KekMismatchError, _MISMATCH),
}

_OURS: Final = re.compile(
    r"no identity-based policy|in an? (?:identity-based|service control|session) policy"
    r"|permissions boundary|no (?:service control|session) policy"
)
"""The words with which AWS says that the caller's own policies deny, not the resource's."""

_CALLER: Final = re.compile(r"User: arn:[a-z-]{1,32}:(?:iam|sts)::([0-9]{12}):")
"""The words with which AWS names the caller's account."""

_WORD: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def code(error: ClientError) -> str:
    """Returns AWS's code of an error, one word."""
    found = str(error.response.get("Error", {}).get("Code", ""))
    return found if _WORD.fullmatch(found) else "without a code"


def request_id(reply: Any) -> str:
    """Returns AWS's id of a call from its answer, empty if the answer has no id."""
    found = str(reply.get("ResponseMetadata", {}).get("RequestId", ""))
    return found if _ID.fullmatch(found) else ""


def about_own_credential(error: ClientError) -> bool:
    """Says whether AWS rejected the caller's credential, and not what the caller asked for."""
    return code(error) in _OWN


def denied(error: ClientError) -> bool:
    """Says whether AWS accepted the credential and denied the call."""
    return code(error) in _DENIED


def blames_the_caller(error: ClientError) -> bool:
    """Says whether the caller's own policies deny the call, and not the other account's."""
    return _OURS.search(_text(error)) is not None


def denied_by_our_own_account(error: Exception, account: str) -> bool:
    """Says whether Keyfold's own policies deny a call that it made as the server itself.

    If key and caller share an account, AWS may use the same words for the key's policy. Then the
    denial counts as the key's, so that it takes effect at once when the customer takes the
    permission away there.

    Args:
        error: The error that the call raised.
        account: The key's account.
    """
    if not isinstance(error, ClientError) or not denied(error) or not blames_the_caller(error):
        return False
    caller = _CALLER.search(_text(error))
    return caller is not None and caller[1] != account


def translate(error: Exception, operation: str, key: str) -> KmsError:
    """Returns what an error of the SDK means.

    Args:
        error: One of `BROKEN`.
        operation: AWS's name of the operation, such as `kms:Decrypt`.
        key: The ARN of the key, or of the role, that the call was about.
    """
    if not isinstance(error, ClientError):
        return UnreachableError(
            f"AWS answered {operation} with something that Keyfold cannot read; try again"
        )
    word, id_ = code(error), request_id(error.response)
    if word in _OWN:
        return credentials_failed(operation, word, id_)
    if word in _DENIED:
        return AccessDeniedError(
            f"AWS denies {operation} on {key}",
            provider_request_id=id_,
            missing_permission=operation,
        )
    if word in _THROTTLED or _status(error) == 429:  # noqa: PLR2004  Too Many Requests
        return ThrottledError(
            f"AWS asks to slow down with {operation} ({word})",
            provider_request_id=id_,
            retry_after=_retry_after(error),
        )
    about_key = _about_key(error, word, operation)
    if about_key is not None:
        kind, text = about_key
        return kind(f"root key {key} {text}", provider_request_id=id_)
    return UnreachableError(
        f"AWS did not carry out {operation}: {word}, status {_status(error)}",
        provider_request_id=id_,
    )


def credentials_failed(operation: str, word: str, id_: str) -> CredentialsFailedError:
    """Returns the error for a credential that AWS does not accept."""
    return CredentialsFailedError(
        f"AWS does not accept the credential that Keyfold uses for {operation} ({word}); renew it",
        provider_request_id=id_,
    )


def _about_key(error: ClientError, word: str, operation: str) -> tuple[type[KmsError], str] | None:
    """Returns the refusal that an error about the key itself means, or None if it is not one."""
    if word == "KMSInvalidStateException":
        return of_state(re.sub(r"[^a-z]", "", _text(error).lower()))
    # Keyfold's context is always well-formed, so the key is at fault: it is asymmetric. Only
    # Encrypt can find that out, since a stored key was wrapped by a key that fits.
    if operation == "kms:Encrypt" and word == "ValidationException":
        return KeyInvalidError, "cannot encrypt under a context; use a symmetric encryption key"
    return _ABOUT_KEY.get(word)


def of_state(text: str) -> tuple[type[KmsError], str] | None:
    """Returns the refusal that a key's state means, or None if the state is not a refusal.

    Args:
        text: The state, or a text that names it, in lower case, with nothing but letters.
    """
    if "pendingdeletion" in text or "pendingreplicadeletion" in text:
        return KeyPendingDeletionError, "is scheduled for deletion"
    if "pendingimport" in text:
        return (
            KeyInvalidError,
            "has no key material: the imported material was deleted or has expired",
        )
    if text == "disabled" or "isdisabled" in text:
        return KeyDisabledError, "is disabled; enable it in AWS KMS"
    # Unavailable, Creating and Updating end by themselves; the customer did not choose them.
    return None


def _text(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _retry_after(error: ClientError) -> float | None:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return retry_after(str(headers.get("retry-after", "")))
