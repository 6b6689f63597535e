"""The methods of Cloud KMS that the Google Cloud counterpart serves, with their work.

One table has each method with the permission that it needs, and the resource that it needs it on.
Messages are the SDK's own types. This module knows neither callers nor transports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from re import Pattern
from typing import Any

import google_crc32c
from google.cloud.kms_v1.types import resources, service

from counterparts.gcp_errors import Refusal
from counterparts.gcp_keys import (
    IDENTIFIER,
    KEY,
    KEY_OR_VERSION,
    KEY_RING,
    LOCATION,
    VERSION,
    VERSION_NUMBER,
    Algorithm,
    Key,
    Keys,
    Protection,
    Purpose,
    State,
    Version,
)

_MOST = 64 * 1024
_MOST_HSM = 8 * 1024


@dataclass(frozen=True)
class Method:
    """A method that the counterpart serves.

    Attributes:
        request: Type of the request.
        response: Type of the answer.
        permission: The permission that the caller needs.
        resource: The field that names the resource of the permission, with a pattern of its names.
        answer: Function that does the work.
    """

    request: Any
    response: Any
    permission: str
    resource: tuple[str, Pattern[str]]
    answer: Callable[[Keys, Any], Any]


def _create_key_ring(keys: Keys, request: service.CreateKeyRingRequest) -> resources.KeyRing:
    _identifier("key_ring_id", request.key_ring_id)
    return keys.create_ring(f"{request.parent}/keyRings/{request.key_ring_id}")


def _create_key(keys: Keys, request: service.CreateCryptoKeyRequest) -> resources.CryptoKey:
    _identifier("crypto_key_id", request.crypto_key_id)
    asked = request.crypto_key
    purpose = _enum(Purpose, "crypto_key.purpose", asked.purpose)
    template = asked.version_template
    algorithm_field = "crypto_key.version_template.algorithm"
    algorithm = _enum(Algorithm, algorithm_field, template.algorithm)
    symmetric = purpose is Purpose.ENCRYPT_DECRYPT
    if symmetric and not algorithm:
        algorithm = Algorithm.GOOGLE_SYMMETRIC_ENCRYPTION
    if not purpose:
        raise Refusal("invalid_field", field="crypto_key.purpose", why="it is required")
    if symmetric != (algorithm is Algorithm.GOOGLE_SYMMETRIC_ENCRYPTION) or not algorithm:
        why = "it does not go with the purpose"
        raise Refusal("invalid_field", field=algorithm_field, why=why)
    level: Any = template.protection_level
    protection = level or Protection.SOFTWARE
    if protection not in {Protection.SOFTWARE, Protection.HSM}:
        field = "crypto_key.version_template.protection_level"
        raise Refusal("invalid_field", field=field, why="take SOFTWARE or HSM")
    name = f"{request.parent}/cryptoKeys/{request.crypto_key_id}"
    # The SDK turns a duration into a timedelta, whatever its types claim.
    after: Any = asked.destroy_scheduled_duration
    key = Key(name, purpose, algorithm, protection, after or timedelta(days=30))
    first_version = not request.skip_initial_version_creation
    return keys.create_key(key, first_version=first_version).message()


def _update_version(
    keys: Keys, request: service.UpdateCryptoKeyVersionRequest
) -> resources.CryptoKeyVersion:
    if list(request.update_mask.paths) != ["state"]:
        raise Refusal("invalid_field", field="update_mask", why="only state can be updated")
    moves = {State.ENABLED: "enable", State.DISABLED: "disable"}
    state: Any = request.crypto_key_version.state
    if state not in moves:
        field = "crypto_key_version.state"
        raise Refusal("invalid_field", field=field, why="take ENABLED or DISABLED")
    return keys.move(request.crypto_key_version.name, moves[state]).message()


def _update_primary(
    keys: Keys, request: service.UpdateCryptoKeyPrimaryVersionRequest
) -> resources.CryptoKey:
    number = request.crypto_key_version_id
    if not VERSION_NUMBER.fullmatch(number):
        raise Refusal("invalid_field", field="crypto_key_version_id", why="it is not a number")
    return keys.set_primary(request.name, int(number)).message()


def _encrypt(keys: Keys, request: service.EncryptRequest) -> service.EncryptResponse:
    plaintext, aad = request.plaintext, request.additional_authenticated_data
    _length("plaintext", plaintext)
    _length("additional_authenticated_data", aad)
    verified = _checked(request, "plaintext")
    verified_aad = _checked(request, "additional_authenticated_data")
    version, ciphertext = keys.encrypt(request.name, plaintext, aad)
    _hsm_length(version, plaintext, aad)
    return service.EncryptResponse(
        name=version.name,
        ciphertext=ciphertext,
        ciphertext_crc32c=google_crc32c.value(ciphertext),
        verified_plaintext_crc32c=verified,
        verified_additional_authenticated_data_crc32c=verified_aad,
        protection_level=version.protection,
    )


def _decrypt(keys: Keys, request: service.DecryptRequest) -> service.DecryptResponse:
    _length("additional_authenticated_data", request.additional_authenticated_data)
    _checked(request, "ciphertext")
    _checked(request, "additional_authenticated_data")
    version, plaintext = keys.decrypt(
        request.name, request.ciphertext, request.additional_authenticated_data
    )
    return service.DecryptResponse(
        plaintext=plaintext,
        plaintext_crc32c=google_crc32c.value(plaintext),
        used_primary=keys.key(request.name).primary is version,
        protection_level=version.protection,
    )


def _enum(kind: Any, field: str, value: int) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise Refusal("invalid_field", field=field, why="the value is not known") from None


def _identifier(field: str, value: str) -> None:
    if not IDENTIFIER.fullmatch(value):
        why = f"it has to match {IDENTIFIER.pattern}"
        raise Refusal("invalid_field", field=field, why=why)


def _length(field: str, value: bytes) -> None:
    if len(value) > _MOST:
        raise Refusal("length", field=field, least=0, most=_MOST, length=len(value))


def _hsm_length(version: Version, plaintext: bytes, aad: bytes) -> None:
    length = len(plaintext) + len(aad)
    if version.protection is Protection.HSM and length > _MOST_HSM:
        raise Refusal("hsm_length", length=length)


def _checked(request: Any, data: str) -> bool:
    # Returns whether a checksum came; a message field that was not sent is None.
    field = f"{data}_crc32c"
    sent = getattr(request, field)
    if sent is not None and sent != google_crc32c.value(getattr(request, data)):
        raise Refusal("checksum", field=field, data=data)
    return sent is not None


METHODS = {
    "CreateKeyRing": Method(
        service.CreateKeyRingRequest,
        resources.KeyRing,
        "cloudkms.keyRings.create",
        ("parent", LOCATION),
        _create_key_ring,
    ),
    "CreateCryptoKey": Method(
        service.CreateCryptoKeyRequest,
        resources.CryptoKey,
        "cloudkms.cryptoKeys.create",
        ("parent", KEY_RING),
        _create_key,
    ),
    "CreateCryptoKeyVersion": Method(
        service.CreateCryptoKeyVersionRequest,
        resources.CryptoKeyVersion,
        "cloudkms.cryptoKeyVersions.create",
        ("parent", KEY),
        lambda keys, request: keys.create_version(request.parent).message(),
    ),
    "GetCryptoKey": Method(
        service.GetCryptoKeyRequest,
        resources.CryptoKey,
        "cloudkms.cryptoKeys.get",
        ("name", KEY),
        lambda keys, request: keys.key(request.name).message(),
    ),
    "GetCryptoKeyVersion": Method(
        service.GetCryptoKeyVersionRequest,
        resources.CryptoKeyVersion,
        "cloudkms.cryptoKeyVersions.get",
        ("name", VERSION),
        lambda keys, request: keys.version(request.name).message(),
    ),
    "UpdateCryptoKeyPrimaryVersion": Method(
        service.UpdateCryptoKeyPrimaryVersionRequest,
        resources.CryptoKey,
        "cloudkms.cryptoKeys.update",
        ("name", KEY),
        _update_primary,
    ),
    "UpdateCryptoKeyVersion": Method(
        service.UpdateCryptoKeyVersionRequest,
        resources.CryptoKeyVersion,
        "cloudkms.cryptoKeyVersions.update",
        ("crypto_key_version.name", VERSION),
        _update_version,
    ),
    "DestroyCryptoKeyVersion": Method(
        service.DestroyCryptoKeyVersionRequest,
        resources.CryptoKeyVersion,
        "cloudkms.cryptoKeyVersions.destroy",
        ("name", VERSION),
        lambda keys, request: keys.move(request.name, "destroy").message(),
    ),
    "RestoreCryptoKeyVersion": Method(
        service.RestoreCryptoKeyVersionRequest,
        resources.CryptoKeyVersion,
        "cloudkms.cryptoKeyVersions.restore",
        ("name", VERSION),
        lambda keys, request: keys.move(request.name, "restore").message(),
    ),
    "Encrypt": Method(
        service.EncryptRequest,
        service.EncryptResponse,
        "cloudkms.cryptoKeyVersions.useToEncrypt",
        ("name", KEY_OR_VERSION),
        _encrypt,
    ),
    "Decrypt": Method(
        service.DecryptRequest,
        service.DecryptResponse,
        "cloudkms.cryptoKeyVersions.useToDecrypt",
        ("name", KEY),
        _decrypt,
    ),
}
