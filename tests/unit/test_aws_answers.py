"""AWS's recorded error answers, on the wire: the SDK reads them, and Keyfold makes one error.

STS is the counterpart's, so the role is taken as in a server; KMS answers what was recorded.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from certificates import authority, loopback_tls
from clouds.recorded import Recorded, every, recorded
from counterparts.aws_sts import Role, Sts
from counterparts.aws_wire import AwsError, error_reply, parse
from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import AccessDeniedError, KmsError, UnreachableError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.aws.provider import AwsKmsProvider

_VENDOR: Final = "arn:aws:iam::999988887777:user/keyfold"
_ROLE: Final = "arn:aws:iam::111122223333:role/keyfold"
_URI: Final = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
_KEY: Final = RootKey("AWS_KMS", _URI, _ROLE, (), "issued")
_BINDING: Final = Binding("prod", "eu", bytes(16))
_BUDGET: Final = 20.0


class Kms:
    """A KMS that gives each call the same answer, and the STS of `counterparts`.

    Attributes:
        error: The error that KMS answers, or None.
        action: The action that fails, such as `kms:Decrypt`; every other call succeeds.
        reply: The parts in which a successful answer differs from a good one.
    """

    def __init__(self) -> None:
        self.sts = Sts()
        self.own, self.secret = self.sts.add_user(_VENDOR)
        self.sts.roles[_ROLE] = Role.trusting(_VENDOR, "issued")
        self.error: AwsError | None = None
        self.action = "kms:Decrypt"
        self.reply: dict[str, Any] = {}

    def answer(self, request: Request) -> Reply:
        """Answers one request."""
        call = parse(request)
        assert call is not None
        if self.error is not None and call.action == self.action:
            return error_reply(call.service, self.error)
        if call.service == "sts":
            return self.sts.answer(call, self.sts.authenticated(call))
        blob = b64encode(b"wrapped").decode()
        payload = b64encode(_BINDING.payload(bytes(32))).decode()
        good: dict[str, Any] = {"CiphertextBlob": blob, "Plaintext": payload, "KeyId": _URI}
        metadata = {"Arn": _URI, "KeyId": "1", "KeyState": "Enabled", "KeySpec": "RSA_2048"}
        if call.operation == "DescribeKey":
            metadata["KeySpec"] = "SYMMETRIC_DEFAULT"
            good = {"KeyMetadata": {**metadata, **self.reply}}
        body = json.dumps({**good, **self.reply})
        return Reply(200, {"Content-Type": "application/x-amz-json-1.1"}, body.encode())


@pytest.fixture
def kms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    """The KMS and STS on the wire, and an environment that leads to them alone."""
    kms = Kms()
    (tmp_path / "ca.pem").write_bytes(authority("trusted").pem)
    with FaultLayer(kms.answer, loopback_tls("trusted")) as layer:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            "AWS_ACCESS_KEY_ID": kms.own,
            "AWS_SECRET_ACCESS_KEY": kms.secret,
            "AWS_CA_BUNDLE": str(tmp_path / "ca.pem"),
            "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_KMS": layer.url,
            "AWS_ENDPOINT_URL_STS": layer.url,
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield kms


def _unwrap(key: RootKey = _KEY) -> bytes:
    provider = AwsKmsProvider(principal=_VENDOR)
    return bytes(provider.unwrap(key, "1", b"wrapped", _BINDING, budget=_BUDGET).plaintext)


@every("aws")
def test_a_recorded_answer_means_one_reason(kms: Kms, answer: Recorded) -> None:
    """Each answer has the reason that it should have, and none of its text is passed on (F6)."""
    said = answer.said
    kms.error = AwsError(said["code"], said["message"], said["status"])
    kms.action = said["action"]
    with pytest.raises(KmsError) as raised:
        _unwrap()
    assert raised.value.reason == answer.should
    assert said["message"] not in raised.value.message or said["message"] == "x"


@pytest.mark.parametrize(
    "answer",
    [each for each in recorded("aws") if "VPC endpoint" in each.said["message"]],
    ids=lambda each: each.case,
)
def test_the_policy_of_our_own_endpoint_revokes_nobody(kms: Kms, answer: Recorded) -> None:
    """A VPC endpoint is in Keyfold's network, so its policy is no customer's refusal (F2a)."""
    for action in ("kms:Decrypt", "sts:AssumeRole"):
        code = "AccessDeniedException" if action.startswith("kms") else "AccessDenied"
        kms.error = AwsError(code, answer.said["message"].replace("kms:Decrypt", action), 403)
        kms.action = action
        with pytest.raises(KmsError) as raised:
            _unwrap()
        assert raised.value.reason == "CREDENTIALS_FAILED"
        assert raised.value.missing_permission == action


@pytest.mark.parametrize(
    "other",
    [_URI.replace("1234abcd", "1234abce"), _URI.replace("eu-west-1", "us-east-1"), "1234abcd"],
)
def test_an_answer_for_another_key_does_not_count(kms: Kms, other: str) -> None:
    """AWS names the key in each answer; where it is another one, nothing is known about ours."""
    provider = AwsKmsProvider(principal=_VENDOR)
    payload = bytes(_BINDING.payload(bytes(32)))
    assert _unwrap() == payload
    assert provider.wrap(_KEY, payload, _BINDING, budget=_BUDGET).ciphertext == b"wrapped"
    provider.describe(_KEY, budget=_BUDGET)
    kms.reply = {"KeyId": other, "Arn": other}
    for call in (
        _unwrap,
        lambda: provider.wrap(_KEY, payload, _BINDING, budget=_BUDGET),
        lambda: provider.describe(_KEY, budget=_BUDGET),
    ):
        with pytest.raises(UnreachableError, match="for another key") as raised:
            call()
        assert other not in raised.value.message.replace(_URI, "")


_WHO: Final = "User: arn:aws:sts::{}:assumed-role/keyfold/i is not authorized to perform: "
_HERE, _ELSEWHERE = _WHO.format("111122223333"), _WHO.format("444455556666")
_ON: Final = f"kms:Decrypt on resource: {_URI} "
_TO_ANOTHER_ACCOUNT: Final = (
    "because the resource does not exist in this Region, no resource-based policies allow access, "
    "or a resource-based policy explicitly denies access"
)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (f"{_HERE}{_ON}because no resource-based policy allows the kms:Decrypt action", "context"),
        # Where the key's policy lets the account's own policies decide, AWS blames those.
        (f"{_HERE}{_ON}because no identity-based policy allows the kms:Decrypt action", "context"),
        (f"{_ELSEWHERE}kms:Decrypt on this resource {_TO_ANOTHER_ACCOUNT}", "missing or context"),
        (f"{_ELSEWHERE}{_ON}because no identity-based policy allows the kms:Decrypt action", "own"),
        (f"{_HERE}{_ON}with an explicit deny in a resource-based policy", "deny"),
        (f"{_HERE}{_ON}with an explicit deny in a service control policy", "organization"),
        ("", "unknown"),
    ],
)
def test_a_denial_says_whose_policy_it_is(kms: Kms, said: str, what: str) -> None:
    """A condition on the context reads as what it is, and not as an action that is missing (F4)."""
    context = "(context keyfold:cluster=prod, keyfold:region=eu) kms:Decrypt"
    begins = {
        "context": f"the key's policy does not allow this cluster or region {context}",
        "missing or context": "the key does not exist in its region, or the key's policy does not "
        f"allow this cluster or region {context}",
        "own": f"the permissions policy of {_ROLE} does not allow kms:Decrypt on {_URI}",
        "deny": f"a statement of the key's policy with the effect Deny forbids {_ROLE}",
        "organization": "a policy of the customer's AWS organization denies",
        "unknown": f"AWS denies kms:Decrypt on {_URI}",
    }
    kms.error = AwsError("AccessDeniedException", said)
    with pytest.raises(AccessDeniedError) as raised:
        _unwrap()
    assert raised.value.message.startswith(begins[what])
    assert raised.value.missing_permission == "kms:Decrypt"


def test_a_call_without_a_context_is_told_so(kms: Kms) -> None:
    """A test without a cluster sends no context, which the policy may demand; the error says so."""
    said = f"{_HERE}{_ON}because no resource-based policy allows the kms:Encrypt action"
    kms.error, kms.action = AwsError("AccessDeniedException", said), "kms:Encrypt"
    provider = AwsKmsProvider(principal=_VENDOR)
    with pytest.raises(AccessDeniedError, match=r"without a context; .* name them in the request"):
        provider.wrap(_KEY, b"p" * 65, Binding("", "", bytes(16)), budget=_BUDGET)
