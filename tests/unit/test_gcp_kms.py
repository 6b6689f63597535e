"""The Google Cloud adapter without Google: names, errors and settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from google.api_core import exceptions as api
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, PreconditionFailure, RetryInfo

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    InvalidKeySpecError,
    KekMismatchError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    KeyPendingDeletionError,
    KmsError,
    SetupError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import Authenticates, DescribesKeys
from keyfold_server.providers.gcp.denials import http_denial
from keyfold_server.providers.gcp.errors import DECRYPT, ENCRYPT, GET, translate
from keyfold_server.providers.gcp.http import Exchange, Sender
from keyfold_server.providers.gcp.provider import GcpKmsProvider
from keyfold_server.providers.gcp.uri import canonical, delegates, project

_KEY: Final = "projects/acme-prod/locations/europe-west1/keyRings/cmek/cryptoKeys/keyfold"
_ACCOUNT: Final = "keyfold@acme-prod.iam.gserviceaccount.com"
_MIDDLE: Final = "middle@acme-prod.iam.gserviceaccount.com"


def _key(uri: str = _KEY, principal: str = "", **options: str) -> RootKey:
    return RootKey("GCP_CLOUD_KMS", uri, principal, tuple(options.items()))


# Names.


@pytest.mark.parametrize(
    ("uri", "owner"),
    [
        (_KEY, "acme-prod"),
        (_KEY.replace("europe-west1", "global"), "acme-prod"),
        (_KEY.replace("europe-west1", "eur4"), "acme-prod"),
        (_KEY.replace("acme-prod", "example.com:acme-prod"), "example.com:acme-prod"),
        (_KEY.replace("cmek", "C_m-" + 59 * "9"), "acme-prod"),
    ],
)
def test_keys_are_known_by_their_names(uri: str, owner: str) -> None:
    """A crypto key's name is its canonical form, and its project is the account."""
    assert canonical(_key(uri)) == _key(uri)
    assert project(uri) == owner


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        (f"{_KEY}/cryptoKeyVersions/3", "version"),
        (f"{_KEY}/cryptoKeyVersions", "version"),
        (_KEY.replace("acme-prod", "123456789012"), "number"),
        (f"//cloudkms.googleapis.com/{_KEY}", "nothing before"),
        (f"gcp-kms://{_KEY}", "nothing before"),
        (_KEY.rpartition("/cryptoKeys/")[0], "must be the name"),
        (_KEY.replace("acme-prod", "Acme-Prod"), "must be the name"),
        ("alias/customer", "must be the name"),
    ],
)
def test_other_forms_of_a_name_are_refused_with_the_reason(uri: str, why: str) -> None:
    """The error says why a version, a number, a url or another text is not a key's name."""
    with pytest.raises(InvalidKeySpecError, match=why) as raised:
        canonical(_key(uri))
    assert raised.value.field == "key_spec.uri"


@pytest.mark.parametrize(
    "email",
    [
        _ACCOUNT,
        "123456789012-compute@developer.gserviceaccount.com",
        "acme-prod@appspot.gserviceaccount.com",
        "keyfold@acme-prod.example.com.iam.gserviceaccount.com",
    ],
)
def test_principals_are_service_accounts(email: str) -> None:
    """The email of every kind of service account is a principal."""
    assert canonical(_key(principal=email)).principal == email


def test_delegates_have_one_form() -> None:
    """Keyfold drops spaces between delegates, and keeps their order."""
    key = canonical(_key(principal=_ACCOUNT, delegates=f" {_MIDDLE} , {_ACCOUNT}"))
    assert key.options == (("delegates", f"{_MIDDLE},{_ACCOUNT}"),)
    assert delegates(key) == (_MIDDLE, _ACCOUNT)
    assert canonical(key) == key
    assert delegates(_key(principal=_ACCOUNT)) == ()


# Errors.


def _failed(kind: str, subject: str = "version") -> PreconditionFailure:
    violation = PreconditionFailure.Violation(type=kind, subject=subject)
    return PreconditionFailure(violations=[violation])


def _error(
    kind: type[api.GoogleAPICallError],
    text: str = "",
    *,
    reason: str = "",
    details: tuple[Any, ...] = (),
    **metadata: str,
) -> api.GoogleAPICallError:
    info = ErrorInfo(reason=reason, domain="googleapis.com", metadata=metadata) if reason else None
    make: Any = kind
    error: api.GoogleAPICallError = make(text, details=list(details), error_info=info)
    return error


_DENIED: Final = f"Permission '{ENCRYPT}' denied on resource '{_KEY}' (or it may not exist)."


@pytest.mark.parametrize(
    ("error", "permission", "meant"),
    [
        (_error(api.NotFound, f"CryptoKey {_KEY} not found."), ENCRYPT, KeyNotFoundError),
        (_error(api.PermissionDenied, _DENIED), ENCRYPT, AccessDeniedError),
        (
            _error(api.PermissionDenied, reason="IAM_PERMISSION_DENIED", permission=GET),
            GET,
            AccessDeniedError,
        ),
        (_error(api.PermissionDenied, "no"), DECRYPT, UnreachableError),
        (
            _error(api.PermissionDenied, _DENIED.replace("keyfold", "VPC_SERVICE_CONTROLS")),
            DECRYPT,
            AccessDeniedError,
        ),
        (_error(api.PermissionDenied, _DENIED, reason="NEW_REASON"), DECRYPT, UnreachableError),
        (
            _error(api.PermissionDenied, reason="ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
            DECRYPT,
            CredentialsFailedError,
        ),
        (_error(api.PermissionDenied, reason="SERVICE_DISABLED"), DECRYPT, UnreachableError),
        (_error(api.PermissionDenied, reason="BILLING_DISABLED"), DECRYPT, UnreachableError),
        (
            _error(api.PermissionDenied, reason="SECURITY_POLICY_VIOLATED"),
            DECRYPT,
            UnreachableError,
        ),
        (_error(api.Unauthenticated, reason="ACCESS_TOKEN_EXPIRED"), GET, CredentialsFailedError),
        (
            _error(api.FailedPrecondition, details=(_failed("KEY_DISABLED"),)),
            DECRYPT,
            KeyDisabledError,
        ),
        (
            _error(api.FailedPrecondition, f"{_KEY} is not enabled, current state is: DISABLED."),
            DECRYPT,
            KeyDisabledError,
        ),
        (
            _error(api.FailedPrecondition, details=(_failed("KEY_DESTROY_SCHEDULED"),)),
            DECRYPT,
            KeyPendingDeletionError,
        ),
        (
            _error(api.FailedPrecondition, details=(_failed("KEY_DESTROYED"),)),
            DECRYPT,
            KeyNotFoundError,
        ),
        (
            _error(api.FailedPrecondition, details=(_failed("CRYPTO_SCHEME_MISMATCH"),)),
            ENCRYPT,
            KeyInvalidError,
        ),
        (
            _error(api.FailedPrecondition, details=(_failed("KEY_IMPORT_FAILED"),)),
            ENCRYPT,
            KeyInvalidError,
        ),
        (
            _error(api.FailedPrecondition, f"CryptoKey {_KEY} has no primary version."),
            ENCRYPT,
            KeyInvalidError,
        ),
        (
            _error(api.FailedPrecondition, details=(_failed("KEY_PENDING_GENERATION"),)),
            ENCRYPT,
            UnreachableError,
        ),
        (_error(api.FailedPrecondition, "the external key manager"), DECRYPT, UnreachableError),
        (
            _error(api.InvalidArgument, "Decryption failed: the ciphertext is invalid."),
            DECRYPT,
            KekMismatchError,
        ),
        (
            _error(api.InvalidArgument, "The checksum in field ciphertext_crc32c did not match"),
            DECRYPT,
            UnreachableError,
        ),
        (_error(api.InvalidArgument, "Request field plaintext"), ENCRYPT, UnreachableError),
        (_error(api.ResourceExhausted, "Quota exceeded"), ENCRYPT, ThrottledError),
        (
            _error(api.ResourceExhausted, "CLIENT: Received message larger than max (9 vs. 1)"),
            DECRYPT,
            UnreachableError,
        ),
        (_error(api.ServiceUnavailable, "failed to connect"), DECRYPT, UnreachableError),
        (_error(api.DeadlineExceeded), DECRYPT, UnreachableError),
        (_error(api.InternalServerError), DECRYPT, UnreachableError),
        (_error(api.MethodNotImplemented), DECRYPT, UnreachableError),
        (_error(api.Cancelled), DECRYPT, UnreachableError),
        (TypeError("no message"), DECRYPT, UnreachableError),
        (TimeoutError(), DECRYPT, UnreachableError),
    ],
    ids=lambda each: f"{type(each).__name__} {each}"[:50] if isinstance(each, Exception) else "",
)
def test_an_answer_means_one_error(
    error: Exception, permission: str, meant: type[KmsError]
) -> None:
    """Only what Google certainly says of the key is a refusal; its text stays out (F2a, F6)."""
    got = translate(error, permission, _KEY)
    assert type(got) is meant
    assert str(error) not in got.message or not str(error)
    assert got.message[0].islower() or got.message.startswith(("Cloud KMS", "Google"))
    assert not got.message.endswith(".")


def test_the_missing_permission_is_the_one_that_google_names() -> None:
    """The permission's name comes from the answer's details, else its text, else the call."""
    told = _error(api.PermissionDenied, _DENIED, reason="IAM_PERMISSION_DENIED", permission=GET)
    assert translate(told, DECRYPT, _KEY).missing_permission == GET
    by_text = _error(api.PermissionDenied, _DENIED)
    assert translate(by_text, DECRYPT, _KEY).missing_permission == ENCRYPT
    silent = _error(api.PermissionDenied, "no", reason="IAM_PERMISSION_DENIED", permission="a b")
    assert translate(silent, DECRYPT, _KEY).missing_permission == DECRYPT
    other = translate(_error(api.PermissionDenied, _DENIED, reason="SOMETHING_ELSE"), GET, _KEY)
    assert other.missing_permission is None
    assert "SOMETHING_ELSE" in other.message


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        (Duration(seconds=7), 7.0),
        (Duration(nanos=500_000_000), 0.5),
        (Duration(), None),
        (Duration(seconds=-1), None),
        (Duration(seconds=10**9), None),
    ],
)
def test_a_hint_when_to_come_back_is_passed_on(hint: Duration, seconds: float | None) -> None:
    """Keyfold believes a RetryInfo of up to one day, and makes up no other."""
    error = _error(api.ResourceExhausted, details=(RetryInfo(retry_delay=hint),))
    assert translate(error, DECRYPT, _KEY).retry_after == seconds


def _body(**error: Any) -> bytes:
    return json.dumps({"error": error}).encode()


def test_iams_answers_are_read_with_suspicion() -> None:
    """An answer that is not a Google API's error, such as a proxy's page, says nothing."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "X", "metadata": {}}
    told = http_denial(_body(status="PERMISSION_DENIED", details=[info], message=_DENIED))
    assert told is not None
    assert (told.word, told.permission) == ("X", ENCRYPT)
    bare = http_denial(_body(status="NOT_FOUND"))
    assert bare is not None
    assert (bare.word, bare.permission) == ("NOT_FOUND", None)
    for foreign in (
        b"<html>",
        b"[]",
        b'{"error": "x"}',
        b'{"error": {"status": "X", "details": 1}}',
    ):
        assert http_denial(foreign) is None


# How it is set up.


@pytest.mark.parametrize(
    "setup",
    [
        lambda: GcpKmsProvider(endpoint="http://cloudkms.example"),
        lambda: GcpKmsProvider(endpoint="unix:/run/kms.sock"),
        lambda: GcpKmsProvider(endpoint="kms.example:443/path"),
        lambda: GcpKmsProvider(iam_endpoint="http://iam.example"),
        lambda: GcpKmsProvider(ca=Path("/nowhere/ca.pem")),
        lambda: GcpKmsProvider(canary="somebody@example.com"),
    ],
)
def test_a_wrong_setting_is_named_at_once(setup: Callable[[], object]) -> None:
    """The provider refuses settings that would send a credential in plain or trust nobody."""
    with pytest.raises(SetupError):
        setup()


def test_making_the_provider_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider looks for no credential before the first call, and has the port's abilities."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    provider = GcpKmsProvider(endpoint="[::1]:1", canary=_ACCOUNT)
    assert isinstance(provider, DescribesKeys)
    assert isinstance(provider, Authenticates)
    assert provider.account(_key()) == "projects/acme-prod"


def test_nothing_is_sent_outside_of_a_call() -> None:
    """google-auth's own threads, which have no call, cannot send a credential (C3)."""
    with pytest.raises(RuntimeError):
        Exchange(Sender(None))("https://127.0.0.1:1/allowedLocations")


def test_the_sdk_does_not_log_what_it_sends() -> None:
    """The SDK, which logs plaintexts and credentials at DEBUG, does not log at DEBUG."""
    module = "google.cloud.kms_v1.services.key_management_service.transports.grpc"
    for name in ("google", "google.auth", module):
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
