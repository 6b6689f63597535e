"""AWS STS as a customer's roles need it: signatures, policies, sessions that end.

As AWS does, it checks the role's trust policy and, if the role is another account's, the caller's
own policies too.

It is not moto's, because a key's policy has to know a session, and a session has to end;
`counterparts.moto` checks Keyfold's use of STS independently.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from counterparts.aws_policy import EXTERNAL_ID, Asked, Caller, Kind, Policy, Verdict, evaluate
from counterparts.aws_wire import AwsError, Call, sts_reply
from counterparts.messages import Reply

_SHORTEST: Final = 900
_LONGEST: Final = 3_600


def policy(*statements: dict[str, Any]) -> Policy:
    """Returns a policy of these statements; without any, the policy allows nothing."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


ADMINISTRATOR: Final = policy({"Effect": "Allow", "Action": "*", "Resource": "*"})
"""The policy of an identity that may do anything in its own account."""


@dataclass
class Identity:
    """An identity that may sign calls.

    Attributes:
        arn: ARN of the user, or of the role's session.
        secret: The secret key that it signs with.
        token: A session's token, or empty.
        role: A session's role, or empty.
        expires: Time when a session ends, or None.
        came_from: The access key that assumed the role, or empty.
    """

    arn: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    role: str = ""
    expires: datetime | None = None
    came_from: str = ""

    @property
    def account(self) -> str:
        """The account that it is in."""
        return self.arn.split(":")[4]

    @property
    def caller(self) -> Caller:
        """The identity as a policy sees it."""
        return Caller((self.arn, self.role) if self.role else (self.arn,))

    @property
    def owner(self) -> str:
        """ARN whose policies apply: its own, or its role's."""
        return self.role or self.arn


@dataclass
class Role:
    """A role that an identity may assume.

    Attributes:
        trust: Its trust policy.
    """

    trust: Policy

    @staticmethod
    def trusting(arn: str, *external_ids: str) -> Role:
        """Returns a role that an identity may assume with one of the external ids."""
        shown = {"StringEquals": {EXTERNAL_ID: list(external_ids)}}
        allow = {"Effect": "Allow", "Principal": {"AWS": arn}, "Action": "sts:AssumeRole"}
        return Role(policy({**allow, "Condition": shown}))


class Sts:
    """Users, roles and sessions. Safe for many threads.

    Attributes:
        identities: Identities by access key.
        roles: Roles by ARN.
        policies: Policies by the ARN of their user or role, as its own account grants them. Unless
            a policy is written here, a user may do everything and a role nothing.
        rejected: Access keys that are no longer accepted, nor the sessions that came from them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.identities: dict[str, Identity] = {}
        self.roles: dict[str, Role] = {}
        self.policies: dict[str, list[Policy]] = {}
        self.rejected: set[str] = set()

    def add_user(self, arn: str) -> tuple[str, str]:
        """Makes a user, or an account's root; returns its access key and secret."""
        key, secret = f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)
        with self._lock:
            self.identities[key] = Identity(arn, secret)
            self.policies.setdefault(arn, [ADMINISTRATOR])
        return key, secret

    def own_verdict(self, identity: Identity, asked: Asked) -> Verdict:
        """Returns the answer of an identity's own policies to a call."""
        every: Iterable[Policy] = self.policies.get(identity.owner, ())
        said = {evaluate(Kind.IDENTITY, each, asked) for each in every}
        for verdict in (Verdict.DENIED, Verdict.ALLOWED):
            if verdict in said:
                return verdict
        return Verdict.NOT_ALLOWED

    def expire_sessions(self, role: str | None = None) -> None:
        """Ends all sessions, or those of one role."""
        with self._lock:
            for each in self.identities.values():
                if each.role and role in (None, each.role):
                    each.expires = datetime.now(UTC)

    def authenticated(self, call: Call) -> Identity:
        """Returns the identity that signed a call.

        Raises:
            AwsError: The service does not accept the signature.
        """
        sts = call.service == "sts"
        status = 403 if sts else 400
        with self._lock:
            identity = self.identities.get(call.access_key)
            if (
                identity is None
                or {call.access_key, identity.came_from} & self.rejected
                or identity.token != call.token
            ):
                code = "InvalidClientTokenId" if sts else "UnrecognizedClientException"
                said = "The security token included in the request is invalid."
                raise AwsError(code, said, status)
            if identity.expires is not None and identity.expires <= datetime.now(UTC):
                code = "ExpiredToken" if sts else "ExpiredTokenException"
                raise AwsError(
                    code, "The security token included in the request is expired", status
                )
        if not call.is_signed_with(identity.secret):
            code = "SignatureDoesNotMatch" if sts else "InvalidSignatureException"
            said = "The request signature we calculated does not match the signature you provided."
            raise AwsError(code, said, status)
        return identity

    def answer(self, call: Call, identity: Identity) -> Reply:
        """Answers a call of STS."""
        if call.operation == "GetCallerIdentity":
            result = (
                f"<Arn>{identity.arn}</Arn><UserId>{call.access_key}</UserId>"
                f"<Account>{identity.account}</Account>"
            )
            return sts_reply(call.operation, result)
        if call.operation != "AssumeRole":
            raise AwsError("InvalidAction", f"Could not find operation {call.operation}")
        arn, seconds = call.asked["RoleArn"], int(call.asked.get("DurationSeconds", _LONGEST))
        if not _SHORTEST <= seconds <= _LONGEST:
            raise AwsError("ValidationError", "durationSeconds is out of bounds")
        with self._lock:
            why_not = self._why_not(call, identity, arn)
            if why_not is not None:
                said = f"User: {identity.arn} is not authorized to perform: sts:AssumeRole on "
                raise AwsError("AccessDenied", f"{said}resource: {arn}{why_not}", 403)
            return self._session(call, arn, seconds)

    def _why_not(self, call: Call, identity: Identity, arn: str) -> str | None:
        """Returns AWS's reason why an identity cannot assume a role, or None if it can."""
        role, shown = self.roles.get(arn), call.asked.get("ExternalId")
        values = {} if shown is None else {EXTERNAL_ID: shown}
        asked = Asked(identity.caller, call.action, arn, values)
        trusts = Verdict.NOT_ALLOWED
        if role is not None:
            trusts = evaluate(Kind.TRUST, role.trust, asked)
        if trusts in (Verdict.NOT_ALLOWED, Verdict.DENIED):
            return ""
        own = self.own_verdict(identity, asked)
        if own is Verdict.DENIED:
            return " with an explicit deny in an identity-based policy"
        is_elsewhere = arn.split(":")[4] != identity.account
        if own is Verdict.NOT_ALLOWED and (is_elsewhere or trusts is Verdict.DELEGATED):
            return f" because no identity-based policy allows the {call.action} action"
        return None

    def _session(self, call: Call, role: str, seconds: int) -> Reply:
        account, name = role.split(":")[4], role.rpartition("/")[2]
        session = f"{role.partition(':iam:')[0]}:sts::{account}:assumed-role/{name}/"
        session += call.asked["RoleSessionName"]
        key, expires = f"ASIA{secrets.token_hex(8).upper()}", datetime.now(UTC)
        expires += timedelta(seconds=seconds)
        secret, token = secrets.token_urlsafe(30), secrets.token_urlsafe(90)
        self.identities[key] = Identity(session, secret, token, role, expires, call.access_key)
        return sts_reply(
            "AssumeRole",
            f"<AssumedRoleUser><AssumedRoleId>{key}:s</AssumedRoleId><Arn>{session}</Arn>"
            f"</AssumedRoleUser><Credentials><AccessKeyId>{key}</AccessKeyId>"
            f"<SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>"
            f"<Expiration>{expires:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>",
        )
