"""AWS as Keyfold meets it: LocalStack's KMS, behind a layer that adds what LocalStack lacks.

    python -m counterparts.aws [--port PORT]             until it is interrupted

LocalStack has keys, states, contexts and rotation. This module verifies signatures and ends
sessions (`counterparts.aws_sts`). It checks each call against the key's policy, which it reads from
LocalStack, and against the caller's own policies if the key is another account's. It gives each
version of key material an id, tells bytes that are not a ciphertext from missing keys, and can
remove a key without seven days' wait.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from counterparts import localstack
from counterparts.aws_policy import CONTEXT, Asked, Kind, Policy, Verdict, evaluate
from counterparts.aws_sts import Identity, Role, Sts
from counterparts.aws_wire import AwsError, Call, error_reply, parse
from counterparts.faults import FaultLayer
from counterparts.messages import Answer, Reply, Request, forward

_OF_KEY: Final = frozenset({"with an explicit deny in a resource-based policy"})
_TO_ANOTHER_ACCOUNT: Final = (
    "because the resource does not exist in this Region, no resource-based policies allow access, "
    "or a resource-based policy explicitly denies access"
)
"""AWS's words to a caller of another account, as in kubernetes-sigs/aws-encryption-provider#141."""

_NEEDS_NO_KEY: Final = frozenset({"CreateKey", "ListKeys", "ListAliases"})


class Aws:
    """KMS and STS behind one function that answers requests. Safe for many threads.

    Attributes:
        sts: The users, roles and sessions.
        erased: ARNs of the keys that are gone.
        calls: Every signed call, in order.
        policies: Policies of keys as read from LocalStack. Whoever writes a policy at LocalStack
            itself, rather than through here, must clear this.
        endpoint: Policy of the VPC endpoint that the calls to KMS come through, or None.
    """

    def __init__(self, kms: Answer) -> None:
        """Takes the function that answers the calls to KMS that are let through."""
        self._kms = kms
        self._lock = threading.RLock()
        self.sts = Sts()
        self.erased: set[str] = set()
        self.calls: list[Call] = []
        self.policies: dict[str, Policy] = {}
        self.endpoint: Policy | None = None
        self._materials: dict[str, list[str]] = {}
        self._made_with: dict[bytes, str] = {}

    def rotate(self, key: str) -> None:
        """Notes that the customer has rotated a key, which gives it new material."""
        with self._lock:
            self._of(key).append(secrets.token_hex(32))

    def answer(self, request: Request) -> Reply:
        """Answers one request."""
        call = parse(request)
        if call is None:
            error = AwsError("MissingAuthenticationTokenException", "Missing Authentication Token")
            return error_reply("kms", error)
        with self._lock:
            self.calls.append(call)
        try:
            identity = self.sts.authenticated(call)
            if call.service == "sts":
                return self.sts.answer(call, identity)
            return self._answer_kms(call, identity)
        except AwsError as error:
            return error_reply(call.service, error)

    def _answer_kms(self, call: Call, identity: Identity) -> Reply:
        arn = str(call.asked.get("KeyId", ""))
        if arn in self.erased:
            raise AwsError("NotFoundException", f"Key '{arn}' does not exist")
        self._authorize(call, identity, arn)
        reply = self._ask(call, identity.account, call.operation, call.asked)
        if reply.status == 200:
            return self._with_material(call, reply)
        # LocalStack answers bytes that are not a ciphertext as if the key did not exist. The key's
        # policy has shown that it does.
        if call.operation == "Decrypt" and b"NotFoundException" in reply.body:
            raise AwsError("InvalidCiphertextException", "")
        return reply

    def _authorize(self, call: Call, identity: Identity, arn: str) -> None:
        """Checks a call against the policies; an account's root may do everything in it."""
        owner = arn.split(":")[4] if arn.startswith("arn:") else identity.account
        if identity.arn == f"arn:aws:iam::{owner}:root":
            return
        resource = f"resource: {arn or '*'}"
        why_not: str | None = _no("identity-based", call)
        if call.operation not in _NEEDS_NO_KEY:
            why_not = self._why_not(call, identity, owner, arn)
            if owner != identity.account and why_not in _OF_KEY | {_no("resource-based", call)}:
                # Whoever is of another account does not learn whether the key exists.
                resource, why_not = "this resource", _TO_ANOTHER_ACCOUNT
        if why_not is not None:
            raise AwsError(
                "AccessDeniedException",
                f"User: {identity.arn} is not authorized to perform: {call.action} on {resource} "
                f"{why_not}",
            )

    def _why_not(self, call: Call, identity: Identity, owner: str, arn: str) -> str | None:
        """Returns AWS's reason why the caller cannot use a key, or None if it can."""
        context = call.asked.get("EncryptionContext", {})
        values = {CONTEXT + name: value for name, value in context.items()}
        asked = Asked(identity.caller, call.action, arn, values)
        stopped = self._stopped_on_the_way(call, asked)
        if stopped is not None:
            return stopped
        verdict = evaluate(Kind.KEY, self._policy(call, owner, arn), asked)
        if verdict is Verdict.DENIED:
            return "with an explicit deny in a resource-based policy"
        own = self.sts.own_verdict(identity, asked)
        if own is Verdict.DENIED:
            return "with an explicit deny in an identity-based policy"
        if verdict is Verdict.NOT_ALLOWED:
            return _no("resource-based", call)
        needs_own = verdict is Verdict.DELEGATED or owner != identity.account
        if own is Verdict.NOT_ALLOWED and needs_own:
            return _no("identity-based", call)
        return None

    def _stopped_on_the_way(self, call: Call, asked: Asked) -> str | None:
        """Returns AWS's reason why the VPC endpoint stops a call, or None if it does not."""
        through = Verdict.ALLOWED
        if self.endpoint is not None:
            through = evaluate(Kind.KEY, self.endpoint, asked)
        if through is Verdict.DENIED:
            return "with an explicit deny in a VPC endpoint policy"
        return _no("VPC endpoint", call) if through is Verdict.NOT_ALLOWED else None

    def _policy(self, call: Call, owner: str, arn: str) -> Policy:
        policy = self.policies.get(arn)
        if policy is None:
            asked = {"KeyId": arn, "PolicyName": "default"}
            found = self._ask(call, owner, "GetKeyPolicy", asked)
            if found.status != 200:
                raise AwsError("NotFoundException", f"Key '{arn}' does not exist")
            policy = self.policies[arn] = json.loads(json.loads(found.body)["Policy"])
        return policy

    def _ask(self, call: Call, account: str, operation: str, asked: Mapping[str, Any]) -> Reply:
        """Asks LocalStack, which reads an access key of twelve digits as the account."""
        signed = call.request.headers["authorization"].replace(call.access_key, account)
        headers = {
            **call.request.headers,
            "authorization": signed,
            "x-amz-target": f"TrentService.{operation}",
        }
        headers.pop("x-amz-security-token", None)
        return self._kms(replace(call.request, headers=headers, body=json.dumps(asked).encode()))

    def _with_material(self, call: Call, reply: Reply) -> Reply:
        """Notes which key material a call used, or adds it to the answer."""
        body = json.loads(reply.body) if reply.body else {}
        with self._lock:
            if call.operation == "Encrypt":
                self._made_with[_digest(body["CiphertextBlob"])] = self._of(body["KeyId"])[-1]
            elif call.operation == "Decrypt":
                made_with = self._made_with.get(_digest(call.asked["CiphertextBlob"]))
                body["KeyMaterialId"] = made_with or self._of(body["KeyId"])[0]
            elif call.operation == "DescribeKey":
                metadata = body["KeyMetadata"]
                metadata["CurrentKeyMaterialId"] = self._of(metadata["Arn"])[-1]
            elif call.operation == "RotateKeyOnDemand":
                self.rotate(body["KeyId"])
            elif call.operation == "PutKeyPolicy":
                self.policies.clear()
            else:
                return reply
        return replace(reply, body=json.dumps(body).encode())

    def _of(self, key: str) -> list[str]:
        """Returns the ids of a key's material, oldest first; the caller holds the lock.

        A multi-Region key and its replicas have the same material.
        """
        return self._materials.setdefault(key.rpartition("/")[2], [secrets.token_hex(32)])


def _no(kind: str, call: Call) -> str:
    """Returns AWS's words if no policy of a kind allows a call."""
    return f"because no {kind} policy allows the {call.action} action"


def _digest(blob: str) -> bytes:
    return hashlib.sha256(base64.b64decode(blob)).digest()


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m counterparts.aws")
    parser.add_argument("--port", type=int, default=4567)
    parser.add_argument("--user", default="arn:aws:iam::999988887777:user/keyfold")
    parser.add_argument("--role", default="arn:aws:iam::111122223333:role/keyfold")
    parser.add_argument("--external-id", default=secrets.token_urlsafe(24))
    given = parser.parse_args()
    server = localstack.LocalStack()
    aws = Aws(forward(server.url))
    key, secret = aws.sts.add_user(given.user)
    root_key, root_secret = aws.sts.add_user(
        f"arn:aws:iam::{given.role.split(':')[4]}:root",
    )
    aws.sts.roles[given.role] = Role.trusting(given.user, given.external_id)
    with FaultLayer(aws.answer, port=given.port) as layer:
        told = {
            "AWS_ENDPOINT_URL_KMS": layer.url,
            "AWS_ENDPOINT_URL_STS": layer.url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "CUSTOMER_AWS_ACCESS_KEY_ID": root_key,
            "CUSTOMER_AWS_SECRET_ACCESS_KEY": root_secret,
            "CUSTOMER_ROLE": given.role,
            "CUSTOMER_EXTERNAL_ID": given.external_id,
        }
        print("\n".join(f"{name}={value}" for name, value in told.items()), flush=True)  # noqa: T201
        server.wait()


if __name__ == "__main__":
    _main()
