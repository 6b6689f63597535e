"""The key policies that other vendors publish for their customers, held against what Keyfold calls.

A customer who comes from one of them has such a policy already. The tests say of each whether it is
enough for Keyfold, with the vendor's own names in it, and which of its actions are needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from contract.aws_kms import ROW, AwsCounterpart
from contract.counterparts import Bench, NotInstalledError, without
from counterparts.aws_sts import Identity, policy
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import AccessDeniedError, CredentialsFailedError, KmsError
from keyfold_server.providers.aws.provider import AwsKmsProvider

_KEY: Final = "the key's own ARN"
_CUSTOMERS_ROLE: Final = "the ARN of the customer's role"
_ROOT: Final = "arn:aws:iam::111122223333:root"
_NEEDED: Final = ("kms:Encrypt", "kms:Decrypt", "kms:DescribeKey")


@dataclass(frozen=True)
class Published:
    """A published policy.

    Attributes:
        vendor: The vendor's identity, which calls the key; empty if it is the customer's role.
        statements: The statements of the key's policy.
        lacks: The actions that Keyfold calls and the policy does not allow.
    """

    vendor: str
    statements: tuple[dict[str, Any], ...]
    lacks: tuple[str, ...] = ()


def _allow(principal: str, *actions: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    by = {"Effect": "Allow", "Principal": {"AWS": principal}}
    return {**by, "Action": list(actions), "Resource": resource, **more}


_KONNECT: Final = "arn:aws:iam::333402130851:role/cc-konnect"
_ROCKSET: Final = "arn:aws:iam::318212636800:role/keys"
_ASTRA: Final = "arn:aws:iam::445566778899:role/creator"

POLICIES: Final = {
    # developer.konghq.com, customer-managed encryption keys
    "Konnect": Published(
        _KONNECT,
        (
            _allow(
                _KONNECT,
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:ReEncrypt*",
                "kms:GetKeyRotationStatus",
                "kms:GenerateDataKey*",
                "kms:DescribeKey",
            ),
        ),
    ),
    # cockroachlabs.com/docs/cockroachcloud/managing-cmek, policy crdb-cmek-kms
    "CockroachDB": Published(
        "",
        (
            _allow(
                _CUSTOMERS_ROLE,
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:GenerateDataKey*",
                "kms:DescribeKey",
                "kms:ReEncrypt*",
            ),
        ),
    ),
    # Rockset names its account, and the key itself as the resource.
    "Rockset": Published(
        _ROCKSET,
        (
            _allow(
                "arn:aws:iam::318212636800:root",
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:GenerateDataKey*",
                "kms:DescribeKey",
                resource=_KEY,
            ),
        ),
    ),
    # docs.datastax.com, customer keys on AWS; the statement on grants is AWS's usual one.
    "Astra DB": Published(
        _ASTRA,
        (
            _allow(_ROOT, "kms:*"),
            _allow(
                _ASTRA,
                "kms:EnableKey",
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:GenerateDataKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptTo",
                "kms:ReEncryptFrom",
                "kms:DescribeKey",
            ),
            _allow(
                _ASTRA,
                "kms:CreateGrant",
                "kms:ListGrants",
                "kms:RevokeGrant",
                Condition={"Bool": {"kms:GrantIsForAWSResource": "true"}},
            ),
        ),
    ),
    # ARX names the actions alone.
    "ARX": Published(
        "",
        (_allow(_CUSTOMERS_ROLE, "kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"),),
        lacks=("kms:DescribeKey",),
    ),
}


@pytest.fixture
def there(tmp_path: Path) -> Iterator[AwsCounterpart]:
    """A customer's account at AWS."""
    try:
        made = AwsCounterpart(tmp_path)
    except NotInstalledError as error:
        without(error)
    yield made
    made.close()


def _bench(there: AwsCounterpart, published: Published) -> Bench:
    """Makes a key, and lets Keyfold be the identity that the published policy is for."""
    key = there.create_key()
    vendor = published.vendor
    if vendor:
        key = replace(key, principal="", external_id="")
        access_key, secret = there.aws.sts.add_user(vendor)
        account, name = vendor.split(":")[4], vendor.rpartition("/")[2]
        session = f"arn:aws:sts::{account}:assumed-role/{name}/keyfold"
        there.aws.sts.identities[access_key] = Identity(session, secret, role=vendor)
        there.env.setenv("AWS_ACCESS_KEY_ID", access_key)
        there.env.setenv("AWS_SECRET_ACCESS_KEY", secret)
        there.provider = AwsKmsProvider(principal=vendor)
    binding = Binding("cluster-1", "eu", os.urandom(16), "acme")
    bench = Bench(ROW, there, key, binding)
    _attach(bench, *published.statements)
    return bench


def _attach(bench: Bench, *statements: dict[str, Any]) -> None:
    """Writes the key's policy, which Keyfold has no part in."""
    there, key = bench.there, bench.key
    assert isinstance(there, AwsCounterpart)
    names = {_KEY: key.uri, _CUSTOMERS_ROLE: key.principal}
    filled = [
        {
            **each,
            "Principal": {"AWS": names.get(by := each["Principal"]["AWS"], by)},
            "Resource": names.get(each["Resource"], each["Resource"]),
        }
        for each in statements
    ]
    there.put_policy(key, *filled)


def _lacking(bench: Bench) -> dict[str, KmsError]:
    """Returns the errors of all that Keyfold does with a key, by the permission that they name."""
    found: dict[str, KmsError] = {}
    bench.authenticate()
    for use in (bench.describe, lambda: bench.unwrap(bench.wrap())):
        try:
            use()
        except KmsError as error:
            found[error.missing_permission or error.reason] = error
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_a_published_policy_is_enough_or_names_what_it_lacks(
    there: AwsCounterpart, name: str
) -> None:
    """Keyfold works with each policy as it is published; where describing lacks, it is named."""
    published = POLICIES[name]
    found = _lacking(_bench(there, published))
    assert tuple(found) == published.lacks
    # Keyfold can do without that one action, and without no other.
    assert set(published.lacks) <= {"kms:DescribeKey"}


@pytest.mark.parametrize("name", POLICIES)
def test_each_action_that_is_taken_out_is_named(there: AwsCounterpart, name: str) -> None:
    """F5: whichever of Keyfold's actions the customer takes out of such a policy, it is named."""
    published = POLICIES[name]
    bench = _bench(there, published)
    for action in _NEEDED:
        without_it = [
            {**each, "Action": [one for one in each["Action"] if one != action]}
            for each in published.statements
        ]
        _attach(bench, *(each for each in without_it if each["Action"]))
        found = _lacking(bench)
        assert set(found) == {action, *published.lacks}
        assert all(type(error) is AccessDeniedError for error in found.values())
    _attach(bench, *published.statements)
    assert tuple(_lacking(bench)) == published.lacks


def test_a_policy_that_names_an_account_needs_that_accounts_own(there: AwsCounterpart) -> None:
    """A policy for an account lets that account decide; what lacks there is Keyfold's own (F2a)."""
    bench = _bench(there, POLICIES["Rockset"])
    there.aws.sts.policies[_ROCKSET] = [policy()]
    found = _lacking(bench)
    assert set(found) == {"kms:DescribeKey", "kms:Encrypt"}
    assert all(type(error) is CredentialsFailedError for error in found.values())


def test_a_statement_for_another_key_is_not_enough(there: AwsCounterpart) -> None:
    """A policy copied from another key still names that key as its resource."""
    bench = _bench(there, POLICIES["Rockset"])
    [statement] = POLICIES["Rockset"].statements
    _attach(bench, {**statement, "Resource": there.create_key().uri})
    found = _lacking(bench)
    assert set(found) == {"kms:DescribeKey", "kms:Encrypt"}
    assert all(type(error) is AccessDeniedError for error in found.values())


def test_an_endpoints_policy_is_not_the_customers(there: AwsCounterpart) -> None:
    """Where a VPC endpoint's policy stops a call, the key's policy has said nothing (F2a)."""
    bench = _bench(there, POLICIES["CockroachDB"])
    wrapped = bench.wrap()
    everything = {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}
    decrypts = {**everything, "Effect": "Deny", "Action": "kms:Decrypt"}
    for stops in (policy({**everything, "Action": "kms:Encrypt"}), policy(everything, decrypts)):
        there.aws.endpoint = stops
        with pytest.raises(CredentialsFailedError, match="VPC endpoint") as raised:
            bench.unwrap(wrapped)
        assert raised.value.missing_permission == "kms:Decrypt"
    there.aws.endpoint = policy(everything)
    assert bench.unwrap(wrapped) == bench.payload
