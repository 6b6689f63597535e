"""The roles of AWS that are in use, and the server's own identity.

Invariant: a root key's `external_id` is the one that Keyfold issued, never one that a caller gave
(protocol C2). Keyfold takes no role without an external id, and sessions under two external ids
are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from botocore.credentials import ReadOnlyCredentials

from keyfold_server.domain.errors import CredentialsFailedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.aws.clients import Clients
from keyfold_server.providers.aws.credentials import (
    DURATION,
    Signer,
    own_identity,
    role,
    taken,
    under,
)
from keyfold_server.providers.aws.errors import BROKEN, translate
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import canary_of_our_own
from keyfold_server.providers.shared.principals import Principal, Principals

AwsPrincipal = Principal[ReadOnlyCredentials, Clients]
"""A role or the server's own identity, with the SDK's clients that sign as it."""

_WHO_AM_I: Final = "sts:GetCallerIdentity"


@dataclass(frozen=True, slots=True)
class Canary:
    """A role of the vendor's own, which nobody but the vendor can withdraw.

    Attributes:
        role: Its ARN.
        external_id: The external id that its trust policy demands, or None.
    """

    role: str
    external_id: str | None = None


def issued_external_id(key: RootKey) -> str:
    """Returns the external id with which Keyfold takes a root key's role.

    Raises:
        CredentialsFailedError: The key does not have one. A role that trusts Keyfold without an
            external id would serve every customer of Keyfold, so Keyfold never takes it.
    """
    if not key.external_id:
        raise CredentialsFailedError(
            f"Keyfold has no external id for role {key.principal}; have one issued with "
            "GetAccessPolicy, and put it into the role's trust policy"
        )
    return key.external_id


class Roles:
    """Roles by ARN, external id and region, and the server's own. Safe for many threads."""

    def __init__(
        self, session_name: str, canary: Canary | None, clock: Callable[[], float]
    ) -> None:
        """Prepares; the first call asks AWS.

        Args:
            session_name: The name of Keyfold's sessions in CloudTrail.
            canary: The role that shows Keyfold's own side to be good, or None.
            clock: Returns monotonic seconds.
        """
        self._session_name = session_name
        self._canary = canary
        self._clock = clock
        self._own = _principal(own_identity(clock))
        self._roles: Principals[AwsPrincipal] = Principals()

    def of(self, key: RootKey, region: str) -> AwsPrincipal:
        """Returns the principal that uses a root key; its sessions come from the region's STS.

        Raises:
            CredentialsFailedError: The key has a role, and no external id.
        """
        if not key.principal:
            return self._own
        arn, external_id = key.principal, issued_external_id(key)

        def make() -> AwsPrincipal:
            return _principal(
                role(
                    arn,
                    lambda: self._assume(arn, external_id, region),
                    lambda besides: self._shown_good(besides, region),
                    self._clock,
                )
            )

        return self._roles.get((arn, external_id, region), make)

    def try_logins(self, region: str) -> None:
        """Uses the server's own credential, and takes the canary's role; see `TriesLogins`."""
        self._who_am_i(region)
        if self._canary is not None:
            with canary_of_our_own():
                self._take(self._canary, region)

    def _assume(self, arn: str, external_id: str | None, region: str) -> dict[str, Any]:
        sts = self._own.client.of("sts", region)
        asked: dict[str, Any] = {
            "RoleArn": arn,
            "RoleSessionName": self._session_name,
            "DurationSeconds": DURATION,
        }
        if external_id is not None:
            asked["ExternalId"] = external_id
        return under(self._own.lease, lambda: sts.assume_role(**asked), "sts:AssumeRole")

    def _shown_good(self, besides: Lease[ReadOnlyCredentials], region: str) -> bool:
        canary = self._canary
        return self._roles.shown_good(
            besides,
            canary=None if canary is None else lambda: self._take(canary, region),
            own=lambda: self._who_am_i(region),
        )

    def _take(self, canary: Canary, region: str) -> object:
        return taken(canary.role, lambda: self._assume(canary.role, canary.external_id, region))

    def _who_am_i(self, region: str) -> None:
        """Uses the server's own credential for a call that needs no permission."""
        sts = self._own.client.of("sts", region)
        try:
            under(self._own.lease, sts.get_caller_identity, _WHO_AM_I)
        except BROKEN as error:
            raise translate(error, _WHO_AM_I, "its caller") from error


def _principal(lease: Lease[ReadOnlyCredentials]) -> AwsPrincipal:
    return Principal(lease, Clients(Signer(lease)))
