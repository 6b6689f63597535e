"""The principals of AWS that are in use, and how Keyfold shows its own side to be good.

Invariant: a root key's `external_id` is what Keyfold issued, never what a caller gave (protocol
C2); no role is taken without one, and it is part of what tells principals apart. The number of
principals that are kept is bounded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from keyfold_server.domain.errors import CredentialsFailedError, KmsError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.aws.clients import Clients
from keyfold_server.providers.aws.credentials import DURATION, Ambient, Role, under
from keyfold_server.providers.aws.errors import BROKEN

MOST: Final = 256
"""Roles whose sessions and connections are kept; the least recently used one goes."""

_WITNESSES: Final = 3
"""Other roles that are asked whether Keyfold's own side is good."""

_OWN: Final = "sts:GetCallerIdentity"


class Principal:
    """A credential with the SDK's clients that sign with it.

    Attributes:
        credential: What calls are made under.
        clients: The clients.
    """

    __slots__ = ("clients", "credential")

    def __init__(self, credential: Ambient | Role) -> None:
        """Joins them."""
        self.credential = credential
        self.clients = Clients(credential)


@dataclass(frozen=True, slots=True)
class Canary:
    """A role of the vendor's own, which nobody but the vendor can withdraw.

    Attributes:
        role: Its ARN.
        external_id: What its trust policy demands, or None.
    """

    role: str
    external_id: str | None = None


def issued_external_id(key: RootKey) -> str:
    """Returns the external id that a root key's role is taken with.

    Raises:
        CredentialsFailedError: There is none. A role that trusts whoever comes without one would
            be anybody's, so it is never taken.
    """
    if not key.external_id:
        raise CredentialsFailedError(
            f"Keyfold has no external id for role {key.principal}; have one issued with "
            "GetAccessPolicy, and put it into the role's trust policy"
        )
    return key.external_id


class Principals:
    """Principals by role and external id. Safe for many threads."""

    def __init__(
        self,
        session_name: str,
        canary: Canary | None,
        clock: Callable[[], float],
    ) -> None:
        """Prepares; asks nobody.

        Args:
            session_name: How Keyfold's sessions are called in CloudTrail.
            canary: What shows Keyfold's own side to be good, where there is such a role.
            clock: Monotonic seconds.
        """
        self._session_name = session_name
        self._canary = canary
        self._clock = clock
        self._lock = threading.Lock()
        self._own = Principal(Ambient())
        self._roles: OrderedDict[tuple[str, str, str], Principal] = OrderedDict()

    def of(self, key: RootKey, region: str) -> Principal:
        """Returns as whom a root key is used; its sessions come from the region's STS.

        Raises:
            CredentialsFailedError: It has a role, and no external id.
        """
        if not key.principal:
            return self._own
        name = (key.principal, issued_external_id(key), region)
        with self._lock:
            principal = self._roles.get(name)
            if principal is None:
                principal = self._roles[name] = self._role(*name)
                if len(self._roles) > MOST:
                    self._roles.popitem(last=False)
            self._roles.move_to_end(name)
            return principal

    def _role(self, arn: str, external_id: str, region: str) -> Principal:
        def shown_good(besides: Role) -> bool:
            return self._shown_good(besides, region)

        def take() -> dict[str, Any]:
            return self._take(arn, external_id, region)

        return Principal(Role(arn, take, shown_good, self._clock))

    def _take(self, arn: str, external_id: str | None, region: str) -> dict[str, Any]:
        sts = self._own.clients.client("sts", region)
        asked: dict[str, Any] = {
            "RoleArn": arn,
            "RoleSessionName": self._session_name,
            "DurationSeconds": DURATION,
        }
        if external_id is not None:
            asked["ExternalId"] = external_id
        return under(self._own.credential, lambda: sts.assume_role(**asked), "sts:AssumeRole")

    def _shown_good(self, besides: Role, region: str) -> bool:
        """Tells whether Keyfold's own side is good now: its canary, else another role, else it.

        That its credential is accepted does not show that it may take roles, so it decides only
        where nothing else can be asked.
        """
        try:
            if self._canary is not None:
                self._take(self._canary.role, self._canary.external_id, region)
                return True
            witnesses = self._witnesses(besides)
            if witnesses:
                return any(role.probe() for role in witnesses)
            sts = self._own.clients.client("sts", region)
            under(self._own.credential, sts.get_caller_identity, _OWN)
        except (KmsError, *BROKEN):
            return False
        return True

    def _witnesses(self, besides: Role) -> list[Role]:
        """Returns the other roles that were taken, the latest first."""
        with self._lock:
            held = [each.credential for each in self._roles.values()]
        taken: dict[str, tuple[float, Role]] = {}
        for role in held:
            if isinstance(role, Role) and role.arn != besides.arn and role.taken_at is not None:
                taken[role.arn] = max(
                    taken.get(role.arn, (0.0, role)), (role.taken_at, role), key=lambda t: t[0]
                )
        latest = sorted(taken.values(), key=lambda t: t[0], reverse=True)
        return [role for _, role in latest[:_WITNESSES]]
