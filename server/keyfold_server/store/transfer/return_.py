"""Return: brings one banned cluster back from an export into a store that serves (protocol A6).

It replaces no rows that may serve, so the cluster must be banned. It arrives as from any import:
with every region REVOKED.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from keyfold_server.domain.changes import revoked
from keyfold_server.domain.cluster import SupersededWrap
from keyfold_server.domain.errors import SetupError, StoreUnavailableError
from keyfold_server.store import schema
from keyfold_server.store.database.faults import CollisionError, LostRaceError
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.tables import (
    cluster_rows,
    clusters,
    floors,
    history_checkpoints,
    log,
    standing,
    wrap_history,
)
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.history_checkpoints import Checkpoint
from keyfold_server.store.tables.log import Stamp
from keyfold_server.store.transfer.import_ import ImportResult, imported

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
    """Replaces the rows of a banned cluster by those in an export (protocol A6).

    Its regions arrive REVOKED, above everything that the log knows of the cluster. The entries in
    the export are left out: the store's own log goes on.

    Args:
        store: The store.
        export: An export whose seal is verified.
        name: The cluster's name.
        clock: Source of time.
        reach: Called with the name of each failpoint.

    Raises:
        SetupError: The cluster is not banned or not in the export, or a KEK of it belongs to
            another cluster now.
        StoreUnavailableError: The store could not be written.
    """
    database, seal = store.parts

    def work(connection: Connection) -> ImportResult:
        entry = floors.of(connection, name, seal)
        if entry is None or not entry[1].banned:
            raise SetupError(
                f"cluster {name} is not banned, and an import replaces no rows that may serve: "
                "revoke the cluster first"
            )
        reach("import:begun")
        stamp = Stamp("import", database.dialect.now(connection, clock), seal, database.dialect)
        source, made, checkpoint, history = _exported(export, name, entry[1], stamp)
        standing.put(connection, _uids(connection, made), made, history, checkpoint)
        reach("import:rows-written")
        log.append(connection, [imported(export.header, source, made)], stamp)
        reach("import:numbered")
        enabled = [(name, region.name) for region in source.cluster.regions if region.in_service]
        return ImportResult(1, 0, enabled)

    try:
        return database.write(work)
    except CollisionError as error:
        raise SetupError(
            f"a KEK of cluster {name} in the export belongs to another cluster of this store now; "
            "nothing was imported"
        ) from error
    except LostRaceError as error:
        raise StoreUnavailableError(
            f"others changed cluster {name} at the same time; nothing was imported"
        ) from error


def _uids(connection: Connection, made: StoredCluster) -> list[bytes]:
    """Returns the uids whose rows make place: the cluster's, and that of the name's own row."""
    own = schema.clusters.c
    found = connection.execute(select(own.uid).where(own.name == made.cluster.name)).scalars()
    return [made.cluster.uid, *found]


def _exported(
    export: ExportFile, name: str, floor: Floor, stamp: Stamp
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
                source, made = record, _arriving(record.cluster, floor, stamp)
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


def _arriving(exported: Cluster, floor: Floor, stamp: Stamp) -> StoredCluster:
    """Returns a cluster of an export with every region revoked, above a floor."""
    now_revoked = revoked(exported.name, (), stamp.now)(exported).cluster
    arriving = replace(
        now_revoked,
        epoch=max(now_revoked.epoch, floor.epoch + 1),
        version=max(now_revoked.version, floor.version + 1),
    )
    return StoredCluster(arriving, cluster_rows.encoded(arriving, stamp.seal))
