"""Bans: a Revoke that needs no row of the cluster (protocol A6).

Somebody who can write the store can spoil a cluster's rows, or delete them, so that no change of
the cluster can be decided on them. A Revoke then bans the cluster's name, by an entry of the log
that every replica obeys before any row.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyfold_server.domain.changes import RequestKey
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import ClusterBannedError
from keyfold_server.domain.log import AuditEvent


@dataclass(frozen=True, slots=True)
class Ban:
    """A Revoke of a whole cluster whose rows cannot be believed.

    Attributes:
        cluster: The cluster's name.
        event: Who asked for it, for the entry of the log.
        seen: The cluster as this replica verified it last, or None.
        request: The request_id to record, in the same transaction, or None.
    """

    cluster: str
    event: AuditEvent
    seen: Cluster | None = None
    request: RequestKey | None = None


@dataclass(frozen=True, slots=True)
class CommittedBan:
    """A ban that the log has.

    Attributes:
        number: The number of the entry that bans the cluster's name.
        entry_id: The random id of that entry.
        repeated: Whether the name was banned before, so that this request changed nothing.
    """

    number: int
    entry_id: bytes
    repeated: bool


def banned(name: str) -> ClusterBannedError:
    """Returns the error for a cluster whose name is banned."""
    return ClusterBannedError(
        f"cluster {name} was revoked while its rows in the store were not authentic, or were gone; "
        "find out who wrote to the store, have the operator run `keyfold-server seal`, and then "
        "call Restore",
        cluster=name,
    )
