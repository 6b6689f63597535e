"""What AWS answers, as errors of Keyfold's tree.

Invariant: the texts are ours. Of AWS's own text only known words are looked for, since it may
repeat what was sent. An answer that says nothing certain about the key is "could not tell".
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

BROKEN: Final = (
    BotoCoreError,
    ClientError,
    ResponseParserError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
"""What the SDK raises, for an answer that is not one, too."""

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
    "and this context do not open the stored key: it was changed, or wrapped for another"
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
"""How AWS says that the caller's own policies deny, rather than the resource's."""

_CALLER: Final = re.compile(r"User: arn:[a-z-]{1,32}:(?:iam|sts)::([0-9]{12}):")
"""How AWS names the account of who called."""

_WORD: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def code(error: ClientError) -> str:
    """Returns the error's code, which is a word."""
    found = str(error.response.get("Error", {}).get("Code", ""))
    return found if _WORD.fullmatch(found) else "without a code"


def request_id(reply: Any) -> str:
    """Returns AWS's id of a call from its answer, empty where there is none."""
    found = str(reply.get("ResponseMetadata", {}).get("RequestId", ""))
    return found if _ID.fullmatch(found) else ""


def about_own_credential(error: ClientError) -> bool:
    """Tells whether AWS did not accept who called, rather than what for."""
    return code(error) in _OWN


def denied(error: ClientError) -> bool:
    """Tells whether AWS knew who called and said no."""
    return code(error) in _DENIED


def blames_the_caller(error: ClientError) -> bool:
    """Tells whether AWS says that the caller's own policies deny, not the other account's."""
    return _OURS.search(_text(error)) is not None


def denied_by_our_own_account(error: Exception, account: str) -> bool:
    """Tells whether it is policies of Keyfold's own that deny a call made as the server itself.

    Where key and caller share an account, AWS may say so of the key's policy, too; then it counts
    as the key's, so that taking the permission away there is believed at once.

    Args:
        error: What was raised.
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
        key: The ARN of the key, or of the role, that it was about.
    """
    if not isinstance(error, ClientError):
        return UnreachableError(f"AWS answered {operation} with something that is no answer")
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
        f"AWS does not accept the credential that Keyfold uses for {operation} ({word})",
        provider_request_id=id_,
    )


def _about_key(error: ClientError, word: str, operation: str) -> tuple[type[KmsError], str] | None:
    """Returns the refusal that an error about the key itself means."""
    if word == "KMSInvalidStateException":
        return of_state(re.sub(r"[^a-z]", "", _text(error).lower()))
    # The context of our calls is always well-formed, so before anything was stored it is the
    # key, an asymmetric one, that does not fit; a stored key has been proven to fit.
    if operation == "kms:Encrypt" and word == "ValidationException":
        return KeyInvalidError, "cannot encrypt under a context; use a symmetric encryption key"
    return _ABOUT_KEY.get(word)


def of_state(text: str) -> tuple[type[KmsError], str] | None:
    """Returns the refusal that a key's state means, or None where it is none.

    Args:
        text: The state, or a text that names it, in lower case and letters only.
    """
    if "pendingdeletion" in text or "pendingreplicadeletion" in text:
        return KeyPendingDeletionError, "is scheduled for deletion"
    if "pendingimport" in text:
        return KeyInvalidError, "has no key material: what was imported is deleted or expired"
    if text == "disabled" or "isdisabled" in text:
        return KeyDisabledError, "is disabled; enable it in AWS KMS"
    # Unavailable, Creating and Updating pass, and say nothing about what the customer wants.
    return None


def _text(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _retry_after(error: ClientError) -> float | None:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    hint = str(headers.get("retry-after", ""))
    return float(hint) if re.fullmatch(r"[0-9]{1,5}", hint) else None
