"""The life of a cluster-region's key: one table of transitions decides everything.

What an operator wants (state) and what the KMS answers (health) are separate things. No answer of
a KMS changes a state.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Final

from keyfold_server.domain.errors import (
    KeyDeletedError,
    NotDeletedError,
    NotRevokedError,
    RevokedError,
    StateError,
)


class State(Enum):
    """What the operator wants of a cluster-region's key."""

    ENABLED = "ENABLED"
    REVOKED = "REVOKED"
    DELETED = "DELETED"
    """Until its purge time. Then Keyfold erases the region, which has no state any more."""


class Action(Enum):
    """What a caller asks of a cluster-region's key."""

    USE = "use"
    ENABLE = "enable"
    ROTATE = "rotate"
    REVOKE = "revoke"
    RESTORE = "restore"
    ADD = "add"
    RETIRE = "retire a generation of"
    DELETE = "delete"
    UNDELETE = "undelete"


TRANSITIONS: Final[dict[tuple[State | None, Action], State]] = {
    (None, Action.ENABLE): State.ENABLED,
    (State.ENABLED, Action.USE): State.ENABLED,
    (State.ENABLED, Action.ENABLE): State.ENABLED,
    (State.ENABLED, Action.ROTATE): State.ENABLED,
    (State.ENABLED, Action.REVOKE): State.REVOKED,
    (State.ENABLED, Action.RESTORE): State.ENABLED,
    (State.ENABLED, Action.ADD): State.ENABLED,
    (State.ENABLED, Action.RETIRE): State.ENABLED,
    (State.REVOKED, Action.REVOKE): State.REVOKED,
    (State.REVOKED, Action.RESTORE): State.ENABLED,
    (State.REVOKED, Action.ADD): State.REVOKED,
    (State.REVOKED, Action.RETIRE): State.REVOKED,
    (State.REVOKED, Action.DELETE): State.DELETED,
    (State.REVOKED, Action.UNDELETE): State.REVOKED,
    (State.DELETED, Action.REVOKE): State.DELETED,
    (State.DELETED, Action.DELETE): State.DELETED,
    (State.DELETED, Action.UNDELETE): State.REVOKED,
}
"""The state after each allowed action. From None: the region does not exist yet."""


def after(
    state: State | None,
    action: Action,
    *,
    cluster: str,
    region: str,
    purge_time: int | None = None,
) -> State:
    """Returns the state that an action leads to.

    Args:
        state: The region's state.
        action: The action.
        cluster: The cluster's name.
        region: The region's name.
        purge_time: Of a deleted region: milliseconds of Unix time at which Keyfold erases it.

    Raises:
        RevokedError: The table has no such transition, and the region's key is revoked.
        KeyDeletedError: The table has no such transition, and the region's key is deleted.
        NotRevokedError: The action deletes a key that is not revoked.
        NotDeletedError: The action takes back a deletion of a key that is in use.
    """
    following = TRANSITIONS.get((state, action))
    if following is None:
        raise _refusal(state, action, region, purge_time).at(cluster=cluster, region=region)
    return following


def _refusal(
    state: State | None, action: Action, region: str, purge_time: int | None
) -> StateError:
    if state is State.DELETED:
        return KeyDeletedError(
            f"the key of region {region} is deleted{_until(purge_time)}; call UndeleteCluster "
            f"before you {action.value} it"
        )
    if action is Action.DELETE:
        return NotRevokedError(
            f"the key of region {region} is not revoked; call Revoke before you delete it"
        )
    if action is Action.UNDELETE:
        return NotDeletedError(
            f"the key of region {region} is not deleted; there is nothing to take back"
        )
    return RevokedError(
        f"the key of region {region} is revoked; call Restore before you {action.value} it"
    )


def _until(purge_time: int | None) -> str:
    if purge_time is None:
        return ""
    at = datetime.fromtimestamp(purge_time / 1000, UTC)
    return f", and Keyfold erases it after {at:%Y-%m-%dT%H:%M:%SZ}"


def allows(state: State, action: Action) -> bool:
    """Says whether the table has a transition from a state by an action."""
    return (state, action) in TRANSITIONS
