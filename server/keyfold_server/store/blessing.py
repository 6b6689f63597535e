"""Blessing: an operator decides that a cluster's rows are right as they stand (protocol A1, A6).

The operator first sees what stands in the rows, and how it differs from what the log decided. The
blessed rows begin above everything that the log knows of the cluster, with every region REVOKED. So
a blessing alone never gives service back: Restore proves each region's root key as always.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select

from keyfold_server.domain.changes import Decision, parts
from keyfold_server.domain.erasure import postponed
from keyfold_server.domain.errors import (
    ClusterBannedError,
    RowNotAuthenticError,
    SetupError,
    StoreUnavailableError,
)
from keyfold_server.domain.lifecycle import Action
from keyfold_server.domain.log import AuditEvent, EntryKind, Floor
from keyfold_server.store import schema
from keyfold_server.store.database.faults import LostRaceError
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.tables import (
    cluster_rows,
    clusters,
    decisions,
    erased_keks,
    floors,
    log,
    standing,
    wrap_history,
)
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.log import Draft, Stamp
from keyfold_server.store.tables.standing import ShapelessError, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.sql.store import SqlStore

FAILPOINTS: Final = ("seal:rows-written", "seal:numbered")
"""The points at which a test may kill a blessing."""

_TOLD: Final = 50
"""Most differences that the entry of the log keeps."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What an operator sees of a cluster before a blessing.

    Attributes:
        name: The cluster's name.
        banned: Whether the name is banned.
        rows: The rows as they stand, or None if the cluster has no row of its own.
        cluster: The cluster that the rows form, or None.
        shapeless: Why the rows form no cluster, or empty.
        differences: How the rows differ from what the service key sealed and the log decided.
    """

    name: str
    banned: bool
    rows: Standing | None = field(repr=False)
    cluster: Cluster | None
    shapeless: str
    differences: tuple[str, ...]


def look(store: SqlStore, name: str) -> Findings:
    """Looks at the rows of a cluster.

    Raises:
        SetupError: Neither a row nor the log knows the cluster, or it needs no blessing.
        StoreUnavailableError: The store did not answer.
    """
    database, seal = store.parts
    return database.read(lambda c: _looked(c, name, seal))


def bless(
    store: SqlStore,
    seen: Findings,
    reason: str,
    clock: Clock,
    *,
    reach: Callable[[str], None] = no_failpoint,
) -> int:
    """Seals the rows of a cluster as they stand, with every region REVOKED.

    Args:
        store: The store.
        seen: What the operator has seen.
        reason: The operator's reason, for the log.
        clock: Source of time.
        reach: Called with the name of each failpoint.

    Returns:
        The number of the entry in the log.

    Raises:
        SetupError: The rows form no cluster, or somebody changed them since the operator looked.
        StoreUnavailableError: The store could not be written.
    """
    database, seal = store.parts

    def work(connection: Connection) -> int:
        if database.dialect.locks_rows:
            own = schema.clusters.c
            connection.execute(select(own.uid).where(own.name == seen.name).with_for_update())
        if _looked(connection, seen.name, seal) != seen:
            raise SetupError(
                f"somebody changed cluster {seen.name} since you looked at it; nothing was sealed: "
                "look again"
            )
        stamp = Stamp("seal", database.dialect.now(connection, clock), seal, database.dialect)
        entry = floors.of(connection, seen.name, seal)
        if seen.cluster is not None:
            erased_keks.refuse(connection, seen.cluster, seal, "the rows' cluster")
        stored, history = _sealed(seen, None if entry is None else entry[1], stamp)
        # The history is a new chain, so it needs no checkpoint.
        standing.put(connection, [stored.cluster.uid], stored, history)
        reach("seal:rows-written")
        [made] = log.append(connection, [_draft(seen, stored, reason)], stamp)
        reach("seal:numbered")
        return made.number

    try:
        return database.write(work)
    except LostRaceError as error:
        raise StoreUnavailableError(
            f"others changed cluster {seen.name} at the same time; nothing was sealed"
        ) from error


def _looked(connection: Connection, name: str, seal: Seal) -> Findings:
    entry = floors.of(connection, name, seal)
    rows = standing.read(connection, name)
    if entry is not None and entry[1].erased:
        raise SetupError(
            f"cluster {name} was deleted and erased (entry {entry[0][log.NUMBER]} of the log): "
            "there is nothing to seal. If its name still has rows, somebody put them back: remove "
            "them by hand"
        )
    if rows is None and entry is None:
        raise SetupError(f"neither a row nor the log knows cluster {name}: check the name")
    if _is_whole(connection, name, seal):
        raise SetupError(
            f"the rows of cluster {name} are as the log decided last, and its name is not banned: "
            "they need no seal"
        )
    banned = entry is not None and entry[1].banned
    if rows is None:
        return Findings(name, banned, None, None, "there is no row of the cluster's own", ())
    cluster, shapeless = None, ""
    try:
        cluster = standing.formed(rows)
    except ShapelessError as error:
        shapeless = str(error)
    differences = [
        *(f"{place}: not sealed by the service key" for place in standing.unsealed(rows, seal)),
        *_from_floor(rows, None if entry is None else entry[1]),
    ]
    if cluster is not None:
        differences += decisions.differences(connection, cluster, seal)
    return Findings(name, banned, rows, cluster, shapeless, tuple(differences))


def _is_whole(connection: Connection, name: str, seal: Seal) -> bool:
    """Returns whether a cluster serves, and the history of its wraps, which few reads look at."""
    try:
        stored = clusters.named(connection, seal, name)
        for _ in wrap_history.read(connection, stored, seal) if stored is not None else ():
            pass
    except (ClusterBannedError, RowNotAuthenticError):
        return False
    return stored is not None


def _from_floor(rows: Standing, floor: Floor | None) -> Iterator[str]:
    """Yields how a cluster's own row differs from the floor in the log."""
    if rows.own[7] != cluster_rows.digest(rows.children):
        yield "clusters: its own row does not vouch for the rows below it"
    if floor is None:
        yield "the log has no decision about the cluster"
        return
    for what, value, decided in (
        ("uid", rows.own[0], floor.uid),
        ("version", rows.own[4], floor.version),
        ("epoch", rows.own[3], floor.epoch),
    ):
        if value != decided:
            shown = [v.hex() if isinstance(v, bytes) else ascii(v)[:40] for v in (value, decided)]
            yield f"clusters.{what}: {shown[0]} in the row, {shown[1]} in the log"
    if floor.row != rows.own[-1]:
        yield "clusters: its own row is not the one of the last decision"


def _sealed(seen: Findings, floor: Floor | None, stamp: Stamp) -> tuple[StoredCluster, list[Cells]]:
    """Returns the sealed rows, and those of the history.

    Raises:
        SetupError: The rows form no cluster.
    """
    if seen.cluster is None or seen.rows is None:
        raise SetupError(
            f"the rows of cluster {seen.name} do not form a cluster ({seen.shapeless}): bring it "
            "back from an export, with `keyfold-server import --cluster`"
        )
    now, found = stamp.now, seen.cluster
    known = floor or Floor(found.uid, found.version, found.epoch, b"")
    cluster = replace(
        found,
        epoch=known.epoch + 1,
        version=known.version + 1,
        regions=tuple(r.moved(Action.REVOKE, seen.name, now) for r in found.regions),
        updated_at=now,
        # Nobody vouches for these rows, and other rows may have been in use.
        first_use=None,
    )
    # Nobody vouches for a purge time in these rows.
    cluster = postponed(cluster, now)
    stored = StoredCluster(cluster, cluster_rows.encoded(cluster, stamp.seal))
    history = []
    for row in seen.rows.history:
        stored, cells = wrap_history.appended(stored, wrap_history.superseded(row), stamp.seal)
        history.append(cells)
    return clusters.sealed(stored, stamp.seal), history


def _draft(seen: Findings, stored: StoredCluster, reason: str) -> Draft:
    detail = {"differences": seen.differences[:_TOLD], "reason": reason}
    event = AuditEvent(
        "local",
        "command:cluster:seal",
        "done",
        json.dumps(detail, sort_keys=True, separators=(",", ":")),
    )
    decision = Decision(stored.cluster, added=parts(stored.cluster.regions))
    return Draft(
        EntryKind.SEAL,
        event,
        cluster=seen.name,
        floor=stored.floor,
        decision=decision.described(None),
        organization=stored.cluster.organization,
    )
