"""What Acme KMS answers, as errors of Keyfold's tree.

Acme KMS answers an error as `{"error": WORD}`. Invariant: only a status with a word that is known
here says something about a key. Everything else, such as the page of a proxy, means that the KMS
could not be asked. No text of the KMS is passed on, since it may repeat what was sent.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

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
from keyfold_server.providers.shared.transport import Answer, retry_after

_ABOUT_KEY: Final[dict[tuple[int, str], tuple[type[KmsError], str]]] = {
    (400, "ciphertext_invalid"): (
        KekMismatchError,
        "does not open the stored key with this context: it was changed, or wrapped for another",
    ),
    (404, "key_not_found"): (KeyNotFoundError, "does not exist; check its uri"),
    (404, "version_not_found"): (KeyNotFoundError, "no longer has the version of the stored key"),
    (409, "key_disabled"): (KeyDisabledError, "is disabled; enable it in Acme KMS"),
    (409, "version_disabled"): (
        KeyDisabledError,
        "has a disabled version that the stored key needs; enable it in Acme KMS",
    ),
    (409, "deletion_scheduled"): (
        KeyPendingDeletionError,
        "is scheduled for deletion; cancel that in Acme KMS",
    ),
    (409, "wrong_purpose"): (KeyInvalidError, "is not an encryption key; use one that is"),
}

_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_UNAUTHORIZED: Final = (401, "token_invalid")
_FORBIDDEN: Final = (403, "permission_denied")
_TOO_MANY: Final = 429


def request_id(answer: Answer) -> str:
    """Returns the KMS's own id of a call, empty if the answer does not have one."""
    found = answer.headers.get("x-request-id", "")
    return found if _ID.fullmatch(found) else ""


def body(answer: Answer) -> dict[str, Any]:
    """Returns the JSON object of an answer, empty if the body is not one."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def translate(answer: Answer, permission: str, uri: str) -> KmsError:
    """Returns what an answer that is not 200 means.

    Args:
        answer: The answer.
        permission: The permission that the call needs, as Acme KMS writes it.
        uri: The key's uri.
    """
    id_ = request_id(answer)
    said = (answer.status, str(body(answer).get("error", "")))
    if said in _ABOUT_KEY:
        kind, text = _ABOUT_KEY[said]
        return kind(f"root key {uri} {text}", provider_request_id=id_)
    if said == _UNAUTHORIZED:
        return CredentialsFailedError(
            "Acme KMS does not accept Keyfold's token; replace the file that token_file in "
            "[providers.acme_kms] names",
            provider_request_id=id_,
        )
    if said == _FORBIDDEN:
        return AccessDeniedError(
            f"Acme KMS denies Keyfold {permission} on {uri}; grant it",
            provider_request_id=id_,
            missing_permission=permission,
        )
    if answer.status == _TOO_MANY:
        return ThrottledError(
            "Acme KMS asks to slow down",
            provider_request_id=id_,
            retry_after=retry_after(answer.headers.get("retry-after", "")),
        )
    return UnreachableError(
        f"Acme KMS answered {permission} with status {answer.status}, which says nothing about "
        "the key; try again",
        provider_request_id=id_,
    )
