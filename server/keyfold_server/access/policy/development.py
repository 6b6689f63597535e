"""The development default: the policy of a server without policy file, TLS and tokens."""

from __future__ import annotations

from typing import Final

from keyfold_server.access.policy.grants import Grant, KeyGrant, Role
from keyfold_server.access.policy.rights import CachedPolicy, Policy
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.patterns import Pattern, Patterns
from keyfold_server.domain.rights import Identity, NameableKeys, Rights

WARNING: Final = (
    "neither policy, TLS nor tokens are set: whoever reaches the loopback address or the unix "
    "socket has every role on every cluster and may name any key (LOCAL, PLATFORM, and what "
    "KEYFOLD_ALLOWED_ENDPOINTS and the SDKs' environment reach); set KEYFOLD_POLICY to narrow it"
)
"""The warning about it in the server's log."""


class Development:
    """The policy if neither policy, TLS nor tokens are set: local callers may do everything."""

    broken: Final = None

    def __init__(self) -> None:
        """Makes the development default."""
        self._force = CachedPolicy(
            Policy(
                (
                    Grant(
                        "the development default",
                        Patterns((Pattern("local"), Pattern("socket:*"))),
                        frozenset(Role),
                        keys=(AnyKey("any"),),
                    ),
                )
            )
        )

    def rights(self, identity: Identity) -> Rights:
        """Returns a caller's rights: everything for a local caller, nothing for any other."""
        return self._force.rights(identity)

    @property
    def claims(self) -> frozenset[str]:
        """The claims of tokens by which grants go: none."""
        return self._force.claims

    def believes(self, identity: Identity) -> bool:
        """Says False: without a policy Keyfold believes nobody about whom it calls for."""
        return self._force.policy.believes(identity)

    def reload(self) -> bool:
        """Says that the policy has not changed: it has no file."""
        return False


class AnyKey(KeyGrant):
    """Every root key, under any principal. A policy file cannot express that."""

    __slots__ = ()

    def nameable(self) -> NameableKeys:
        """Returns that any key may be named."""
        return NameableKeys("*", "", "*", {})

    def matches(self, key: RootKey) -> bool:
        """Says True."""
        del key
        return True

    def covers(self, type_: str, uri: str) -> bool:
        """Says True."""
        del type_, uri
        return True
