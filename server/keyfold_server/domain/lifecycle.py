"""The life of a cluster-region's key: one table of transitions decides everything.

What an operator wants (state) and what the KMS answers (health) are separate things. No answer of
a KMS changes a state.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from keyfold_server.domain.errors import RevokedError


class State(Enum):
    """What the operator wants of a cluster-region's key."""

    ENABLED = "ENABLED"
    REVOKED = "REVOKED"


class Action(Enum):
    """What a caller asks of a cluster-region's key."""

    USE = "use"
    ENABLE = "enable"
    ROTATE = "rotate"
    REVOKE = "revoke"
    RESTORE = "restore"


TRANSITIONS: Final[dict[tuple[State | None, Action], State]] = {
    (None, Action.ENABLE): State.ENABLED,
    (State.ENABLED, Action.USE): State.ENABLED,
    (State.ENABLED, Action.ENABLE): State.ENABLED,
    (State.ENABLED, Action.ROTATE): State.ENABLED,
    (State.ENABLED, Action.REVOKE): State.REVOKED,
    (State.ENABLED, Action.RESTORE): State.ENABLED,
    (State.REVOKED, Action.REVOKE): State.REVOKED,
    (State.REVOKED, Action.RESTORE): State.ENABLED,
}
"""The state after each allowed action. From None: the region does not exist yet."""


def after(state: State | None, action: Action, *, cluster: str, region: str) -> State:
    """Returns the state that an action leads to.

    Raises:
        RevokedError: The table has no such transition. Only a revoked key forbids actions.
    """
    following = TRANSITIONS.get((state, action))
    if following is None:
        raise RevokedError(
            f"the key of region {region} is revoked; call Restore before you {action.value} it",
            cluster=cluster,
            region=region,
        )
    return following


def allows(state: State, action: Action) -> bool:
    """Says whether the table has a transition from a state by an action."""
    return (state, action) in TRANSITIONS
