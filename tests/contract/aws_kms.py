"""AWS_KMS's row of the provider suite, and its counterpart: LocalStack behind `counterparts.aws`.

The adapter is set up by the environment alone, as in a server.
"""

from __future__ import annotations

import functools
import json
import secrets as random
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from botocore.config import Config
from botocore.session import Session

from certificates import authority, loopback_tls
from contract.counterparts import DRIP, Ability, Counterpart, Deviation, Row
from counterparts import localstack
from counterparts.aws import Aws
from counterparts.aws_attach import Attachable, attach
from counterparts.aws_sts import Role, policy
from counterparts.aws_wire import AwsError, error_reply, parse
from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request, forward
from fakes import FakeClock
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.aws.provider import AwsKmsProvider

REGION: Final = "eu-west-1"
CUSTOMER: Final = "111122223333"
VENDOR: Final = "arn:aws:iam::999988887777:user/keyfold"

_ACTIONS: Final = {"wrap": "kms:Encrypt", "unwrap": "kms:Decrypt", "describe": "kms:DescribeKey"}


class AwsCounterpart(Counterpart):
    """A customer's account in LocalStack, and a role in it that trusts Keyfold.

    Attributes:
        aws: The KMS and STS.
        layer: The layer of faults in front of them.
        role: The ARN of the role.
        external_id: The external id that Keyfold issued for this customer.
        env: The environment of the server.
    """

    def __init__(self, folder: Path) -> None:
        server = localstack.shared()
        self.external_id = random.token_urlsafe(24)
        self.aws = Aws(forward(server.url))
        self.layer = self.logins = FaultLayer(self.aws.answer, loopback_tls("trusted"))
        self.role = self.add_role()
        self._own, self._secret = self.aws.sts.add_user(VENDOR)
        self.env = pytest.MonkeyPatch()
        self._set_environment(folder)
        self._customer = _client(server.url, REGION)
        self._denied: dict[str, set[str]] = {}
        self.clock = FakeClock()
        self.provider = AwsKmsProvider(principal=VENDOR, clock=self.clock.monotonic)

    def _set_environment(self, folder: Path) -> None:
        (folder / "aws-ca.pem").write_bytes(authority("trusted").pem)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
            self.env.delenv(name, raising=False)
        for name, value in {
            "AWS_ACCESS_KEY_ID": self._own,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_CA_BUNDLE": str(folder / "aws-ca.pem"),
            "AWS_CONFIG_FILE": str(folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_KMS": self.layer.url,
            "AWS_ENDPOINT_URL_STS": self.layer.url,
            "NO_PROXY": "127.0.0.1",
        }.items():
            self.env.setenv(name, value)

    def add_role(self, account: str = CUSTOMER) -> str:
        """Makes a role in a customer's account that trusts Keyfold; returns its ARN."""
        arn = f"arn:aws:iam::{account}:role/keyfold-{random.token_hex(4)}"
        self.aws.sts.roles[arn] = Role.trusting(VENDOR, self.external_id)
        return arn

    def trust(self, *external_ids: str) -> None:
        """Lets Keyfold assume the role with any of these external ids."""
        self.aws.sts.roles[self.role] = Role.trusting(VENDOR, *external_ids)

    # Keys.

    def create_key(self, **how: Any) -> RootKey:
        found = self._customer.create_key(**how)["KeyMetadata"]["Arn"]
        key = RootKey("AWS_KMS", found, self.role, external_id=self.external_id)
        self._write_policy(key)
        return key

    def missing_key(self) -> RootKey:
        uri = _arn(str(uuid.uuid4()))
        return RootKey("AWS_KMS", uri, self.role, external_id=self.external_id)

    def unusable_key(self, why: Ability) -> RootKey:
        if why is Ability.WRONG_PURPOSE:
            return self.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")
        return self.create_key(Origin="EXTERNAL")

    def exists(self, key: RootKey) -> bool:
        try:
            self._customer.describe_key(KeyId=key.uri)
        except self._customer.exceptions.NotFoundException:
            return False
        return key.uri not in self.aws.erased

    def new_version(self, key: RootKey) -> None:
        self._customer.rotate_key_on_demand(KeyId=key.uri)
        self.aws.rotate(key.uri)

    def disable(self, key: RootKey, version: str | None = None) -> None:
        self._customer.disable_key(KeyId=key.uri)

    def enable(self, key: RootKey, version: str | None = None) -> None:
        self._customer.enable_key(KeyId=key.uri)

    def delete(self, key: RootKey, version: str | None = None) -> None:
        self.schedule_deletion(key)
        self.aws.erased.add(key.uri)  # The shortest waiting period is seven days.

    def schedule_deletion(self, key: RootKey) -> None:
        self._customer.schedule_key_deletion(KeyId=key.uri, PendingWindowInDays=7)

    def cancel_deletion(self, key: RootKey) -> None:
        self._customer.cancel_key_deletion(KeyId=key.uri)

    def deny(self, key: RootKey, permission: str) -> None:
        self._denied.setdefault(key.uri, set()).add(permission)
        self._write_policy(key)

    def restore(self, key: RootKey, permission: str) -> None:
        self._denied[key.uri].discard(permission)
        self._write_policy(key)

    def _write_policy(self, key: RootKey) -> None:
        denied = self._denied.get(key.uri, set())
        allowed = [action for name, action in _ACTIONS.items() if name not in denied]
        self.put_policy(
            key, {"Effect": "Allow", "Principal": {"AWS": self.role}, "Action": allowed}
        )

    def put_policy(self, key: RootKey, *statements: dict[str, Any]) -> None:
        """Writes a key's policy: these statements, and one for the account's root."""
        root = {"AWS": f"arn:aws:iam::{CUSTOMER}:root"}
        first = {"Effect": "Allow", "Principal": root, "Action": "kms:*"}
        every = [{"Resource": "*", **each} for each in (first, *statements)]
        customer = _client(localstack.shared().url, key.uri.split(":")[3])
        text = json.dumps(policy(*every))
        customer.put_key_policy(KeyId=key.uri, PolicyName="default", Policy=text)
        self.aws.policies.clear()

    def attach(self, key: RootKey, statements: Iterable[Attachable]) -> None:
        """Puts exactly an access policy in place for a key, as customer and vendor.

        Raises:
            ValueError: AWS would not accept the policy.
        """
        attach(
            statements,
            sts=self.aws.sts,
            vendor=VENDOR,
            role=key.principal,
            add_to_key=lambda *each: self.put_policy(key, *each),
        )

    def replicate(self, key: RootKey, region: str) -> RootKey:
        """Makes a multi-Region key's replica in another region, with the same policy."""
        found = self._customer.get_key_policy(KeyId=key.uri, PolicyName="default")["Policy"]
        made = self._customer.replicate_key(KeyId=key.uri, ReplicaRegion=region, Policy=found)
        replica = replace(key, uri=made["ReplicaKeyMetadata"]["Arn"])
        there = _client(localstack.shared().url, region)
        there.put_key_policy(KeyId=replica.uri, PolicyName="default", Policy=found)
        return replica

    # Credentials and trust.

    @contextmanager
    def withdrawn_trust(self, key: RootKey) -> Iterator[None]:
        role = self.aws.sts.roles[key.principal]
        kept, role.trust = role.trust, policy()
        self.aws.sts.expire_sessions(key.principal)
        try:
            yield
        finally:
            role.trust = kept

    @contextmanager
    def broken_credentials(self) -> Iterator[None]:
        self.aws.sts.rejected.add(self._own)
        try:
            yield
        finally:
            self.aws.sts.rejected.discard(self._own)

    def expire_sessions(self) -> None:
        self.aws.sts.expire_sessions()

    def is_login(self, request: Request) -> bool:
        call = parse(request)
        return call is not None and call.operation == "AssumeRole"

    # Faults.

    def throttled(self, hint: float | None) -> AbstractContextManager[None]:
        assert hint is None
        return self.layer.instead(
            lambda request: _error(request, "ThrottlingException", "Rate exceeded", 400)
        )

    def outage(self, which: str) -> AbstractContextManager[None]:
        garbage = Reply(200, {"Content-Type": "text/html"}, b"<html>")
        ways: dict[Ability, Callable[[], AbstractContextManager[None]]] = {
            Ability.REFUSED: self.layer.refusing,
            Ability.RESET: self.layer.resetting,
            Ability.TLS_FAILURE: lambda: self.layer.distrusted(loopback_tls("stranger")),
            Ability.SERVER_ERROR: lambda: self.layer.instead(
                lambda request: _error(request, "KMSInternalException", "", 500)
            ),
            Ability.GARBAGE: lambda: self.layer.answering(garbage),
            Ability.TOO_LARGE: lambda: self.layer.answering(replace(garbage, body=b"{" * 2**21)),
        }
        return ways[Ability(which)]()

    def hanging(self, which: str) -> AbstractContextManager[None]:
        if which == Ability.DRIPPING:
            return self.layer.dripping(DRIP)
        if which == Ability.HANG_AT_CONNECT:
            return self.layer.hanging_at_connect()
        return self.layer.hanging_at_read()

    def wrong_plaintext(self, key: RootKey) -> AbstractContextManager[None]:
        def changed(request: Request) -> Reply:
            reply = self.aws.answer(request)
            call = parse(request)
            if call is None or call.operation != "Decrypt" or call.asked["KeyId"] != key.uri:
                return reply
            body = json.loads(reply.body)
            body["Plaintext"] = b64encode(random.token_bytes(65)).decode()
            return replace(reply, body=json.dumps(body).encode())

        return self.layer.instead(changed)

    def secrets(self) -> list[bytes]:
        every = self.aws.sts.identities.values()
        return [text.encode() for each in every for text in (each.secret, each.token) if text]

    def close(self) -> None:
        self.layer.close()
        self.env.undo()


def _error(request: Request, code: str, message: str, status: int) -> Reply:
    call = parse(request)
    assert call is not None
    return error_reply(call.service, AwsError(code, message, status))


@functools.cache
def _client(url: str, region: str) -> Any:
    """Returns the customer's own client, connected directly to LocalStack."""
    session: Any = Session()
    return session.create_client(
        "kms",
        region_name=region,
        endpoint_url=url,
        aws_access_key_id=CUSTOMER,  # LocalStack uses it as the account.
        aws_secret_access_key="customer",
        config=Config(proxies={}),
    )


def _arn(key_id: str) -> str:
    return f"arn:aws:kms:{REGION}:{CUSTOMER}:key/{key_id}"


_ID: Final = "1234abcd-12ab-34cd-56ef-1234567890ab"
_ROLE: Final = f"arn:aws:iam::{CUSTOMER}:role/keyfold"
_OWN: Final = "arn:{}:kms:{}:" + CUSTOMER + ":{}"


def _spec(
    partition: str = "aws", region: str = REGION, name: str = f"key/{_ID}", **other: Any
) -> RootKey:
    return RootKey("AWS_KMS", _OWN.format(partition, region, name), **other)


ROW: Final = Row(
    name="AWS_KMS",
    make=AwsCounterpart,
    binds=frozenset({"cluster", "region", "organization"}),
    refused=(
        (RootKey("AWS_KMS", _ID), "key_spec.uri"),
        (RootKey("AWS_KMS", "alias/customer"), "key_spec.uri"),
        (_spec(name="alias/customer"), "key_spec.uri"),
        (_spec(name="key/1234"), "key_spec.uri"),
        (_spec(name=f"key/{_ID}\n"), "key_spec.uri"),
        (_spec(name=f"key/{_ID.upper()}"), "key_spec.uri"),
        (_spec(partition="aws-cn"), "key_spec.uri"),
        (_spec(region="cn-north-1"), "key_spec.uri"),
        (_spec(region="us-gov-west-1"), "key_spec.uri"),
        (_spec(partition="gcp"), "key_spec.uri"),
        (RootKey("AWS_KMS", f"arn:aws:kms:{REGION}:1:key/{_ID}"), "key_spec.uri"),
        (RootKey("AWS_KMS", f"http://kms.{REGION}.amazonaws.com/{_ID}"), "key_spec.uri"),
        (_spec(principal="keyfold"), "key_spec.auth_principal"),
        (_spec(principal=f"arn:aws:iam::{CUSTOMER}:user/u"), "key_spec.auth_principal"),
        (_spec(principal=_ROLE.replace("aws", "aws-cn")), "key_spec.auth_principal"),
        (_spec(options=(("external_id", "mine"),)), "key_spec.options"),
        (_spec(options=(("region", "x"),)), "key_spec.options"),
    ),
    absent={
        Ability.VERSION_STATES: "AWS disables a key, not one of its versions",
        Ability.DESTROY_VERSION: "AWS deletes a key, not one of its versions",
        Ability.THROTTLE_HINT: "AWS KMS does not say for how long",
        Ability.WRONG_CHECKSUM: "AWS KMS sends no checksums; TLS and the digest replace them",
    },
    deviations={
        Deviation.WRAP_NEEDS_UNWRAP: "Encrypt does not name the key material that it used, so "
        "the provider opens at once what it made",
    },
)
