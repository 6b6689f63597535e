"""Names of Cloud KMS keys and of the service accounts that use them.

Invariant: the only accepted form of a name is the one that Google itself writes. So one key has one
uri, and the adapter can compare the name in an answer with it. These functions do not call Google.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from keyfold_server.domain.errors import InvalidKeySpecError
from keyfold_server.domain.keyspec import RootKey

_URI: Final = "key_spec.uri"
_PRINCIPAL: Final = "key_spec.auth_principal"
_OPTIONS: Final = "key_spec.options"
_KEY_EXAMPLE: Final = "projects/acme-prod/locations/europe-west1/keyRings/cmek/cryptoKeys/keyfold"
_ACCOUNT_EXAMPLE: Final = "keyfold@acme-prod.iam.gserviceaccount.com"

DELEGATES: Final = "delegates"
"""The one option: service accounts between Keyfold's own and the principal, comma-separated."""

_PROJECT: Final = r"(?:[a-z0-9.-]{1,253}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
_NAME: Final = r"[a-zA-Z0-9_-]{1,63}"
_KEY: Final = re.compile(
    rf"projects/(?P<project>{_PROJECT})/locations/[a-z][a-z0-9-]{{0,62}}"
    rf"/keyRings/{_NAME}/cryptoKeys/{_NAME}"
)
_HOLDER: Final = re.compile(rf"projects/{_PROJECT}")
_NUMBERED: Final = re.compile(r"projects/[0-9]+/.*")
_ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}@(?:[a-z0-9-]{1,63}\.)+gserviceaccount\.com")


@functools.lru_cache(maxsize=4_096)
def project(uri: str) -> str:
    """Returns the id of the project that a key belongs to.

    Raises:
        InvalidKeySpecError: The uri is not the name of a crypto key as Google writes it.
    """
    found = _KEY.fullmatch(uri)
    if found is not None:
        return found["project"]
    if _KEY.fullmatch(uri.partition("/cryptoKeyVersions")[0]):
        why = (
            "the uri names a version, but a key's primary version changes; give the key's name, "
            "without /cryptoKeyVersions"
        )
    elif _NUMBERED.fullmatch(uri):
        why = "the uri has the project's number, a second name of the project; give its id"
    elif "projects/" in uri and not uri.startswith("projects/"):
        why = f"the uri must be the key's name alone, such as {_KEY_EXAMPLE}, with nothing before"
    else:
        why = f"the uri must be the name of a Cloud KMS key, such as {_KEY_EXAMPLE}"
    raise InvalidKeySpecError(why, field=_URI)


def is_project(text: str) -> bool:
    """Says whether a text is a project as `projects/ID`; its number is not its id."""
    return _HOLDER.fullmatch(text) is not None


def canonical(key: RootKey) -> RootKey:
    """Returns a key with its options in canonical form.

    Raises:
        InvalidKeySpecError: The uri, principal or an option is not one of Cloud KMS's.
    """
    project(key.uri)
    if key.principal and _ACCOUNT.fullmatch(key.principal) is None:
        raise InvalidKeySpecError(
            f"auth_principal must be a service account's email, such as {_ACCOUNT_EXAMPLE}; leave "
            "it out to use the server's own identity",
            field=_PRINCIPAL,
        )
    if any(name != DELEGATES for name, _ in key.options):
        raise InvalidKeySpecError(
            f"GCP_CLOUD_KMS takes no option but {DELEGATES}; leave the others out", field=_OPTIONS
        )
    if not key.options:
        return key
    if not key.principal:
        raise InvalidKeySpecError(
            f"{DELEGATES} lead to an auth_principal; give one, or leave {DELEGATES} out",
            field=_OPTIONS,
        )
    told = [each.strip() for each in key.options[0][1].split(",")]
    if not all(_ACCOUNT.fullmatch(each) for each in told):
        raise InvalidKeySpecError(
            f"{DELEGATES} must be the emails of service accounts, separated by commas, such as "
            f"{_ACCOUNT_EXAMPLE}, in an order in which each may act as the next",
            field=_OPTIONS,
        )
    return RootKey(key.type, key.uri, key.principal, ((DELEGATES, ",".join(told)),))


def delegates(key: RootKey) -> tuple[str, ...]:
    """Returns the service accounts between Keyfold's own and a key's principal."""
    return tuple(key.options[0][1].split(",")) if key.options else ()


def check_account(email: str) -> bool:
    """Says whether a text is a service account's email."""
    return _ACCOUNT.fullmatch(email) is not None
