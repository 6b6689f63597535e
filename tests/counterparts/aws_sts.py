"""AWS STS as a customer's roles need it: signatures, trust policies, sessions that end.

Ours rather than moto's, because the policy of a key has to know a session, and a session has to
end; `counterparts.moto` is the independent check of this side.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from counterparts.aws_policy import Caller
from counterparts.aws_wire import AwsError, Call, sts_reply
from counterparts.messages import Reply

_SHORTEST: Final = 900
_LONGEST: Final = 3_600


@dataclass
class Identity:
    """Somebody who may sign calls.

    Attributes:
        arn: Who it is: a user, or a role's session.
        secret: What it signs with.
        token: A session's token, or empty.
        role: A session's role, or empty.
        expires: When a session ends, or None.
        came_from: The access key that took the role, or empty.
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


@dataclass
class Role:
    """A role that somebody may take.

    Attributes:
        trusted: The ARN that its trust policy names.
        external_id: What the trust policy demands.
    """

    trusted: str
    external_id: str


class Sts:
    """Users, roles and sessions. Safe for many threads.

    Attributes:
        identities: By access key.
        roles: By ARN.
        rejected: Access keys that are not accepted any more, nor what came from them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.identities: dict[str, Identity] = {}
        self.roles: dict[str, Role] = {}
        self.rejected: set[str] = set()

    def add_user(self, arn: str) -> tuple[str, str]:
        """Makes a user, or an account's root; returns its access key and secret."""
        key, secret = f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)
        with self._lock:
            self.identities[key] = Identity(arn, secret)
        return key, secret

    def expire_sessions(self, role: str | None = None) -> None:
        """Ends all sessions, or those of one role."""
        with self._lock:
            for each in self.identities.values():
                if each.role and role in (None, each.role):
                    each.expires = datetime.now(UTC)

    def authenticated(self, call: Call) -> Identity:
        """Returns who signed a call.

        Raises:
            AwsError: Nobody whom the service accepts.
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
            role = self.roles.get(arn)
            if role != Role(identity.arn, call.asked.get("ExternalId", "")):
                said = f"User: {identity.arn} is not authorized to perform: sts:AssumeRole on "
                raise AwsError("AccessDenied", f"{said}resource: {arn}", 403)
            return self._session(call, arn, seconds)

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
