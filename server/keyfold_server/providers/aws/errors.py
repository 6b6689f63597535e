"""What AWS answers, as errors of Keyfold's tree.

Invariant: Keyfold writes the messages itself. It looks for known words in AWS's text and passes
none of that text on, since it may repeat what was sent. An answer that says nothing certain about
the key is "could not tell".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from keyfold_server.domain.errors import (
    CredentialsFailedError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    KmsError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.providers.aws import key_states
from keyfold_server.providers.aws.answers import code, header, request_id, status, text
from keyfold_server.providers.aws.denials import denial, denied
from keyfold_server.providers.aws.key_states import MISMATCH, Meaning
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
_ABOUT_KEY: Final[dict[str, Meaning]] = {
    "NotFoundException": (KeyNotFoundError, "does not exist"),
    "DisabledException": (KeyDisabledError, "is disabled; enable it in AWS KMS"),
    "InvalidKeyUsageException": (KeyInvalidError, "is not a symmetric encryption key"),
    "InvalidCiphertextException": MISMATCH,
    "IncorrectKeyException": MISMATCH,
}


def about_own_credential(error: ClientError) -> bool:
    """Says whether AWS rejected the caller's credential, and not what the caller asked for."""
    return code(error) in _OWN


def translate(
    error: Exception,
    operation: str,
    key: str,
    principal: str = "",
    context: Mapping[str, str] | None = None,
) -> KmsError:
    """Returns what an error of the SDK means.

    Args:
        error: One of `BROKEN`.
        operation: AWS's name of the operation, such as `kms:Decrypt`.
        key: The ARN of the key, or of the role, that the call was about.
        principal: The role that made the call; empty if it was the server's own identity.
        context: The encryption context of the call, or None if the operation carries none.
    """
    if not isinstance(error, ClientError):
        return UnreachableError(
            f"AWS answered {operation} with something that Keyfold cannot read; try again"
        )
    word, id_ = code(error), request_id(error.response)
    if word in _OWN:
        return credentials_failed(operation, word, id_)
    if denied(error):
        return denial(error, operation, key, principal, context)
    if word in _THROTTLED or status(error) == 429:  # noqa: PLR2004  Too Many Requests
        return ThrottledError(
            f"AWS asks to slow down with {operation} ({word})",
            provider_request_id=id_,
            retry_after=retry_after(header(error, "retry-after")),
        )
    about_key = _about_key(error, word, operation)
    if about_key is not None:
        kind, said = about_key
        return kind(f"root key {key} {said}", provider_request_id=id_)
    return UnreachableError(
        f"AWS did not carry out {operation}: {word}, status {status(error)}",
        provider_request_id=id_,
    )


def credentials_failed(operation: str, word: str, id_: str) -> CredentialsFailedError:
    """Returns the error for a credential that AWS does not accept."""
    return CredentialsFailedError(
        f"AWS does not accept the credential that Keyfold uses for {operation} ({word}); renew it",
        provider_request_id=id_,
    )


def _about_key(error: ClientError, word: str, operation: str) -> Meaning | None:
    """Returns what an error about the key itself means, or None if it is not one."""
    if word == "KMSInvalidStateException":
        meaning = key_states.of_text(text(error))
        # What Encrypt sends is no ciphertext, so such an answer to it says nothing.
        return None if meaning is MISMATCH and operation == "kms:Encrypt" else meaning
    # Keyfold's context is always well-formed, so the key is at fault: it is asymmetric. Only
    # Encrypt can find that out, since a stored key was wrapped by a key that fits.
    if operation == "kms:Encrypt" and word == "ValidationException":
        return KeyInvalidError, "cannot encrypt under a context; use a symmetric encryption key"
    return _ABOUT_KEY.get(word)
