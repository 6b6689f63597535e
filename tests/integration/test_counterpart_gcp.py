"""The counterpart of Google Cloud KMS, as Google's own SDK finds it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import google_crc32c
import jwt
import pytest
import requests
from google.api_core import exceptions
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.cloud import kms_v1
from google.rpc import error_details_pb2

from counterparts import gcp_errors
from counterparts.gcp_kms import KEY_NAME, GcpKms
from counterparts.gcp_sdk import AAD, Sdk, account, http_session, impersonated

CALLER = "caller@example-project.iam.gserviceaccount.com"
CUSTOMER = "kms-user@customer-project.iam.gserviceaccount.com"
MIDDLE = "middle@customer-project.iam.gserviceaccount.com"
RING = "projects/customer-project/locations/europe-west1/keyRings/ring"
USE = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
TOKEN_CREATOR = "roles/iam.serviceAccountTokenCreator"
TESTS = Path(__file__).parents[1]

State: Any = kms_v1.CryptoKeyVersion.CryptoKeyVersionState


@pytest.fixture(scope="module")
def counterpart() -> Iterator[GcpKms]:
    """One counterpart for all tests; each has keys of its own."""
    with GcpKms(control=True) as kms:
        yield kms


@pytest.fixture(scope="module")
def key_file(counterpart: GcpKms) -> dict[str, str]:
    """The contents of the caller's key file; making one takes a while."""
    held: dict[str, str] = json.loads(Path(counterpart.service_account_file(CALLER)).read_text())
    return held


@pytest.fixture
def kms(counterpart: GcpKms, key_file: dict[str, str]) -> Iterator[GcpKms]:
    """The counterpart, with no calls and no faults."""
    counterpart.calls.clear()
    yield counterpart
    counterpart.clear_faults()


@pytest.fixture
def session(counterpart: GcpKms) -> Iterator[Any]:
    """The transport of google-auth."""
    with http_session(counterpart) as session:
        yield session


@pytest.fixture
def credentials(key_file: dict[str, str]) -> Any:
    """The caller's credentials, with no token yet."""
    return account(key_file)


@pytest.fixture
def sdk(kms: GcpKms, credentials: Any, session: Any) -> Iterator[Sdk]:
    """The caller's client."""
    with closing(Sdk(kms, credentials, session)) as sdk:
        yield sdk


@pytest.fixture
def key(kms: GcpKms, request: pytest.FixtureRequest) -> str:
    """A key of this test's own, which the caller may use."""
    name = kms.create_key(f"{RING}/cryptoKeys/{re.sub(r'[^a-z0-9_]', '-', request.node.name)[:50]}")
    kms.allow(CALLER, name, USE)
    return name


def violation(error: exceptions.GoogleAPICallError) -> tuple[str, str]:
    """The one violation of a precondition that an error carries."""
    [failure] = [d for d in error.details if isinstance(d, error_details_pb2.PreconditionFailure)]
    [found] = failure.violations
    return found.type, found.subject


def test_encrypts_and_decrypts_with_checksums(sdk: Sdk, key: str) -> None:
    """A key decrypts what it encrypted; answers name the version, and every checksum is right."""
    sent = sdk.encrypt(
        key,
        b"secret",
        plaintext_crc32c=google_crc32c.value(b"secret"),
        additional_authenticated_data_crc32c=google_crc32c.value(AAD),
    )
    assert sent.name == f"{key}/cryptoKeyVersions/1"
    assert sent.verified_plaintext_crc32c
    assert sent.verified_additional_authenticated_data_crc32c
    assert sent.ciphertext_crc32c == google_crc32c.value(sent.ciphertext)
    opened = sdk.decrypt(key, sent.ciphertext)
    assert opened.plaintext == b"secret"
    assert opened.plaintext_crc32c == google_crc32c.value(b"secret")
    assert opened.used_primary


def test_checksums_that_are_not_sent_are_not_verified(sdk: Sdk, key: str) -> None:
    """A checksum that was not sent is not called verified."""
    sent = sdk.encrypt(key)
    assert not sent.verified_plaintext_crc32c
    assert not sent.verified_additional_authenticated_data_crc32c


@pytest.mark.parametrize("field", ["plaintext_crc32c", "additional_authenticated_data_crc32c"])
def test_wrong_checksum_is_refused(sdk: Sdk, key: str, field: str) -> None:
    """A checksum that does not match its data is INVALID_ARGUMENT."""
    with pytest.raises(exceptions.InvalidArgument, match=field):
        sdk.encrypt(key, **{field: 1})


def test_ciphertext_is_bound_to_its_key_and_context(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """Another context, another key, a changed byte and garbage are INVALID_ARGUMENT."""
    other = kms.create_key(f"{key}-other")
    kms.allow(CALLER, other, USE)
    ciphertext = sdk.encrypt(key).ciphertext
    with pytest.raises(exceptions.InvalidArgument, match="Decryption failed"):
        sdk.decrypt(key, ciphertext, b"another")
    with pytest.raises(exceptions.InvalidArgument, match="refers to the correct CryptoKey"):
        sdk.decrypt(other, ciphertext)
    with pytest.raises(exceptions.InvalidArgument, match="Decryption failed"):
        sdk.decrypt(key, ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]))
    with pytest.raises(exceptions.InvalidArgument, match="the ciphertext is invalid"):
        sdk.decrypt(key, b"garbage")


def test_sizes_are_limited(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """64 KiB are taken and one byte more is not; an HSM key takes 8 KiB with the context."""
    assert sdk.encrypt(key, bytes(65536)).ciphertext
    with pytest.raises(exceptions.InvalidArgument, match="not more than 65536"):
        sdk.encrypt(key, bytes(65537))
    hsm = kms.create_key(f"{key}-hsm", protection="HSM")
    kms.allow(CALLER, hsm, USE)
    assert sdk.encrypt(hsm, bytes(8192), additional_authenticated_data=b"").ciphertext
    with pytest.raises(exceptions.InvalidArgument):
        sdk.encrypt(hsm, bytes(8192))


def test_new_version_leaves_old_ciphertexts_readable(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """After a rotation the new version encrypts and the old one still decrypts."""
    old = sdk.encrypt(key).ciphertext
    version = kms.new_version(key)
    assert sdk.encrypt(key).name == version
    assert not sdk.decrypt(key, old).used_primary


def test_states_stop_use_with_their_own_answers(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """Disabled, scheduled and destroyed versions are FAILED_PRECONDITION, each with its type."""
    ciphertext = sdk.encrypt(key).ciphertext
    version = f"{key}/cryptoKeyVersions/1"
    for change, state in [
        (kms.disable, "DISABLED"),
        (kms.destroy, "DESTROY_SCHEDULED"),
        (kms.expire_version, "DESTROYED"),
    ]:
        change(version)
        with pytest.raises(exceptions.FailedPrecondition, match=f"is: {state}") as refused:
            sdk.encrypt(key)
        assert violation(refused.value) == (f"KEY_{state}", version)
        with pytest.raises(exceptions.FailedPrecondition, match=f"is: {state}") as refused:
            sdk.decrypt(key, ciphertext)
        assert violation(refused.value) == (f"KEY_{state}", version)


def test_disabled_version_works_again_when_enabled(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """A destruction that is taken back leaves the version disabled; enabled, it opens again."""
    ciphertext = sdk.encrypt(key).ciphertext
    kms.destroy(key)
    kms.restore(key)
    with pytest.raises(exceptions.FailedPrecondition, match="DISABLED"):
        sdk.decrypt(key, ciphertext)
    kms.enable(key)
    assert sdk.decrypt(key, ciphertext).plaintext == b"key"


def test_asymmetric_key_does_not_encrypt(sdk: Sdk, kms: GcpKms) -> None:
    """A key of another purpose is refused for Encrypt, and has no primary version."""
    name = kms.create_key(
        f"{RING}/cryptoKeys/asymmetric",
        purpose="ASYMMETRIC_DECRYPT",
        algorithm="RSA_DECRYPT_OAEP_2048_SHA256",
    )
    kms.allow(CALLER, name, USE)
    kms.allow(CALLER, name, "cloudkms.cryptoKeys.get")
    with pytest.raises(exceptions.FailedPrecondition, match="incorrect key purpose") as refused:
        sdk.encrypt(name)
    assert violation(refused.value)[0] == "CRYPTO_SCHEME_MISMATCH"
    shown = sdk.call("get_crypto_key", name=name)
    assert shown.purpose.name == "ASYMMETRIC_DECRYPT"
    assert "primary" not in shown


def test_permissions_are_default_deny_and_one_by_one(sdk: Sdk, kms: GcpKms) -> None:
    """Encrypt, Decrypt and reading a key each take their own permission."""
    name = kms.create_key(f"{RING}/cryptoKeys/permissions")
    with pytest.raises(exceptions.PermissionDenied, match="useToEncrypt' denied on resource"):
        sdk.encrypt(name)
    kms.allow(CALLER, name, "cloudkms.cryptoKeyVersions.useToEncrypt")
    ciphertext = sdk.encrypt(name).ciphertext
    with pytest.raises(exceptions.PermissionDenied, match="useToDecrypt"):
        sdk.decrypt(name, ciphertext)
    with pytest.raises(exceptions.PermissionDenied, match=r"cryptoKeys\.get"):
        sdk.call("get_crypto_key", name=name)
    kms.deny(CALLER, name, "cloudkms.cryptoKeyVersions.useToEncrypt")
    with pytest.raises(exceptions.PermissionDenied):
        sdk.encrypt(name)


def test_missing_key_is_told_only_to_whom_it_may_be(sdk: Sdk, kms: GcpKms) -> None:
    """Without a permission from above a missing key is PERMISSION_DENIED, with it NOT_FOUND."""
    missing = "projects/customer-project/locations/global/keyRings/none/cryptoKeys/none"
    with pytest.raises(exceptions.PermissionDenied, match="or it may not exist"):
        sdk.encrypt(missing)
    kms.allow(CALLER, "projects/customer-project/locations/global", USE)
    with pytest.raises(exceptions.NotFound, match=f"CryptoKey {missing} not found"):
        sdk.encrypt(missing)


@pytest.mark.parametrize("name", ["", "key", f"{RING}/cryptoKeys/a b", f"{RING}/cryptoKeys/k/x"])
def test_what_is_no_name_is_refused(sdk: Sdk, name: str) -> None:
    """A name that cannot be a key's is INVALID_ARGUMENT."""
    with pytest.raises(exceptions.InvalidArgument):
        sdk.encrypt(name)


def test_lifecycle_through_the_api(sdk: Sdk, kms: GcpKms) -> None:
    """Rings, keys and versions are made, made primary, disabled, destroyed and restored by RPC."""
    parent = "projects/admin-project/locations/europe-west1"
    kms.allow(CALLER, "projects/admin-project", "roles/cloudkms.admin")
    kms.allow(CALLER, "projects/admin-project", USE)
    ring = sdk.call("create_key_ring", parent=parent, key_ring_id="r").name
    symmetric = {"purpose": kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT}
    made: dict[str, Any] = {"parent": ring, "crypto_key_id": "k", "crypto_key": symmetric}
    key = sdk.call("create_crypto_key", **made)
    with pytest.raises(exceptions.AlreadyExists):
        sdk.call("create_crypto_key", **made)
    second = sdk.call("create_crypto_key_version", parent=key.name).name
    assert sdk.encrypt(key.name).name == key.primary.name
    sdk.call("update_crypto_key_primary_version", name=key.name, crypto_key_version_id="2")
    assert sdk.call("get_crypto_key", name=key.name).primary.name == second
    disabled = sdk.call(
        "update_crypto_key_version",
        crypto_key_version={"name": second, "state": State.DISABLED},
        update_mask={"paths": ["state"]},
    )
    assert disabled.state is State.DISABLED
    scheduled = sdk.call("destroy_crypto_key_version", name=second)
    assert scheduled.state is State.DESTROY_SCHEDULED
    assert scheduled.destroy_time > scheduled.create_time
    assert sdk.call("get_crypto_key_version", name=second).state is scheduled.state
    with pytest.raises(exceptions.FailedPrecondition, match="has value DESTROY_SCHEDULED"):
        sdk.call("destroy_crypto_key_version", name=second)
    assert sdk.call("restore_crypto_key_version", name=second).state is State.DISABLED


def test_a_token_is_fetched_once_and_used(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """The counterpart tells who called: one token, then calls under its principal."""
    sdk.encrypt(key)
    sdk.encrypt(key)
    assert [(call.operation, call.principal) for call in kms.calls] == [
        ("token", CALLER),
        ("Encrypt", CALLER),
        ("Encrypt", CALLER),
    ]


def test_no_token_unknown_expired_and_revoked(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """A call without a token that is good now is UNAUTHENTICATED, with the reason."""
    sdk.encrypt(key)
    kms.expire_tokens(CALLER)
    with pytest.raises(exceptions.Unauthenticated) as expired:
        sdk.encrypt(key)
    assert expired.value.reason == "ACCESS_TOKEN_EXPIRED"
    kms.revoke_tokens(CALLER)
    with pytest.raises(exceptions.Unauthenticated) as revoked:
        sdk.encrypt(key)
    assert revoked.value.reason == "ACCESS_TOKEN_TYPE_UNSUPPORTED"
    with (
        closing(Sdk(kms, None, None)) as nobody,
        pytest.raises(exceptions.Unauthenticated) as missing,
    ):
        nobody.encrypt(key)
    assert missing.value.reason == "CREDENTIALS_MISSING"


def test_token_without_the_scope_is_refused(
    kms: GcpKms, key: str, credentials: Any, session: Any
) -> None:
    """A token of another API's scope does not reach a key."""
    other = credentials.with_scopes(["https://www.googleapis.com/auth/iam"])
    with closing(Sdk(kms, other, session)) as sdk, pytest.raises(exceptions.Forbidden) as refused:
        sdk.encrypt(key)
    assert refused.value.reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT"


def test_self_signed_token_is_verified(
    kms: GcpKms, key: str, credentials: Any, session: Any
) -> None:
    """The token that the SDK signs itself where it makes its own channel is good here, too."""
    self_signing = credentials.with_always_use_jwt_access(always_use_jwt_access=True)
    with closing(Sdk(kms, self_signing, session)) as sdk:
        assert sdk.encrypt(key).ciphertext
    assert [call.operation for call in kms.calls] == ["Encrypt"]


def test_assertions_are_verified(
    kms: GcpKms, key_file: dict[str, str], credentials: Any, session: Any
) -> None:
    """A key that is not the account's, and an account that is not there, get no token."""
    stranger = {**key_file, "private_key_id": "0" * 40}
    forged = account(stranger)
    with pytest.raises(RefreshError, match="Invalid JWT Signature"):
        forged.refresh(Request(session))
    stranger["client_email"] = "nobody@example-project.iam.gserviceaccount.com"
    nobody = account(stranger)
    with pytest.raises(RefreshError, match="account not found"):
        nobody.refresh(Request(session))
    with pytest.raises(RefreshError, match="scope"):
        credentials.with_scopes([]).refresh(Request(session))


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"aud": "https://elsewhere.example/token"}, "audience"),
        ({"exp": 3700}, "short-lived token"),
        ({"iat": -7200, "exp": -3600}, "short-lived token"),
        ({"iat": 3600, "exp": 7200}, "short-lived token"),
        ({"exp": None}, "short-lived token"),
    ],
)
def test_assertions_are_for_here_and_now(
    kms: GcpKms, key_file: dict[str, str], session: Any, changes: dict[str, Any], answer: str
) -> None:
    """A well-signed assertion for somebody else, for too long or for another time is refused."""
    now = int(time.time())
    claims = {"iss": CALLER, "scope": "x", "aud": kms.token_uri, "iat": 0, "exp": 3600, **changes}
    claims |= {name: now + claims[name] for name in ("iat", "exp") if claims[name] is not None}
    held = {name: value for name, value in claims.items() if value is not None}
    signed = jwt.encode(
        held, key_file["private_key"], "RS256", headers={"kid": key_file["private_key_id"]}
    )
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": signed}
    refused = session.post(kms.token_uri, data=form)
    assert refused.status_code == 400
    assert answer in refused.json()["error_description"]


def test_impersonation_takes_the_permission(kms: GcpKms, credentials: Any, session: Any) -> None:
    """Who may get the account's token calls as that account, and nobody else does."""
    key = kms.create_key(f"{RING}/cryptoKeys/impersonation")
    kms.allow(CUSTOMER, key, USE)
    with pytest.raises(RefreshError, match="getAccessToken"):
        impersonated(kms, credentials, CUSTOMER).refresh(Request(session))
    kms.allow(CALLER, CUSTOMER, TOKEN_CREATOR)
    with closing(Sdk(kms, impersonated(kms, credentials, CUSTOMER), session)) as sdk:
        assert sdk.encrypt(key).name.startswith(key)
    assert kms.calls[-1].principal == CUSTOMER
    kms.deny(CALLER, CUSTOMER, TOKEN_CREATOR)


def test_each_delegate_in_the_chain_takes_the_permission(
    kms: GcpKms, credentials: Any, session: Any
) -> None:
    """A chain of delegates holds only where every link does; a delegate has its full name."""
    kms.allow(CALLER, MIDDLE, TOKEN_CREATOR)
    chain = [f"projects/-/serviceAccounts/{MIDDLE}"]
    with pytest.raises(RefreshError, match="getAccessToken"):
        impersonated(kms, credentials, CUSTOMER, chain).refresh(Request(session))
    kms.allow(MIDDLE, CUSTOMER, TOKEN_CREATOR)
    good = impersonated(kms, credentials, CUSTOMER, chain)
    good.refresh(Request(session))
    assert good.valid
    with pytest.raises(RefreshError, match="delegates"):
        impersonated(kms, credentials, CUSTOMER, [MIDDLE]).refresh(Request(session))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("throttled", exceptions.ResourceExhausted),
        ("unavailable", exceptions.ServiceUnavailable),
        ("internal", exceptions.InternalServerError),
        ("token_invalid", exceptions.Unauthenticated),
    ],
)
def test_errors_on_demand(
    sdk: Sdk, kms: GcpKms, key: str, error: str, expected: type[Exception]
) -> None:
    """Calls meet a fault as often as the test demanded, and then no more."""
    kms.inject("Encrypt", "error", error=error, times=1)
    with pytest.raises(expected):
        sdk.encrypt(key)
    assert sdk.encrypt(key).ciphertext


def test_throttling_can_say_when_to_retry(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """A throttled call carries RetryInfo where the test demands it."""
    kms.inject("Encrypt", "error", error="throttled_with_retry", seconds=7)
    with pytest.raises(exceptions.ResourceExhausted) as throttled:
        sdk.encrypt(key)
    [retry] = [d for d in throttled.value.details if isinstance(d, error_details_pb2.RetryInfo)]
    assert retry.retry_delay.seconds == 7


def test_answers_can_be_wrong(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """Checksums, flags, names and bytes are changed only as the fault says."""
    plaintext = b"somebody's own"
    kms.inject("Encrypt", "wrong_crc", times=1)
    kms.inject("Encrypt", "unverified", times=1)
    kms.inject("Encrypt", "wrong_name", times=1)
    wrong = sdk.encrypt(key, plaintext)
    assert wrong.ciphertext_crc32c != google_crc32c.value(wrong.ciphertext)
    crc = google_crc32c.value(plaintext)
    assert not sdk.encrypt(key, plaintext, plaintext_crc32c=crc).verified_plaintext_crc32c
    assert not sdk.encrypt(key, plaintext).name.startswith(key)
    ciphertext = sdk.encrypt(key, plaintext).ciphertext
    kms.inject("Decrypt", "foreign", times=1)
    kms.inject("Decrypt", "wrong_crc", times=1)
    kms.inject("Decrypt", "oversized", times=1, size=5_000_000)
    foreign = sdk.decrypt(key, ciphertext)
    assert len(foreign.plaintext) == len(plaintext)
    assert foreign.plaintext != plaintext
    assert foreign.plaintext_crc32c == google_crc32c.value(foreign.plaintext)
    wrong = sdk.decrypt(key, ciphertext)
    assert wrong.plaintext_crc32c != google_crc32c.value(wrong.plaintext)
    # A channel of gRPC's own defaults takes 4 MiB; the SDK's own takes anything.
    with pytest.raises(exceptions.ResourceExhausted, match="larger than max"):
        sdk.decrypt(key, ciphertext)


def test_hanging_call_ends_when_let_go_or_with_its_caller(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """A call that hangs is let go with its fault, or meets its own deadline."""
    ciphertext = sdk.encrypt(key).ciphertext
    kms.inject("Decrypt", "hang")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(sdk.decrypt, key, ciphertext, timeout=30)
        assert kms.wait_until_held()
        kms.clear_faults()
        assert isinstance(waiting.exception(10), exceptions.ServiceUnavailable)
    assert sdk.decrypt(key, ciphertext).plaintext == b"key"
    kms.inject("Decrypt", "hang")
    with pytest.raises(exceptions.DeadlineExceeded):
        sdk.decrypt(key, ciphertext, timeout=0.2)


def test_slow_call_is_answered(sdk: Sdk, kms: GcpKms, key: str) -> None:
    """A slow call is answered after its time, and not before."""
    kms.inject("Encrypt", "slow", seconds=0.3, times=1)
    with pytest.raises(exceptions.DeadlineExceeded):
        sdk.encrypt(key, timeout=0.1)
    kms.inject("Encrypt", "slow", seconds=0.05, times=1)
    assert sdk.encrypt(key).ciphertext


def test_token_endpoint_can_fail_and_hang(kms: GcpKms, credentials: Any, session: Any) -> None:
    """The token endpoint's faults reach google-auth as they would from Google."""
    kms.inject("token", "error", error="assertion_account", times=1)
    with pytest.raises(RefreshError, match="account not found"):
        credentials.refresh(Request(session))
    answers = [session.post(kms.token_uri, data={}).status_code]
    kms.inject("token", "error", error="token_endpoint_unavailable", times=1)
    answers.append(session.post(kms.token_uri, data={}).status_code)
    assert answers == [400, 503]
    kms.inject("token", "hang", times=1)
    with pytest.raises(requests.ReadTimeout):
        session.post(kms.token_uri, data={}, timeout=0.2)
    kms.inject("generateAccessToken", "error", error="impersonation_denied", times=1)
    with pytest.raises(RefreshError, match="getAccessToken"):
        impersonated(kms, credentials, CUSTOMER).refresh(Request(session))


@pytest.mark.parametrize(
    ("operation", "kind", "options"),
    [
        ("Nothing", "hang", {}),
        ("Encrypt", "nothing", {}),
        ("Encrypt", "error", {"error": "nothing"}),
        ("Encrypt", "error", {"error": "assertion_time"}),
        ("Encrypt", "error", {"error": "checksum"}),
        ("token", "error", {"error": "permission_denied"}),
        ("token", "wrong_crc", {}),
        ("Decrypt", "unverified", {}),
    ],
)
def test_faults_that_cannot_happen_are_refused(
    kms: GcpKms, operation: str, kind: str, options: dict[str, Any]
) -> None:
    """A fault that no call would meet, or without an answer, is an error of its test."""
    with pytest.raises(ValueError):
        kms.inject(operation, kind, **options)


def test_control_endpoint_does_what_the_seed_does(
    kms: GcpKms, sdk: Sdk, key: str, session: Any
) -> None:
    """The control endpoint takes the calls that change a customer's keys, and no others."""
    uri = f"{kms.iam_uri}/control"
    done = session.post(uri, json={"call": "new_version", "key": key})
    assert done.json() == {"result": f"{key}/cryptoKeyVersions/2"}
    assert sdk.encrypt(key).name.endswith("/2")
    for order in ({"call": "__exit__"}, {"call": "disable"}, {"call": "enable", "version": "x"}):
        assert session.post(uri, json=order).status_code == 400
    assert session.post(f"{kms.iam_uri}/elsewhere", json={}).status_code == 404


def test_sixteen_at_once(sdk: Sdk, key: str) -> None:
    """Calls at once do not mix up their answers."""
    texts = [bytes([number]) * 32 for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        ciphertexts = list(pool.map(lambda text: sdk.encrypt(key, text).ciphertext, texts))
        opened = list(pool.map(lambda each: sdk.decrypt(key, each).plaintext, ciphertexts))
    assert opened == texts


def test_every_error_has_its_source() -> None:
    """Each answer's shape says where it is from, and whether it is assumed."""
    for name, entry in gcp_errors.ERRORS.items():
        assert entry["source"], name
        assert isinstance(entry["assumed"], bool), name
        assert ("status" in entry) != ("http" in entry), name


# google-auth looks an account's region up at Google by itself.
NOWHERE_ELSE = {"HTTPS_PROXY": "http://localhost:9", "NO_PROXY": "localhost"}
STRANGER = """
from google.cloud import kms_v1
import sys
import time
target, key = sys.argv[1:]
client = kms_v1.KeyManagementServiceClient(client_options={"api_endpoint": target})
sent = client.encrypt(name=key, plaintext=b"secret", timeout=5)
print(client.decrypt(name=key, ciphertext=sent.ciphertext, timeout=5).plaintext.decode())
"""


def test_runs_by_itself_for_strangers(tmp_path: Path) -> None:
    """A stock script, pointed at it as it says, works; SIGTERM ends it cleanly."""
    command = [sys.executable, "-m", "counterparts.gcp_kms", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines = list(takewhile(lambda line: line != "ready\n", process.stdout))
            exports = [line.split()[1].split("=", 1) for line in lines if "export " in line]
            target = next(line for line in lines if "api_endpoint" in line).split('"')[3]
            stranger = subprocess.run(
                [sys.executable, "-c", STRANGER, target, KEY_NAME],
                env={**os.environ, **dict(exports), **NOWHERE_ELSE},
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        finally:
            process.terminate()
    assert stranger.stdout == "secret\n"
    assert process.returncode == 0
