"""Return: brings one cluster from an export into a store that serves (protocol A4, A6).

It replaces no rows that may serve, so the cluster must be banned, or its name free. It arrives as
from any import: with every region REVOKED. A KEK that this store has erased never comes back (D5).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select

from keyfold_server.domain import owners
from keyfold_server.domain.cluster import SupersededWrap
from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.store import schema
from keyfold_server.store.database.faults import CollisionError, LostRaceError
from keyfold_server.store.database.trip import require_taken
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.tables import (
    cluster_rows,
    clusters,
    erased_keks,
    floors,
    history_checkpoints,
    identities,
    log,
    log_head,
    rows,
    standing,
    wrap_history,
)
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.history_checkpoints import Checkpoint
from keyfold_server.store.tables.identities import IdentityKind
from keyfold_server.store.tables.log import Stamp
from keyfold_server.store.transfer.import_ import ImportResult, arriving, imported
from keyfold_server.store.transfer.records import Identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.domain.log import Floor
    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.sql.store import SqlStore
    from keyfold_server.store.transfer.archive import ExportFile


def bring_back(
    store: SqlStore,
    export: ExportFile,
    name: str,
    clock: Clock,
    *,
    reach: Callable[[str], None] = no_failpoint,
) -> ImportResult:
    """Replaces the rows of a banned cluster by those in an export, or adds a cluster.

    Its regions arrive REVOKED, above everything that the log knows of the name. The entries in the
    export are left out: the store's own log goes on. Of the external ids in the export, the store
    takes those whose owners have none here, and of the seats those that nobody has here.

    Args:
        store: The store.
        export: An export whose seal is verified.
        name: The cluster's name.
        clock: Source of time.
        reach: Called with the name of each failpoint.

    Raises:
        SetupError: The cluster is there and not banned, or not in the export; this store has
            erased a KEK of it; its name was another organization's; or a KEK or a seat of it is
            another's now.
        StoreUnavailableError: The store could not be written.
    """
    database, seal = store.parts

    def work(connection: Connection) -> ImportResult:
        # The lock of the log's head comes first here, and not last as elsewhere. So nobody can
        # erase or make a cluster between the checks and the commit.
        log_head.read(connection, seal, lock=True)
        entry = floors.of(connection, name, seal)
        _check_free(connection, name, None if entry is None else entry[1])
        reach("import:begun")
        stamp = Stamp("import", database.dialect.now(connection, clock), seal, database.dialect)
        source, made, checkpoint, history = _exported(export, name, entry, stamp)
        erased_keks.refuse(connection, source.cluster, seal, "the export")
        standing.put(connection, _uids(connection, made), made, history, checkpoint)
        _add_issued(connection, export, made, stamp)
        reach("import:rows-written")
        log.append(connection, [imported(export.header, source, made)], stamp)
        reach("import:numbered")
        enabled = [(name, region.name) for region in source.cluster.regions if region.in_service]
        return ImportResult(1, 0, enabled)

    try:
        return database.write(work)
    except CollisionError as error:
        raise SetupError(
            f"a KEK or a seat of cluster {name} in the export is another's in this store now; "
            "nothing was imported"
        ) from error
    except LostRaceError as error:
        raise StoreUnavailableError(
            f"others changed cluster {name} at the same time; nothing was imported"
        ) from error


def _check_free(connection: Connection, name: str, floor: Floor | None) -> None:
    """Refuses a name whose rows may serve, or may come back.

    Raises:
        SetupError: The cluster is there and not banned, or its rows are gone by hand.
    """
    own = schema.clusters.c
    there = connection.execute(select(own.uid).where(own.name == name)).first() is not None
    banned, erased = floor is not None and floor.banned, floor is not None and floor.erased
    if not (banned or (not there and (floor is None or erased))):
        raise SetupError(
            f"cluster {name} is not banned, and an import replaces no rows that may serve: "
            "revoke the cluster first"
        )


def _add_issued(
    connection: Connection, export: ExportFile, made: StoredCluster, stamp: Stamp
) -> None:
    """Adds the identities of an imported cluster, where their owners have none here (C2)."""
    c = made.cluster
    mine = {owners.of_cluster(c.name)}
    if c.organization is not None:
        mine.add(owners.of_organization(c.organization))
    table = schema.identities
    for record in export.records():
        if not isinstance(record, Identity) or record.owner not in mine:
            continue
        if record.kind == IdentityKind.SEAT.value:
            _add_seat(connection, record, c, stamp)
            continue
        known = select(table.c.value).where(
            (table.c.kind == record.kind) & (table.c.owner == record.owner)
        )
        if connection.execute(known).first() is None:
            row = identities.sealed(record.cells, stamp.seal)
            rows.write(connection, insert(table), [rows.named(table, row)])


def _add_seat(connection: Connection, record: Identity, cluster: Cluster, stamp: Stamp) -> None:
    """Adds a seat, or gives the cluster one that is still reserved for its owner here.

    Raises:
        SetupError: The cluster took the seat, and it is another's here.
    """
    dialect, seal = stamp.dialect, stamp.seal
    row = identities.sealed(record.cells, seal)
    (found,) = dialect.trip(connection, identities.locking_seats([record.value]))
    here = identities.seats_of(found.rows, seal)
    if not here:
        table = schema.identities
        rows.write(connection, insert(table), [rows.named(table, row)])
    elif record.cluster_uid == cluster.uid.hex() != here[0].cluster_uid.hex():
        if here[0].used or here[0].owner != record.owner:
            raise SetupError(
                f"cluster {cluster.name} has seat {record.value} in the export, and the seat is "
                "another's in this store; nothing was imported"
            )
        changing = rows.changing(schema.identities, [row])
        (changed,) = dialect.trip(connection, [changing])
        require_taken(changing, changed)


def _uids(connection: Connection, made: StoredCluster) -> list[bytes]:
    """Returns the uids whose rows make place: the cluster's, and that of the name's own row."""
    own = schema.clusters.c
    found = connection.execute(select(own.uid).where(own.name == made.cluster.name)).scalars()
    return [made.cluster.uid, *found]


def _exported(
    export: ExportFile, name: str, entry: tuple[Cells, Floor] | None, stamp: Stamp
) -> tuple[StoredCluster, StoredCluster, Cells | None, list[Cells]]:
    """Returns a cluster as the export has it, as it arrives, and the rows of its history.

    Before the rows of the history comes that of the checkpoint, if the history has one.

    Raises:
        SetupError: The export does not have the cluster, or not its whole history.
    """
    source: StoredCluster | None = None
    made: StoredCluster | None = None
    checkpoint: Cells | None = None
    history: list[Cells] = []
    mine = False
    for record in export.records():
        if isinstance(record, StoredCluster):
            mine = record.cluster.name == name
            if mine:
                source, made = record, _arriving(record.cluster, entry, stamp)
        elif mine and made is not None and isinstance(record, Checkpoint):
            made = wrap_history.begun_at(made, record)
            checkpoint = history_checkpoints.sealed(made.cluster.uid, record, stamp.seal)
        elif mine and made is not None and isinstance(record, SupersededWrap):
            made, cells = wrap_history.appended(made, record, stamp.seal)
            history.append(cells)
    if source is None or made is None:
        raise SetupError(f"the export does not have cluster {name}")
    if made.history_count != source.history_count:
        raise SetupError(f"the export's superseded wraps of cluster {name} are not its history")
    return source, clusters.sealed(made, stamp.seal), checkpoint, history


def _arriving(exported: Cluster, entry: tuple[Cells, Floor] | None, stamp: Stamp) -> StoredCluster:
    """Returns a cluster of an export with every region revoked, above the floor of its name.

    Raises:
        SetupError: The name was another organization's.
    """
    # Unless it is banned, it may come from another store, whose links this one does not have.
    found = arriving(exported, stamp.now, linked=entry is not None and entry[1].banned)
    if entry is not None:
        row, floor = entry
        if floor.erased and row[log.ORGANIZATION] != exported.organization:
            raise SetupError(
                f"a cluster {exported.name} of another organization was deleted, and only that "
                "organization can use the name again; nothing was imported"
            )
        found = replace(
            found,
            epoch=max(found.epoch, floor.epoch + 1),
            version=max(found.version, floor.version + 1),
        )
    return StoredCluster(found, cluster_rows.encoded(found, stamp.seal))
