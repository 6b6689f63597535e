"""What the Google Cloud adapter sends, where to, and when it believes an answer.

Beside the provider suite, at the same counterpart.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import google_crc32c
import pytest
from google.auth.compute_engine import _metadata

from clouds.recorded import Recorded, every, recorded
from contract.counterparts import BUDGET, DRIP
from contract.gcp_kms import PERMISSIONS, GcpCounterpart
from counterparts.faults import FaultLayer
from counterparts.gcp_iam import CLOUD_PLATFORM, GET_ACCESS_TOKEN, IMPLICIT_DELEGATION
from counterparts.messages import Reply, Request
from fakes import FakeClock
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KeyInvalidError,
    KmsError,
    RefusedError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.gcp.provider import GcpKmsProvider
from keyfold_server.providers.shared import principals as shared_principals
from keyfold_server.providers.shared.lease import AHEAD, LONGEST

BINDING: Final = Binding("cluster-1", "eu-west-1", bytes(16), "acme")
PLAINTEXT: Final = bytes(range(65))
MIDDLE: Final = "middle@customer-project.iam.gserviceaccount.com"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[GcpCounterpart]:
    """A customer's project, with no calls recorded."""
    counterpart = GcpCounterpart(tmp_path)
    counterpart.kms.calls.clear()
    yield counterpart
    counterpart.close()


def _wrap(there: GcpCounterpart, key: RootKey) -> bytes:
    return there.provider.wrap(key, PLAINTEXT, BINDING, budget=BUDGET).ciphertext


def _unwrap(there: GcpCounterpart, key: RootKey, ciphertext: bytes) -> bytes:
    return bytes(there.provider.unwrap(key, "", ciphertext, BINDING, budget=BUDGET).plaintext)


def _authenticate(there: GcpCounterpart, key: RootKey) -> None:
    assert isinstance(there.provider, GcpKmsProvider)
    there.provider.authenticate(key, budget=BUDGET)


def _as_itself(there: GcpCounterpart) -> RootKey:
    """Makes a key that Keyfold's own service account may use."""
    key = replace(there.create_key(), principal="")
    for permission in PERMISSIONS.values():
        there.kms.allow(there.own, key.uri, permission)
    return key


def _again(there: GcpCounterpart, **settings: Any) -> GcpKmsProvider:
    """Makes the provider anew, with further settings."""
    provider = GcpKmsProvider(
        endpoint=f"127.0.0.1:{there.layer.port}",
        iam_endpoint=there.tokens.url,
        ca=there.kms.ca_file,
        **settings,
    )
    there.provider = provider
    return provider


def _times(there: GcpCounterpart, operation: str) -> int:
    return sum(call.operation == operation for call in there.kms.calls)


# What is sent.


def test_every_call_carries_checksums_and_the_binding(there: GcpCounterpart) -> None:
    """Data and context go with their CRC32C, and the context is the binding's bytes (C5)."""
    key = there.create_key()
    assert _unwrap(there, key, _wrap(there, key)) == PLAINTEXT
    encrypt, decrypt = (
        next(call.request for call in there.kms.calls if call.operation == operation)
        for operation in ("Encrypt", "Decrypt")
    )
    assert encrypt.plaintext_crc32c == google_crc32c.value(PLAINTEXT)
    assert decrypt.ciphertext_crc32c == google_crc32c.value(decrypt.ciphertext)
    for request in (encrypt, decrypt):
        assert request.additional_authenticated_data == BINDING.canonical()
        checksum = request.additional_authenticated_data_crc32c
        assert checksum == google_crc32c.value(BINDING.canonical())


def test_without_a_principal_keyfold_calls_as_itself(there: GcpCounterpart) -> None:
    """The server's own service account calls Cloud KMS, and Keyfold impersonates nobody."""
    key = _as_itself(there)
    _wrap(there, key)
    assert {call.principal for call in there.kms.calls} == {there.own}
    assert _times(there, "generateAccessToken") == 0


def test_delegates_are_gone_through(there: GcpCounterpart) -> None:
    """Each delegate may act as the next one; a missing link is the customer's refusal."""
    key = there.create_key()
    there.kms.deny(there.own, there.customer, GET_ACCESS_TOKEN)
    there.kms.allow(there.own, MIDDLE, IMPLICIT_DELEGATION)
    there.kms.allow(MIDDLE, there.customer, GET_ACCESS_TOKEN)
    through = replace(key, options=(("delegates", MIDDLE),))
    _wrap(there, through)
    with pytest.raises(AccessDeniedError) as raised:
        _wrap(there, key)
    assert raised.value.missing_permission == GET_ACCESS_TOKEN


class _Listener:
    """A proxy that records the first bytes of each connection, and answers nothing."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                one, _ = self._socket.accept()
            except OSError:
                return
            with one:
                self.asked.append(one.recv(1024))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def proxy() -> Iterator[_Listener]:
    """A proxy."""
    listener = _Listener()
    yield listener
    listener.close()


def test_a_credential_goes_nowhere_else(there: GcpCounterpart, proxy: _Listener) -> None:
    """The SDK does not look up an account's regions with Keyfold's token (C3)."""
    there.env.setenv("HTTPS_PROXY", proxy.url)
    for key in (there.create_key(), _as_itself(there)):
        _unwrap(there, key, _wrap(there, key))
        _authenticate(there, key)
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("google."):
            thread.join(BUDGET)
    assert proxy.asked == []


def test_proxies_of_the_environment_are_used(there: GcpCounterpart, proxy: _Listener) -> None:
    """Keyfold reaches a token endpoint through the proxy that the environment names."""
    there.env.setenv("HTTPS_PROXY", proxy.url)
    there.env.setenv("NO_PROXY", "localhost")
    there.env.setenv("no_proxy", "localhost")
    with pytest.raises(UnreachableError):
        _authenticate(there, there.create_key())
    assert proxy.asked[0].startswith(f"CONNECT 127.0.0.1:{there.tokens.port}".encode())


def test_the_ca_of_the_settings_wins(there: GcpCounterpart) -> None:
    """A CA of the environment does not replace the CA of the settings."""
    there.env.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    _again(there)
    _authenticate(there, there.create_key())


# What is believed.


@pytest.mark.parametrize("kind", ["wrong_name", "unverified", "wrong_crc"])
def test_an_answer_of_another_key_or_without_checks_does_not_count(
    there: GcpCounterpart, kind: str
) -> None:
    """Keyfold believes no answer with a foreign name, an unchecked request or a wrong checksum."""
    key = there.create_key()
    there.kms.inject("Encrypt", kind, times=1)
    with pytest.raises(UnreachableError):
        _wrap(there, key)
    _wrap(there, key)


def test_a_plaintext_of_another_size_does_not_count(there: GcpCounterpart) -> None:
    """Keyfold believes no plaintext that is larger than anything it ever wraps."""
    key = there.create_key()
    ciphertext = _wrap(there, key)
    there.kms.inject("Decrypt", "oversized", size=66, times=1)
    with pytest.raises(UnreachableError):
        _unwrap(there, key, ciphertext)
    assert _unwrap(there, key, ciphertext) == PLAINTEXT


def test_an_asymmetric_key_is_described_as_invalid(there: GcpCounterpart) -> None:
    """A key of another purpose has no primary version, and is KEY_INVALID."""
    assert isinstance(there.provider, GcpKmsProvider)
    key = there.create_key(purpose="ASYMMETRIC_SIGN", algorithm="EC_SIGN_P256_SHA256")
    with pytest.raises(KeyInvalidError):
        there.provider.describe(key, budget=BUDGET)


# What Google was seen to answer.


def _status(said: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recorded answer as a `google.rpc.Status`."""
    types = "type.googleapis.com/google.rpc."
    details: list[dict[str, Any]] = []
    if violations := said.get("violations"):
        listed = [{"type": each} for each in violations]
        details.append({"@type": f"{types}PreconditionFailure", "violations": listed})
    if reason := said.get("error_info"):
        info = {"@type": f"{types}ErrorInfo", "domain": "googleapis.com", "reason": reason}
        details.append(info)
    return {"status": said["code"], "message": said["message"], "details": details}


@every("gcp")
def test_a_recorded_answer_of_cloud_kms(there: GcpCounterpart, answer: Recorded) -> None:
    """Each answer that Google was seen to give reads as what it means, over the SDK (F2a, F6)."""
    key, wraps = there.create_key(), answer.said["permission"] == PERMISSIONS["wrap"]
    ciphertext = _wrap(there, key)
    there.kms.inject("Encrypt" if wraps else "Decrypt", "recorded", answer=_status(answer.said))
    with pytest.raises(KmsError) as raised:
        _wrap(there, key) if wraps else _unwrap(there, key, ciphertext)
    assert raised.value.reason == answer.should
    # Whoever reads the message learns what Google called it.
    assert answer.said.get("error_info", "") in raised.value.message
    there.kms.clear_faults()
    assert _unwrap(there, key, ciphertext) == PLAINTEXT


@pytest.mark.parametrize(
    "answer",
    [each for each in recorded("gcp") if each.said["code"] == "PERMISSION_DENIED"],
    ids=lambda each: each.case,
)
def test_a_recorded_denial_of_an_impersonation(there: GcpCounterpart, answer: Recorded) -> None:
    """At IAM, too, only a missing permission is withdrawn trust; all else could not tell (F2a)."""
    key = there.create_key()
    there.kms.inject("generateAccessToken", "recorded", answer=_status(answer.said), times=1)
    # Without a fault, the server's own new token shows that Keyfold's side is good.
    with pytest.raises(KmsError) as raised:
        _wrap(there, key)
    assert (raised.value.reason == "ACCESS_DENIED") == (answer.should == "ACCESS_DENIED")
    assert isinstance(raised.value, RefusedError) == (answer.should == "ACCESS_DENIED")
    _wrap(there, key)


@pytest.mark.parametrize(
    ("status", "text", "withdrawn"),
    [
        ("PERMISSION_DENIED", "The caller does not have permission", True),
        ("NOT_FOUND", "Not found; Gaia id not found for email", True),
        ("PERMISSION_DENIED", "Something new", False),
        ("FAILED_PRECONDITION", "The caller does not have permission", False),
    ],
)
def test_iams_older_answers(
    there: GcpCounterpart, status: str, text: str, *, withdrawn: bool
) -> None:
    """IAM's answers without details count by their words and status alone (F2a)."""
    key = there.create_key()
    answer = {"status": status, "message": text}
    there.kms.inject("generateAccessToken", "recorded", answer=answer, times=1)
    with pytest.raises(AccessDeniedError if withdrawn else UnreachableError):
        _wrap(there, key)


# How often.


def test_a_token_endpoint_that_fails_is_not_asked_again(there: GcpCounterpart) -> None:
    """The SDK would wait and try again; Keyfold raises such a failure at once (C4)."""
    key = there.create_key()
    for operation in ("token", "generateAccessToken"):
        there.kms.inject(operation, "error", error="token_endpoint_unavailable", times=1)
        with pytest.raises(UnreachableError):
            _authenticate(there, key)
    _authenticate(there, key)


def test_a_call_is_made_once_more_only_where_the_connection_was_good(
    there: GcpCounterpart,
) -> None:
    """Keyfold calls again after UNAVAILABLE only if the connection had been good."""
    key = there.create_key()
    for expected in (1, 1):
        there.kms.calls.clear()
        there.kms.inject("Encrypt", "error", error="unavailable")
        with pytest.raises(UnreachableError):
            _wrap(there, key)
        there.kms.clear_faults()
        assert _times(there, "Encrypt") == expected
    _wrap(there, key)
    there.kms.calls.clear()
    there.kms.inject("Encrypt", "error", error="unavailable")
    with pytest.raises(UnreachableError):
        _wrap(there, key)
    there.kms.clear_faults()
    assert _times(there, "Encrypt") == 2


def test_connections_that_ended_between_calls_are_made_anew(there: GcpCounterpart) -> None:
    """A connection that the server closed between two calls fails neither."""
    key = there.create_key()
    ciphertext = _wrap(there, key)
    for _ in range(10):
        with there.layer.leading_to(there.layer._server):
            assert _unwrap(there, key, ciphertext) == PLAINTEXT
        assert _unwrap(there, key, ciphertext) == PLAINTEXT


def test_tokens_are_got_anew_every_ten_minutes(there: GcpCounterpart) -> None:
    """One call renews the token ahead, and withdrawn trust shows within ten minutes (F2a)."""
    clock = FakeClock()
    _again(there, clock=clock.monotonic)
    key = there.create_key()
    ciphertext = _wrap(there, key)
    assert _times(there, "generateAccessToken") == 1
    clock.advance(AHEAD + 1)
    for _ in range(3):
        _unwrap(there, key, ciphertext)
    assert _times(there, "generateAccessToken") == 2
    there.kms.deny(there.own, there.customer, GET_ACCESS_TOKEN)
    clock.advance(LONGEST + 1)
    with pytest.raises(AccessDeniedError):
        _unwrap(there, key, ciphertext)


def test_an_outage_of_iam_does_not_end_a_session_early(there: GcpCounterpart) -> None:
    """A token that Keyfold cannot renew serves on until its ten minutes are over."""
    clock = FakeClock()
    _again(there, clock=clock.monotonic)
    key = there.create_key()
    ciphertext = _wrap(there, key)
    with there.tokens.refusing():
        clock.advance(AHEAD + 1)
        assert _unwrap(there, key, ciphertext) == PLAINTEXT
        clock.advance(LONGEST - AHEAD)
        with pytest.raises(UnreachableError):
            _unwrap(there, key, ciphertext)


def test_a_token_endpoint_that_drips_fails_no_call_whose_token_is_good(
    there: GcpCounterpart,
) -> None:
    """Renewing the server's own token ahead leaves the call the time that it needs (C4)."""
    clock = FakeClock()
    _again(there, clock=clock.monotonic)
    key = _as_itself(there)
    ciphertext = _wrap(there, key)
    # Beyond ten minutes, too: no customer can withdraw the server's own identity.
    for passed in (AHEAD + 1, LONGEST, LONGEST):
        clock.advance(passed)
        with there.tokens.dripping(DRIP):
            opened = there.provider.unwrap(key, "", ciphertext, BINDING, budget=1.5)
        assert bytes(opened.plaintext) == PLAINTEXT


# Whose credential it is.


def _second_account(there: GcpCounterpart) -> RootKey:
    """Makes a key that another customer's service account uses."""
    key = replace(there.create_key(), principal=there.customer.replace("cmek-user", "other"))
    there.kms.allow(there.own, key.principal, GET_ACCESS_TOKEN)
    for permission in PERMISSIONS.values():
        there.kms.allow(key.principal, key.uri, permission)
    return key


def _withdrawn(there: GcpCounterpart, key: RootKey) -> None:
    there.kms.deny(there.own, key.principal, GET_ACCESS_TOKEN)
    there.kms.expire_tokens(key.principal)


def test_withdrawn_trust_counts_while_another_account_trusts(there: GcpCounterpart) -> None:
    """Another customer's account that Keyfold can still use shows its own side good (F2a)."""
    mine, other = there.create_key(), _second_account(there)
    ciphertext = _wrap(there, mine)
    _wrap(there, other)
    _withdrawn(there, mine)
    with pytest.raises(AccessDeniedError):
        _unwrap(there, mine, ciphertext)


def test_trust_that_all_withdraw_at_once_is_our_own_fault(there: GcpCounterpart) -> None:
    """If Keyfold can use no other account either, the denial is not a refusal (F2a)."""
    mine, other = there.create_key(), _second_account(there)
    ciphertext = _wrap(there, mine)
    _wrap(there, other)
    for key in (mine, other):
        _withdrawn(there, key)
    with pytest.raises(CredentialsFailedError):
        _unwrap(there, mine, ciphertext)


def test_who_has_withdrawn_is_no_witness(there: GcpCounterpart) -> None:
    """A customer who withdrew earlier does not hold back the next customer's withdrawal (F2a)."""
    mine, other = there.create_key(), _second_account(there)
    for key in (mine, other):
        _wrap(there, key)
    for key in (other, mine):
        _withdrawn(there, key)
        with pytest.raises(AccessDeniedError):
            _wrap(there, key)


def test_withdrawn_trust_needs_our_own_credential_anew(there: GcpCounterpart) -> None:
    """A denial is not a refusal if Keyfold could not get its own token any more (F2a)."""
    key = there.create_key()
    ciphertext = _wrap(there, key)
    _withdrawn(there, key)
    there.kms._iam._keys[there.own].clear()
    with pytest.raises(CredentialsFailedError):
        _unwrap(there, key, ciphertext)


def test_a_broken_line_costs_no_call_after_it(there: GcpCounterpart) -> None:
    """The next call after an outage of Cloud KMS succeeds, however long the outage was."""
    key = there.create_key()
    ciphertext = _wrap(there, key)
    with there.layer.refusing():
        for _ in range(20):
            with pytest.raises(UnreachableError):
                _unwrap(there, key, ciphertext)
    assert _unwrap(there, key, ciphertext) == PLAINTEXT


@pytest.mark.parametrize("trusted", [True, False])
def test_a_canary_decides(there: GcpCounterpart, trusted: bool) -> None:  # noqa: FBT001
    """A service account of the vendor's own shows whether Keyfold's own side is good (F2a)."""
    canary = "canary@vendor-project.iam.gserviceaccount.com"
    there.kms.allow(there.own, canary, GET_ACCESS_TOKEN)
    if not trusted:
        there.kms.deny(there.own, canary, GET_ACCESS_TOKEN)
    _again(there, canary=canary)
    key = there.create_key()
    _withdrawn(there, key)
    with pytest.raises(AccessDeniedError if trusted else CredentialsFailedError):
        _wrap(there, key)


def test_the_check_tries_the_canary_too(there: GcpCounterpart) -> None:
    """A canary that Keyfold may not act as is a fault of Keyfold's own side, before any key."""
    canary = "canary@vendor-project.iam.gserviceaccount.com"
    provider = _again(there, canary=canary)
    with pytest.raises(CredentialsFailedError):
        provider.try_logins(budget=BUDGET)
    there.kms.allow(there.own, canary, GET_ACCESS_TOKEN)
    provider.try_logins(budget=BUDGET)


def _google(status: int, word: str, reason: str = "") -> Reply:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
    error = {"code": status, "status": word, "details": details if reason else []}
    return Reply(status, {}, json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("reply", "meant"),
    [
        (_google(403, "PERMISSION_DENIED", "IAM_PERMISSION_DENIED"), AccessDeniedError),
        (_google(404, "NOT_FOUND"), AccessDeniedError),
        (_google(403, "PERMISSION_DENIED", "SERVICE_DISABLED"), CredentialsFailedError),
        (_google(403, "PERMISSION_DENIED", "USER_PROJECT_DENIED"), CredentialsFailedError),
        (_google(403, "PERMISSION_DENIED", "SECURITY_POLICY_VIOLATED"), UnreachableError),
        (_google(400, "INVALID_ARGUMENT"), UnreachableError),
        (_google(401, "UNAUTHENTICATED"), CredentialsFailedError),
        (Reply(403, {}, b"<html>a proxy's page"), UnreachableError),
        (Reply(200, {}, b"{}"), UnreachableError),
        (Reply(302, {"Location": "https://127.0.0.1:1/"}, b""), UnreachableError),
    ],
    ids=lambda each: f"{each.status} {each.body[-40:]!r}" if isinstance(each, Reply) else "",
)
def test_what_iam_says_about_an_account(
    there: GcpCounterpart, reply: Reply, meant: type[KmsError]
) -> None:
    """Only a denial by IAM itself, or a deleted account, is a refusal (F2a, F6)."""
    key, answer = there.create_key(), there.tokens._answer

    def instead(request: Request) -> Reply:
        return reply if "generateAccessToken" in request.path else answer(request)

    with there.tokens.instead(instead), pytest.raises(meant) as raised:
        _wrap(there, key)
    assert type(raised.value) is meant


@pytest.mark.parametrize(
    ("reply", "meant"),
    [
        (Reply(HTTPStatus.BAD_REQUEST, {}, b'{"error": "invalid_grant"}'), CredentialsFailedError),
        (Reply(HTTPStatus.BAD_REQUEST, {}, b'{"error": "server_error"}'), UnreachableError),
        (Reply(HTTPStatus.FORBIDDEN, {}, b"<html>"), UnreachableError),
        (Reply(HTTPStatus.OK, {}, b'{"access_tok": "x"}'), UnreachableError),
    ],
    ids=["refused", "failing", "a proxy's", "garbage"],
)
def test_what_a_token_endpoint_says(
    there: GcpCounterpart, reply: Reply, meant: type[KmsError]
) -> None:
    """A denied token is CREDENTIALS_FAILED; an answer that is not Google's is UNREACHABLE (F2a)."""
    with there.tokens.answering(reply), pytest.raises(meant):
        _wrap(there, _as_itself(there))


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"type": "service_account"}'])
def test_a_credentials_file_that_is_none(
    there: GcpCounterpart, tmp_path: Path, content: bytes | None
) -> None:
    """A missing or broken file is CREDENTIALS_FAILED; the next call looks again (F2a)."""
    key, good = there.create_key(), os.environ["GOOGLE_APPLICATION_CREDENTIALS"]
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_bytes(content)
    there.env.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bad))
    with pytest.raises(CredentialsFailedError):
        _wrap(there, key)
    there.env.setenv("GOOGLE_APPLICATION_CREDENTIALS", good)
    _wrap(there, key)


def test_a_new_key_file_is_taken_up(there: GcpCounterpart, tmp_path: Path) -> None:
    """After a rejection Keyfold looks for its credential anew, so it finds a rotated one."""
    key = there.create_key()
    ciphertext = _wrap(there, key)
    there.kms._iam._keys[there.own].clear()
    there._key_file(tmp_path)
    for each in (there.own, there.customer):
        there.kms.revoke_tokens(each)
    assert _unwrap(there, key, ciphertext) == PLAINTEXT


@pytest.fixture
def machine(there: GcpCounterpart, tmp_path: Path) -> Iterator[FaultLayer]:
    """A machine of Google's with Keyfold's account, and without a credentials file."""

    def answer(request: Request) -> Reply:
        headers = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
        path = request.path.partition("?")[0]
        body: Any = {}
        if path.endswith("/token"):
            token = there.kms._iam.issue(there.own, [CLOUD_PLATFORM], 3600)
            body = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        elif path.endswith("/service-accounts/default/"):
            body = {"email": there.own, "scopes": [CLOUD_PLATFORM], "aliases": ["default"]}
        return Reply(200, headers, json.dumps(body).encode())

    with FaultLayer(answer) as layer:
        there.env.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        there.env.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
        there.env.setenv("GCE_METADATA_IP", f"127.0.0.1:{layer.port}")
        there.env.setattr(_metadata, "_GCE_METADATA_HOST", f"127.0.0.1:{layer.port}")
        yield layer


def test_a_machine_of_googles_has_an_identity(there: GcpCounterpart, machine: FaultLayer) -> None:
    """Without a file, Keyfold's identity comes from the metadata server."""
    _wrap(there, there.create_key())
    assert {call.principal for call in there.kms.calls} == {there.own, there.customer}


def test_no_identity_at_all_is_told_at_once(there: GcpCounterpart, machine: FaultLayer) -> None:
    """Without a file and a metadata server, Keyfold does not sit through the SDK's waits (F2a)."""
    key = there.create_key()
    with machine.refusing(), pytest.raises(CredentialsFailedError, match="no Google credential"):
        there.provider.wrap(key, PLAINTEXT, BINDING, budget=0.5)
    _wrap(there, key)


# Bounds.


def test_principals_are_bounded(there: GcpCounterpart, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyfold closes the least recently used principal's connection, and opens it when needed."""
    monkeypatch.setattr(shared_principals, "MOST", 1)
    mine, other = there.create_key(), _second_account(there)
    assert isinstance(there.provider, GcpKmsProvider)
    held = there.provider._principals
    ciphertext = _wrap(there, mine)
    client = held.of(mine).client
    _wrap(there, other)
    assert client._line is None
    assert len(held._others.all()) == 1
    assert _unwrap(there, mine, ciphertext) == PLAINTEXT


def test_a_channel_is_closed_once_its_calls_are_over(there: GcpCounterpart) -> None:
    """A call that is under way when Keyfold drops its principal still comes to its end."""
    key = there.create_key()
    ciphertext = _wrap(there, key)
    assert isinstance(there.provider, GcpKmsProvider)
    client = there.provider._principals.of(key).client
    there.kms.inject("Decrypt", "slow", seconds=0.3, times=1)
    opened: list[bytes] = []
    call = threading.Thread(target=lambda: opened.append(_unwrap(there, key, ciphertext)))
    call.start()
    assert there.kms.wait_until_held()
    client.close()
    call.join()
    assert opened == [PLAINTEXT]
    assert _unwrap(there, key, ciphertext) == PLAINTEXT
    assert client._line is None
