"""AWS_KMS: root keys in AWS KMS, multi-Region ones included.

    uri          arn:PARTITION:kms:REGION:ACCOUNT:key/ID; the region's endpoint is called
    principal    arn:PARTITION:iam::ACCOUNT:role/NAME, which Keyfold assumes with the external id
                 that it issued; left out, it is the server's own identity
    options      not taken
    permissions  kms:Encrypt, kms:Decrypt, kms:DescribeKey on the key; sts:AssumeRole on the role
    environment  what every AWS tool reads: AWS_*, AWS_ENDPOINT_URL_KMS and _STS, AWS_CA_BUNDLE

The binding is the encryption context, so the customer's CloudTrail shows it and the key's policy
can demand it. The version is the id of the key material. Encrypt does not say which material it
used, so the adapter decrypts the new ciphertext at once, which also shows that it opens.

Invariant: an answer counts as a refusal only under a credential that AWS accepted (protocol F2a).
The module `shared.lease` sees to that, and `errors` says what each answer means. This module must
not know who issues external ids: a root key comes with its own.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from keyfold_server.domain.binding import PAYLOAD_SIZE, Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    InvalidKeySpecError,
    InvalidPlaintextError,
    KekMismatchError,
    KeyInvalidError,
    SetupError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import (
    AccessPolicy,
    AccessWanted,
    KeyDescription,
    Unwrapped,
    Wrapped,
)
from keyfold_server.providers.aws import access as aws_access
from keyfold_server.providers.aws.answers import request_id
from keyfold_server.providers.aws.credentials import under
from keyfold_server.providers.aws.denials import denied_by_our_own_account
from keyfold_server.providers.aws.errors import BROKEN, translate
from keyfold_server.providers.aws.foresight import Foresight
from keyfold_server.providers.aws.key_states import of_state
from keyfold_server.providers.aws.principals import Canary, Roles
from keyfold_server.providers.aws.uri import (
    KeyArn,
    check_role,
    family,
    identity,
    is_account,
    key_arn,
    replica_uri,
)
from keyfold_server.providers.shared.deadlines import within
from keyfold_server.providers.shared.opening import opening

_MOST_CIPHERTEXT: Final = 6_144
"""Most bytes that AWS decrypts."""


class AwsKmsProvider(Foresight):
    """Root keys in AWS KMS. Safe for many threads."""

    holder_example = "111122223333"

    def __init__(
        self,
        *,
        principal: str | None = None,
        session_name: str = "keyfold",
        canary: Canary | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the adapter; it calls AWS with the first call.

        Args:
            principal: The ARN of the server's own identity, a role or a user, for the policies
                that name it. The credential itself comes from the environment.
            session_name: The name of Keyfold's sessions in the customers' CloudTrail.
            canary: A role of the vendor's own, which shows that Keyfold's side works.
            clock: Returns monotonic seconds.

        Raises:
            SetupError: The principal is not the ARN of a role or user.
        """
        if principal is not None and identity(principal) is None:
            raise SetupError(
                "[providers.aws] principal must be the ARN of the IAM role or user that the server "
                "itself is, such as arn:aws:iam::999988887777:role/keyfold-server; for a session, "
                "give the ARN of its role"
            )
        self._own = principal
        self._roles = Roles(session_name, canary, clock)

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key as it is, since an ARN has one form, or refuses it; see the port."""
        arn = key_arn(key.uri)
        if any(name == "external_id" for name, _ in key.options):
            raise InvalidKeySpecError(
                "external_id is Keyfold's to issue, and Keyfold never takes one from a request; "
                "leave it out, and put the issued one into the role's trust policy",
                field="key_spec.options",
            )
        if key.options:
            raise InvalidKeySpecError(
                "AWS_KMS takes no options; leave them out", field="key_spec.options"
            )
        if key.principal:
            check_role(key.principal, arn)
        return key

    def account(self, key: RootKey) -> str:
        """Returns the id of the AWS account that the key belongs to."""
        return key_arn(key.uri).account

    def holder(self, name: str) -> str | None:
        """Returns the id of an AWS account, or None if the name is not one; see the port."""
        return name if is_account(name) else None

    def family(self, key: RootKey) -> str:
        """Returns the one name of a multi-Region key and its replicas; else the key's own ARN."""
        return family(key.uri)

    def region(self, key: RootKey) -> str:
        """Returns the AWS region whose endpoint is called."""
        return key_arn(key.uri).region

    def replica(self, key: RootKey, region: str) -> RootKey:
        """Returns a multi-Region key's replica, used as the same principal; see the port."""
        return replace(key, uri=replica_uri(key.uri, region))

    def needs_external_id(self, key: RootKey) -> bool:
        """Says whether Keyfold assumes a role, which it does with an external id each time."""
        return bool(key.principal)

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        """Returns the policies of key, role and vendor; see `access`."""
        return aws_access.access_policy(key, wanted, self._own)

    def try_logins(self, *, budget: float) -> None:
        """Asks AWS whose the server's own credential is, and takes the canary; see the port."""
        names = ("AWS_REGION", "AWS_DEFAULT_REGION")
        region = next((os.environ[name] for name in names if os.environ.get(name)), "us-east-1")
        with within(budget):
            self._roles.try_logins(region)

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Proves the credential by asking AWS whose it is; see the port."""
        arn = key_arn(key.uri)
        with (
            within(budget),
            _translated("sts:GetCallerIdentity", key, key.principal or "its caller"),
        ):
            principal = self._roles.of(key, arn.region)
            sts = principal.client.of("sts", arn.region)
            reply = under(principal.lease, sts.get_caller_identity, "sts:GetCallerIdentity")
            reply["Arn"]  # Without it, the answer does not count.

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a root key; refuses as `wrap` does."""
        arn = key_arn(key.uri)
        with within(budget), _translated("kms:DescribeKey", key):
            reply = self._call(key, arn, "describe_key", "kms:DescribeKey", {})
            found = reply["KeyMetadata"]
            refusal = of_state(str(found["KeyState"]))
            if refusal is not None:
                kind, text = refusal
                raise kind(f"root key {key.uri} {text}", provider_request_id=request_id(reply))
            if found["KeySpec"] != "SYMMETRIC_DEFAULT":
                raise KeyInvalidError(
                    f"root key {key.uri} is not a symmetric encryption key",
                    provider_request_id=request_id(reply),
                )
            reach = "multi-Region " if found.get("MultiRegion") else ""
            origin = found.get("Origin", "AWS_KMS")
            return KeyDescription(f"symmetric {reach}key of origin {origin}")

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps up to 65 bytes under the current key material; see the port."""
        if not 1 <= len(plaintext) <= PAYLOAD_SIZE:
            raise InvalidPlaintextError(f"a root key wraps 1 to {PAYLOAD_SIZE} bytes")
        arn, context = key_arn(key.uri), binding.as_map()
        with within(budget):
            with _translated("kms:Encrypt", key, context=context):
                asked = {"Plaintext": bytes(plaintext), "EncryptionContext": context}
                sealed = self._call(key, arn, "encrypt", "kms:Encrypt", asked)
                ciphertext = bytes(sealed["CiphertextBlob"])
            with opening(), _translated("kms:Decrypt", key, context=context):
                asked = {"CiphertextBlob": ciphertext, "EncryptionContext": context}
                opened = self._call(key, arn, "decrypt", "kms:Decrypt", asked)
                if not hmac.compare_digest(bytes(opened["Plaintext"]), plaintext):
                    raise UnreachableError(
                        f"AWS KMS opened what {key.uri} had just wrapped to something else",
                        provider_request_id=request_id(opened),
                    )
        return Wrapped(ciphertext, _version(opened, arn), request_id(sealed))

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Opens what `wrap` returned; see the port."""
        del key_version  # The ciphertext names its key material, and AWS holds all of them.
        if not 1 <= len(ciphertext) <= _MOST_CIPHERTEXT:
            raise KekMismatchError("the stored key is not a ciphertext of AWS KMS")
        arn, context = key_arn(key.uri), binding.as_map()
        asked = {"CiphertextBlob": bytes(ciphertext), "EncryptionContext": context}
        with within(budget), _translated("kms:Decrypt", key, context=context):
            reply = self._call(key, arn, "decrypt", "kms:Decrypt", asked)
            return Unwrapped(bytearray(reply["Plaintext"]), request_id(reply))

    def _call(
        self, key: RootKey, arn: KeyArn, method: str, operation: str, asked: dict[str, Any]
    ) -> dict[str, Any]:
        """Calls AWS KMS as the key's principal.

        The request always names the key, for Decrypt too. Otherwise AWS would open a ciphertext
        of any other key that the principal may use. The answer names the key, too, and counts only
        if it is the same.
        """
        principal = self._roles.of(key, arn.region)
        call = getattr(principal.client.of("kms", arn.region), method)
        reply: dict[str, Any] = under(
            principal.lease, lambda: call(KeyId=key.uri, **asked), operation
        )
        answered = reply["KeyMetadata"]["Arn"] if "KeyMetadata" in reply else reply["KeyId"]
        if answered != key.uri:
            raise UnreachableError(
                f"AWS answered {operation} for another key than {key.uri}; try again",
                provider_request_id=request_id(reply),
            )
        return reply


def _version(reply: dict[str, Any], arn: KeyArn) -> str:
    """Returns the id of the key material. A key for which AWS gives no id has one version."""
    return str(reply.get("KeyMaterialId", arn.key_id))


@contextmanager
def _translated(
    operation: str, key: RootKey, about: str = "", context: dict[str, str] | None = None
) -> Iterator[None]:
    """Raises what an error of the SDK means for the key, or for what else `about` names."""
    try:
        yield
    except BROKEN as error:
        meant = translate(error, operation, about or key.uri, key.principal, context)
        if not isinstance(meant, AccessDeniedError):
            raise meant from error
        if not key.principal and denied_by_our_own_account(error, key_arn(key.uri).account):
            # A role's policies are the customer's, but the server's own are not (protocol F2a).
            raise CredentialsFailedError(
                f"the server's own AWS identity lacks the permission {operation} on {key.uri} in "
                "its own account; give it what GetAccessPolicy lists for the vendor",
                provider_request_id=meant.provider_request_id,
                missing_permission=operation,
            ) from error
        raise meant from error
