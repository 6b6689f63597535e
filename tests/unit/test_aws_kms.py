"""The AWS adapter without AWS: ARNs, replicas, external ids, and what answers mean."""

from __future__ import annotations

import logging
from typing import Final

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

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
from keyfold_server.domain.provider import (
    AccessWanted,
    Authenticates,
    DescribesAccess,
    DescribesKeys,
    HasFamilies,
    HasReplicas,
    TakesExternalIds,
)
from keyfold_server.providers.aws.denials import denied_by_our_own_account
from keyfold_server.providers.aws.errors import translate
from keyfold_server.providers.aws.provider import AwsKmsProvider
from keyfold_server.providers.aws.uri import check_role, key_arn

_ID: Final = "1234abcd-12ab-34cd-56ef-1234567890ab"
_MRK: Final = "mrk-1234abcd12ab34cd56ef1234567890ab"
_ROLE: Final = "arn:aws:iam::111122223333:role/team/keyfold"
_KEY: Final = f"arn:aws:kms:eu-west-1:111122223333:key/{_ID}"


# ARNs.


@pytest.mark.parametrize(
    ("partition", "region"),
    [
        ("aws", "eu-west-1"),
        ("aws", "ap-southeast-5"),
        ("aws", "mx-central-1"),
        ("aws-cn", "cn-northwest-1"),
        ("aws-us-gov", "us-gov-east-1"),
        ("aws-iso", "us-iso-east-1"),
        ("aws-iso-b", "us-isob-east-1"),
        ("aws-iso-e", "eu-isoe-west-1"),
        ("aws-iso-f", "us-isof-south-1"),
        ("aws-eusc", "eusc-de-east-1"),
    ],
)
@pytest.mark.parametrize("name", [_ID, _MRK])
def test_keys_of_every_partition_are_known(partition: str, region: str, name: str) -> None:
    """A key's ARN of any partition names region, account and id, for multi-Region keys, too."""
    uri = f"arn:{partition}:kms:{region}:111122223333:key/{name}"
    arn = key_arn(uri)
    assert (arn.partition, arn.region, arn.account) == (partition, region, "111122223333")
    assert arn.key_id == name
    provider = AwsKmsProvider()
    assert provider.canonical(RootKey("AWS_KMS", uri)).uri == uri
    assert provider.account(RootKey("AWS_KMS", uri)) == "111122223333"
    check_role(f"arn:{partition}:iam::444455556666:role/keyfold", arn)


@pytest.mark.parametrize("uri", ["alias/app", "arn:aws:kms:eu-west-1:111122223333:alias/app"])
def test_an_alias_is_refused_with_the_reason(uri: str) -> None:
    """An alias can be pointed at another key, so Keyfold refuses it and says why."""
    with pytest.raises(
        InvalidKeySpecError, match="is an alias, which could be pointed at another key"
    ):
        key_arn(uri)


@pytest.mark.parametrize(
    "principal",
    [
        "arn:aws:iam::111122223333:user/keyfold",
        "arn:aws:iam::111122223333:root",
        "arn:aws:sts::111122223333:assumed-role/keyfold/session",
        "arn:aws-cn:iam::111122223333:role/keyfold",
        "arn:aws:iam::1111:role/keyfold",
        "arn:aws:iam::111122223333:role/",
        "arn:aws:iam::111122223333:role/key fold",
        f"{_ROLE}\n",
    ],
)
def test_what_is_no_role_of_the_partition_is_refused(principal: str) -> None:
    """Keyfold takes roles of the key's partition and acts as nobody else."""
    with pytest.raises(InvalidKeySpecError) as raised:
        check_role(principal, key_arn(_KEY))
    assert raised.value.field == "key_spec.auth_principal"


def test_an_external_id_is_never_the_callers() -> None:
    """Keyfold refuses it as an option, even with the issued value, and keeps an issued one (C2)."""
    provider = AwsKmsProvider()
    mine = RootKey("AWS_KMS", _KEY, _ROLE, (("external_id", "issued"),), "issued")
    with pytest.raises(InvalidKeySpecError, match="Keyfold's to issue"):
        provider.canonical(mine)
    for good in (RootKey("AWS_KMS", _KEY, _ROLE, (), "issued"), RootKey("AWS_KMS", _KEY, _ROLE)):
        assert provider.canonical(good) == good


def test_whoever_takes_a_role_shows_an_external_id() -> None:
    """A key with a principal needs an external id, issued or not; a key without does not."""
    provider = AwsKmsProvider()
    assert provider.needs_external_id(RootKey("AWS_KMS", _KEY, _ROLE))
    assert not provider.needs_external_id(RootKey("AWS_KMS", _KEY))


def test_a_role_whose_external_id_is_gone_is_no_refusal() -> None:
    """An external id that Keyfold has lost says nothing about a stored key (C2, F2a)."""
    with pytest.raises(CredentialsFailedError, match="no external id"):
        AwsKmsProvider().describe(RootKey("AWS_KMS", _KEY, _ROLE), budget=1.0)


def test_it_has_the_optional_abilities() -> None:
    """The adapter authenticates and describes, and knows replicas, external ids and policies."""
    provider = AwsKmsProvider()
    for ability in (
        Authenticates,
        DescribesKeys,
        HasFamilies,
        HasReplicas,
        TakesExternalIds,
        DescribesAccess,
    ):
        assert isinstance(provider, ability)


def test_a_multi_region_key_and_its_replicas_are_one_family() -> None:
    """All replicas have the family's name, and a key of one region has its own ARN (C6)."""
    provider = AwsKmsProvider()
    key = RootKey("AWS_KMS", f"arn:aws:kms:eu-west-1:111122223333:key/{_MRK}")
    name = f"arn:aws:kms:*:111122223333:key/{_MRK}"
    assert provider.family(key) == provider.family(provider.replica(key, "us-east-1")) == name
    other = RootKey("AWS_KMS", f"arn:aws:kms:eu-west-1:444455556666:key/{_MRK}")
    assert provider.family(other) != name
    alone = RootKey("AWS_KMS", f"arn:aws:kms:eu-west-1:111122223333:key/{_ID}")
    assert provider.family(alone) == alone.uri


@pytest.mark.parametrize(
    "principal",
    [
        "keyfold",
        "",
        "arn:aws:iam::999988887777:root",
        "arn:aws:sts::999988887777:assumed-role/keyfold/session",
        "arn:aws:iam::999988887777:role/*",
    ],
)
def test_a_setting_that_names_no_identity_is_refused(principal: str) -> None:
    """Customers' trust policies must name one role or user of Keyfold's, never an account."""
    with pytest.raises(SetupError, match="role or user that the server itself is"):
        AwsKmsProvider(principal=principal)


# Replicas.


@pytest.mark.parametrize(
    ("partition", "region", "other"),
    [
        ("aws", "eu-west-1", "us-east-1"),
        ("aws", "eu-west-1", "ap-southeast-9"),
        ("aws-cn", "cn-north-1", "cn-northwest-1"),
        ("aws-us-gov", "us-gov-west-1", "us-gov-east-1"),
        ("aws-iso", "us-iso-east-1", "us-iso-west-1"),
    ],
)
def test_a_replica_differs_in_the_region_alone(partition: str, region: str, other: str) -> None:
    """A replica has the key's ARN with another region, and the same principal."""
    uri = f"arn:{partition}:kms:{{}}:111122223333:key/{_MRK}"
    role = f"arn:{partition}:iam::111122223333:role/keyfold"
    key = RootKey("AWS_KMS", uri.format(region), role, (), "issued")
    found = AwsKmsProvider().replica(key, other)
    assert found == RootKey("AWS_KMS", uri.format(other), role, (), "issued")


@pytest.mark.parametrize(
    ("name", "region", "said"),
    [
        (_ID, "us-east-1", "is a key of one region"),
        (_MRK, "eu-west-1", "is in eu-west-1 itself"),
        (_MRK, "cn-north-1", "no region cn-north-1 in partition aws,"),
        (_MRK, "us-gov-west-1", "no region us-gov-west-1 in partition aws,"),
        (_MRK, "us-iso-east-1", "no region us-iso-east-1 in partition aws,"),
        (_MRK, "europe-west1", "no region europe-west1 in partition aws,"),
        (_MRK, "", "no region  in partition aws,"),
        (_MRK, "us-East-1", "no region us-East-1 in partition aws,"),
        (_MRK, "us-east-1:1:key/x", "in partition aws,"),
        (_MRK, "us-east-1\n", "in partition aws,"),
    ],
)
def test_what_has_no_replica_there_is_refused(name: str, region: str, said: str) -> None:
    """For each wrong key or region, the error says what is wrong."""
    key = RootKey("AWS_KMS", f"arn:aws:kms:eu-west-1:111122223333:key/{name}")
    with pytest.raises(InvalidKeySpecError) as raised:
        AwsKmsProvider().replica(key, region)
    assert said in raised.value.message
    assert raised.value.field == "replica_of"


def test_the_sdk_does_not_log_what_it_sends() -> None:
    """The SDK, which logs plaintexts at DEBUG, does not log at DEBUG, whatever the root's level."""
    assert not logging.getLogger("botocore.parsers").isEnabledFor(logging.DEBUG)


# Access policies; that they are enough, and needed, `contract/test_access_aws.py` shows.


def test_an_access_policy_stays_in_its_partition() -> None:
    """No policy can let in an identity of another partition, so Keyfold offers none."""
    provider = AwsKmsProvider(principal="arn:aws-cn:iam::999988887777:role/keyfold-server")
    wanted = AccessWanted("cluster-1", None, None)
    with pytest.raises(InvalidKeySpecError, match="no identity reaches across partitions"):
        provider.access_policy(RootKey("AWS_KMS", _KEY), wanted)
    there = f"arn:aws-cn:kms:cn-north-1:111122223333:key/{_ID}"
    found = provider.access_policy(RootKey("AWS_KMS", there), wanted)
    assert not any("arn:aws:" in each.text for each in found.statements)


def test_where_nothing_is_named_nothing_is_demanded() -> None:
    """Without a cluster, region or organization the policy has no condition."""
    found = AwsKmsProvider().access_policy(RootKey("AWS_KMS", _KEY), AccessWanted(None, None, None))
    assert found.bound_context == {}
    assert not any("Condition" in each.text for each in found.statements)


# Errors: code, text and status as AWS writes them.


def _error(
    code: str, message: str = "", status: int = 400, headers: dict[str, str] | None = None
) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {
                "RequestId": "8c4f2f9e-0000",
                "HTTPStatusCode": status,
                "HTTPHeaders": headers or {},
            },
        },
        "Decrypt",
    )


@pytest.mark.parametrize(
    ("code", "message", "status", "kind"),
    [
        ("NotFoundException", f"Key '{_KEY}' does not exist", 400, KeyNotFoundError),
        ("DisabledException", f"{_KEY} is disabled.", 400, KeyDisabledError),
        ("KMSInvalidStateException", f"{_KEY} is pending deletion.", 400, KeyPendingDeletionError),
        (
            "KMSInvalidStateException",
            f"{_KEY} is pending replica deletion.",
            400,
            KeyPendingDeletionError,
        ),
        ("KMSInvalidStateException", f"{_KEY} is pending import.", 400, KeyInvalidError),
        ("KMSInvalidStateException", f"{_KEY} is unavailable.", 400, UnreachableError),
        ("KMSInvalidStateException", f"{_KEY} is creating.", 400, UnreachableError),
        ("KMSInvalidStateException", f"{_KEY} is updating.", 400, UnreachableError),
        ("InvalidKeyUsageException", "", 400, KeyInvalidError),
        ("InvalidCiphertextException", "", 400, KekMismatchError),
        ("IncorrectKeyException", "The key ID does not identify", 400, KekMismatchError),
        ("AccessDeniedException", "is not authorized to perform", 400, AccessDeniedError),
        ("ThrottlingException", "You have exceeded the rate", 400, ThrottledError),
        ("Whatever", "", 429, ThrottledError),
        ("ExpiredTokenException", "The security token is expired", 400, CredentialsFailedError),
        ("UnrecognizedClientException", "token is invalid", 400, CredentialsFailedError),
        ("InvalidClientTokenId", "token is invalid", 403, CredentialsFailedError),
        ("InvalidSignatureException", "Signature expired", 400, CredentialsFailedError),
        ("RegionDisabledException", "STS is not activated", 403, CredentialsFailedError),
        ("KeyUnavailableException", "", 500, UnreachableError),
        ("DependencyTimeoutException", "", 503, UnreachableError),
        ("KMSInternalException", "", 500, UnreachableError),
        ("ValidationException", "1 validation error detected", 400, UnreachableError),
        ("OptInRequired", "", 403, UnreachableError),
        ("403", "<html>", 403, UnreachableError),
    ],
)
def test_an_answer_means_one_error(
    code: str, message: str, status: int, kind: type[KmsError]
) -> None:
    """Each answer of AWS is a refusal, could-not-tell or a mismatch, and keeps its request id."""
    error = translate(_error(code, message, status), "kms:Decrypt", _KEY)
    assert type(error) is kind
    assert error.provider_request_id == "8c4f2f9e-0000"
    assert "security token" not in error.message


def test_a_missing_permission_is_named() -> None:
    """ACCESS_DENIED names the action that the customer must allow."""
    error = translate(_error("AccessDeniedException"), "kms:Encrypt", _KEY)
    assert error.missing_permission == "kms:Encrypt"


@pytest.mark.parametrize(
    ("caller", "why", "ours"),
    [
        ("999988887777", "because no identity-based policy allows the kms:Decrypt action", True),
        ("999988887777", "because no resource-based policy allows the kms:Decrypt action", False),
        ("999988887777", "with an explicit deny in a resource-based policy", False),
        ("111122223333", "because no identity-based policy allows the kms:Decrypt action", False),
    ],
)
def test_the_servers_own_policies_are_told_from_the_keys(
    caller: str, why: str, *, ours: bool
) -> None:
    """Only a denial by policies outside of the key's account is Keyfold's own fault (F2a)."""
    said = f"User: arn:aws:iam::{caller}:user/keyfold is not authorized to perform: kms:Decrypt"
    error = _error("AccessDeniedException", f"{said} on resource: {_KEY} {why}")
    assert denied_by_our_own_account(error, "111122223333") is ours


def test_a_key_that_takes_no_context_cannot_wrap() -> None:
    """AWS answers Encrypt under an asymmetric key as a wrong request; that is KEY_INVALID."""
    assert isinstance(
        translate(_error("ValidationException"), "kms:Encrypt", _KEY), KeyInvalidError
    )


def test_a_hint_when_to_come_back_is_passed_on() -> None:
    """A gateway's Retry-After reaches the caller if it is a number of seconds."""
    for hint, seconds in (("7", 7.0), ("soon", None), ("-1", None)):
        error = _error("ThrottlingException", headers={"retry-after": hint})
        assert translate(error, "kms:Decrypt", _KEY).retry_after == seconds


@pytest.mark.parametrize("error", [ResponseParserError("x"), KeyError("Plaintext"), ValueError()])
def test_an_answer_that_is_none_is_no_refusal(error: Exception) -> None:
    """An incomplete or unreadable answer is UNREACHABLE."""
    assert type(translate(error, "kms:Decrypt", _KEY)) is UnreachableError


def test_texts_of_the_service_are_not_passed_on() -> None:
    """Codes and request ids reach messages and logs only if they are single words."""
    odd = _error("Bad\nCode: secret")
    odd.response["ResponseMetadata"]["RequestId"] = "id\nsecret"
    error = translate(odd, "kms:Decrypt", _KEY)
    assert "secret" not in error.message
    assert error.provider_request_id == ""
