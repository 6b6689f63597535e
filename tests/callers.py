"""Callers for tests that are not about callers: each may do everything."""

from __future__ import annotations

from typing import Final

from keyfold_server.access.policy.development import AnyKey, Development
from keyfold_server.access.policy.grants import Grant, Role
from keyfold_server.access.policy.rights import CachedPolicy, Policy
from keyfold_server.domain.patterns import Pattern, Patterns
from keyfold_server.domain.rights import Caller, Identity, Rights

POLICIES: Final = Development()

LOCAL: Final = Identity(("local",), "loopback")

EVERYTHING: Final[Rights] = POLICIES.rights(LOCAL)

_ANYBODY: Final = CachedPolicy(
    Policy((Grant("tests", Patterns((Pattern("*"),)), frozenset(Role), keys=(AnyKey("any"),)),))
)


def caller(name: str = "local") -> Caller:
    """Returns a caller with a name."""
    return Caller(_ANYBODY.rights(Identity((name,), "loopback")))
