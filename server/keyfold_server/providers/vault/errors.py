"""What Vault and OpenBao answer, as errors of Keyfold's tree.

Invariant: Keyfold writes the messages itself. It looks for known words in the server's text and
keeps none of that text, since it may repeat what was sent. The server answers 400 to most faults,
so the words decide. An answer that says nothing certain about the key is "could not tell".
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Final

import requests
from hvac.exceptions import VaultError
from requests.exceptions import TooManyRedirects

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KekMismatchError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    KmsError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.providers.shared.connections import what_happened
from keyfold_server.providers.shared.deadlines import current
from keyfold_server.providers.shared.requests_deadlines import root_cause
from keyfold_server.providers.shared.transport import retry_after


class Fault(enum.Enum):
    """What is certain about an answer that is not 200."""

    DENIED = enum.auto()
    THROTTLED = enum.auto()
    NO_KEY = enum.auto()
    NO_MOUNT = enum.auto()
    SOFT_DELETED = enum.auto()
    TOO_OLD = enum.auto()
    TRIMMED = enum.auto()
    MISMATCH = enum.auto()
    NOT_AEAD = enum.auto()
    DERIVED = enum.auto()
    NOT_TRANSIT = enum.auto()
    SEALED = enum.auto()
    NO_BACKEND = enum.auto()
    OTHER = enum.auto()


_WORDS: Final[tuple[tuple[int, str, Fault], ...]] = (
    (400, "message authentication failed", Fault.MISMATCH),
    (400, "invalid ciphertext", Fault.MISMATCH),
    (400, "disallowed by policy (too old)", Fault.TOO_OLD),
    (400, "soft-deleted key", Fault.SOFT_DELETED),
    (400, "encryption key not found", Fault.NO_KEY),
    # The answer if the server would have to create the key; see `provider`.
    (400, "not supported for this operation", Fault.NO_KEY),
    (400, "unknown key type", Fault.NO_KEY),
    (400, "provided for non-AEAD cipher suite", Fault.NOT_AEAD),
    (400, "missing 'context' for key derivation", Fault.DERIVED),
    (404, "route entry not found", Fault.NO_MOUNT),
    # The engine is mounted and does not run: its plugin failed, or a replica filters it.
    (404, "backend is nil", Fault.NO_BACKEND),
    (404, "namespace not found", Fault.NO_MOUNT),
    (404, "unsupported path", Fault.NOT_TRANSIT),
    (405, "unsupported operation", Fault.NOT_TRANSIT),
    (429, "quota exceeded", Fault.THROTTLED),
    (503, "sealed", Fault.SEALED),
)
"""Status and words as the servers write them (OpenBao 2.7; Vault has the same)."""

_KINDS: Final[dict[Fault, tuple[type[KmsError], str]]] = {
    Fault.NO_KEY: (KeyNotFoundError, "does not exist"),
    Fault.NO_MOUNT: (KeyNotFoundError, "does not exist: there is no secrets engine at its path"),
    Fault.TRIMMED: (
        KeyNotFoundError,
        "no longer has the version of the stored key: it was trimmed",
    ),
    Fault.SOFT_DELETED: (KeyDisabledError, "is soft-deleted; restore it with soft-delete-restore"),
    Fault.TOO_OLD: (
        KeyDisabledError,
        "opens only newer versions; lower its min_decryption_version",
    ),
    Fault.MISMATCH: (
        KekMismatchError,
        "does not open the stored key with this context: it was changed, or wrapped for another",
    ),
    Fault.NOT_AEAD: (KeyInvalidError, "binds no context; use a key of type aes256-gcm96"),
    Fault.DERIVED: (KeyInvalidError, "derives keys; use one that was created with derived=false"),
    Fault.NOT_TRANSIT: (KeyInvalidError, "is not in a transit secrets engine; check its uri"),
}

_NOT_RUNNING: Final[dict[Fault, str]] = {
    Fault.SEALED: "the Vault server is sealed; unseal it",
    Fault.NO_BACKEND: "the secrets engine at the key's path is not running on the Vault server; "
    "look at the server's log",
}

_FORBIDDEN: Final = 403
_MISSING: Final = 404
_BUSY: Final = 429


class StatusError(Exception):
    """The server answered with a status other than 200.

    Attributes:
        status: The HTTP status.
        fault: The certain meaning of the answer.
        retry_after: Seconds to wait before the next call, or None if the answer does not say.
    """

    def __init__(self, status: int, errors: Iterable[Any] | None, hint: str) -> None:
        """Reads an answer.

        Args:
            status: The HTTP status.
            errors: The texts of the body's `errors`, or None if the body is not the server's.
            hint: The header Retry-After, or empty.
        """
        super().__init__(f"status {status}")
        self.status = status
        self.retry_after = retry_after(hint)
        self.fault = _fault(status, errors)
        # Some proxies ask to slow down, in words of their own.
        if status == _BUSY and self.retry_after is not None:
            self.fault = Fault.THROTTLED


def _fault(status: int, errors: Iterable[Any] | None) -> Fault:
    if errors is None:
        return Fault.OTHER
    texts = [str(each) for each in errors]
    for code, words, fault in _WORDS:
        if code == status and any(words in text for text in texts):
            return fault
    if status == _FORBIDDEN:
        return Fault.DENIED
    # If a key does not exist, the server answers 404 without a text.
    return Fault.NO_KEY if status == _MISSING and not texts else Fault.OTHER


class GarbledError(Exception):
    """An answer 200 with a body that is not the server's."""


BROKEN: Final = (
    StatusError,
    GarbledError,
    VaultError,
    requests.RequestException,
    TimeoutError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
"""What a call raises, through the SDK or because Keyfold cannot read the answer."""


def translate(error: Exception, permission: str, key: str) -> KmsError:
    """Returns what an error of a call means. Only the call's own thread may ask, within its time.

    Args:
        error: One of `BROKEN`.
        permission: The permission that a policy must give, such as `update transit/encrypt/NAME`.
        key: The key's uri, or what else the call was about.
    """
    if not isinstance(error, StatusError):
        return unreachable(error)
    if error.fault in _KINDS:
        return about_key(error.fault, key)
    if error.fault is Fault.DENIED:
        return AccessDeniedError(
            f"the Vault server denies Keyfold {permission}; the policy of Keyfold's role must "
            "allow it",
            missing_permission=permission,
        )
    if error.fault is Fault.THROTTLED:
        return ThrottledError(
            "the Vault server asks to slow down: a rate limit quota is exceeded",
            retry_after=error.retry_after,
        )
    otherwise = f"the Vault server did not carry out {permission}: status {error.status}; try again"
    return UnreachableError(_NOT_RUNNING.get(error.fault, otherwise))


def about_key(fault: Fault, key: str) -> KmsError:
    """Returns the error for a fault of a key itself."""
    kind, text = _KINDS[fault]
    return kind(f"root key {key} {text}")


def unreachable(error: Exception) -> UnreachableError:
    """Returns the error for a call that got no answer from the server."""
    if isinstance(error, TooManyRedirects):
        return UnreachableError(
            "the Vault server answered with a redirect, which Keyfold does not follow because it "
            "would carry the token elsewhere; let standby servers forward requests"
        )
    if isinstance(error, requests.RequestException | TimeoutError):
        return UnreachableError(f"the Vault server {what_happened(root_cause(error), current())}")
    return UnreachableError(
        "the Vault server answered with something that Keyfold cannot read; try again"
    )


def login_failed(error: Exception, principal: str) -> KmsError:
    """Returns what an error of a login means, which never says anything about a key.

    Args:
        error: One of `BROKEN`.
        principal: The principal that Keyfold tried to log in as.
    """
    if isinstance(error, StatusError) and error.status == _FORBIDDEN:
        return CredentialsFailedError(
            f"the Vault server forbids Keyfold to log in as {principal}; renew its credential, and "
            "check whether the server has locked it out after failed logins (sys/locked-users)"
        )
    if isinstance(error, StatusError) and error.status in (400, 401, _MISSING, 405):
        return CredentialsFailedError(
            f"the Vault server does not let Keyfold log in as {principal}; renew its credential, "
            "and check that the auth method and the role exist"
        )
    return translate(error, f"a login as {principal}", principal)
