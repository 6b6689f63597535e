"""What the AWS adapter promises beyond others: principals, contexts in policies, regions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from contract.aws_kms import CUSTOMER, REGION, ROW, VENDOR, AwsCounterpart
from contract.counterparts import BUDGET, DRIP, Bench, NotInstalledError, without
from counterparts import moto
from counterparts.aws_sts import Role, policy
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.aws.principals import Canary
from keyfold_server.providers.aws.provider import AwsKmsProvider
from lateness import in_time


@pytest.fixture
def there(tmp_path: Path) -> Iterator[AwsCounterpart]:
    """A customer's account at AWS."""
    try:
        made = AwsCounterpart(tmp_path)
    except NotInstalledError as error:
        without(error)
    yield made
    made.close()


@pytest.fixture
def bench(there: AwsCounterpart) -> Bench:
    """The provider at it."""
    binding = Binding("cluster-1", "eu", os.urandom(16), "acme")
    return Bench(ROW, there, there.create_key(), binding)


def test_the_context_stands_in_the_log_and_in_policies(there: AwsCounterpart, bench: Bench) -> None:
    """A customer's key policy can tell clusters apart by the context's names (C5, F4)."""
    wrapped = bench.wrap()
    bound = {
        "keyfold:cluster": "cluster-1",
        "keyfold:region": "eu",
        "keyfold:organization": "acme",
    }
    used = [call for call in there.aws.calls if call.operation in ("Encrypt", "Decrypt")]
    assert [call.asked["EncryptionContext"] for call in used] == [bound, bound]
    allow = {"Effect": "Allow", "Principal": {"AWS": there.role}, "Action": "kms:*"}
    for cluster in ("cluster-1", "cluster-2"):
        only = {"StringEquals": {"kms:EncryptionContext:keyfold:cluster": cluster}}
        there.put_policy(bench.key, {**allow, "Condition": only})
        if cluster == "cluster-1":
            assert bench.unwrap(wrapped) == bench.payload
        else:
            with pytest.raises(AccessDeniedError) as raised:
                bench.unwrap(wrapped)
            assert raised.value.missing_permission == "kms:Decrypt"


def test_a_multi_region_key_opens_in_each_of_its_regions(
    there: AwsCounterpart, bench: Bench
) -> None:
    """One replica's ciphertext opens under the other, in that replica's region."""
    key = there.create_key(MultiRegion=True)
    assert "key/mrk-" in key.uri
    replica = there.replicate(key, "us-east-1")
    wrapped = bench.wrap(key=key)
    assert bench.unwrap(wrapped, key=replica) == bench.payload
    assert there.aws.calls[-1].region == "us-east-1"
    assert there.aws.calls[-1].asked["KeyId"] == replica.uri
    assert bench.wrap(key=replica).key_version == wrapped.key_version


def test_the_keys_own_region_is_called(there: AwsCounterpart, bench: Bench) -> None:
    """Keyfold calls KMS and STS in the ARN's region, whatever AWS_REGION says."""
    there.env.setenv("AWS_REGION", "ap-south-1")
    bench.wrap()
    assert {call.region for call in there.aws.calls} == {REGION}


def test_a_role_is_taken_by_its_external_id_and_session_name(
    there: AwsCounterpart, bench: Bench
) -> None:
    """AssumeRole carries the issued external id and the name that CloudTrail will show (C2)."""
    there.provider = AwsKmsProvider(session_name="keyfold-eu")
    bench.wrap()
    asked = next(call.asked for call in there.aws.calls if call.operation == "AssumeRole")
    assert asked["ExternalId"] == there.external_id
    assert asked["RoleSessionName"] == "keyfold-eu"
    assert [call.operation for call in there.aws.calls].count("AssumeRole") == 1


def test_without_a_principal_the_server_calls_as_itself(
    there: AwsCounterpart, bench: Bench
) -> None:
    """Without auth_principal Keyfold calls as the server's own identity and assumes no role."""
    own = replace(bench.key, principal="")
    with pytest.raises(AccessDeniedError):
        bench.wrap(key=own)
    there.put_policy(own, {"Effect": "Allow", "Principal": {"AWS": VENDOR}, "Action": "kms:*"})
    assert bench.unwrap(bench.wrap(key=own), key=own) == bench.payload
    assert "AssumeRole" not in {call.operation for call in there.aws.calls}


def test_a_rotated_own_credential_is_found(there: AwsCounterpart, bench: Bench) -> None:
    """Keyfold takes up an access key that was replaced on the machine, without a restart (F2a)."""
    wrapped = bench.wrap()
    with there.broken_credentials():
        key, secret = there.aws.sts.add_user(VENDOR)
        there.env.setenv("AWS_ACCESS_KEY_ID", key)
        there.env.setenv("AWS_SECRET_ACCESS_KEY", secret)
        there.expire_sessions()
        assert bench.unwrap(wrapped) == bench.payload


def test_a_wrong_secret_is_our_own_fault(there: AwsCounterpart, bench: Bench) -> None:
    """A signature that does not fit is CREDENTIALS_FAILED (F2a)."""
    there.env.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(CredentialsFailedError):
        bench.wrap()


def test_no_credential_at_all_is_our_own_fault(there: AwsCounterpart, bench: Bench) -> None:
    """A machine without any AWS credential says so, and that is not a refusal (F2a)."""
    there.env.delenv("AWS_ACCESS_KEY_ID")
    there.env.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsFailedError, match="no AWS credential"):
        bench.wrap()


def test_the_servers_web_identity_is_asked_for_within_the_call(
    there: AwsCounterpart, bench: Bench, tmp_path: Path
) -> None:
    """The SDK's own calls for the server's credential end with the budget, too (C4)."""
    (tmp_path / "token").write_text("a.b.c")
    there.env.delenv("AWS_ACCESS_KEY_ID")
    there.env.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    there.env.setenv("AWS_ROLE_ARN", f"arn:aws:iam::{CUSTOMER}:role/server")
    there.env.setenv("AWS_REGION", REGION)
    with there.layer.dripping(DRIP), in_time(1.0), pytest.raises(UnreachableError):
        bench.wrap(budget=0.3)
    with pytest.raises(CredentialsFailedError):
        bench.wrap()


@pytest.mark.parametrize("budget", [0.0, 1e-3])
def test_a_call_with_no_time_left_is_an_outage(bench: Bench, budget: float) -> None:
    """A call whose time is up before it sends is UNREACHABLE, with and without a session."""
    with pytest.raises(UnreachableError):
        bench.wrap(budget=budget)
    wrapped = bench.wrap()
    with pytest.raises(UnreachableError):
        bench.unwrap(wrapped, budget=budget)


def test_another_customers_role_shows_our_side_to_be_good(
    there: AwsCounterpart, bench: Bench
) -> None:
    """A denial is a refusal only if Keyfold can still take another role (F2a)."""
    other = there.add_role()
    wrapped = bench.wrap()
    key = replace(bench.key, principal=other)
    there.put_policy(key, {"Effect": "Allow", "Principal": {"AWS": other}, "Action": "kms:*"})
    bench.wrap(key=key)
    with there.withdrawn_trust(bench.key):
        with pytest.raises(AccessDeniedError):
            bench.unwrap(wrapped)
        # Now Keyfold can take nobody's role, as if it had lost its right to take any.
        with there.withdrawn_trust(key), pytest.raises(CredentialsFailedError):
            bench.unwrap(wrapped)


def test_the_canary_decides_where_there_is_one(there: AwsCounterpart, bench: Bench) -> None:
    """The vendor's own role tells a customer's withdrawal from a fault of our own (F2a)."""
    canary = there.add_role()
    there.aws.sts.roles[canary] = Role.trusting(VENDOR, "the canary's own")
    there.provider = AwsKmsProvider(canary=Canary(canary, "the canary's own"))
    wrapped = bench.wrap()
    with there.withdrawn_trust(bench.key):
        with pytest.raises(AccessDeniedError):
            bench.unwrap(wrapped)
        there.aws.sts.roles[canary] = Role(policy())
        with pytest.raises(CredentialsFailedError):
            bench.unwrap(wrapped)


def test_another_external_id_is_another_principal(there: AwsCounterpart, bench: Bench) -> None:
    """Sessions under two external ids stay apart, since one may be a guess (C2)."""
    bench.wrap()
    there.trust("issued anew")
    bench.wrap()
    bench.wrap(key=replace(bench.key, external_id="issued anew"))
    with pytest.raises(AccessDeniedError) as raised:
        bench.wrap(key=replace(bench.key, external_id="guessed"))
    assert raised.value.missing_permission == "sts:AssumeRole"


def test_no_role_is_taken_without_an_external_id(there: AwsCounterpart, bench: Bench) -> None:
    """Keyfold does not take a role that trusts anybody, and does not even ask STS (C2)."""
    allow = {"Effect": "Allow", "Principal": {"AWS": VENDOR}, "Action": "sts:AssumeRole"}
    there.aws.sts.roles[there.role] = Role(policy(allow))
    with pytest.raises(CredentialsFailedError, match="no external id"):
        bench.wrap(key=replace(bench.key, external_id=""))
    assert there.aws.calls == []


# moto's STS, which others wrote.


@pytest.fixture(scope="module")
def server() -> moto.Moto:
    """A server of moto's."""
    try:
        return moto.shared()
    except NotInstalledError as error:
        without(error)


@pytest.fixture
def user(server: moto.Moto, tmp_path: Path) -> Iterator[str]:
    """Keyfold's own user at moto, whose credential is in the environment."""
    arn, key, secret = server.add_user(f"keyfold-{os.urandom(4).hex()}")
    with pytest.MonkeyPatch.context() as env:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"):
            env.delenv(name, raising=False)
        env.setenv("AWS_ENDPOINT_URL_STS", server.url)
        env.setenv("AWS_ACCESS_KEY_ID", key)
        env.setenv("AWS_SECRET_ACCESS_KEY", secret)
        env.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        env.setenv("NO_PROXY", "127.0.0.1")
        yield arn


def _at_moto(role: str, external_id: str) -> None:
    key = f"arn:aws:kms:{REGION}:{CUSTOMER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    found = RootKey("AWS_KMS", key, role, external_id=external_id)
    AwsKmsProvider().authenticate(found, budget=4 * BUDGET)


def test_moto_lets_the_role_be_taken_with_its_external_id(server: moto.Moto, user: str) -> None:
    """An independent STS accepts the adapter's request, and refuses another external id (C2)."""
    role = server.add_role(f"role-{os.urandom(4).hex()}", user, "issued")
    _at_moto(role, "issued")
    with pytest.raises(AccessDeniedError):
        _at_moto(role, "guessed")


def test_moto_knows_a_wrong_secret(server: moto.Moto, user: str) -> None:
    """A signature that an independent STS rejects is CREDENTIALS_FAILED (F2a)."""
    role = server.add_role(f"role-{os.urandom(4).hex()}", user, "issued")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(CredentialsFailedError):
            _at_moto(role, "issued")
        env.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
        with pytest.raises(CredentialsFailedError):
            _at_moto(role, "issued")
